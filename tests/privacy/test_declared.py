"""Promises about single rows rest on bounds that were known beforehand, on people with one row, and on rows that were prepared one by one."""

from dataclasses import replace

import numpy as np
import pandas
import pytest
from sklearn.linear_model import LogisticRegression

import carbide
from carbide.api import dataset
from carbide.data.load import load_data
from carbide.models.estimators import EstimatorRecipe
from carbide.models.torch_net import TorchRecipe
from carbide.privacy.additive import PrivateAdditiveRecipe
from carbide.privacy.dp_sgd import PrivateTorchRecipe
from carbide.privacy.harden.dp_sgd import DPSGD
from carbide.privacy.harden.private_additive import PrivateAdditiveModel
from carbide.privacy.harden.private_linear import PrivateLinearModel
from carbide.privacy.harden.private_logistic import PrivateLogisticRegression
from carbide.privacy.linear import PrivateLinearRecipe
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.privacy.prove.dp_bound import DpBound
from carbide.privacy.prove.reconstruction_bound import ReconstructionBound
from carbide.space.files import load_space, save_space
from carbide.space.infer import infer_space
from carbide.types import Case, InputError, Membership, Reconstruction, Space, Splits, digest
from tests.privacy.worlds import table

RNG = np.random.default_rng(0)
NET = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 3, "classes": 2, "width": 4}, epochs=1, batch=32)
RECIPES = (PrivateLogisticRecipe(), PrivateLinearRecipe(), PrivateAdditiveRecipe(), PrivateTorchRecipe(inner=NET))
METHODS = (PrivateLogisticRegression(), PrivateLinearModel(), PrivateAdditiveModel(), DPSGD())


def neighbours():
    """Two data sets that differ in one row, the one with the largest value of a feature."""
    x = np.random.default_rng(0).random((200, 3))
    y = (x[:, 0] > 0.5).astype(int)
    x[7, 1] = 40.0
    other = x.copy()
    other[7] = other[8]
    return (x, y), (other, y)


def split(rows):
    return Splits(train=rows.take(np.arange(120)), validation=rows.take(np.arange(120, 160)), test=rows.take(np.arange(160, 200)))


def test_bounds_read_off_rows_tell_neighbours_apart_and_are_marked_until_somebody_declares_them(tmp_path):
    with_row, without = (dataset(*rows).space for rows in neighbours())
    assert with_row.upper[1] == 40.0 > without.upper[1]
    assert with_row.from_rows
    assert infer_space(neighbours()[0][0]).from_rows
    assert not dataset(*neighbours()[0], space=table(1).space).space.from_rows
    save_space(with_row, tmp_path / "space.json")
    declared = load_space(tmp_path / "space.json")
    assert not declared.from_rows
    assert digest(declared) == digest(with_row)


@pytest.mark.parametrize(("recipe", "method"), list(zip(RECIPES, METHODS, strict=True)), ids=lambda value: type(value).__name__)
def test_private_training_refuses_bounds_that_were_read_off_the_rows(recipe, method):
    rows, _ = neighbours()
    seen, declared = dataset(*rows), dataset(*rows, space=Space.table(["x0", "x1", "x2"], lower=np.zeros(3), upper=np.full(3, 50.0)))
    with pytest.raises(InputError, match=r"read off the training rows.*carbide space infer"):
        recipe.fit(seen, np.random.default_rng(0))
    plain = NET if isinstance(method, DPSGD) else EstimatorRecipe(estimator=LogisticRegression())
    model = recipe.fit(declared, np.random.default_rng(0))
    assert "read off the training rows" in method.refuses(Case(model=model, data=split(seen), recipe=plain), Membership())
    assert method.refuses(Case(model=model, data=split(declared), recipe=plain), Membership()) is None


@pytest.mark.parametrize(("method", "threat"), [(DpBound(), Membership()), (ReconstructionBound(), Reconstruction())])
def test_certificates_are_refused_where_a_promise_about_a_row_promises_nobody_anything(method, threat):
    data = split(table(200))
    recipe = PrivateLogisticRecipe(delta=1e-4)
    case = Case(model=recipe.fit(data.train, RNG), data=data, recipe=recipe)
    assert method.refuses(case, threat) is None
    seen = replace(data, train=replace(data.train, space=replace(data.train.space, from_rows=True)))
    assert "read off the training rows" in method.refuses(replace(case, data=seen), threat)
    assert method.refuses(replace(case, data=seen, recipe=None), threat) is None  # of a model from a file, whose own bounds were declared
    assert "read off" in method.refuses(replace(case, model=replace(case.model, space=seen.train.space), recipe=None), threat)
    several = replace(data, train=replace(data.train, beyond=("the promise is of one row",)))
    assert method.refuses(replace(case, data=several), threat) == "the promise is of one row"


def test_hardening_from_python_names_the_mend_and_a_declared_space_gets_the_certificate():
    rows, _ = neighbours()
    asked = {"membership": {"audit": {"loss_threshold": {}}, "harden": {"private_logistic": {"delta": 1e-4}}}}
    space = Space.table(["x0", "x1", "x2"], lower=np.zeros(3), upper=np.full(3, 50.0))
    refused = carbide.harden(LogisticRegression(), rows, threats=[asked], accuracy_loss=1.0, quiet=True).results
    assert any("private_logistic was not tried" in warning and "space=Space.table" in warning for warning in refused.warnings)
    assert not [c for phase in refused.phases for s in phase.sections for c in s.certificates]
    assert any("was inferred from the training rows" in note for note in refused.data.notes)
    kept = carbide.harden(LogisticRegression(), rows, threats=[asked], accuracy_loss=1.0, quiet=True, space=space)
    assert [c for s in kept.results.hardened.sections for c in s.certificates]
    assert kept.model.space.upper[1] == 50.0


def written(tmp_path, **columns):
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": rng.random(60), "b": rng.random(60), "label": np.tile([0, 1], 30), **columns})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def test_people_with_several_rows_and_gaps_filled_from_others_are_beyond_a_promise_about_one_row(tmp_path):
    space = {"features": [{"name": n, "lower": 0, "upper": 1} for n in ("a", "b")]}
    file = written(tmp_path, patient=np.repeat(np.arange(20), 3), a=np.where(np.arange(60) == 5, np.nan, 0.5))
    several = load_data(file, label="label", group="patient", fill="median", space=space).splits.train
    assert not several.space.from_rows
    assert len(several.beyond) == 2
    assert "of one row, not of one patient, of which one has 3 training rows" in several.beyond[0]
    assert "fill: median" in several.beyond[1]
    assert load_data(file, label="label", drop=["patient"], fill=0, space=space).splits.train.beyond == ()
    one = written(tmp_path, patient=np.arange(60))
    assert load_data(one, label="label", group="patient", fill="median", space=space).splits.train.beyond == ()
    assert load_data(one, label="label", drop=["patient"]).splits.train.space.from_rows


def test_arrays_with_gaps_filled_from_others_say_so(tmp_path):
    x = np.random.default_rng(0).random((40, 2))
    x[3, 0] = np.nan
    np.savez(tmp_path / "rows.npz", x=x, y=np.tile([0, 1], 20))
    assert "fill: median" in load_data(tmp_path / "rows.npz", fill="median").splits.train.beyond[0]
    assert load_data(tmp_path / "rows.npz", fill=0).splits.train.beyond == ()
