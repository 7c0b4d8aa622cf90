"""A net in half precision, for the search alone, where the processor has bfloat16: less than half the time, and the net itself decides.

Searches ask for gradients and for margins that only have to be told apart. Both come from a copy of the net in bfloat16; wherever a decision
hangs on so little that rounding could turn it, the net itself answers. Whether that pays and is right is found out on some of the rows: the
net must be large enough, and what rounding does to a margin small beside what the threat can do to it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carbide.evasion._counted import Counted
from carbide.evasion._gradients import Ball, batches, margins
from carbide.evasion._scores import cut
from carbide.models.multiplications import multiplications
from carbide.models.torch_net import TorchModel
from carbide.space.balls import norms
from carbide.types import Array, LpBall

CAPABLE = ("avx512_bf16", "amx_bf16")  # instructions of a processor that make it pay
WORTH = 1_000_000  # multiplications of a row, forward, from which the copy is faster
PROBED, FEW = 32, 24  # rows on which rounding is measured; for fewer the copy is not worth its making
SURER = 1.5  # times the largest error seen: less is not trusted to decide
SMALL = 0.1  # the largest share of what the threat does to a margin, to first order and in the middle of the rows, that rounding may do


class Coarse:
    """A model whose ``logits`` are those of a copy in bfloat16, except that without gradients the net itself answers where it is close."""

    def __init__(self, model: TorchModel, module: nn.Module, slack: float, count: Callable[[int], None] | None = None) -> None:
        self.model, self.module, self.slack, self._count = model, module, slack, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(n, k)`` of inputs ``(n, *shape)``, in the inputs' dtype; under gradients as coarse as they come."""
        if self._count is not None:
            self._count(len(x))
        out = self.module(x.to(torch.bfloat16)).to(x.dtype)
        return out if torch.is_grad_enabled() else self.refine(x, out)

    def refine(self, x: Tensor, logits: Tensor) -> Tensor:
        """The logits ``(n, k)``, with the net's own in every row whose decision rounding could have turned."""
        if logits.shape[1] == 2:
            gap = (logits[:, 1] - logits[:, 0] - cut(self.model.threshold)).abs()
        else:
            top = logits.topk(2, dim=1).values
            gap = top[:, 0] - top[:, 1]
        near = (~(gap > self.slack * (1 + logits.abs().amax(1)))).nonzero().squeeze(1)
        if len(near) == 0:
            return logits
        with torch.no_grad():
            return logits.index_copy(0, near, self.model.logits(x[near]))


def coarse(model: Any, x: Array, y: Array, threat: LpBall) -> Any:
    """The model in half precision for a search around rows ``x`` ``(n, *shape)``, or the model itself where that does not pay or is not right."""
    plain = model.model if type(model) is Counted else model
    if type(plain) is not TorchModel or plain.outputs != "logits" or len(y) < FEW or not _capable(plain):
        return model
    few = np.unique(np.linspace(0, len(y) - 1, PROBED).astype(int))
    ((_, ball, labels),) = batches(plain, x[few], np.asarray(y)[few], threat)
    if multiplications(plain.module, ball.clean[:1], most=WORTH) < WORTH:
        return model
    found = _made(plain, ball, labels)
    return model if found is None else Coarse(plain, *found, model.count if type(model) is Counted else None)


def _made(model: TorchModel, ball: Ball, y: Tensor) -> tuple[nn.Module, float] | None:
    """The copy in half precision and the share of the logits that it is not trusted with, if rounding does little on these rows."""
    module = copy.deepcopy(model.module).to(torch.bfloat16).requires_grad_(False)
    if ball.clean.ndim == 4:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = ball.clean.detach().requires_grad_(True)
    exact = model.logits(x)
    margin = margins(exact, y, model.threshold)
    (gradient,) = torch.autograd.grad(margin.sum(), x)
    with torch.no_grad():
        try:
            rough = module(ball.clean.to(torch.bfloat16)).to(exact.dtype)
        except RuntimeError:  # a net that insists on its dtype: it answers itself
            return None
        off = (margins(rough, y, model.threshold) - margin).abs()
        reach = ball.eps * norms(gradient, {1.0: math.inf, 2.0: 2.0}.get(ball.p, 1.0))
        error = ((rough - exact).abs().amax(1) / (1 + exact.abs().amax(1))).max()
        right = bool(torch.isfinite(rough).all()) and bool((off <= SMALL * reach).double().mean() >= 0.5)
    return (module, SURER * float(error)) if right else None


def _capable(model: TorchModel) -> bool:
    """Whether the model's device multiplies bfloat16 faster than its float32."""
    if torch.device(model.device).type != "cpu" or model.dtype != torch.float32:
        return False
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in CAPABLE)
