"""CatBoost's trees, files, categories and recipe: the library's own answers at random rows, on every border and beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

catboost = pytest.importorskip("catboost", reason="CatBoost is not installed; pip install 'carbide[catboost]'")

from carbide.models import load_model, load_saved, make_recipe, pack, save_model, unpack, wrap  # noqa: E402
from carbide.models._catboost_file import read_catboost, written  # noqa: E402
from carbide.models.catboosted import CatBoosted, binary_of, catboosted, category_names, load_catboost  # noqa: E402
from carbide.models.trees import ensemble_of, is_tree_ensemble  # noqa: E402
from carbide.types import TREE_BOX, Array, Dataset, InputError, Kind, Space, rng_for  # noqa: E402

QUIET = {"verbose": False, "thread_count": 1, "allow_writing_files": False}
MAKERS: dict[str, dict[str, Any]] = {
    "symmetric": {"iterations": 12, "depth": 4},
    "deep": {"iterations": 4, "depth": 8, "border_count": 20},
    "depthwise": {"iterations": 10, "depth": 4, "grow_policy": "Depthwise", "min_data_in_leaf": 3},
    "lossguide": {"iterations": 10, "max_leaves": 12, "grow_policy": "Lossguide"},
    "bias": {"iterations": 6, "depth": 3, "boost_from_average": True},
    "few": {"iterations": 1, "depth": 1},
}


def rows_of(classes: int, missing: bool) -> tuple[Array, Array]:
    rng = np.random.default_rng([classes, missing])
    x = np.round(rng.normal(size=(300, 4)), 1)
    y = np.digitize(x[:, 0] + x[:, 1] * x[:, 2], [0.0] if classes == 2 else [-0.4, 0.4])
    if missing:
        x[rng.random(x.shape) < 0.15] = np.nan
    return x, y


def edges(document: dict[str, Any], x: Array, rng: np.random.Generator) -> Array:
    """Random rows, and rows with one value on a border or beside it in double and in single precision, far out or missing."""
    out = [rng.normal(size=(300, x.shape[1])) * 2]
    for part in document["features_info"]["float_features"]:
        for border in part["borders"]:
            single = np.float32(border)
            with np.errstate(over="ignore"):
                ways = [np.nextafter(single, np.float32(end)).astype(float) for end in (np.inf, -np.inf)]
            half = [(border + way) / 2 for way in ways]  # where casting to single precision turns
            some = [border, *ways, *half, *(np.nextafter(h, end) for h in half for end in (np.inf, -np.inf)), np.nextafter(border, np.inf), np.nan,
                    0.0, -0.0, 1e39, -1e39, np.inf, -np.inf]  # fmt: skip
            made = x[rng.integers(len(x), size=len(some))].copy()
            made[:, part["flat_feature_index"]] = some
            out.append(made)
    return np.concatenate(out)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("nan_mode", [None, "Min", "Max"])
def test_agrees_with_the_library_everywhere(name, classes, nan_mode):
    if name == "bias" and classes == 3:
        pytest.skip("the library has no such start for three classes")
    x, y = rows_of(classes, nan_mode is not None)
    model = catboost.CatBoostClassifier(**MAKERS[name], **QUIET, nan_mode=nan_mode).fit(x, y)
    assert is_tree_ensemble(model)
    trees, made = ensemble_of(model), catboosted(model)
    points = edges(made.document, x, np.random.default_rng(1))
    given = model.predict_proba(points)
    assert np.array_equal(model.predict(points, prediction_type="RawFormulaVal").reshape(len(points), -1), trees.margins(points))
    assert np.abs(given - trees.predict(points)).max() <= (0 if classes == 2 else 4e-16)
    assert np.array_equal(given, made.predict_proba(points))
    theirs = model.calc_leaf_indexes(points)
    mine = trees.leaves(points)[:, : theirs.shape[1]]  # a bias is a tree of one leaf behind the others
    if "oblivious_trees" in made.document:
        assert np.array_equal(mine, theirs)
    else:  # its files number the leaves of other trees otherwise than it does while it trains: the same rows share a leaf
        assert all(
            len(np.unique(np.column_stack(pair), axis=0)) == len(np.unique(pair[0])) == len(np.unique(pair[1]))
            for pair in zip(mine.T, theirs.T, strict=True)
        )
    inner = trees.feature >= 0
    assert (trees.children[inner] > np.flatnonzero(inner)[:, None]).all()
    # a file of either format answers the same to the last bit, and the same model gives the same bytes
    for blob in (written(made.document), binary_of(made.document)):
        again = load_catboost(blob, "a file")
        assert np.array_equal(again.predict_proba(points), given)
        assert again.blob() == made.blob()


COLOURS = ("red", "green", "blue", "a colour whose name is longer than thirty-two bytes", "nan")


def with_categories(*, words: bool, classes: int = 2, policy: str = "SymmetricTree", size: int = 60) -> tuple[Any, Array, Space]:
    """A model that splits on categories, the numbers of its rows, and their space."""
    rng = np.random.default_rng([words, classes])
    codes = rng.integers(0, len(COLOURS), 600) if words else rng.choice([-2, 0, 1, 7, 40, 41, 99_999], 600)
    x = np.column_stack([rng.normal(size=600), codes, rng.integers(0, 3, 600)]).astype(float)
    y = (np.isin(x[:, 1], (-2, 1, 4, 40)) ^ (x[:, 0] > 0.3)).astype(int) + (classes - 2) * (x[:, 2] == 1)
    rows = x.astype(object)
    rows[:, 1] = [COLOURS[int(c)] for c in codes] if words else [str(int(c)) for c in codes]
    rows[:, 2] = [str(int(c)) for c in x[:, 2]]
    kinds = np.array([Kind.REAL, Kind.CATEGORICAL, Kind.CATEGORICAL])
    space = Space(shape=(3,), names=("a", "b", "c"), lower=np.array([-9.0, -9.0, 0.0]), upper=np.array([9.0, 1e5, 2.0]), step=np.array([0.0, 1.0, 1.0]),
                  mutable=np.ones(3, bool), kind=kinds.astype(np.int8), categories={"b": COLOURS} if words else {})  # fmt: skip
    model = catboost.CatBoostClassifier(iterations=12, depth=4, one_hot_max_size=size, cat_features=[1, 2], grow_policy=policy, **QUIET)
    return model.fit(rows, y), x, space


@pytest.mark.parametrize("policy", ["SymmetricTree", "Lossguide"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("words", [False, True])
def test_native_categories_are_tests_of_their_numbers(words, classes, policy):
    live, x, space = with_categories(words=words, classes=classes, policy=policy)
    model = wrap(live, space=space, classes=classes)
    assert model.access == TREE_BOX
    some = [*np.arange(-4, 45, 0.5), -0.0, 99_999, 99_998, 1e7, np.nextafter(1, 2), np.nextafter(1, 0), np.nan]
    points = np.array([[a, b, c] for a in (-1.0, 0.25, 0.5) for b in some for c in (0, 1, 2, 3, np.nan)], float)
    assert {part["split_type"] for tree in model.estimator.document.get("oblivious_trees", []) for part in tree["splits"]} <= {
        "FloatFeature",
        "OneHotFeature",
    }
    assert (model.ensemble.feature == 1).any()
    assert np.abs(model.predict(points) - model.ensemble.predict(points)).max() <= (0 if classes == 2 else 4e-16)
    # what the library says of rows whose categories are texts
    rows = x.astype(object)
    rows[:, 1] = [COLOURS[int(c)] if words else str(int(c)) for c in x[:, 1]]
    rows[:, 2] = [str(int(c)) for c in x[:, 2]]
    assert np.array_equal(live.predict_proba(rows), model.predict(x))
    for again in (unpack(pack(model)), load_catboost(binary_of(model.estimator.document), "a file").names_in(space)):
        ask = again.predict if hasattr(again, "space") else again.predict_proba
        assert np.array_equal(ask(points), model.predict(points))


def test_where_categories_have_names_all_else_is_named_like_a_missing_one():
    live, x, space = with_categories(words=True)
    model = wrap(live, space=space, classes=2)
    rows = np.repeat(x[:20], 4, 0)
    rows[:, 1] = np.tile([4.0, np.nan, 2.5, 77.0], 20)  # COLOURS[4] is nan
    for answers in (model.predict(rows), model.ensemble.predict(rows)):
        assert (answers.reshape(20, 4, 2) == answers.reshape(20, 4, 2)[:, :1]).all()


def test_the_library_says_which_names_a_category_has():
    live = with_categories(words=True)[0]
    values = catboosted(live).document["features_info"]["categorical_features"][0]["values"]
    found = category_names(values, [*COLOURS, "another", "red"])
    assert all(len(places) >= 1 for places in found)
    assert sorted(p for places in found for p in places if p < 5) == sorted({p for places in found for p in places if p < 5})
    assert all((0 in places) == (6 in places) and 5 not in places for places in found)


def test_categories_without_a_name_or_a_small_number_are_refused():
    live = with_categories(words=True)[0]
    plain = Space.table(["a", "b", "c"])
    with pytest.raises(InputError, match="column 1 has a category that is no whole number"):
        wrap(live, space=plain, classes=2)


def test_statistics_of_categories_are_refused(tmp_path):
    live, _, space = with_categories(words=False, size=2)
    live.save_model(str(tmp_path / "m.json"), format="json")
    live.save_model(str(tmp_path / "m.cbm"))
    for source in (live, tmp_path / "m.json", tmp_path / "m.cbm"):
        with pytest.raises(InputError, match=r"statistics of categories \(CTRs\).*one_hot_max_size.*black box"):
            load_model(source, space=space, classes=2)


def test_the_door_reads_files_of_both_formats_and_live_objects(data, tmp_path):
    live = catboost.CatBoostClassifier(iterations=8, depth=3, **QUIET).fit(data.x, data.y)
    live.save_model(str(tmp_path / "m.cbm"))
    live.save_model(str(tmp_path / "m.json"), format="json")
    plain = catboost.CatBoost().load_model(str(tmp_path / "m.cbm"))
    sources = [
        live,
        plain,
        tmp_path / "m.cbm",
        tmp_path / "m.json",
        {"catboost": str(tmp_path / "m.cbm")},
        {"catboost": {"file": str(tmp_path / "m.json")}},
    ]
    models = [load_model(source, space=data.space, classes=2) for source in sources]
    for model in models:
        assert model.access == TREE_BOX
        assert np.array_equal(model.predict(data.x), live.predict_proba(data.x))
        assert model.digest() == models[0].digest()
    with pytest.raises(InputError, match="holds catboost, where xgboost is expected"):
        load_model({"xgboost": str(tmp_path / "m.json")}, space=data.space, classes=2)
    with pytest.raises(InputError, match="4 features, but a row of the data has 2"):
        wrap(live, space=Space.table(["a", "b"]), classes=2)


def test_names_in_another_order_are_refused(data):
    import pandas

    frame = pandas.DataFrame(data.x, columns=["b", "a", "c", "d"])
    live = catboost.CatBoostClassifier(iterations=3, depth=2, **QUIET).fit(frame, data.y)
    with pytest.raises(InputError, match="trained with 'b' as feature 0, the data has 'a' there"):
        wrap(live, space=data.space, classes=2)


def test_what_is_no_classifier_is_refused(data):
    unfitted = catboost.CatBoostClassifier()
    losses = {"RMSE": catboost.CatBoostRegressor(iterations=2, **QUIET).fit(data.x, data.y),
              "MultiClassOneVsAll": catboost.CatBoostClassifier(iterations=2, loss_function="MultiClassOneVsAll", **QUIET).fit(data.x, data.y)}  # fmt: skip
    with pytest.raises(InputError, match="not fitted"):
        wrap(unfitted, space=data.space, classes=2)
    for loss, model in losses.items():
        with pytest.raises(InputError, match=f"'{loss}', which gives no probabilities"):
            wrap(model, space=data.space, classes=2)


class Halved(catboost.CatBoostClassifier):
    """A model that answers otherwise than its trees."""

    def predict_proba(self, X, *rest, **options):
        return np.full((len(X), 2), 0.5)


def test_a_subclass_that_answers_by_itself_is_a_black_box(data):
    model = Halved(iterations=2, **QUIET).fit(data.x, data.y)
    assert not is_tree_ensemble(model)
    assert (wrap(model, space=data.space, classes=2).predict(data.x) == 0.5).all()


def test_classes_by_name_and_columns_without_use(data):
    words = np.array(["bad", "good"])[data.y]
    live = catboost.CatBoostClassifier(iterations=4, depth=2, ignored_features=[1], **QUIET).fit(data.x, words)
    model = wrap(live, space=data.space, classes=2, labels=["good", "bad"])
    assert np.array_equal(model.predict(data.x)[:, ::-1], live.predict_proba(data.x))
    assert model.estimator.predict(data.x).tolist() == live.predict(data.x).tolist()


def test_the_recipe_repeats_takes_categories_by_name_and_writes_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, x, space = with_categories(words=True)
    y = (np.isin(x[:, 1], (1, 4)) ^ (x[:, 0] > 0.3)).astype(np.int64)
    n = np.arange(len(x)).astype(str)
    data = Dataset(x=x, y=y, ids=n, source=n, space=space, classes=2)
    made = {"estimator": "catboost", "params": {"n_estimators": 10, "max_depth": 3, "eta": 0.3, "cat_features": ["b", 2]}}
    recipe = make_recipe(made, space=space, classes=2)
    first, again, other = (recipe.fit(data, rng_for(seed)) for seed in (0, 0, 1))
    assert first.digest() == again.digest() != other.digest()
    assert isinstance(first.estimator, CatBoosted)
    assert first.access == TREE_BOX
    assert (first.ensemble.feature == 1).any()
    assert (first.predict(x).argmax(1) == y).mean() > 0.95
    live = make_recipe(catboost.CatBoostClassifier(iterations=3, random_state=3), space=space, classes=2).fit(data, rng_for(0))
    assert live.predict(x).shape == (600, 2)
    assert not list(tmp_path.iterdir())
    save_model(first, tmp_path / "hardened")
    kept = load_saved(tmp_path / "hardened")
    assert np.array_equal(kept.predict(x), first.predict(x))
    assert kept.digest() == first.digest()
    assert np.array_equal(kept.estimator.model.predict(first.estimator.rows(x), prediction_type="Probability"), first.predict(x))
    assert (tmp_path / "hardened" / "model.cbm").read_bytes()[:4] == b"CBM1"


@pytest.mark.parametrize("params", [{"train_dir": "x"}, {"depth": 3, "max_depth": 4}, {"early_stopping_rounds": 3}, {"cat_features": [9]}])
def test_params_that_a_recipe_cannot_take(data, params):
    with pytest.raises(InputError):
        make_recipe({"estimator": "catboost", "params": params}, space=data.space, classes=2).fit(data, rng_for(0))


def blobs() -> list[bytes]:
    x, y = rows_of(3, True)
    models = [catboost.CatBoostClassifier(iterations=2, depth=2, grow_policy=p, **QUIET).fit(x, y) for p in ("SymmetricTree", "Lossguide")]
    documents = [catboosted(m).document for m in [*models, with_categories(words=False)[0]]]
    return [blob for d in documents for blob in (written(d), binary_of(d))]


def test_damaged_files_are_refused_in_a_sentence_or_read_whole():
    """A file with any byte changed or cut is refused, or is a sound model that the library answers for."""
    rng = np.random.default_rng(0)
    for blob in blobs():
        for _ in range(120):
            hurt = bytearray(blob)
            for at in rng.integers(len(hurt), size=rng.integers(1, 4)):
                hurt[at] = rng.integers(256)
            hurt = bytes(hurt[: rng.integers(len(hurt))] if rng.random() < 0.2 else hurt)
            try:
                document = read_catboost(hurt, "m")
            except InputError as error:
                assert str(error)[:2] in ("m ", "m,")
                assert "\n" not in str(error)
            else:
                assert read_catboost(written(document), "m") == document


@pytest.mark.parametrize("change", [
    lambda d: d["oblivious_trees"][0].update(leaf_values=[0.0]),
    lambda d: d["oblivious_trees"][0]["splits"][0].update(float_feature_index=99),
    lambda d: d["oblivious_trees"][0]["splits"][0].update(border=1e39),  # which single precision does not hold
    lambda d: d["oblivious_trees"][0]["splits"][0].update(split_type="OnlineCtr"),
    lambda d: d.update(trees=[]),
    lambda d: d.update(scale_and_bias=[1.0, [float("nan")]]),
    lambda d: d["features_info"]["float_features"][0].update(flat_feature_index=3),
    lambda d: d["features_info"]["float_features"][0].update(nan_value_treatment="AsItLikes"),
    lambda d: d["model_info"]["class_params"].update(class_to_label=[0, 0]),
    lambda d: d["model_info"]["params"]["loss_function"].update(type="RMSE"),
])  # fmt: skip
def test_parts_that_do_not_fit_are_refused(change):
    x, y = rows_of(2, False)
    document = catboosted(catboost.CatBoostClassifier(iterations=2, depth=2, **QUIET).fit(x, y)).document
    change(document)
    with pytest.raises(InputError, match=r"^m[ ,]"):
        read_catboost(json.dumps(document).encode(), "m")


def test_carbide_loads_without_the_library():
    code = "import sys; sys.modules['catboost'] = None\nimport carbide, carbide.models.estimators\nfrom carbide.models.trees import is_tree_ensemble\nis_tree_ensemble(1)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_monotone_training_keeps_its_word(data):
    from carbide.evasion._blind import constrained

    recipe = make_recipe({"estimator": "catboost", "params": {"iterations": 10, "depth": 3}}, space=data.space, classes=2)
    model = constrained(recipe, np.array([1, 0, 0, -1])).fit(data, rng_for(0))
    rows = np.repeat(np.random.default_rng(0).random((40, 4)), 5, 0)
    for column, sign in ((0, 1), (3, -1)):
        moved = rows.copy()
        moved[:, column] = np.tile(np.linspace(0, 1, 5), 40)
        steps = np.diff(model.predict(moved)[:, 1].reshape(40, 5), axis=1) * sign
        assert steps.min() >= -1e-12


@pytest.mark.parametrize("kind", ["plain", "matrix", "whole chain"])
def test_the_exact_attack_finds_what_brute_force_finds(kind):
    from carbide.evasion._tree_search import search
    from tests.oracles.brute import cheapest
    from tests.oracles.instances import instance

    case = instance(kind, "lightgbm", 0)
    x = np.random.default_rng(0).normal(size=(300, 4)) * 2
    model = catboost.CatBoostClassifier(iterations=4, depth=2, **QUIET).fit(x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int))
    trees = ensemble_of(model)
    scores = model.predict_proba(case.rows)[:, 1]
    threshold = float(scores.min())  # so that a score lies on it
    found = search(trees, case.rows, case.prices, case.space, threshold=threshold)
    truth = [cheapest(trees, row, case.prices, case.space, threshold) for row in case.rows]
    assert np.allclose(found.cost, truth, rtol=1e-6)
    hit = np.isfinite(found.cost)
    assert (model.predict_proba(found.witness[hit])[:, 1] < threshold).all()
