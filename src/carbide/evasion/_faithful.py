"""What bounds are computed on, compared with the net itself before anything is claimed: a trace is not the net.

The net answers a few rows three times, which shows what is drawn at random; the graph must give the same answers; and what the
net answers to inputs drawn from boxes must lie within the bounds of those boxes. Whatever fails is refused.

>>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
>>> x = torch.tensor([[0.1, 0.2]])
>>> isinstance(compared(net, x, Box(x.double() - 0.1, x.double() + 0.1)), fx.GraphModule)
True
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from carbide.evasion._intervals import Box, Pass, traced
from carbide.models._answers import probe_rows
from carbide.types import Array, InputError, rng_for

ROWS = 3  # of those asked about, beside as many drawn from the space
CALLS = 3
DRAWS = 8  # inputs of a box, half of them corners


def examined(model: Any, x: Array, eps: float) -> fx.GraphModule:
    """The fresh graph of a model's net, compared with the net on some of the rows ``x`` ``(n, *shape)`` and their Linf boxes of radius ``eps``.

    Raises:
        InputError: if the net cannot be traced, or answers otherwise than its graph or its bounds say.
    """
    space = model.space
    given = x[np.linspace(0, len(x) - 1, min(ROWS, len(x))).astype(int)] if len(x) else np.zeros((0, *space.shape))
    rows = model.tensor(np.concatenate([given, probe_rows(space, rng_for(0, "bounds"), ROWS)]))
    rows = rows.to(next((p.dtype for p in model.module.parameters() if p.is_floating_point()), rows.dtype))  # views may ask in another precision
    clean, low, high = rows.double(), *(torch.as_tensor(end, dtype=torch.float64, device=rows.device) for end in (space.lower, space.upper))
    return compared(
        model.module, rows, Box(torch.maximum(clean - eps, torch.minimum(low, clean)), torch.minimum(clean + eps, torch.maximum(high, clean)))
    )


@torch.no_grad()
def compared(module: nn.Module, rows: Tensor, box: Box) -> fx.GraphModule:
    """The fresh graph of a module, compared with it on rows ``(n, *shape)`` and on inputs of boxes ``(n, *shape)`` in float64.

    Raises:
        InputError: as ``examined``.
    """
    answers = [module(rows.clone()) for _ in range(CALLS)]
    graph = traced(module, fresh=True)  # after the net ran, as its hooks may make its weights anew
    unit = torch.finfo(rows.dtype).eps
    point, size = _passed(Pass(graph, 0.0), Box(rows.double(), rows.double()))
    allowed = unit**0.5 * max(1.0, size)
    gap = max(_gap(other, answers[0]) for other in answers)
    if not gap <= allowed:
        raise InputError(f"{type(module).__name__} answers the same rows otherwise when asked again (by up to {gap:.2g}), so no bounds hold for it; "
                         "switch off dropout, noise and sampling")  # fmt: skip
    gap = max(_gap(end, answers[0]) for end in point)
    if not gap <= allowed + 2 * _gap(point.upper, point.lower):
        raise InputError(f"{type(module).__name__} answers otherwise than its layers as they were traced (by up to {gap:.2g}), so no bounds hold for it; "
                         "write all that it does into forward, without branches, state or randomness")  # fmt: skip
    bounds, _ = _passed(Pass(graph, unit), box.widen(unit * torch.maximum(box.lower.abs(), box.upper.abs())))
    generator = torch.Generator(device=rows.device).manual_seed(0)
    for draw in range(DRAWS):
        share = torch.rand(box.lower.shape, generator=generator, device=rows.device, dtype=torch.float64)
        found = module((box.lower + (share.round() if draw % 2 else share) * (box.upper - box.lower)).to(rows.dtype)).double()
        if bool(((found < bounds.lower) | (found > bounds.upper)).any()):
            raise InputError(f"{type(module).__name__} answers an input beyond the bounds of its layers, so no bounds hold for it; write all that it "
                             "does into forward, and report it if that is so")  # fmt: skip
    return graph


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.shape == b.shape else float("inf")


def _passed(run: Pass, box: Box) -> tuple[Box, float]:
    """The box of the net's output, and the largest number on the way.

    Raises:
        InputError: if a layer turns a box around.
    """
    values: dict[fx.Node, Any] = {}
    size = 0.0
    for node in run.graph.graph.nodes:
        values[node] = value = box if node.op == "placeholder" else run.value(node, values, torch.float64)
        if isinstance(value, Box):
            if bool((value.lower > value.upper).any()):
                raise InputError(f"the layer {node.name} does not keep order as its kind does, so no bounds hold for it; replace it")
            size = max(size, float(torch.maximum(value.lower.abs(), value.upper.abs()).max()))
        if node.op == "output":
            if not isinstance(value, Box):
                raise InputError(f"the net's answers do not depend on its input, or hang on more than the layer {node.args[0]}; return logits alone")
            return value, size
    raise AssertionError("a graph ends in an output")
