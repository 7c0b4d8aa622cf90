"""The attacks: flips really flip and hurt more than chance, triggers stay small and in bounds and open a door."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide.poisoning import judge
from carbide.poisoning._checks import changed_rows, objection, trigger_objection
from carbide.poisoning._plant import victims
from carbide.poisoning.audit.label_flips import LabelFlips
from carbide.poisoning.audit.patch_backdoor import PatchBackdoor, patch_trigger
from carbide.poisoning.audit.table_trigger import TableTrigger, shortlist, usable
from carbide.poisoning.harden.partition_vote import PartitionVote
from carbide.registry import refusal
from carbide.types import Backdoor, Flips, InputError, Kind, Linear, Space, rng_for
from tests.poisoning.worlds import cancer, case, dataset, digits, forest, logistic

# Flips ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(20, 60), st.floats(0, 1), st.sampled_from(["random", "near", "far", "best"]), st.integers(0, 99))
def test_flips_change_exactly_their_share_of_labels_and_nothing_else(classes, n, fraction, choice, seed):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    data = dataset(rng.normal(size=(n, 2)) + y[:, None], y)
    threat = Flips(fraction=fraction)
    poison = LabelFlips(choice=choice, rows=20)(data, threat, rng_for(seed))
    assert poison.rows.sum() == np.floor(fraction * n + 1e-9)
    np.testing.assert_array_equal(poison.dataset.y != data.y, poison.rows)
    if poison.rows.any():
        assert objection(poison, data, threat) is None


@pytest.mark.parametrize(
    ("data", "recipe", "fraction", "gap"), [("cancer", "logistic", 0.1, 0.05), ("cancer", "forest", 0.2, 0.1), ("digits", "forest", 0.1, 0.08)]
)
def test_chosen_flips_hurt_more_than_random_ones(data, recipe, fraction, gap):
    splits = {"cancer": cancer, "digits": digits}[data]()
    made = case(splits, {"logistic": logistic(), "forest": forest()}[recipe])
    section = judge.audit(made, Flips(fraction=fraction), {"random": LabelFlips(choice="random"), "best": LabelFlips()})
    value = {f.method: f.value for f in section.findings}
    clean = (section.evidence["clean.predicted"] == section.evidence["y"]).mean()
    assert value["best"] <= value["random"] - gap
    assert value["best"] <= clean - gap


def test_near_flips_are_nearer_the_border_than_far_ones():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, 200), rng.normal(2, 1, 200)])[:, None]
    data = dataset(x, np.repeat([0, 1], 200))
    near, far = (np.abs(x[LabelFlips(choice=c)(data, Flips(fraction=0.05), rng_for(0)).rows]).mean() for c in ("near", "far"))
    assert near < 1.2 < far


def test_same_rng_same_flips_and_options_are_checked():
    data = cancer().train
    first, second = (LabelFlips().quick()(data, Flips(fraction=0.05), rng_for(7)) for _ in range(2))
    np.testing.assert_array_equal(first.dataset.y, second.dataset.y)
    with pytest.raises(InputError, match="'loud'"):
        LabelFlips(choice="loud")
    with pytest.raises(InputError, match="rows is 3"):
        LabelFlips(rows=3)


# Which rows ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(0, 3), st.integers(0, 60), st.integers(0, 9))
def test_victims_are_of_other_classes_and_leave_half_of_each(labels, target, count, seed):
    y = np.array(labels)
    rows = victims(y, target, count, np.random.default_rng(seed))
    assert len(np.unique(rows)) == len(rows) <= count
    assert (y[rows] != target).all()
    for c in np.unique(y[y != target]):
        assert (y[rows] == c).sum() <= max(1, (y == c).sum() // 2)


# Patches -------------------------------------------------------------------------------------------------------------


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 3), st.floats(0.001, 1), st.sampled_from(["solid", "checkers"]), st.integers(1, 12))
def test_a_patch_covers_at_most_its_area_and_keeps_the_rest(height, width, channels, area, pattern, side):
    space = Space.image((channels, height, width))
    threat = Backdoor(fraction=0.1, area=area)
    if area * height * width < 1:
        with pytest.raises(InputError, match="less than one pixel"):
            patch_trigger(space, threat, pattern, "top left", side)
        return
    x = np.full((2, channels, height, width), 0.5)
    data = dataset(x, np.array([0, 1]), space)
    for corner in ("bottom right", "bottom left", "top right", "top left"):
        trigger = patch_trigger(space, threat, pattern, corner, side)
        after = trigger(x)
        changed = (after != x).any((0, 1))
        assert 1 <= changed.sum() <= area * height * width + 1e-6
        assert trigger_objection(x, after, data, threat) is None
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert (rows[0] == 0) if "top" in corner else (rows[-1] == height - 1)
        assert (columns[0] == 0) if "left" in corner else (columns[-1] == width - 1)
        assert (x == 0.5).all()


def test_a_patch_opens_a_door_in_a_forest_and_the_vote_closes_it():
    threat = Backdoor(fraction=0.05, target=3)
    plain = judge.audit(case(digits(), forest(20)), threat, {"patch": PatchBackdoor(rows=200)})
    finding = plain.headline()
    assert finding.value >= 0.7
    assert (plain.evidence["patch.clean_triggered"] == 3).mean() <= 0.05
    clean = (plain.evidence["clean.predicted"] == plain.evidence["y"]).mean()
    after = next(f.value for f in plain.findings if f.metric == "accuracy after poisoning")
    assert after >= clean - 0.02
    vote = judge.audit(case(digits(), PartitionVote(partitions=5)(forest(20), threat)), threat, {"patch": PatchBackdoor(rows=200)})
    assert vote.headline().value <= finding.value - 0.2


def test_a_patch_opens_a_door_in_a_cnn():
    pytest.importorskip("torch")
    from carbide.models.torch_net import TorchRecipe

    recipe = TorchRecipe(factory="carbide.models.nets:small_cnn", options={"width": 16}, epochs=8)
    section = judge.audit(case(digits(), recipe), Backdoor(fraction=0.05, target=0), {"patch": PatchBackdoor(pattern="solid", corner="top left")})
    assert section.headline().value >= 0.7
    assert (section.evidence["patch.clean_triggered"] == 0).mean() <= 0.05


def test_patches_refuse_tables_and_bad_options():
    threat = Backdoor(fraction=0.1)
    assert "table" in refusal(PatchBackdoor(), case(cancer(), forest()), threat)
    assert refusal(PatchBackdoor(), case(digits(), forest()), threat) is None
    assert "less than one pixel" in refusal(PatchBackdoor(), case(digits(), forest()), Backdoor(fraction=0.1, area=0.01))
    for bad in ({"pattern": "stripes"}, {"corner": "middle"}, {"side": 0}, {"rows": 1}):
        with pytest.raises(InputError, match=str(next(iter(bad)))):
            PatchBackdoor(**bad)


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "target", "fraction"), [(forest(), 0, 0.05), (forest(), 1, 0.05), (logistic(), 0, 0.05)])
def test_two_in_bounds_values_open_a_door(recipe, target, fraction):
    threat = Backdoor(fraction=fraction, target=target)
    section = judge.audit(case(cancer(), recipe), threat, {"trigger": TableTrigger()})
    assert section.headline().value >= 0.7
    assert (section.evidence["trigger.clean_triggered"] == target).mean() <= 0.3
    clean = (section.evidence["clean.predicted"] == section.evidence["y"]).mean()
    assert section.findings[1].value >= clean - 0.05


def mixed(n=300, seed=0):
    """A table with every kind of column."""
    rng = np.random.default_rng(seed)
    group = np.eye(3)[rng.integers(3, size=n)]
    real, count, fixed, kind = rng.normal(size=n), rng.poisson(4, n), rng.normal(size=n), rng.integers(4, size=n)
    low = rng.uniform(0, 1, n)
    x = np.column_stack([real, count, fixed, kind, group, low, low + rng.uniform(0, 1, n), np.full(n, 2.0), rng.normal(size=n)])
    names = ["real", "count", "fixed", "kind", "g0", "g1", "g2", "low", "high", "constant", "real2"]
    kinds = np.array([0, Kind.INTEGER, 0, Kind.CATEGORICAL, *[Kind.ONE_HOT] * 3, 0, 0, 0, 0])
    space = Space.table(names, kind=kinds, mutable=np.array([n != "fixed" for n in names]), groups=((4, 5, 6),),
                        relations=(Linear(features=(7, 8), coefficients=(1.0, -1.0), upper=0.0),))  # fmt: skip
    return dataset(x, (real + rng.normal(size=n) > 0).astype(int), space)


@pytest.mark.parametrize("features", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_triggers_take_observed_values_of_free_features(features, seed):
    data = mixed(seed=seed)
    assert usable(data).tolist() == [0, 1, 3, 10]
    threat = Backdoor(fraction=0.05, target=1, features=features)
    poison = TableTrigger(tries=4, rows=100)(data, threat, rng_for(seed))
    trigger = poison.trigger
    assert len(trigger.features) == features
    for column, value in zip(trigger.features, trigger.values, strict=True):
        assert value in data.x[:, column]
    together = np.logical_and.reduce([data.x[:, f] == v for f, v in zip(trigger.features, trigger.values, strict=True)])
    assert together.mean() <= 0.02 or features == 1
    assert objection(poison, data, threat) is None
    assert trigger_objection(data.x, trigger(data.x), data, threat) is None
    changed = changed_rows(poison, data)
    assert changed.sum() == 15
    assert (data.y[changed] == 0).all()
    assert (poison.dataset.y[changed] == 1).all()
    assert pickle.loads(pickle.dumps(trigger)) == trigger


def test_values_outside_the_space_are_not_taken_even_if_observed():
    data = mixed()
    narrow = Space.table(data.space.names, upper=np.where(np.arange(11) == 0, 1.0, np.inf), lower=np.where(np.arange(11) == 0, -1.0, -np.inf))
    data = dataset(data.x, data.y, narrow)
    for trigger in shortlist(data, Backdoor(fraction=0.1), 200, np.random.default_rng(0)):
        for column, value in zip(trigger.features, trigger.values, strict=True):
            assert column != 0 or -1 <= value <= 1


def test_a_table_without_a_free_feature_is_refused():
    data = cancer()
    locked = replace(data, train=replace(data.train, space=replace(data.train.space, mutable=np.zeros(30, bool))))
    assert "no mutable feature" in refusal(TableTrigger(), case(locked, forest()), Backdoor(fraction=0.1))
    assert "images" in refusal(TableTrigger(), case(digits(), forest()), Backdoor(fraction=0.1))
    with pytest.raises(InputError, match="no feature can be set"):
        TableTrigger()(locked.train, Backdoor(fraction=0.1), rng_for(0))
    for bad in ({"tries": 0}, {"rows": 1}):
        with pytest.raises(InputError, match=str(next(iter(bad)))):
            TableTrigger(**bad)


@pytest.mark.parametrize("method", [TableTrigger(tries=3, rows=100), TableTrigger().quick()])
def test_same_rng_same_trigger(method):
    data = cancer().train
    first, second = (method(data, Backdoor(fraction=0.02), rng_for(2)) for _ in range(2))
    assert first.trigger == second.trigger
    np.testing.assert_array_equal(first.dataset.x, second.dataset.x)
