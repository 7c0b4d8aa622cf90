"""The doors on real files, each with the traps that its description names."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from carbide.data import load_data
from carbide.data.parts import PARTS
from carbide.types import InputError, Kind

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = [pytest.mark.shared, pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the project")]
DIABETES = f"{DATA}/diabetes-130-hospitals/dataset_diabetes.zip::dataset_diabetes/diabetic_data.csv"
ETHEREUM = f"{DATA}/ethereum-fraud/transaction_dataset.csv"


def parts(loaded):
    return [getattr(loaded.splits, part) for part in PARTS]


def test_fashion_mnist_keeps_its_test_set():
    loaded = load_data(str(DATA / "fashion-mnist"))
    train, validation, test = parts(loaded)
    assert (len(train) + len(validation), len(test)) == (60_000, 10_000)
    assert np.bincount(test.y).tolist() == [1000] * 10
    assert train.x.shape[1:] == (1, 28, 28)
    assert 0 == train.x.min() < train.x.max() == 1
    assert not set(test.ids) & set(train.ids)


def test_ethereum_traps_are_found_and_avoided():
    raw = load_data(ETHEREUM, label="FLAG", drop=["Address"], fill=0)
    assert any("no name and counts the rows" in note for note in raw.notes)
    assert any("look like row numbers" in note and "Index" in note for note in raw.notes)
    assert any("give the label away" in note for note in raw.notes)
    assert any("7 columns are constant" in note for note in raw.notes)
    with pytest.raises(InputError, match=r"names rows instead.*drop: \[Address\]"):
        load_data(ETHEREUM, label="FLAG", fill=0)
    loaded = load_data(
        ETHEREUM, label="FLAG", drop=["", "Index", "Address", " ERC20 most sent token type", " ERC20_most_rec_token_type"], fill="drop"
    )
    train, validation, test = parts(loaded)
    assert len(train) + len(validation) + len(test) == 9012
    assert abs(np.concatenate([p.y for p in parts(loaded)]).mean() - 0.150) < 0.001
    rows = [{x.tobytes() for x in p.x} for p in parts(loaded)]
    assert not rows[0] & (rows[1] | rows[2])
    assert len(train.space.names) == 45
    assert "Total ERC20 tnxs" in train.space.names


def test_diabetes_keeps_patients_apart():
    with pytest.raises(InputError, match="'race' has 2273 missing cells"):
        load_data(DIABETES, label="readmitted", positive="<30", group="patient_nbr", drop=["encounter_id"], missing=["?"])
    options = {"label": "readmitted", "positive": "<30", "group": "patient_nbr", "missing": ["?"], "fill": "keep"}
    loaded = load_data(DIABETES, drop=["encounter_id"], **options)
    assert sum(len(p) for p in parts(loaded)) == 101_766
    for part in parts(loaded):
        assert abs(part.y.mean() - 0.112) < 0.004
    assert "patient_nbr" not in loaded.splits.train.space.names
    assert loaded.splits.train.space.categories["race"][0] == "(missing)"
    kept = load_data(DIABETES, **options)  # encounter_id names each row, so it finds the patient again
    frame = _patients()
    column = kept.splits.train.space.index("encounter_id")
    owners = [set(frame.loc[p.x[:, column].astype(int)]) for p in parts(kept)]
    assert not owners[0] & (owners[1] | owners[2])
    assert not owners[1] & owners[2]


def _patients():
    pandas = pytest.importorskip("pandas")
    archive, _, member = DIABETES.partition("::")
    with zipfile.ZipFile(archive) as opened, opened.open(member) as file:
        return pandas.read_csv(file, usecols=["encounter_id", "patient_nbr"]).set_index("encounter_id").patient_nbr


def test_pima_has_no_header():
    loaded = load_data(str(DATA / "pima-diabetes" / "pima-indians-diabetes.csv"), label=-1, header=False)
    assert sum(len(p) for p in parts(loaded)) == 768
    assert sum(int(p.y.sum()) for p in parts(loaded)) == 268
    assert loaded.splits.train.space.kind.tolist() == [Kind.INTEGER] * 5 + [Kind.REAL] * 2 + [Kind.INTEGER]


def test_faces_are_a_folder_a_person():
    loaded = load_data(str(DATA / "orl-faces"))
    train, validation, test = parts(loaded)
    assert (len(train), len(validation), len(test), train.classes) == (234, 78, 78, 39)
    assert train.x.shape[1:] == (1, 112, 92)
    assert train.class_names[0] == "s10"
