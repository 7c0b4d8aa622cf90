"""Every registered method passes the suite; one that does nothing and one that cheats fail it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from carbide import registry
from carbide.privacy._distinguishers import Distinguisher, Threshold
from carbide.privacy._neighbours import candidates
from carbide.privacy.rebuilt import Rebuilt
from carbide.registry import Method
from carbide.space.distortions import proposal_shape
from carbide.types import (
    Access,
    AttributeInference,
    Backdoor,
    Certificate,
    Corruption,
    Distortion,
    FeatureBudget,
    Flips,
    InputError,
    LpBall,
    Membership,
    Patch,
    Poison,
    PrivacyClaim,
    Queries,
    Reconstruction,
)  # fmt: skip
from tests.conformance.cases import worlds
from tests.conformance.suite import check, check_behaviour, check_form

ENTRIES = {entry.key: entry for entry in registry.methods()}


@pytest.mark.parametrize("key", ENTRIES)
def test_every_method_conforms(key):
    check(ENTRIES[key])


def test_every_room_has_a_method():
    for room in registry.ROOMS:
        assert registry.methods(room=room, verb="audit"), room
        assert registry.methods(room=room, verb="harden"), room


@dataclass(frozen=True, kw_only=True)
class NoAttack(Method):
    """Returns the rows as they are."""

    threats = (LpBall, FeatureBudget)

    def __call__(self, model, x, y, threat, rng):
        return x.copy()


@dataclass(frozen=True, kw_only=True)
class FarAttack(Method):
    """Leaves the ball and the budget."""

    threats = (LpBall, FeatureBudget)

    def __call__(self, model, x, y, threat, rng):
        return np.where(y.reshape(-1, *[1] * (x.ndim - 1)) == 1, 0.0, 1.0) * np.ones_like(x)


@dataclass(frozen=True, kw_only=True)
class InPlaceAttack(Method):
    """Writes into its input so that it looks as if nothing had moved."""

    threats = (LpBall,)

    def __call__(self, model, x, y, threat, rng):
        x[:] = 1 - x
        return x


@dataclass(frozen=True, kw_only=True)
class WholeImagePatch(Method):
    """Paints all of the image where one patch is allowed."""

    threats = (Patch,)

    def __call__(self, model, x, y, threat, rng):
        return 1 - x


@dataclass(frozen=True, kw_only=True)
class FarDistortion(Method):
    """Turns images upside down, whatever the range."""

    threats = (Distortion,)

    def __call__(self, model, x, y, threat, rng):
        return np.full(proposal_shape(x, threat, model.space), 180.0)


@dataclass(frozen=True, kw_only=True)
class ForeignImage(Method):
    """Returns images of its own making where parameters are asked for."""

    threats = (Distortion,)

    def __call__(self, model, x, y, threat, rng):
        return 1 - x


@dataclass(frozen=True, kw_only=True)
class NoCorruption(Method):
    """Names a corruption that there is not."""

    threats = (Corruption,)

    def __call__(self, model, x, y, threat, rng):
        return np.full(proposal_shape(x, threat, model.space), np.nan)


@dataclass(frozen=True, kw_only=True)
class NoPoison(Method):
    """Changes nothing."""

    threats = (Flips, Backdoor)
    trains = True

    def __call__(self, dataset, threat, rng):
        return Poison(dataset=dataset, rows=np.zeros(len(dataset), bool), trigger=lambda x: x, target=0)


@dataclass(frozen=True, kw_only=True)
class GreedyPoison(Method):
    """Flips every label and says it flipped one."""

    threats = (Flips,)
    trains = True

    def __call__(self, dataset, threat, rng):
        rows = np.zeros(len(dataset), bool)
        rows[0] = True
        return Poison(dataset=dataset.with_(y=1 - dataset.y), rows=rows)


@dataclass(frozen=True, kw_only=True)
class ConstantScores(Method):
    """Gives everybody the same score."""

    threats = (Membership,)

    def __call__(self, model, dataset, rng, shadows):
        return np.zeros(len(dataset))


@dataclass(frozen=True, kw_only=True)
class OrderScores(Method):
    """Bets that members come first."""

    threats = (Membership,)

    def __call__(self, model, dataset, rng, shadows):
        return -np.arange(len(dataset), dtype=float)


@dataclass(frozen=True, kw_only=True)
class NoEvidence(Method):
    """Finds nothing in any release."""

    threats = (PrivacyClaim,)

    def budget(self, recipe, dataset):
        return 2, 100

    def __call__(self, pilot, dataset, threat, rng):
        fixed = Threshold(at=0.5, weight=0.5)
        return Distinguisher(neighbours=candidates(dataset, threat, rng)[0], name="nothing", score=lambda releases: np.zeros(len(releases)),
                             thresholds={"claim": fixed, "mu": fixed, "epsilon": fixed})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HopefulEvidence(Method):
    """Hopes that the trainings come in the order in which the judge makes them."""

    threats = (PrivacyClaim,)

    def budget(self, recipe, dataset):
        return 2, 100

    def __call__(self, pilot, dataset, threat, rng):
        fixed = Threshold(at=0.5, weight=0.5)
        return Distinguisher(neighbours=candidates(dataset, threat, rng)[0], name="order", score=lambda releases: (np.arange(len(releases)) % 2).astype(float),
                             thresholds={"claim": fixed, "mu": fixed, "epsilon": fixed})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Guesswork(Method):
    """Says what is believed without the model."""

    threats = (AttributeInference,)

    def __call__(self, model, puzzle, threat, rng):
        return puzzle.prior


@dataclass(frozen=True, kw_only=True)
class Known(Method):
    """Hands in a row that the attacker knew, or the middle of the space."""

    threats = (Reconstruction,)

    def __call__(self, model, others, threat, rng):
        if others is None:
            return Rebuilt(x=np.full((model.classes, *model.space.shape), 0.5), y=np.arange(model.classes))
        return Rebuilt(x=others.x[:1], y=others.y[:1])


@dataclass(frozen=True, kw_only=True)
class NoThief(Method):
    """Asks one row and says class 0."""

    threats = (Queries,)

    def __call__(self, oracle, pool, threat, rng):
        oracle(pool.x[:1])
        blank = worlds(Queries)[0].case.model.predict(pool.x[:1]) * 0
        blank[:, 0] = 1
        return type("Zero", (), {"predict": lambda self, x: np.repeat(blank, len(x), 0)})()


@dataclass(frozen=True, kw_only=True)
class KeepingThief(Method):
    """Its copy is the victim itself."""

    threats = (Queries,)

    def __call__(self, oracle, pool, threat, rng):
        oracle(pool.x[:1])
        victim = next(v for v in vars(oracle).values() if hasattr(v, "predict"))
        return type("Same", (), {"predict": lambda self, x: victim.predict(x)})()


@dataclass(frozen=True, kw_only=True)
class NoDefence(Method):
    """Returns the recipe as it is."""

    threats = (LpBall, Flips)

    def __call__(self, recipe, threat):
        return recipe


@dataclass(frozen=True, kw_only=True)
class ConstantModel(Method):
    """Answers class 0, which no attack can change."""

    threats = (Queries,)
    needs = Access.LABELS

    def __call__(self, model, dataset, rng):
        return replace(worlds(Queries)[0].case.model.at(2.0), threshold=2.0) if False else _Zero(model)


class _Zero:
    def __init__(self, model):
        self.classes, self.space = model.classes, model.space

    def predict(self, x):
        out = np.zeros((len(x), self.classes))
        out[:, 0] = 1
        return out

    def digest(self):
        return "zero"


@dataclass(frozen=True, kw_only=True)
class ProvesNothing(Method):
    """Holds for no row."""

    threats = (LpBall, FeatureBudget)
    share = 0.0

    def __call__(self, model, x, y, threat, rng):
        holds = np.full(len(x), bool(self.share))
        return Certificate(claim="c", holds=holds, bound=np.zeros(len(x)), failure_probability=0.0, assumptions=("none",), method="m", threat="t")


@dataclass(frozen=True, kw_only=True)
class ProvesEverything(ProvesNothing):
    """Holds for every row."""

    share = 1.0


CHEATS = [
    ("evasion", "audit", "model", NoAttack()),
    ("evasion", "audit", "model", FarAttack()),
    ("evasion", "audit", "model", InPlaceAttack()),
    ("evasion", "audit", "model", WholeImagePatch()),
    ("evasion", "audit", "model", FarDistortion()),
    ("evasion", "audit", "model", NoCorruption()),
    ("poisoning", "audit", "dataset", NoPoison()),
    ("poisoning", "audit", "dataset", GreedyPoison()),
    ("privacy", "audit", "model", ConstantScores()),
    ("privacy", "audit", "model", OrderScores()),
    ("privacy", "audit", "pilot", NoEvidence()),
    ("privacy", "audit", "pilot", HopefulEvidence()),
    ("privacy", "audit", "model", Guesswork()),
    ("privacy", "audit", "model", Known()),
    ("extraction", "audit", "oracle", NoThief()),
    ("extraction", "audit", "oracle", KeepingThief()),
    ("evasion", "harden", "recipe", NoDefence()),
    ("poisoning", "harden", "recipe", NoDefence()),
    ("extraction", "harden", "model", ConstantModel()),
    ("evasion", "prove", "model", ProvesNothing()),
    ("evasion", "prove", "model", ProvesEverything()),
]


@pytest.mark.parametrize(("room", "verb", "form", "method"), CHEATS, ids=lambda v: type(v).__name__ if isinstance(v, Method) else str(v))
def test_doing_nothing_and_cheating_fail(room, verb, form, method):
    with pytest.raises((AssertionError, InputError)):
        check_behaviour(room, verb, form, method)


def test_an_image_of_the_attacks_own_making_is_no_distortion():
    with pytest.raises(AssertionError, match="it proposes"):
        check_behaviour("evasion", "audit", "model", ForeignImage())


def test_form_is_checked():
    @dataclass(kw_only=True)
    class Loose(Method):
        threats = (LpBall,)

        def __call__(self, model, x):
            return x

    entry = registry.Entry(name="loose", room="evasion", verb="audit", cls=Loose, paper="nobody", summary="s")
    with pytest.raises(AssertionError, match="not frozen"):
        check_form(entry)
