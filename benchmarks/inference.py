"""Attribute inference and reconstruction beside ART on the same models, decided by the same judge.

    python -m benchmarks.inference [--people 1000] [--missing 6] [--seed 11]

Needs ART (``adversarial-robustness-toolbox``) in an environment of its own, with torch held by constraints.txt.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

from benchmarks.poisoning import DATA
from benchmarks.private_tables import hospitals, pima
from benchmarks.record import record
from carbide.data.live import dataset_of, splits_of
from carbide.models.estimators import EstimatorRecipe
from carbide.privacy import attributes, reconstructions
from carbide.privacy._gaps import gap, gap_interval
from carbide.privacy.audit.class_inversion import ClassInversion
from carbide.privacy.audit.missing_row import MissingRow
from carbide.privacy.audit.value_cases import ValueCases
from carbide.privacy.audit.value_memory import ValueMemory
from carbide.privacy.audit.value_posterior import ValuePosterior
from carbide.privacy.puzzle import surest
from carbide.privacy.rebuilt import Rebuilt
from carbide.registry import Method
from carbide.types import Array, AttributeInference, Case, Dataset, Reconstruction, Splits, rng_for

FEATURE = AttributeInference(feature="gender=Female")
OURS = {"value_posterior": ValuePosterior(), "value_cases": ValueCases(), "value_memory": ValueMemory()}
SIDE = 4  # pixels of a face that become one
FACES = 15  # images that are each the missing one once


def targets(seed: int) -> dict[str, Any]:
    """Models from one that remembers to one that cannot."""
    return {"decision tree": DecisionTreeClassifier(random_state=seed), "random forest": RandomForestClassifier(100, random_state=seed, n_jobs=1),
            "perceptron": MLPClassifier((64,), max_iter=300, random_state=seed), "logistic regression": LogisticRegression(max_iter=1000)}  # fmt: skip


def case_of(estimator: Any, data: Splits, seed: int) -> Case:
    """The estimator trained on the train rows."""
    recipe = EstimatorRecipe(estimator=estimator)
    return Case(model=recipe.fit(data.train, rng_for(seed, "target")), data=data, recipe=recipe, seed=seed)


def attribute_row(name: str, side: str, guess: Array, court: Any, seconds: float) -> dict[str, Any]:
    """What one side says about the same people."""
    right = (guess == court.truth).astype(float)[None]
    inside = court.inside[None]
    low, high = gap_interval(right, inside, rng_for(court.case.seed, "benchmark", name, side))
    return {"model": name, "attack": side, "right, trained on": float(right[inside].mean()), "right, others": float(right[~inside].mean()),
            "leak": gap(right, inside), "interval": f"{low:.3f} to {high:.3f}",
            "gain over imputation": float((right - court.imputed)[inside].mean()), "seconds": seconds}  # fmt: skip


def attribute(people: int, seed: int) -> list[dict[str, Any]]:
    """Every attack on the sex of patients of diabetes-130."""
    pool = hospitals()
    rows = rng_for(seed, "people").permutation(len(pool))[: 3 * people]
    parts = [pool.take(rows[i::3]) for i in range(3)]
    middle, scale = parts[1].x.mean(0), np.where(parts[1].x.std(0) > 0, parts[1].x.std(0), 1.0)
    column = pool.space.index(FEATURE.feature)
    middle[column], scale[column] = 0.0, 1.0
    free = dataset_of(pool.x[:2], pool.y[:2], classes=2, space=type(pool.space).table(pool.space.names)).space
    made = [Dataset(x=(p.x - middle) / scale, y=p.y, ids=p.ids, source=p.source, space=free, classes=2) for p in parts]
    data = Splits(train=made[0], validation=made[1], test=made[2])
    found = []
    for name, estimator in targets(seed).items():
        case = case_of(estimator, data, seed)
        start = time.perf_counter()
        court = attributes._set_up(case, FEATURE, OURS)
        prepared = time.perf_counter() - start
        found.append(attribute_row(name, "imputation (no model)", court.puzzle.imputed.argmax(1), court, prepared))
        for side, method in OURS.items():
            start = time.perf_counter()
            guess = surest(method(case.model, court.puzzle, FEATURE, rng_for(seed)), court.puzzle.imputed)
            found.append(attribute_row(name, f"Carbide, {side}", guess, court, time.perf_counter() - start))
        for side, guess, seconds in art_attributes(case, court, column):
            found.append(attribute_row(name, f"ART, {side}", guess, court, seconds))
        print(*found[-7:], sep="\n", flush=True)
    return found


def art_attributes(case: Case, court: Any, column: int) -> list[tuple[str, Array, float]]:
    """ART's attacks, fitted on the validation rows; its black box is told the label that the model gives each true person."""
    from art.attacks.inference.attribute_inference import AttributeInferenceBaseline, AttributeInferenceBlackBox
    from art.estimators.classification import BlackBoxClassifier

    apart, people = case.data.validation, court.people
    bare = np.delete(people.x, column, axis=1)
    wrapped = BlackBoxClassifier(case.model.predict, (people.x.shape[1],), 2)
    found = []
    for side, attack, known in (("black box, forest", AttributeInferenceBlackBox(wrapped, attack_model_type="rf", attack_feature=column), True),
                                ("black box, boosting", AttributeInferenceBlackBox(wrapped, attack_model_type="gb", attack_feature=column), True),
                                ("baseline, forest", AttributeInferenceBaseline(attack_model_type="rf", attack_feature=column), False)):  # fmt: skip
        start = time.perf_counter()
        more = {"pred": case.model.predict(people.x).argmax(1).reshape(-1, 1)} if known else {}
        args = (apart.x, np.eye(2)[apart.y]) if known else (apart.x,)
        attack.fit(*args)
        labels = (np.eye(2)[people.y],) if known else ()
        guess = np.asarray(attack.infer(bare, *labels, values=[0.0, 1.0], **more)).reshape(-1)
        found.append((side, court.levels.values[:, 0].searchsorted(guess), time.perf_counter() - start))
    return found


@dataclass(frozen=True, kw_only=True)
class ArtMissing(Method):
    """ART's database reconstruction: the row for which training again gives the released weights."""

    threats = (Reconstruction,)

    def __call__(self, model: Any, others: Dataset | None, threat: Reconstruction, rng: Any) -> Rebuilt:
        from art.attacks.inference.reconstruction import DatabaseReconstruction
        from art.estimators.classification.scikitlearn import ScikitlearnLogisticRegression

        assert others is not None
        x, y = DatabaseReconstruction(ScikitlearnLogisticRegression(model.estimator)).reconstruct(others.x, others.y)
        return Rebuilt(x=x, y=y.argmax(1))


@dataclass(frozen=True, kw_only=True)
class ArtFace(Method):
    """ART's MIFace."""

    threats = (Reconstruction,)
    steps: int = 300

    def __call__(self, model: Any, others: Dataset | None, threat: Reconstruction, rng: Any) -> Rebuilt:
        from art.attacks.inference.model_inversion import MIFace
        from art.estimators.classification.scikitlearn import ScikitlearnLogisticRegression

        wrapped = ScikitlearnLogisticRegression(model.estimator, clip_values=(0.0, 1.0))
        attack = MIFace(wrapped, max_iter=self.steps, verbose=False)
        found = attack.infer(np.full((model.classes, int(np.prod(model.space.shape))), 0.5), np.arange(model.classes))
        return Rebuilt(x=np.clip(found, 0, 1).reshape(-1, *model.space.shape), y=np.arange(model.classes))


def rebuilt_rows(what: str, case: Case, threat: Reconstruction, methods: dict[str, Method]) -> list[dict[str, Any]]:
    """Both sides by the judge of reconstructions."""
    found = []
    for side, method in methods.items():
        start = time.perf_counter()
        section = reconstructions.audit(case, threat, {"side": method})
        seconds = time.perf_counter() - start
        seen = {f.metric: f for f in section.findings}
        head = seen[reconstructions.SHARE if threat.known == "others" else reconstructions.AUC]
        control = seen[reconstructions.FALSE if threat.known == "others" else reconstructions.CONTROL]
        found.append({"what": what, "side": side, "metric": head.metric, "value": head.value, "interval": f"{head.low:.3f} to {head.high:.3f}",
                      "control": control.value, "distance": seen[reconstructions.FAR].value if threat.known == "others" else float("nan"),
                      "n": head.n, "seconds": seconds})  # fmt: skip
        print(found[-1], flush=True)
    return found


def faces() -> Dataset:
    """390 faces of 39 people, as grey images of 28 x 22."""
    images, names = [], []
    for file in sorted((DATA / "orl-faces").rglob("*.pgm")):
        grey = np.frombuffer(file.read_bytes()[-92 * 112 :], np.uint8).reshape(112, 92)[:, : 92 // (2 * SIDE) * 2 * SIDE] / 255.0
        images.append(grey.reshape(112 // SIDE, SIDE, -1, SIDE).mean((1, 3))[None])
        names.append(file.parent.name)
    return dataset_of(np.stack(images), np.unique(names, return_inverse=True)[1])


def reconstruction(missing: int, seed: int) -> list[dict[str, Any]]:
    """The missing row of logistic regressions, and inversion of one that knows faces."""
    table = pima()
    table = dataset_of((table.x - table.x.mean(0)) / table.x.std(0), table.y, space=type(table.space).table(table.space.names))
    data, pictures = splits_of(table, space=None, seed=seed), splits_of(faces(), space=None, seed=seed)
    reconstructions.TARGETS = missing
    others, alone, found = Reconstruction(known="others"), Reconstruction(), []
    ours: dict[str, Method] = {"Carbide, missing_row": MissingRow(), "Carbide, closed form alone": MissingRow(retrainings=0)}
    for word, tol in (("default training", 1e-4), ("trained to 1e-10", 1e-10)):
        case = case_of(LogisticRegression(tol=tol, max_iter=5000), data, seed)
        found += rebuilt_rows(f"pima, missing row, {word}", case, others, {**ours, "ART, database reconstruction": ArtMissing()})
    reconstructions.TARGETS = FACES
    case = case_of(LogisticRegression(max_iter=5000), pictures, seed)
    found += rebuilt_rows("faces, missing image, default training", case, others, ours)
    case = case_of(LogisticRegression(max_iter=1000), pictures, seed)
    return found + rebuilt_rows("faces, a face a class", case, alone, {"Carbide, class_inversion": ClassInversion(), "ART, MIFace": ArtFace()})


def main() -> None:
    """Measure and record."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--missing", type=int, default=6)
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args()
    record(
        "Attribute inference beside ART: diabetes-130",
        attribute(given.people, given.seed),
        protocol=(
            f"Is a patient a woman? {given.people} patients trained on, {given.people} others, and {given.people} more from whom imputation, reference models and ART's attacks "
            "learn; label: back within 30 days. The attacker knows all other features and the label. ART's black box is told besides what label the model gives each "
            "true person, which Carbide's attacks are not. The leak is the difference between people trained on and others; all sides are judged on the same given model. "
            "Carbide's seconds are those of asking the model; imputation and reference models are trained once for all of its attacks, which is the first row's time."
        ),
    )
    record(
        "Reconstruction beside ART: pima and faces",
        reconstruction(given.missing, given.seed),
        protocol=(
            f"Missing row: {given.missing} training rows of pima and {FACES} images of the ORL faces (39 people, 28 x 22 pixels) are each the missing one once; value = share that is rebuilt with its "
            "label and nearer than any known row, control = the same for rows never trained on, distance = median, in distances of the nearest known row. A face a class: one "
            "input is made for each person; value = how often a training image of the person is nearer to it than an image not trained on, control = the same of class means "
            "of images set apart. MIFace and class_inversion take 300 steps from grey."
        ),
    )


if __name__ == "__main__":
    main()
