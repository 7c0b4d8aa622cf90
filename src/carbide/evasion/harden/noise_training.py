"""Cohen et al. 2019, https://arxiv.org/abs/1902.02918: training under the Gaussian noise that randomized smoothing adds.

A net that has seen noise of the same size answers most noisy copies of an input alike, and only then does smoothing
certify much. Noise is drawn anew for each row of each batch and is not clipped, as in the certificate.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> NoiseTraining()(TorchRecipe(factory="carbide.models.nets:small_cnn"), LpBall(p=2, eps=0.5)).perturb
GaussianNoise(sigma=0.5)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion._adversarial import AdversarialTraining
from carbide.types import Case, InputError, LpBall, Threat


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Normal noise of deviation ``sigma``, in input units."""

    sigma: float

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """The noisy batch ``(n, *shape)``."""
        return x + self.sigma * torch.empty(x.shape, dtype=x.dtype, device=generator.device).normal_(generator=generator).to(x.device)


@dataclass(frozen=True, kw_only=True)
class NoiseTraining(AdversarialTraining):
    """Training under noise of ``sigma`` in input units (0 = ``scale`` times the threat's eps, as smoothing takes it), for L2 changes."""

    sigma: float = 0.0
    pace: float = 1.0
    default: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise InputError(f"noisetraining: sigma is {self.sigma}; give a standard deviation > 0 in input units, or 0 for the threat's eps")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Gaussian noise serves L2 changes of real features."""
        if isinstance(threat, LpBall) and threat.p != 2:
            return "Gaussian noise serves L2 changes only; choose l2"
        if (case.data.train.space.step > 0).any():
            return "Gaussian noise makes no sense of whole numbers and categories, and the space has them"
        return super().refuses(case, threat)

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with noise on every batch."""
        return self.hardened(recipe, threat, perturb=GaussianNoise(sigma=self.sigma or self.scale * threat.eps))

    def strengths(self) -> tuple[NoiseTraining, ...]:
        """Half the noise, then all of it."""
        return (replace(self, scale=self.scale / 2, sigma=self.sigma / 2), self)
