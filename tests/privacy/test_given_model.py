"""The members of a given model: known where rows are named as train, wherever the cut puts these, and refused where Carbide cut the data."""

import csv

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

import carbide
from carbide.api import run
from carbide.data import load_data
from carbide.models import wrap
from carbide.privacy.audit.quantile_regression import QuantileRegression
from carbide.privacy.audit.value_posterior import ValuePosterior
from carbide.privacy.judge import DISJOINT, OWN, audit
from carbide.privacy.trials import pool_of, rows_apart, rows_seen, rows_unseen
from carbide.types import AttributeInference, Case, Membership, Reconstruction, SinglingOut, Splits

LOSS = {"membership": {"audit": ["loss_threshold"]}}
UNKNOWN = "unknown, because Carbide itself cut the data"


def drawn(n, seed=0):
    """Rows in steps of a sixteenth, so that files keep them to the bit, and noisy labels, which a full tree learns by heart."""
    rng = np.random.default_rng(seed)
    x = np.round(16 * rng.normal(size=(n, 4))) / 16
    return x, (x[:, 0] + rng.normal(size=n) > 0).astype(np.int64)


def written(path, x, y):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "d", "label"], *[[*row, label] for row, label in zip(x.tolist(), y.tolist(), strict=True)]])
    return path


def area(model, rows, labels, members):
    """How well the confidence in the label tells members, by scikit-learn."""
    return roc_auc_score(members, model.predict_proba(rows)[np.arange(len(labels)), labels])


def named(section, metric):
    return next(f for f in section.findings if f.metric == metric)


@pytest.fixture
def overlapping(tmp_path):
    """A tree fitted on all 400 rows of train.csv; 200 of them stand in test.csv beside 200 others."""
    x, y = drawn(600)
    tree = DecisionTreeClassifier(min_samples_leaf=2, random_state=0).fit(x[:400], y[:400])
    skops.io.dump(tree, tmp_path / "tree.skops")
    written(tmp_path / "train.csv", x[:400], y[:400]), written(tmp_path / "test.csv", x[200:], y[200:]), written(tmp_path / "all.csv", x, y)
    return tree, x, y, tmp_path


def test_no_members_are_made_up_where_carbide_cut_the_rows():
    x, y = drawn(400)
    forest = RandomForestClassifier(20, random_state=0).fit(x[:280], y[:280])
    report = carbide.audit(forest, (x, y), threats=[LOSS], quiet=True)
    (section,) = report.results.plain.sections
    assert not section.findings
    assert UNKNOWN in section.skipped[0].reason
    assert section.skipped[0].status == "not applicable"
    assert any(UNKNOWN in warning for warning in report.results.warnings)
    parts = {"train": (x[:280], y[:280]), "validation": (x[340:], y[340:]), "test": (x[280:340], y[280:340])}
    found = named(carbide.audit(forest, parts, threats=[LOSS], quiet=True).results.plain.sections[0], "membership AUC")
    assert found.value == pytest.approx(area(forest, x[:340], y[:340], np.arange(340) < 280))
    assert found.low > 0.6


def test_a_plan_of_one_file_is_refused_and_one_of_two_files_is_not(overlapping):
    *_, folder = overlapping
    plan = {"model": {"sklearn": str(folder / "tree.skops")}, "threats": [LOSS, {"singling_out": {}}, {"attribute": {"feature": "b"}}]}
    one = run({**plan, "data": {"source": str(folder / "all.csv"), "label": "label"}}, out=folder / "one", verbs=("audit",), quiet=True)
    for section in one.results.plain.sections:
        assert not section.findings
        assert any(UNKNOWN in skip.reason for skip in section.skipped)
    data = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "label": "label"}
    two = run({**plan, "threats": [LOSS], "data": data}, out=folder / "two", verbs=("audit",), quiet=True)
    assert two.results.plain.sections[0].findings
    assert not two.results.warnings


def test_splits_in_python_name_the_members_whoever_cut_them(overlapping):
    _, _, _, folder = overlapping
    parts = carbide.load_data(folder / "all.csv", label="label")
    assert parts.seen is None
    tree = DecisionTreeClassifier(random_state=0).fit(parts.train.x, parts.train.y)
    (section,) = carbide.audit(tree, parts, threats=[LOSS], quiet=True).results.plain.sections
    both = parts.train.joined(parts.test)
    assert named(section, "membership AUC").value == pytest.approx(area(tree, both.x, both.y, np.arange(len(both)) < len(parts.train)))


def test_every_threat_that_asks_for_members_refuses():
    x, y = drawn(300)
    parts = carbide.data.live.splits_of((x, y), space=None, seed=0)
    model = wrap(LogisticRegression().fit(x, y), space=parts.train.space, classes=2)
    for threat in (Membership(), AttributeInference(feature="x1"), Reconstruction(known="others"), Reconstruction(), SinglingOut()):
        section = audit(Case(model=model, data=parts), threat, {"any": object()})
        assert not section.findings, threat
        assert UNKNOWN in section.skipped[0].reason, threat


def test_with_a_recipe_its_own_models_are_measured_and_the_given_one_is_not():
    x, y = drawn(400)
    tree = DecisionTreeClassifier(random_state=0).fit(x, y)
    threats = [LOSS, {"attribute": {"feature": "x1", "audit": ["value_posterior"]}}]
    given, trained = (
        carbide.audit(m, (x, y), recipe=DecisionTreeClassifier(), threats=threats, quiet=True).results.plain.sections for m in (tree, None)
    )
    for one, other, own in zip(given, trained, (OWN, "attribute leak of this model"), strict=True):
        told = {f.metric: f.value for f in other.findings}
        assert {f.metric: f.value for f in one.findings} == {m: v for m, v in told.items() if m not in (own, DISJOINT)}
        assert own in told
        assert any(UNKNOWN in skip.reason for skip in one.skipped)


def test_a_hardened_model_has_the_train_part_for_members():
    x, y = drawn(300)
    threat = {"membership": {"audit": ["loss_threshold"], "harden": ["leaf_size"]}}
    report = carbide.harden(DecisionTreeClassifier(), (x, y), model=DecisionTreeClassifier(random_state=0).fit(x, y), threats=[threat],
                            accuracy_loss=0.5, quiet=True)  # fmt: skip
    assert report.results.hardened is not None
    plain, hardened = report.results.plain.sections[0], report.results.hardened.sections[0]
    assert OWN not in {f.metric for f in plain.findings}
    assert OWN in {f.metric for f in hardened.findings}


def test_rows_in_both_files_were_trained_on(overlapping):
    tree, x, y, folder = overlapping
    data = load_data(folder / "train.csv", test=folder / "test.csv", label="label").splits
    case = Case(model=wrap(tree, space=data.train.space, classes=2), data=data)
    pool, inside, twice = pool_of(case)
    train = {row.tobytes() for row in x[:400]}
    truth = np.array([row.tobytes() in train for row in pool.x])
    np.testing.assert_array_equal(inside, truth)
    assert twice == 200
    assert (~inside).sum() == 200
    section = run({"model": {"sklearn": str(folder / "tree.skops")}, "threats": [LOSS],
                           "data": {"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "label": "label"}},
                          out=folder / "run", verbs=("audit",), quiet=True).results.plain.sections[0]  # fmt: skip
    found = named(section, "membership AUC")
    assert found.value == pytest.approx(area(tree, pool.x, pool.y, truth))
    assert found.low <= area(tree, x, y, np.arange(600) < 400) <= found.high


def test_validation_rows_of_the_train_file_are_no_outsiders(overlapping):
    tree, x, _, folder = overlapping
    data = load_data(folder / "train.csv", test=folder / "test.csv", label="label").splits
    case = Case(model=wrap(tree, space=data.train.space, classes=2), data=data)
    pool, _, _ = pool_of(case)
    assert len(rows_apart(case, pool)) == len(data.validation) >= 40
    assert len(rows_unseen(case, pool)) == 0
    assert {row.tobytes() for row in rows_seen(case).x} == {row.tobytes() for row in x[:400]}
    assert f"on {len(data.validation)} of which the given model was trained" in str(QuantileRegression().refuses(case, Membership()))
    anew = Case(model=case.model, data=data.taught())  # as when the recipe trains: on the train part and nothing else
    assert len(rows_unseen(anew, pool)) == len(data.validation)
    assert rows_seen(anew) is data.train
    leak = audit(case, AttributeInference(feature="b"), {"value_posterior": ValuePosterior()})
    assert leak.findings  # imputation is a guess without the model, which may have seen its rows


def test_the_missing_row_is_rebuilt_from_all_that_the_given_model_saw(tmp_path):
    x, y = drawn(160, seed=1)
    model = LogisticRegression(tol=1e-12, max_iter=10000).fit(x[:100], y[:100])
    skops.io.dump(model, tmp_path / "m.skops")
    plan = {"model": {"sklearn": str(tmp_path / "m.skops")}, "threats": [{"reconstruction": {"known": "others"}}],
            "data": {"train": str(written(tmp_path / "train.csv", x[:100], y[:100])), "test": str(written(tmp_path / "test.csv", x[90:], y[90:])), "label": "label"}}  # fmt: skip
    section = run(plan, out=tmp_path / "run", verbs=("audit",), quiet=True).results.plain.sections[0]
    assert section.headline().value > 0.95  # in closed form; less than all the rows leave several to find at once
    assert named(section, "negative control, rows never trained on").value < 0.1


def test_a_threshold_on_rows_that_the_model_saw_is_told(overlapping):
    *_, folder = overlapping
    plan = {"model": {"sklearn": str(folder / "tree.skops")}, "threats": [LOSS], "operating_point": {"false_positive_rate": 0.1},
            "data": {"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "label": "label"}}  # fmt: skip
    told = run(plan, out=folder / "run", verbs=("audit",), quiet=True).results.warnings
    assert any("49 of the 49 validation rows were" in warning for warning in told)


def test_a_mapping_without_validation_tells_what_its_train_rows_became():
    x, y = drawn(200)
    parts = carbide.data.live.splits_of({"train": (x[:150], y[:150]), "test": (x[120:], y[120:])}, space=None, seed=0)
    assert parts.saw("validation").all()
    np.testing.assert_array_equal(parts.saw("test"), np.arange(120, 200) < 150)
    whole = carbide.data.live.splits_of(
        {"train": (x[:100], y[:100]), "validation": (x[100:150], y[100:150]), "test": (x[150:], y[150:])}, space=None, seed=0
    )
    assert whole.seen == {}
    assert not whole.saw("validation").any()


def test_splits_are_of_their_train_part_unless_said_otherwise():
    x, y = drawn(60)
    parts = carbide.data.live.splits_of((x, y), space=None, seed=0)
    assert Splits(train=parts.train, validation=parts.validation, test=parts.test).seen == {}
