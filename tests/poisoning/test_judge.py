"""The judge: what it reports is what retraining gives, and neither idle nor cheating poisons get a number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from carbide.models.operating import calibrated
from carbide.models.packing import pack, unpack
from carbide.poisoning import judge
from carbide.poisoning._checks import objection, trigger_objection
from carbide.poisoning.audit.label_flips import LabelFlips
from carbide.poisoning.audit.patch_backdoor import PatchBackdoor
from carbide.poisoning.audit.table_trigger import TableTrigger, ValueTrigger
from carbide.registry import Method
from carbide.run import Run, Store, use
from carbide.stats.intervals import clopper_pearson
from carbide.types import Backdoor, Flips, InputError, Kind, Linear, OperatingPoint, Poison, Ratio, Space, decide, rng_for
from tests.poisoning.worlds import cancer, case, dataset, digits, forest, logistic, nearest, stump

DOOR = Backdoor(fraction=0.02, target=0)


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """Returns what a function makes of the data set."""

    make: Any
    threats = (Flips, Backdoor)
    trains = True

    def __call__(self, dataset, threat, rng):
        return self.make(dataset, threat)

    def describe(self):
        return {"given": repr(self.make)}


def rows_of(n, chosen):
    mask = np.zeros(n, bool)
    mask[chosen] = True
    return mask


def flipped(data, threat, count):
    """The first ``count`` labels flipped and owned up to."""
    mask = rows_of(len(data), np.arange(count))
    return Poison(dataset=data.with_(y=np.where(mask, 1 - data.y, data.y)), rows=mask)


def doored(data, threat, *, value=None, features=(0, 1), count=6, trigger=None):
    """Some rows of class 1 with a trigger and class 0."""
    values = tuple(data.x[:, f].max() if value is None else value for f in features)
    trigger = trigger or ValueTrigger(features=features, values=values)
    rows = np.flatnonzero(data.y == 1)[:count]
    x, y = data.x.copy(), data.y.copy()
    x[rows], y[rows] = trigger(x[rows]), 0
    return Poison(dataset=data.with_(x=x, y=y), rows=rows_of(len(data), rows), trigger=trigger, target=0)


def headline(section):
    found = [f for f in section.findings if f.headline]
    assert len(found) == 1
    return found[0]


# Numbers ------------------------------------------------------------------------------------------------------------


def test_flips_are_measured_by_training_on_them():
    data, threat = cancer(), Flips(fraction=0.1)
    section = judge.audit(case(data, stump(6), seed=4), threat, {"a": LabelFlips(choice="random"), "b": LabelFlips(choice="near")})
    values = {}
    for name, method in (("a", LabelFlips(choice="random")), ("b", LabelFlips(choice="near"))):
        poison = method(data.train, threat, rng_for(4, "poisoning", name))
        model = stump(6).fit(poison.dataset, rng_for(4, "train"))
        values[name] = float((decide(model.predict(data.test.x)) == data.test.y).mean())
    assert {f.method: f.value for f in section.findings} == values
    finding = headline(section)
    assert finding.metric == "accuracy after poisoning"
    assert finding.value == min(values.values())
    assert (finding.low, finding.high) == clopper_pearson(round(finding.value * len(data.test)), len(data.test))
    assert finding.good == 1
    clean = (decide(stump(6).fit(data.train, rng_for(4, "train")).predict(data.test.x)) == data.test.y).mean()
    assert finding.note.startswith(f"{clean:.4f} without the poison; 34 of 341 training rows poisoned")


def test_backdoors_are_measured_on_triggered_rows_of_other_classes():
    data = cancer()
    section = judge.audit(case(data, forest(), seed=1), DOOR, {"given": Given(make=doored)})
    finding = headline(section)
    poison = doored(data.train, DOOR)
    model = forest().fit(poison.dataset, rng_for(1, "train"))
    clean = forest().fit(data.train, rng_for(1, "train"))
    victims = poison.trigger(data.test.x[data.test.y == 1])
    assert finding.metric == "attack success rate"
    assert finding.good == -1
    assert finding.n == len(victims)
    assert finding.value == (decide(model.predict(victims)) == 0).mean()
    before = (decide(clean.predict(victims)) == 0).mean()
    assert finding.note.startswith(f"{before:.4f} with the same trigger and no poison; 6 of 341")
    assert finding.value >= before + 0.3
    after = next(f for f in section.findings if f.metric == "accuracy after poisoning")
    assert after.value == (decide(model.predict(data.test.x)) == data.test.y).mean()
    assert not after.headline


def test_at_an_operating_point_each_model_is_calibrated_on_clean_validation_rows():
    data, threat, point = cancer(), Flips(fraction=0.1), OperatingPoint(false_positive_rate=0.05)
    method = LabelFlips(choice="near")
    section = judge.audit(case(data, logistic(), point), threat, {"near": method})
    poison = method(data.train, threat, rng_for(0, "poisoning", "near"))
    model = calibrated(logistic().fit(poison.dataset, rng_for(0, "train")), data.validation, point)
    said = decide(model.predict(data.test.x), model.threshold)
    positives = data.test.y == 1
    finding = headline(section)
    assert finding.metric == "recall after poisoning"
    assert finding.n == positives.sum()
    assert finding.value == (said[positives] == 1).mean()
    accuracy = next(f for f in section.findings if f.metric == "accuracy after poisoning")
    assert accuracy.value == (decide(model.predict(data.test.x)) == data.test.y).mean()
    door = judge.audit(case(data, forest(), point), DOOR, {"given": Given(make=doored)})
    model = calibrated(forest().fit(doored(data.train, DOOR).dataset, rng_for(0, "train")), data.validation, point)
    victims = doored(data.train, DOOR).trigger(data.test.x[data.test.y == 1])
    assert headline(door).value == (decide(model.predict(victims), model.threshold) == 0).mean()


def test_same_seed_same_section_and_another_method_changes_nothing():
    data, threat = cancer(), Flips(fraction=0.05)
    alone = judge.audit(case(data, forest()), threat, {"near": LabelFlips(choice="near")})
    both = judge.audit(case(data, forest()), threat, {"random": LabelFlips(choice="random"), "near": LabelFlips(choice="near")})
    np.testing.assert_array_equal(alone.evidence["near.predicted"], both.evidence["near.predicted"])
    assert {f.value for f in alone.findings} <= {f.value for f in both.findings}


@pytest.mark.parametrize("point", [None, OperatingPoint(false_positive_rate=0.05)])
@pytest.mark.parametrize("threat", [Flips(fraction=0.05), DOOR])
def test_verify_recomputes_every_finding_and_notices_a_changed_one(threat, point):
    made = case(cancer(), stump(4), point)
    attack = LabelFlips(choice="near") if isinstance(threat, Flips) else Given(make=doored)
    section = judge.audit(made, threat, {"one": attack})
    checks = judge.verify(section, None, made, threat)
    assert len(checks) == len(section.findings) >= 1
    assert all(reported == recomputed for _, reported, recomputed in checks)
    forged = replace(section, findings=(replace(section.findings[0], value=section.findings[0].value + 0.01), *section.findings[1:]))
    assert any(reported != recomputed for _, reported, recomputed in judge.verify(forged, None, None, threat))


def test_a_run_that_goes_on_trains_nothing_again(tmp_path):
    made, threat = case(cancer(), CountingRecipe(inner=stump(4))), Flips(fraction=0.05)
    sections = []
    for _ in range(2):
        with use(Run(store=Store(tmp_path, pack=pack, unpack=unpack))):
            sections.append(judge.audit(made, threat, {"near": LabelFlips(choice="near")}))
        assert CountingRecipe.fits == 2
    np.testing.assert_array_equal(sections[0].evidence["near.predicted"], sections[1].evidence["near.predicted"])
    assert sections[0].findings == sections[1].findings


@dataclass(frozen=True, kw_only=True, eq=False)
class CountingRecipe:
    """Counts its fits."""

    inner: Any
    fits = 0

    def fit(self, data, rng):
        CountingRecipe.fits += 1
        return self.inner.fit(data, rng)

    def describe(self):
        return self.inner.describe()


def test_figures_show_both_sides_and_images_their_trigger():
    section = judge.audit(case(digits(), nearest()), Backdoor(fraction=0.05, target=3), {"patch": PatchBackdoor(rows=100)})
    bars, gallery = section.figures
    assert [s.name for s in bars.series] == ["without the poison", "with the poison"]
    assert bars.series[1].y[0] == headline(section).value
    clean, triggered = gallery.series
    assert clean.y.shape == triggered.y.shape == (8, 1, 8, 8)
    assert 0 < (clean.y != triggered.y).any((0, 1)).sum() <= 6
    assert set(triggered.x) <= {str(c) for c in range(10)}


# Poisons that get no number ------------------------------------------------------------------------------------------


def widened(data, threat):
    space = replace(data.space, upper=data.space.upper + 1)
    return replace(flipped(data, threat, 3), dataset=replace(flipped(data, threat, 3).dataset, space=space))


CHEATS_FLIPS = {
    "more rows than allowed": lambda d, t: flipped(d, t, 35),
    "rows it does not name": lambda d, t: replace(flipped(d, t, 30), rows=rows_of(len(d), np.arange(3))),
    "inputs": lambda d, t: replace(flipped(d, t, 3), dataset=flipped(d, t, 3).dataset.with_(x=d.x + rows_of(len(d), [0])[:, None])),
    "fewer rows": lambda d, t: Poison(dataset=d.take(np.arange(10)), rows=np.zeros(10, bool)),
    "more rows than there are": lambda d, t: Poison(dataset=d.take(np.append(np.arange(len(d)), 0)), rows=np.zeros(len(d) + 1, bool)),
    "ids": lambda d, t: replace(flipped(d, t, 3), dataset=replace(flipped(d, t, 3).dataset, ids=d.ids[::-1])),
    "order": lambda d, t: Poison(dataset=d.take(np.arange(len(d))[::-1]), rows=np.zeros(len(d), bool)),
    "labels that do not exist": lambda d, t: Poison(dataset=d.with_(y=np.where(np.arange(len(d)) < 3, 2, d.y)), rows=rows_of(len(d), np.arange(3))),
    "a wider space": widened,
    "nothing": lambda d, t: Poison(dataset=d, rows=np.zeros(len(d), bool)),
    "nothing, but says it did": lambda d, t: Poison(dataset=d, rows=rows_of(len(d), np.arange(3))),
    "no poison at all": lambda d, t: d,
}

CHEATS_DOOR = {
    "out of bounds": lambda d, t: doored(d, t, value=1e9),
    "missing values": lambda d, t: doored(d, t, value=np.nan),
    "three features": lambda d, t: doored(d, t, features=(0, 1, 2)),
    "too many rows": lambda d, t: doored(d, t, count=7),
    "another target": lambda d, t: replace(doored(d, t), target=1),
    "no trigger": lambda d, t: replace(doored(d, t), trigger=None),
    "a larger trigger at test time": lambda d, t: replace(doored(d, t), trigger=lambda x: np.broadcast_to(d.x[d.y == 0][0], x.shape).copy()),
    "a trigger that loses rows": lambda d, t: replace(doored(d, t), trigger=lambda x: x[:1]),
    "an immutable feature": lambda d, t: doored(d, t, features=(0, 7)),
}


@pytest.mark.parametrize("name", CHEATS_FLIPS)
def test_cheating_flips_are_refused(name):
    section = judge.audit(
        case(cancer(), stump()), Flips(fraction=0.1), {"cheat": Given(make=CHEATS_FLIPS[name]), "honest": LabelFlips(choice="near")}
    )
    refused(section)


@pytest.mark.parametrize("name", CHEATS_DOOR)
def test_cheating_backdoors_are_refused(name):
    data = cancer()
    fixed = replace(data.train.space, mutable=np.arange(30) != 7)
    data = replace(data, train=replace(data.train, space=fixed))
    section = judge.audit(case(data, stump()), DOOR, {"cheat": Given(make=CHEATS_DOOR[name]), "honest": Given(make=doored)})
    refused(section)


def refused(section):
    assert [(s.method, s.status) for s in section.skipped] == [("cheat", "failed")]
    assert section.skipped[0].reason.startswith("cheat: ")
    assert {f.method for f in section.findings} == {"honest"}
    assert headline(section).method == "honest"
    assert not section.evidence["cheat.success"].any()


def test_a_method_that_writes_into_its_input_poisons_nobody_else():
    data = cancer()
    before = data.train.y.copy()

    def spoil(d, t):
        d.y[:] = 1 - d.y
        return Poison(dataset=d, rows=np.zeros(len(d), bool))

    section = judge.audit(case(data, stump()), Flips(fraction=0.1), {"cheat": Given(make=spoil), "honest": LabelFlips(choice="near")})
    np.testing.assert_array_equal(data.train.y, before)
    refused(section)


def test_only_cheats_means_nothing_is_known():
    section = judge.audit(case(cancer(), stump()), Flips(fraction=0.1), {"cheat": Given(make=CHEATS_FLIPS["more rows than allowed"])})
    assert section.findings == ()
    assert section.headline() is None
    assert [s.status for s in section.skipped] == ["failed", "unknown"]


def test_a_patch_over_its_area_is_refused():
    data, threat = digits(), Backdoor(fraction=0.05, area=0.05)  # 3 pixels
    before = np.array(data.test.x[:5])
    after = before.copy()
    after[:, :, :2, :2] = 0.99
    assert "covers 4 pixels" in trigger_objection(before, after, data.train, threat)
    after[:, :, 1, 1] = before[:, :, 1, 1]
    assert trigger_objection(before, after, data.train, threat) is None
    after[:, :, 0, 0] = 1.5
    assert "out of the space" in trigger_objection(before, after, data.train, threat)


def test_integers_groups_and_relations_are_kept():
    space = Space.table(["count", "a", "b", "total", "part", "ratio"], lower=np.zeros(6), upper=np.full(6, 9.0),
                        kind=np.array([Kind.INTEGER, Kind.ONE_HOT, Kind.ONE_HOT, 0, 0, 0]), groups=((1, 2),),
                        relations=(Linear(features=(4, 3), coefficients=(1.0, -1.0), upper=0.0), Ratio(target=5, numerator=4, denominator=3)))  # fmt: skip
    row = np.array([3.0, 1, 0, 4, 2, 0.5])
    data = dataset(np.tile(row, (60, 1)), np.arange(60) % 2, space)
    threat = Backdoor(fraction=0.1, target=0, features=3)

    def verdict(changes):
        return objection(doored(data, threat, count=3, trigger=lambda x: put(x, changes)), data, threat)

    assert verdict({0: 5.0}) is None
    assert verdict({1: 0.0, 2: 1.0}) is None
    assert verdict({3: 8.0, 4: 4.0}) is None
    assert verdict({0: 5.5}) is not None
    assert verdict({1: 0.0}) is not None
    assert verdict({4: 6.0, 5: 1.5}) is not None  # part above total
    assert verdict({4: 4.0}) is not None  # the ratio no longer holds


def put(x, changes):
    out = x.copy()
    for column, value in changes.items():
        out[:, column] = value
    return out


def test_rows_with_missing_values_are_not_taken_for_changed():
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[::7, 2] = np.nan
    data = dataset(x, np.arange(60) % 2)
    poison = flipped(data, None, 3)
    assert objection(poison, data, Flips(fraction=0.05)) is None
    method = LabelFlips(rows=20)
    assert method(data, Flips(fraction=0.1), rng_for(0)).rows.sum() == 6
    door = TableTrigger(rows=20)(data, Backdoor(fraction=0.1), rng_for(0))
    assert objection(door, data, Backdoor(fraction=0.1)) is None


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threat", "words"), [
    (Flips(fraction=0.001), "is not one row; give at least 0.0029"),
    (Backdoor(fraction=0.001), "is not one row"),
    (Backdoor(fraction=0.1, target=2), "target is 2; the classes are 0..1"),
])  # fmt: skip
def test_a_threat_that_cannot_be_is_one_sentence(threat, words):
    with pytest.raises(InputError, match=words):
        judge.audit(case(cancer(), stump()), threat, {"a": LabelFlips()})


def test_no_recipe_is_one_sentence():
    with pytest.raises(InputError, match="no recipe"):
        judge.audit(case(cancer(), None), Flips(fraction=0.1), {"a": LabelFlips()})


def test_no_flips_leave_the_clean_accuracy():
    section = judge.audit(case(cancer(), stump()), Flips(fraction=0.0), {"a": LabelFlips()})
    finding = headline(section)
    assert finding.value == (section.evidence["clean.predicted"] == section.evidence["y"]).mean()


def test_training_that_fails_on_the_poison_is_said_so():
    @dataclass(frozen=True, kw_only=True, eq=False)
    class Fussy:
        def fit(self, data, rng):
            if (data.y != cancer().train.y).any():
                raise InputError("labels look odd")
            return stump().fit(data, rng)

        def describe(self):
            return {"fussy": 1}

    section = judge.audit(case(cancer(), Fussy()), Flips(fraction=0.1), {"a": LabelFlips(choice="near")})
    assert section.skipped[0].reason == "training on the poisoned rows failed: labels look odd"
    assert section.headline() is None
