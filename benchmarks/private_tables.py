"""Private models of six tables at one epsilon, beside what is not private and beside diffprivlib and DP-EBM, split by split.

    python -m benchmarks.private_tables --peers PYTHON [--epsilon 1] [--splits 20] [--first 100] [--only breast_cancer,wine] [--store FOLDER]

It needs the data sets beside the project; ``--peers`` names the Python of an environment with diffprivlib and interpret-core.
Each split draws 70% of the rows to train on and judges on the rest. The bounds of the features are public: fixed below from
what the quantities can be. Accuracy in percent, for diabetes-130, where nine in ten are of one class, 100 AUC.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from benchmarks.poisoning import DATA
from benchmarks.record import record
from carbide.data.cases.patients import patients
from carbide.data.live import dataset_of
from carbide.privacy.additive import PrivateAdditiveRecipe
from carbide.privacy.linear import PrivateLinearRecipe
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.stats.accounting import gdp_mu
from carbide.types import Array, Dataset, Space, decide, rng_for

PEERS = Path(__file__).with_name("_private_peers.py")
DELTA = 1e-5
NEAR = 3.0  # points that a private model may lose
NONE = "best of logistic regression and boosting, not private"
OURS = "Carbide private_linear"
WEAKER = f"{OURS}, neighbours: remove"
ADDITIVE = "Carbide private_additive"
ADDITIVE_WEAKER = f"{ADDITIVE}, neighbours: remove"
AHEAD = {ours: ours.removeprefix("Carbide ").replace("neighbours: ", "") for ours in (OURS, WEAKER, ADDITIVE, ADDITIVE_WEAKER)}


def pima() -> Dataset:
    """768 women; a zero that stands for missing becomes a usual value, which is public knowledge."""
    raw = np.loadtxt(DATA / "pima-diabetes" / "pima-indians-diabetes.csv", delimiter=",")
    x, y = raw[:, :8].copy(), raw[:, 8].astype(np.int64)
    for column, usual in {1: 110.0, 2: 72.0, 3: 25.0, 4: 100.0, 5: 30.0}.items():
        x[x[:, column] == 0, column] = usual
    names = ["pregnancies", "glucose", "pressure", "skin", "insulin", "bmi", "pedigree", "age"]
    space = Space.table(names, lower=np.array([0, 40, 20, 5, 10, 15, 0, 20.0]), upper=np.array([20, 220, 130, 100, 900, 70, 2.5, 90.0]))
    return dataset_of(x, y, space=space, classes=2)


def wine() -> Dataset:
    """178 wines of three growers; bounds from what such measurements can be."""
    from sklearn.datasets import load_wine

    raw: Any = load_wine()
    lower = np.array([10, 0, 1, 5, 60, 0, 0, 0, 0, 0, 0.3, 1, 200.0])
    upper = np.array([16, 7, 4, 35, 180, 5, 6, 1, 4, 15, 2, 5, 2000.0])
    return dataset_of(
        np.asarray(raw.data, float), raw.target, space=Space.table([str(n) for n in raw.feature_names], lower=lower, upper=upper), classes=3
    )


def iris() -> Dataset:
    """150 irises of three species; bounds in centimetres from what such flowers can be."""
    from sklearn.datasets import load_iris

    raw: Any = load_iris()
    space = Space.table([str(n) for n in raw.feature_names], lower=np.array([3, 1, 0.5, 0.0]), upper=np.array([9, 6, 8, 3.5]))
    return dataset_of(np.asarray(raw.data, float), raw.target, space=space, classes=3)


def digits() -> Dataset:
    """1,797 digits as tables of 64 grey values in [0, 16]."""
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    space = Space.table([f"p{i}" for i in range(64)], lower=np.zeros(64), upper=np.full(64, 16.0))
    return dataset_of(np.asarray(raw.data, float), raw.target, space=space, classes=10)


NUMBERS = {"time_in_hospital": 14, "num_lab_procedures": 150, "num_procedures": 10, "num_medications": 100, "number_outpatient": 50,
           "number_emergency": 50, "number_inpatient": 25, "number_diagnoses": 16}  # fmt: skip
CHOICES = {"race": ("AfricanAmerican", "Asian", "Caucasian", "Hispanic", "Other"), "gender": ("Female",), "max_glu_serum": (">200", ">300", "Norm"),
           "A1Cresult": (">7", ">8", "Norm"), "insulin": ("Down", "Steady", "Up"), "metformin": ("Down", "Steady", "Up"), "change": ("Ch",),
           "diabetesMed": ("Yes",), "admission_type_id": ("1", "2", "3"), "admission_source_id": ("1", "7"),
           "discharge_disposition_id": ("1", "3", "6", "22")}  # fmt: skip
SICK = {"heart": (390, 459), "lung": (460, 519), "gut": (520, 579), "diabetes": (250, 250.99), "harm": (800, 999), "bone": (710, 739), "kidney": (580, 629), "cancer": (140, 239)}  # fmt: skip


def hospitals() -> Dataset:
    """The first encounter of each of 71,518 patients; class 1 came back within 30 days (9 in 100)."""
    import pandas as pd

    with (
        zipfile.ZipFile(DATA / "diabetes-130-hospitals" / "dataset_diabetes.zip") as archive,
        archive.open("dataset_diabetes/diabetic_data.csv") as file,
    ):
        raw = pd.read_csv(file, dtype=str, keep_default_na=False)
    raw = raw.iloc[np.argsort(raw["encounter_id"].astype(int), kind="stable")].drop_duplicates("patient_nbr")
    columns, upper = {"age": raw["age"].str.extract(r"(\d+)")[0].astype(float)}, [100.0]
    columns |= {name: raw[name].astype(float) for name in NUMBERS}
    upper += list(NUMBERS.values())
    for name, values in CHOICES.items():
        columns |= {f"{name}={value}": (raw[name] == value).astype(float) for value in values}
    code = pd.to_numeric(raw["diag_1"], errors="coerce")
    columns |= {f"ill={name}": code.between(low, high).astype(float) for name, (low, high) in SICK.items()}
    x = np.column_stack([np.asarray(column) for column in columns.values()])
    flags = x.shape[1] - len(upper)
    step = np.repeat([0.0, 1.0], [len(upper), flags])  # a flag is no or yes
    space = Space.table(list(columns), lower=np.zeros(len(step)), upper=np.array([*upper, *[1.0] * flags]), step=step)
    return dataset_of(x, (raw["readmitted"] == "<30").astype(int).to_numpy(), space=space, classes=2)


TABLES = {"breast_cancer": patients, "pima": pima, "diabetes_130": hospitals, "wine": wine, "digits": digits, "iris": iris}


def value(p: Array, y: Array) -> float:
    """100 accuracy, or 100 AUC where fewer than a fifth are of class 1 of two."""
    from sklearn.metrics import roc_auc_score

    if p.shape[1] == 2 and y.mean() < 0.2:
        return 100 * float(roc_auc_score(y, p[:, 1]))
    return 100 * float((decide(p) == y).mean())


def plain(train: Dataset, test: Dataset) -> float:
    """The better, on the test rows, of two models that are not private."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = [make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), HistGradientBoostingClassifier(random_state=0, max_iter=60)]
    return max(value(model.fit(train.x, train.y).predict_proba(test.x), test.y) for model in models)


@dataclass(frozen=True)
class Cut:
    """One split of one table."""

    train: Dataset
    test: Dataset


def cuts(data: Dataset, splits: range) -> list[Cut]:
    """70% of the rows to train on, drawn by the seed."""
    found = []
    for seed in splits:
        order = rng_for(seed, "cut").permutation(len(data))
        found.append(Cut(data.take(order[: int(0.7 * len(data))]), data.take(order[int(0.7 * len(data)) :])))
    return found


def peers(python: str, cut: Cut, epsilon: float) -> dict[str, float]:
    """The value of each peer, from a process of their own environment."""
    with tempfile.TemporaryDirectory() as folder:
        space, path = cut.train.space, Path(folder) / "0.npz"
        np.savez(path, x=cut.train.x, y=cut.train.y, test=cut.test.x, lower=space.lower, upper=space.upper, classes=cut.train.classes)
        subprocess.run([python, str(PEERS), folder, str(epsilon), str(DELTA)], check=True)
        names = json.loads((Path(folder) / "names.json").read_text())
        with np.load(path.with_suffix(".out.npz")) as answers:
            return {name: value(answers[name], cut.test.y) for name in names}


def one(cut: Cut, seed: int, python: str, epsilon: float) -> dict[str, float]:
    """The value of every method on one split."""
    ours = {OURS: PrivateLinearRecipe(epsilon=epsilon, delta=DELTA), WEAKER: PrivateLinearRecipe(epsilon=epsilon, delta=DELTA, neighbours="remove"),
            "Carbide private_logistic": PrivateLogisticRecipe(epsilon=epsilon, delta=DELTA),
            ADDITIVE: PrivateAdditiveRecipe(epsilon=epsilon, delta=DELTA),
            ADDITIVE_WEAKER: PrivateAdditiveRecipe(epsilon=epsilon, delta=DELTA, neighbours="remove")}  # fmt: skip
    found = {NONE: plain(cut.train, cut.test)}
    found |= {title: value(recipe.fit(cut.train, rng_for(seed, "train")).predict(cut.test.x), cut.test.y) for title, recipe in ours.items()}
    return found | peers(python, cut, epsilon)


def measure(name: str, python: str, splits: range, epsilon: float, store: Path) -> tuple[list[dict[str, Any]], str, list[str]]:
    """One row a method, what the table is, and what to note of it; finished splits are kept in the store."""
    data, found = TABLES[name](), {}
    for seed, cut in zip(splits, cuts(data, splits), strict=True):
        path = store / f"{name}-{epsilon:g}-{seed}.json"
        if not path.exists():
            path.write_text(json.dumps(one(cut, seed, python, epsilon)))
        for title, result in json.loads(path.read_text()).items():
            found.setdefault(title, []).append(result)
    rows = []
    for title, values in found.items():
        ahead = {ours: "" if title == ours else f"{np.mean(found[ours]) - np.mean(values):+.1f} (p = {ttest_rel(found[ours], values).pvalue:.1g})"
                 for ours in AHEAD}  # fmt: skip
        rows.append({"model": title, "value": f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.1f}",
                     **{f"{name} ahead by": ahead[ours] for ours, name in AHEAD.items()}})  # fmt: skip
    n, d = int(0.7 * len(data)), data.x.shape[1]
    lost = {name: np.mean(found[NONE]) - np.mean(found[ours]) for ours, name in AHEAD.items()}
    near = ", ".join(f"{name} loses {points:.2f} ({'' if points <= NEAR else 'not '}reached)" for name, points in lost.items())
    blur = 2 / gdp_mu(epsilon, DELTA) * data.classes / n * d**0.5
    notes = [f"To reach: at most {NEAR:g} points lost; {near}.",
             f"Were the whole budget spent on one noisy sum of the rows of each class, brought to length one, the mean of a class of average size would be off by "
             f"{blur:.2g} in length where one row is replaced, by {blur / 2:.2g} where one is left out."]  # fmt: skip
    return rows, f"{len(data)} rows, {d} features, {data.classes} classes, {n} rows to train on", notes


def main() -> None:
    """Measure the tables and write a section each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", required=True)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "carbide-private-tables")
    parser.add_argument("--only", default=",".join(TABLES))
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        splits = range(options.first, options.first + options.splits)
        rows, what, notes = measure(name, options.peers, splits, options.epsilon, options.store)
        record(f"Private tables at epsilon {options.epsilon:g}: {name}", rows,
               protocol=f"{what}; {options.splits} splits, seeds from {options.first}; delta {DELTA:g} under replacing one row, where a method has a delta; "
                        "mean and standard error of accuracy in percent (diabetes_130: 100 AUC), and paired t-tests.",
               notes=[*notes, "What is not private is the better of the two by the test rows. Peers run as they come, told the same public bounds; DP-EBM knows "
                      "two classes only, and counts adding or leaving out a row."])  # fmt: skip


if __name__ == "__main__":
    main()
