"""Gowal et al. 2018, https://arxiv.org/abs/1810.12715: interval bounds, sound and quick, tight on nets trained for them.

All inputs within the ball and the bounds form a box; each layer maps the box to a box that holds all its results. If
even the worst corner of the last box is decided rightly, no change within the ball can fool the net.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.tensor([-0.9, 0.9])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> IntervalBounds()(model, np.array([[1.2, 0.0]]), np.array([0]), LpBall(eps=0.2), np.random.default_rng(0)).bound.round(3)
array([0.3])
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from carbide.evasion._faithful import examined
from carbide.evasion._gradients import cut
from carbide.evasion._intervals import Box, logit_gaps
from carbide.registry import Method
from carbide.run import rows_at_once
from carbide.types import Access, Array, Case, Certificate, InputError, LpBall, Rng, Threat

BATCH = 256  # rows at once
CELLS = 1 << 15  # numbers of the inputs at once: larger boxes leave the processor's cache and take twice as long


class SecondLogit(nn.Module):
    """Logits ``(n, 2)`` of a net that gives one a row, the second class's: the first is 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 2)``."""
        second = self.net(x)
        second = second.reshape(second.size(0), 1)
        return torch.cat([second * 0.0, second], 1)


def of_logits(model: Any) -> Any:
    """The model with two logits a row where its net gives one, else itself."""
    return replace(model, module=SecondLogit(model.module), outputs="logits") if getattr(model, "outputs", "") == "one logit" else model


@dataclass(frozen=True, kw_only=True)
class IntervalBounds(Method):
    """Interval bound propagation through a feed-forward torch net, in float64 with room for the net's own rounding.

    Statement: for each row that holds, every input within the threat's ball and the space's bounds gets the row's label.
    ``halvings`` is how finely the largest certified radius is searched, up to ``reach`` times the threat's eps.
    """

    halvings: int = 10
    reach: float = 4.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS | Access.WEIGHTS

    def __post_init__(self) -> None:
        if self.halvings < 0:
            raise InputError(f"interval_bounds: halvings is {self.halvings}; give a whole number >= 0")
        if not self.reach >= 1:
            raise InputError(f"interval_bounds: reach is {self.reach}; give a factor >= 1")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a module whose every layer it knows, and a norm whose ball a box can hold."""
        if isinstance(threat, LpBall) and threat.p == 0:
            return "the smallest box around an L0 ball is the whole space; choose linf, l2 or l1"
        module = getattr(case.model, "module", None)
        if module is None:
            return "it reads the layers of torch nets only"
        outputs = getattr(case.model, "outputs", "logits")
        if outputs not in ("logits", "one logit"):
            return f"the net returns probabilities; give it without its last {'sigmoid' if outputs == 'one probability' else 'softmax'}"
        test = case.data.test.x
        try:
            examined(of_logits(case.model), test if test.shape[1:] == case.model.space.shape else test[:0], float(getattr(threat, "eps", 0.0)))
        except InputError as error:
            return str(error)
        return None

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Certificate:
        """The certificate for rows ``x`` ``(n, *shape)`` with labels ``y`` ``(n,)``; ``bound`` is a radius in input units.

        Raises:
            InputError: if the net has a layer that interval bounds do not know, or answers otherwise than its layers.
        """
        model = of_logits(model)
        if model.outputs != "logits" or threat.p == 0:
            raise InputError("interval bounds need a net that returns logits and a norm other than l0; give it without its softmax")
        examined(model, x, threat.eps)
        many = rows_at_once(max(1, min(BATCH, CELLS // math.prod(x.shape[1:]))))
        certified = [self._batch(model, x[i : i + many], y[i : i + many], threat) for i in range(0, len(x), many)]
        holds, bound = (np.concatenate([part[side] for part in certified]) if certified else np.zeros(0) for side in (0, 1))
        recall = model.classes == 2 and len(y) > 0 and bool((y == 1).all())
        norm = "" if math.isinf(threat.p) else f"the L{int(threat.p)} ball is replaced by the box around it"
        return Certificate(claim=f"every {threat.words()} within the bounds leaves the row's label right", holds=holds.astype(bool), bound=bound,
                           failure_probability=0.0, method="interval_bounds", threat=threat.words(), unit="input units",
                           metric="robust recall" if recall else "robust accuracy",
                           assumptions=("the net runs in inference mode in its stored precision; sums may be taken in any order",
                                        *([norm] if norm else []), *getattr(model, "assumptions", ())))  # fmt: skip

    def _batch(self, model: Any, x: Array, y: Array, threat: LpBall) -> tuple[Array, Array]:
        space, labels = model.space, torch.as_tensor(np.asarray(y, np.int64), device=model.device)
        clean, low, high = (torch.as_tensor(np.asarray(v, np.float64), device=model.device) for v in (x, space.lower, space.upper))
        low, high = torch.minimum(low, clean), torch.maximum(high, clean)

        def right(eps: Tensor) -> Tensor:
            wide = eps.reshape(-1, *[1] * (clean.ndim - 1))
            return _certified(model, Box(torch.maximum(clean - wide, low), torch.minimum(clean + wide, high)), labels)

        with torch.no_grad():
            full = torch.full((len(y),), float(threat.eps), dtype=torch.float64, device=model.device)
            holds = right(full)
            ever = holds | right(torch.zeros_like(full))
            good, bad = torch.where(holds, full, 0 * full), torch.where(holds, self.reach * full, full)
            for _ in range(self.halvings if threat.eps > 0 else 0):
                middle = (good + bad) / 2
                fine = right(middle)
                good, bad = torch.where(fine, middle, good), torch.where(fine, bad, middle)
        return holds.cpu().numpy(), torch.where(ever, good, 0 * good).cpu().numpy()


def _certified(model: Any, box: Box, y: Tensor) -> Tensor:
    """Whether every input of each row's box is decided as ``y``, rounding included."""
    unit = torch.finfo(model.dtype).eps
    box = box.widen(unit * torch.maximum(box.lower.abs(), box.upper.abs()))  # inputs are rounded to the net's precision too
    gaps = logit_gaps(model.module, box, y, unit)
    slack = getattr(model, "slack", 0.0)  # what is read as logits may be decided by probabilities, which round again
    if gaps.shape[1] == 2:
        shift = cut(model.threshold) * (2 * y - 1).to(gaps.dtype)
        return gaps.gather(1, (1 - y)[:, None]).squeeze(1) - shift > 1e-9 * (1 + shift.abs()) + slack
    return gaps.scatter(1, y[:, None], math.inf).amin(1) > slack
