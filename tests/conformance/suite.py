"""What every registered method must do: one check a slot, each with truth of its own. Doing nothing fails, and so does cheating."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
from typing import Any

import numpy as np

from carbide import registry
from carbide.registry import SLOTS, Entry, Method
from carbide.space.distortions import axes, every_corruption, proposal_shape, render
from carbide.space.patches import pixels_of, shapes
from carbide.types import (
    AttributeInference,
    Certificate,
    Corruption,
    Distortion,
    FeatureBudget,
    InputError,
    LpBall,
    Model,
    Patch,
    Poison,
    PrivacyClaim,
    Reconstruction,
    SinglingOut,
    decide,
    rng_for,
)
from tests.conformance.cases import World, worlds

DENSE = 41  # values of one parameter that are tried for truth
FLOOR = 0.75  # the share of what is known to be possible that a method must reach


def check_form(entry: Entry) -> None:
    """A frozen keyword-only dataclass with plain options, a cited paper, a summary and the slot's signature."""
    cls = entry.cls
    assert cls is not None, f"{entry.key} is not installed"
    assert dataclasses.is_dataclass(cls), entry.key
    assert cls.__dataclass_params__.frozen, f"{entry.key} is not frozen"
    assert all(f.kw_only for f in dataclasses.fields(cls)), f"{entry.key} takes positional options"
    cls()  # every option has a default
    assert re.search(r"https?://\S+", entry.paper), f"{entry.key}: the first line of its module cites no address"
    assert entry.summary, f"{entry.key} has no docstring"
    assert entry.signature in SLOTS[entry.room, entry.verb], f"{entry.key} has the signature {entry.signature}"


def worlds_for(method: Method) -> list[World]:
    """The worlds in which the method can run."""
    found = [w for threat in method.threats for w in worlds(threat) if registry.refusal(method, w.case, w.threat) is None]
    assert found, f"{type(method).__name__} runs in no world of the suite; add one to tests/conformance/cases.py"
    return found


def unchanged(values: dict[str, Any]) -> Any:
    """A function that asserts that these arrays are what they were."""
    before = copy.deepcopy(values)

    def check() -> None:
        for name, value in before.items():
            np.testing.assert_array_equal(values[name], value, err_msg=f"{name} was changed in place")

    return check


def check_evasion(method: Method, world: World) -> None:
    """The attack breaks most rows that can be broken, none that cannot, stays in the threat, repeats, changes nothing in place."""
    from carbide.evasion.judge import judge

    case, threat = world.case, world.threat
    x, y = case.data.test.x, case.data.test.y
    if isinstance(threat, FeatureBudget):
        x, y = x[y == 1], y[y == 1]
    same = unchanged({"x": x, "y": y})
    digest = case.model.digest()
    first = method(case.model, x, y, threat, rng_for(0, "c"))
    again = method(case.model, x, y, threat, rng_for(0, "c"))
    same()
    assert case.model.digest() == digest, "the model was changed"
    wanted = proposal_shape(x, threat, case.data.test.space)
    assert first.shape == wanted, f"it proposes {first.shape} where {wanted} is judged"
    np.testing.assert_array_equal(first, again, err_msg="the same rng gives other proposals")
    outcome = judge(case.model, x, y, first, threat, case.data.test.space)
    possible = breakable(world, x, y)
    clean = decide(case.model.predict(x), case.model.threshold) != y
    assert not outcome.success[possible == 0].any(), "it broke rows that cannot be broken"
    reached = (outcome.success & ~clean)[(possible == 1) & ~clean].mean()
    assert reached >= FLOOR, f"it broke {reached:.0%} of the rows that can be broken"


def breakable(world: World, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 = the row can surely be broken, 0 = it surely cannot, -1 = not known; from closed forms and dense search, not from attacks."""
    case, threat = world.case, world.threat
    clean = decide(case.model.predict(x), case.model.threshold) != y
    grid = _reach(world, x)
    broken = np.zeros(len(x), bool)
    for candidate in grid:
        broken |= decide(case.model.predict(candidate), case.model.threshold) != y
    known = np.where(broken | clean, 1, -1)
    if "linear" in world.name or "labels only" in world.name:  # the corner of the ball is the best there is, for linear models
        stands = ~(broken | clean)
        for candidate in _reach(world, x, share=1.001):  # between this and the first share nothing is claimed either way
            stands &= case.model.predict(candidate).argmax(1) == y
        known[stands] = 0 if isinstance(threat, LpBall) and np.isinf(threat.p) else -1
        known[~(broken | clean | stands)] = -1
    if isinstance(threat, Patch | Corruption):  # every place and proportion, the best paint of a linear model; every corruption
        known[~(broken | clean)] = 0
    return known


def _reach(world: World, x: np.ndarray, *, share: float = 0.97) -> list[np.ndarray]:
    space, threat = world.case.data.test.space, world.threat
    flat = x.reshape(len(x), -1)
    d = flat.shape[1]
    lower, upper = space.lower.ravel(), space.upper.ravel()
    if isinstance(threat, Distortion):
        sides = [np.linspace(axis.low, axis.high, DENSE if len(axes(threat, space)) == 1 else 5) for axis in axes(threat, space)]
        points = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(sides))
        return [render(x, np.tile(p, (len(x), 1)), threat, space) for p in points]
    if isinstance(threat, Corruption):
        return [render(x, np.tile(p, (len(x), 1)), threat, space) for p in every_corruption(threat, space)]
    if isinstance(threat, Patch):
        return _patched(world, x)
    if isinstance(threat, FeatureBudget):  # spend the whole budget on one feature, or share it evenly
        size = 0.97 * threat.money / 10.0  # a unit costs 10, and a whole budget would be a matter of rounding
        priced = np.array([name in threat.prices.prices for name in space.names], float)
        moves = [s * size * e for s in (-1, 1) for e in np.diag(priced)] + [s * size * priced / priced.sum() for s in (-1, 1)]
    elif threat.p == 0:  # one feature, to either of its bounds
        return [np.where(np.arange(d) == i, bound[i], flat).reshape(x.shape) for i in range(d) for bound in (lower, upper)]
    else:
        signs = _directions(world, d)
        size = threat.eps if np.isinf(threat.p) else threat.eps / np.sqrt(d)
        moves = [s * size * share * direction for s in (-1, 1) for direction in signs]
    return [np.clip(flat + m, lower, upper).reshape(x.shape) for m in moves]


def _patched(world: World, x: np.ndarray) -> list[np.ndarray]:
    """Every place of every largest rectangle, painted along and against a linear model's weights."""
    space, threat = world.case.data.test.space, world.threat
    _, height, width = space.shape
    way = _directions(world, int(np.prod(space.shape)))[0].reshape(space.shape)
    found = []
    for tall, wide in shapes(pixels_of(threat, space), height, width):
        for top, left in itertools.product(range(height - tall + 1), range(width - wide + 1)):
            for sign in (-1, 1):
                z, here = x.copy(), (slice(None), slice(top, top + tall), slice(left, left + wide))
                z[(slice(None), *here)] = np.where(sign * way > 0, space.upper, space.lower)[here]
                found.append(z)
    return found


def _directions(world: World, d: int) -> list[np.ndarray]:
    module = getattr(world.case.model, "module", None)
    if module is None:
        return [np.ones(d)]
    weight = module[-1].weight.detach().numpy().astype(float)
    return [np.sign(weight[1] - weight[0])]


def check_poisoning(method: Method, world: World) -> None:
    """It changes at most its share and at least one row, repeats, stays in the space, and does what its threat says when trained on."""
    from carbide.poisoning.judge import audit

    train, threat = world.case.data.train, world.threat
    same = unchanged({"x": train.x, "y": train.y})
    poison: Poison = method(train, threat, rng_for(0, "p"))
    again: Poison = method(train, threat, rng_for(0, "p"))
    same()
    np.testing.assert_array_equal(poison.dataset.x, again.dataset.x)
    np.testing.assert_array_equal(poison.dataset.y, again.dataset.y)
    section = audit(world.case, threat, {"tried": method})
    headline = section.headline()
    assert headline is not None, f"the judge refused it: {section.skipped}"
    assert not [s for s in section.skipped if s.status == "failed"], f"the judge refused it: {section.skipped}"
    harm = headline.value if headline.good < 0 else _clean_accuracy(world) - headline.value
    assert harm >= (0.5 if headline.good < 0 else 0.02), f"{headline.metric} is {headline.value}: it does next to nothing"


def _clean_accuracy(world: World) -> float:
    test = world.case.data.test
    model = world.case.recipe.fit(world.case.data.train, np.random.default_rng(0))
    return float((model.predict(test.x).argmax(1) == test.y).mean())


def check_privacy(method: Method, world: World) -> None:
    """Its scores tell members of an overfit model, whatever the order of the rows, and nothing where there is nothing to tell."""
    from carbide.privacy.shadows import Prober, Wanted, no_shadows, train_shadows
    from carbide.stats.roc import auc

    pool = world.case.data.train
    count = 24
    apart = world.case.data.validation if getattr(method, "apart", False) else None
    wanted = Wanted(apart=apart, probes={repr(method): method} if isinstance(method, Prober) else {})
    shadows = train_shadows(world.case.recipe, pool, count, 0, wanted=wanted) if method.trains or wanted.probes else no_shadows(pool, apart)
    rng = np.random.default_rng(3)
    order = rng.permutation(len(pool))
    inside = np.zeros(len(pool), bool)
    inside[order[: len(pool) // 2]] = True
    target: Model = world.case.recipe.fit(pool.take(inside), np.random.default_rng(9))
    scores = method(target, pool, rng_for(0, "m"), shadows)
    again = method(target, pool, rng_for(0, "m"), shadows)
    assert scores.shape == (len(pool),)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, again)
    power = auc(scores, inside)
    assert power >= 0.6 or "overfit" not in world.name, f"it does not tell members of an overfit model: AUC {power:.2f}"
    blind = np.zeros(len(pool), bool)
    blind[rng.permutation(len(pool))[: len(pool) // 2]] = True
    chance = auc(scores, blind)
    assert abs(chance - 0.5) < 0.15, f"it tells members that are none: AUC {chance:.2f}"


def check_attribute(method: Method, world: World) -> None:
    """It is right about people who were trained on oftener than about others and than without the model, and repeats."""
    from carbide.privacy.attributes import GAIN, LEAK, audit

    same = unchanged({"x": world.case.data.train.x, "y": world.case.data.train.y})
    section = audit(world.case, world.threat, {"tried": method})
    again = audit(world.case, world.threat, {"tried": method})
    same()
    assert not [s for s in section.skipped if s.status == "failed"], f"the judge refused it: {section.skipped}"
    assert section.findings == again.findings, "the same seed gives other findings"
    found = {f.metric: f for f in section.findings}
    assert found[LEAK].low > 0, f"it finds no leak of a model that remembers: {found[LEAK].value:.3f}"
    assert found[GAIN].value > 0, f"it is no better than a guess without the model: {found[GAIN].value:.3f}"


def check_reconstruction(method: Method, world: World) -> None:
    """Of a model at its minimum most rows are rebuilt; of the model alone every class's input is of that class, in the space."""
    from carbide.privacy.reconstructions import FALSE, SHARE, audit

    case, threat = world.case, world.threat
    assert isinstance(threat, Reconstruction)
    first, again = (audit(case, threat, {"tried": method}) for _ in range(2))
    assert first.findings, f"the judge refused it: {first.skipped}"
    assert [f.value for f in first.findings] == [f.value for f in again.findings], "the same seed gives other findings"
    found = {f.metric: f.value for f in first.findings}
    if threat.known == "others":
        assert found[SHARE] >= FLOOR, f"it rebuilt {found[SHARE]:.0%} of the rows that can be rebuilt"
        assert found[FALSE] <= 0.05, "it rebuilds rows that were never trained on"
        return
    x, y, space = first.evidence["tried_x"], first.evidence["tried_y"], case.data.train.space
    assert ((x >= space.lower) & (x <= space.upper)).all(), "it leaves the space"
    assert (case.model.predict(x).argmax(1) == y).all(), "its inputs are of other classes"


def check_singling(method: Method, world: World) -> None:
    """Training rows of a model that remembers are isolated oftener than chance and other rows, and it repeats."""
    from carbide.privacy.singling import CONTROL, GAIN, SHARE, audit

    first, again = (audit(world.case, SinglingOut(), {"tried": method}) for _ in range(2))
    assert first.findings, f"the judge refused it: {first.skipped}"
    assert first.findings == again.findings, "the same seed gives other findings"
    found = {f.metric: f for f in first.findings}
    assert found[SHARE].headline
    assert found[GAIN].low > 0, f"it singles out nobody whom the model remembers: {found[SHARE].value:.0%}"
    assert found[CONTROL].value < found[SHARE].low, "it isolates rows that were not trained on"


def check_claim(method: Method, world: World) -> None:
    """It refutes a claim without any noise behind it, leaves a sound one standing, and repeats."""
    from carbide.privacy.claims import examine

    case, method = world.case, method.quick()
    assert isinstance(world.threat, PrivacyClaim)
    verdict = examine(case.recipe, case.data.train, world.threat, method, 0)
    again = examine(case.recipe, case.data.train, world.threat, method, 0)
    assert (verdict.epsilon, verdict.likely) == (again.epsilon, again.likely), "the same seed gives another verdict"
    assert verdict.refuted == ("broken" in world.name), verdict.words()
    assert verdict.refuted or 0 <= verdict.epsilon <= world.threat.epsilon, verdict.words()


def check_extraction(method: Method, world: World) -> None:
    """It stays within its queries, its copy answers alone, and agrees with an easy victim."""
    from carbide.extraction.oracle import Oracle

    case, threat = world.case, world.threat
    asked = Counting(case.model)
    oracle = Oracle(model=asked, threat=threat)
    thief = method(oracle, case.data.validation, threat, rng_for(0, "t"))
    used = asked.rows
    assert 0 < used <= threat.n, f"it asked for {used} rows, its budget is {threat.n}"
    test = case.data.test.x
    copied = thief.predict(test)
    assert asked.rows == used, "its copy asks the victim"
    agreement = (copied.argmax(1) == case.model.predict(test).argmax(1)).mean()
    assert agreement >= 0.8, f"its copy agrees on {agreement:.0%} of the rows with an easy victim"


class Counting:
    """A model that counts the rows it is asked for."""

    def __init__(self, model: Model) -> None:
        self._model, self.rows = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, x: np.ndarray) -> np.ndarray:
        self.rows += len(x)
        return self._model.predict(x)


def check_harden(method: Method, world: World, form: str) -> None:
    """The result is another model than before, of the same space and classes, repeatable, described, and still does its job."""
    case = world.case
    assert case.recipe is not None
    train, test = case.data.train, case.data.test
    same = unchanged({"x": train.x, "y": train.y})
    before = case.recipe.fit(train, rng_for(0, "h"))
    if form == "recipe":
        recipe = method(case.recipe, world.threat)
        said = json.dumps(recipe.describe(), default=str, sort_keys=True)
        assert said != json.dumps(case.recipe.describe(), default=str, sort_keys=True), "the recipe is described as the one before: nothing was done"
        models = [recipe.fit(train, rng_for(0, "h")) for _ in range(2)]
    else:
        models = [method(before, train, rng_for(0, "w")) for _ in range(2)]
    same()
    first, again = (m.predict(test.x) for m in models)
    np.testing.assert_array_equal(first, again, err_msg="two fits with the same rng differ")
    assert first.shape == (len(test), case.model.classes)
    assert np.allclose(first.sum(1), 1, atol=1e-6)
    assert models[0].digest() != before.digest(), "the model is the one before: nothing was done"
    accuracy = float((first.argmax(1) == test.y).mean())
    plain = float((before.predict(test.x).argmax(1) == test.y).mean())
    assert accuracy >= plain - 0.25, f"accuracy fell from {plain:.2f} to {accuracy:.2f}"
    assert method.strengths(), "it has no strengths to choose among"


def check_prove(method: Method, world: World, form: str) -> None:
    """The certificate is well formed, says something, and no change inside the threat breaks a row that it holds for."""
    case = world.case
    x, y = case.data.test.x, case.data.test.y
    if isinstance(world.threat, FeatureBudget):
        x, y = x[y == 1], y[y == 1]
    args = (case.recipe, case.data.train, x, y) if form == "recipe" else (case.model, x, y)
    certificate: Certificate = method(*args, world.threat, rng_for(0, "v"))
    assert len(certificate.holds) == len(certificate.bound)
    assert certificate.assumptions, "it states no assumption"
    assert 0 <= certificate.failure_probability < 1
    assert certificate.holds.any() or np.nanmax(certificate.bound) > 0, "it proves nothing in a world where something can be proven"
    if isinstance(world.threat, LpBall | FeatureBudget) and len(certificate.holds) == len(x) and certificate.failure_probability == 0:
        broken = breakable(world, x, y) == 1
        assert not (broken & certificate.holds).any(), "it holds for rows that can be broken"


def check(entry: Entry) -> int:
    """Every check of one registered method; the number of worlds in which it ran.

    Raises:
        AssertionError: if the method does not conform.
    """
    check_form(entry)
    method = entry.make()
    return check_behaviour(entry.room, entry.verb, entry.form, method)


def check_behaviour(room: str, verb: str, form: str, method: Method) -> int:
    """The slot's checks in every world where the method runs."""
    ran = 0
    if (room, verb) == ("privacy", "prove"):
        return ran  # it needs a private model: tests/privacy checks it against known mechanisms
    for world in worlds_for(method):
        audits = {"evasion": check_evasion, "poisoning": check_poisoning, "privacy": check_privacy, "extraction": check_extraction}
        try:
            if isinstance(world.threat, AttributeInference):
                check_attribute(method, world)
            elif isinstance(world.threat, Reconstruction):
                check_reconstruction(method, world)
            elif isinstance(world.threat, SinglingOut) and verb == "audit":
                check_singling(method, world)
            elif isinstance(world.threat, PrivacyClaim):
                check_claim(method, world)
            elif verb == "audit":
                audits[room](method, world)
            elif verb == "harden":
                check_harden(method, world, form)
            elif verb == "prove":
                check_prove(method, world, form)
        except InputError:
            continue  # the method refuses this world in words, which it may
        ran += 1
    assert ran, f"{type(method).__name__} refuses every world of the suite"
    return ran
