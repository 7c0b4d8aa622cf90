"""What every adversarial training of a torch recipe shares: the options, their checks, and the recipe they make."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion.inner import PgdPerturb, RobustWatch
from carbide.models.training import SCHEDULES, STATISTICS
from carbide.registry import Method
from carbide.types import Access, Case, InputError, LpBall, Threat

STARTS = ("scratch", "weights")


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Method):
    """Abstract: trains at ``scale`` times the threat's eps, for ``stretch`` times the epochs, at ``pace`` times the learning rate.

    ``schedule`` of the learning rate: one-cycle, cyclic or flat. ``ema`` > 0 keeps the running mean of the weights with that
    decay; ``awp`` > 0 moves the weights up the loss by that share of their norm before each gradient. ``holdout`` > 0 takes
    that share of the training rows out: the weights with the best robust accuracy on them are kept, training ends after
    ``patience`` looks without a better one (0 = never), and goes back to the last good weights when it collapses.
    ``start``: ``scratch``, or ``weights`` to go on from the weights of the model that is hardened.
    """

    scale: float = 1.0
    stretch: float = 1.0
    pace: float = 3.0
    schedule: str = "one-cycle"
    ema: float = 0.0
    awp: float = 0.0
    holdout: float = 0.0
    patience: int = 0
    start: str = "scratch"
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    trains: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("scale", "stretch", "pace")  # options that must be > 0

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        for option in self.factors:
            if not (math.isfinite(getattr(self, option)) and getattr(self, option) > 0):
                raise InputError(f"{name}: {option} is {getattr(self, option)}; give a factor > 0")
        if self.schedule not in SCHEDULES:
            raise InputError(f"{name}: schedule is {self.schedule!r}; choose {', '.join(SCHEDULES)}")
        if self.start not in STARTS:
            raise InputError(f"{name}: start is {self.start!r}; choose {' or '.join(STARTS)}")
        if not 0 <= self.ema < 1:
            raise InputError(f"{name}: ema is {self.ema}; give the decay of the weights' running mean in [0, 1), e.g. 0.995")
        if not (math.isfinite(self.awp) and self.awp >= 0):
            raise InputError(f"{name}: awp is {self.awp}; give a share of the weights' norm >= 0, e.g. 0.01")
        if not 0 <= self.holdout < 1 or self.patience < 0:
            raise InputError(f"{name}: holdout is {self.holdout} and patience {self.patience}; give a share in [0, 1) and a whole number >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a torch recipe and a norm with a steepest step; to go on from weights, a torch model."""
        if isinstance(threat, LpBall) and threat.p in (0, 1):
            return f"it has no steepest step for L{int(threat.p)} changes; choose linf or l2"
        if self.start == "weights" and getattr(case.model, "module", None) is None:
            return "the model has no weights of a torch net to start from; choose start: scratch"
        return None if hasattr(case.recipe, "perturb") else "it trains torch recipes only"

    def hardened(self, recipe: Any, threat: LpBall, **changes: Any) -> Any:
        """The recipe with the shared options and these changes; without weight decay, which robust training does not need.

        Raises:
            InputError: if it shall start from weights that the recipe does not have.
        """
        if self.start == "weights" and not recipe.start:
            raise InputError(f"{type(self).__name__.lower()}: start is weights, but the recipe has none; give recipe.starting_from(model)")
        watch = RobustWatch(eps=threat.eps, p=threat.p, holdout=self.holdout, patience=self.patience) if self.holdout else None
        return replace(recipe, **({"epochs": max(1, round(self.stretch * recipe.epochs)), "rate": self.pace * recipe.rate, "decay": 0.0, "perturb": None,
                       "objective": None, "schedule": self.schedule, "ema": self.ema, "awp": self.awp, "watch": watch,
                       "start": recipe.start if self.start == "weights" else b""} | changes))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SteppedTraining(AdversarialTraining):
    """Abstract: batches are moved by ``steps`` steps of ``step * eps``."""

    steps: int = 10
    step: float = 0.25
    default: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = ("scale", "stretch", "pace", "step")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InputError(f"{type(self).__name__.lower()}: steps is {self.steps}; give a whole number >= 1")

    def mover(self, threat: LpBall, *, labels: bool = True) -> PgdPerturb:
        """The search for the worst input; without ``labels``, away from the clean answer."""
        return PgdPerturb(eps=self.scale * threat.eps, p=threat.p, steps=self.steps, step=self.step, labels=labels)


@dataclass(frozen=True, kw_only=True)
class WeightedTraining(SteppedTraining):
    """Abstract: the same with a loss in which staying steady has ``weight``."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"{type(self).__name__.lower()}: weight is {self.weight}; give a weight >= 0, e.g. {type(self).weight:g}")


def both_logits(module: nn.Module, x: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(n, k)`` of two batches, in one pass where no layer mixes rows."""
    if any(isinstance(layer, STATISTICS) and layer.training for layer in module.modules()):
        return module(x), module(moved)
    first, second = module(torch.cat([x, moved])).chunk(2)
    return first, second
