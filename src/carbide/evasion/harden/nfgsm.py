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

from carbide.evasion._adversarial import AdversarialTraining
from carbide.evasion._gradients import unit
from carbide.types import InputError, LpBall


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

    def smaller(self) -> NFgsmPerturb:
        """The same with half the step, after a collapse."""
        return replace(self, step=self.step / 2)


@dataclass(frozen=True, kw_only=True)
class NFGSM(AdversarialTraining):
    """N-FGSM adversarial training: one step of ``step * eps`` after noise of ``noise * eps``, with the batch halved.

    A harder task takes more steps, hence the batch. When training collapses on rows held out, the step is halved too.
    """

    step: float = 1.0
    noise: float = 2.0
    factors: ClassVar[tuple[str, ...]] = ("scale", "stretch", "pace", "step")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise >= 0:
            raise InputError(f"nfgsm: noise is {self.noise}; give a multiple of eps >= 0")

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with every batch moved as the threat's attacker would."""
        perturb = NFgsmPerturb(eps=self.scale * threat.eps, p=threat.p, step=self.step, noise=self.noise)
        return self.hardened(recipe, threat, perturb=perturb, batch=max(1, recipe.batch // 2))

    def strengths(self) -> tuple[NFGSM, ...]:
        """Half the threat's eps, then all of it."""
        return (replace(self, scale=self.scale / 2), self)
