"""de Jorge et al. 2022, https://arxiv.org/abs/2202.01181: N-FGSM, adversarial training with one noisy gradient step.

Each batch is moved by strong uniform noise, then by one step along the sign of the loss's gradient there, and neither is
clipped to the ball. That costs one backward pass more than plain training and does not collapse as clipped single-step
training does.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> plain = TorchRecipe(factory="carbide.models.nets:small_cnn", epochs=10)
>>> hardened = NFGSM(stretch=2.0)(plain, LpBall(eps=0.1))
>>> hardened.epochs, hardened.perturb.eps
(20, 0.1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion._gradients import unit
from carbide.registry import Method
from carbide.types import Access, Case, InputError, LpBall, Threat


@dataclass(frozen=True, kw_only=True)
class NFgsmPerturb:
    """What a batch is moved by: noise of ``noise * eps``, then one step of ``step * eps``, both in the norm p (inf or 2)."""

    eps: float
    p: float = math.inf
    step: float = 1.0
    noise: float = 2.0

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """The moved batch ``(n, *shape)``."""
        noise = torch.empty(x.shape, dtype=x.dtype).uniform_(-1, 1, generator=generator).to(x.device)
        if not math.isinf(self.p):
            noise = unit(noise, self.p)
        start = (x + self.noise * self.eps * noise).requires_grad_(True)
        module.train()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(module(start), y), start)
        step = gradient.sign() if math.isinf(self.p) else unit(gradient, self.p)
        return (start + self.step * self.eps * step).detach()


@dataclass(frozen=True, kw_only=True)
class NFGSM(Method):
    """N-FGSM adversarial training at ``scale`` times the threat's eps, for ``stretch`` times the epochs.

    The learning rate is multiplied by ``pace`` and the batch halved, without weight decay: a harder task takes more steps.
    """

    scale: float = 1.0
    stretch: float = 1.0
    pace: float = 3.0
    step: float = 1.0
    noise: float = 2.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("scale", "stretch", "pace", "step"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"nfgsm: {name} is {getattr(self, name)}; give a factor > 0")
        if not self.noise >= 0:
            raise InputError(f"nfgsm: noise is {self.noise}; give a multiple of eps >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a torch recipe and a norm with a steepest step."""
        if isinstance(threat, LpBall) and threat.p in (0, 1):
            return f"it has no steepest step for L{int(threat.p)} changes; choose linf or l2"
        return None if hasattr(case.recipe, "perturb") else "it trains torch recipes only"

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with every batch moved as the threat's attacker would."""
        perturb = NFgsmPerturb(eps=self.scale * threat.eps, p=threat.p, step=self.step, noise=self.noise)
        return replace(recipe, perturb=perturb, epochs=max(1, round(self.stretch * recipe.epochs)), rate=self.pace * recipe.rate,
                       batch=max(1, recipe.batch // 2), decay=0.0)  # fmt: skip

    def strengths(self) -> tuple[NFGSM, ...]:
        """Half the threat's eps, then all of it."""
        return (replace(self, scale=self.scale / 2), self)
