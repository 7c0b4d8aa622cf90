"""Interval bounds through a torch net: whatever goes into a box comes out of a box, layer by layer.

The net is traced once, so residual additions and reshapes are followed too. With ``rounding`` > 0 every layer's box is
widened by more than the rounding of an evaluation in that unit can amount to (the standard bound n u of a sum of n
terms, doubled); with 0, as in training, nothing is added. Layers that are not known are refused, never guessed.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F

from carbide.types import InputError


class Box(NamedTuple):
    """Lower and upper bounds of a tensor ``(n, ...)``."""

    lower: Tensor
    upper: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Box:
        """The box of a function that keeps order (or only moves entries about)."""
        return Box(f(self.lower), f(self.upper))

    def widen(self, by: Tensor | float) -> Box:
        """The box with ``by`` >= 0 more room on both sides."""
        return Box(self.lower - by, self.upper + by)


KEEPING = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)  # exact and order-keeping
SMOOTH = (nn.Sigmoid, nn.Tanh, nn.Softplus, nn.ELU, nn.CELU, nn.SELU)  # order-keeping, rounded
MOVING = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.ZeroPad2d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
SUMS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
KEEPING_CALLS = {torch.relu, F.relu, F.leaky_relu, F.relu6, F.hardtanh, F.max_pool2d, torch.clamp}
SMOOTH_CALLS = {torch.sigmoid, torch.tanh, F.softplus, F.elu}
MOVING_CALLS = {torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, operator.getitem, F.pad}
AVERAGE_CALLS = {F.avg_pool2d, F.adaptive_avg_pool2d}
MOVING_METHODS = {"flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "float", "double"}
KEEPING_METHODS = {"relu", "clamp", "clip", "sigmoid", "tanh"}
SHAPE_METHODS = {"size", "dim"}
SIGNS = {operator.add: 1, operator.iadd: 1, torch.add: 1, operator.sub: -1, torch.sub: -1}
FACTORS = {operator.mul, torch.mul, operator.truediv, torch.div}
UNREAD = {"alpha": 1, "rounding_mode": None, "out": None, "return_indices": False}  # options of calls that are refused unless they change nothing
UNFIT = {"sigmoid", "tanh"}  # among the methods, those that round

_traced: weakref.WeakKeyDictionary[nn.Module, fx.GraphModule] = weakref.WeakKeyDictionary()


def traced(module: nn.Module) -> fx.GraphModule:
    """The module's graph, sharing its parameters.

    Raises:
        InputError: if it cannot be traced or uses a layer whose interval is not known.
    """
    if module not in _traced:
        try:
            graph = fx.symbolic_trace(module)
        except Exception as error:  # tracing runs the user's forward, which may fail in any way
            raise InputError(
                f"{type(module).__name__} cannot be traced ({str(error).splitlines()[0]}); write its forward without branches on values"
            ) from error
        for node in graph.graph.nodes:
            _check(graph, node)
        _traced[module] = graph
    return _traced[module]


def _check(graph: fx.GraphModule, node: fx.Node) -> None:
    known: bool
    if node.op == "call_module":
        layer = graph.get_submodule(str(node.target))
        known, name = isinstance(layer, KEEPING + SMOOTH + MOVING + AVERAGES + SUMS + NORMS), type(layer).__name__
        if isinstance(layer, nn.MaxPool1d | nn.MaxPool2d | nn.AdaptiveMaxPool2d) and layer.return_indices:
            known = False
        if isinstance(layer, nn.Hardtanh) and layer.min_val > layer.max_val:
            known = False
        if isinstance(layer, nn.LeakyReLU) and layer.negative_slope < 0:
            known = False
        if isinstance(layer, NORMS) and layer.running_mean is None:
            known = False
    elif node.op == "call_function":
        calls = KEEPING_CALLS | SMOOTH_CALLS | MOVING_CALLS | AVERAGE_CALLS | set(SIGNS) | FACTORS | {F.linear, F.dropout, torch.cat, getattr}
        known, name = node.target in calls, getattr(node.target, "__name__", str(node.target))
        odd = [key for key, plain in UNREAD.items() if node.kwargs.get(key, plain) != plain]
        if node.target is F.leaky_relu and not slope_of(node) >= 0:
            odd.append("a negative slope")
        if odd:
            known, name = False, f"{name} with {' and '.join(odd)}"
    elif node.op == "call_method":
        known, name = str(node.target) in MOVING_METHODS | KEEPING_METHODS | SHAPE_METHODS, str(node.target)
    else:
        return
    if not known:
        raise InputError(f"interval bounds do not know the layer {name} (node {node.name}); they know linear, convolution, pooling, batch norm, "
                         "flatten, additions and activations that keep order")  # fmt: skip


def slope_of(node: fx.Node) -> Any:
    """The slope below zero of a call of leaky ReLU."""
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)


def logit_gaps(module: nn.Module, box: Box, y: Tensor, rounding: float = 0.0) -> Tensor:
    """Lower bounds ``(n, k)`` of ``logit[y] - logit[j]`` over the box of inputs; 0 at ``j = y``.

    A last linear layer is bounded together with the difference, which is tighter than bounding each logit.

    Raises:
        InputError: as ``traced``.
    """
    run = Pass(traced(module), rounding)
    last = run.last_linear()
    if last is None:
        logits = run.box(box)
        own = logits.lower.gather(1, y[:, None])
        return (own - logits.upper).scatter(1, y[:, None], 0.0)
    hidden = run.box(box, until=last.args[0])  # type: ignore[arg-type]
    return _last_gaps(run.weights(last), hidden, y, rounding)


def _last_gaps(layer: Any, hidden: Box, y: Tensor, rounding: float) -> Tensor:
    weight = layer.weight.to(hidden.lower.dtype)
    bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.to(weight.dtype)
    middle, radius = (hidden.lower + hidden.upper) / 2, (hidden.upper - hidden.lower) / 2
    centre = F.linear(middle, weight, bias)
    spread = torch.einsum("nkh,nh->nk", (weight[y][:, None] - weight[None]).abs(), radius)
    gaps = centre.gather(1, y[:, None]) - centre - spread
    if rounding:
        size = growth(weight.shape[1], rounding) * F.linear(middle.abs() + radius, weight.abs(), bias.abs())
        gaps = gaps - size - size.gather(1, y[:, None])
    return gaps.scatter(1, y[:, None], 0.0)


def growth(terms: int, rounding: float) -> float:
    """The share of the sum of absolute terms that rounding can add to a sum of so many."""
    return 2 * (terms + 2) * rounding


def averaged(source: Tensor) -> int:
    """More terms than an average over places of ``(n, channels, *places)`` can have."""
    return max(64, source[0, 0].numel())


class Pass:
    """One pass of boxes through a graph; tensors that do not depend on the input stay tensors."""

    def __init__(self, graph: fx.GraphModule, rounding: float) -> None:
        self.graph, self.rounding = graph, rounding

    def last_linear(self) -> fx.Node | None:
        """The linear layer whose output is the net's, if that is how it ends."""
        node = next(n for n in self.graph.graph.nodes if n.op == "output").args[0]
        while isinstance(node, fx.Node) and node.op == "call_module" and isinstance(self.graph.get_submodule(str(node.target)), nn.Identity):
            node = node.args[0]
        if not isinstance(node, fx.Node) or len(node.users) != 1:
            return None
        if node.op == "call_module":
            return node if isinstance(self.graph.get_submodule(str(node.target)), nn.Linear) else None
        plain = all(isinstance(a, fx.Node) and a.op == "get_attr" for a in (*node.args[1:], *node.kwargs.values()) if a is not None)
        return node if node.target is F.linear and plain else None

    def weights(self, node: fx.Node) -> Any:
        """Weight and bias of a linear node."""
        if node.op == "call_module":
            return self.graph.get_submodule(str(node.target))
        args, kwargs = (map_arg(part, lambda n: operator.attrgetter(str(n.target))(self.graph)) for part in (node.args[1:], node.kwargs))
        return Weights(*args, **kwargs)  # type: ignore[arg-type, misc]

    def box(self, box: Box, until: fx.Node | None = None) -> Box:
        """The box of the net's output, or of one node's."""
        values: dict[fx.Node, Any] = {}
        for node in self.graph.graph.nodes:
            values[node] = box if node.op == "placeholder" else self.value(node, values, box.lower.dtype)
            if node is until or node.op == "output":
                return values[node]
        raise AssertionError("a graph ends in an output")

    def value(self, node: fx.Node, values: Mapping[fx.Node, Any], dtype: torch.dtype) -> Any:
        """What a node gives: a box where it depends on the input, else what it is; ``values`` holds what the nodes before it give."""
        args: Any = map_arg(node.args, lambda n: values[n])
        kwargs: Any = map_arg(node.kwargs, lambda n: values[n])
        if node.op == "output":
            return args[0]
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.graph)
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        if node.op == "call_module":
            return self._layer(self.graph.get_submodule(str(node.target)), args[0])
        if not any(isinstance(a, Box) or (isinstance(a, tuple | list) and any(isinstance(b, Box) for b in a)) for a in args):
            return getattr(args[0], str(node.target))(*args[1:], **kwargs) if node.op == "call_method" else node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return self._method(str(node.target), args[0], args[1:], kwargs)
        return self._call(node.target, args, kwargs)

    def _layer(self, layer: Any, box: Box) -> Box:
        if isinstance(layer, SUMS):
            return self._sum(layer, box)
        if isinstance(layer, NORMS):
            return self._norm(layer, box)
        if isinstance(layer, AVERAGES):
            return self._rounded(box.map(layer), box, averaged(box.lower))
        if isinstance(layer, SMOOTH):
            return self._rounded(box.map(layer), None, 4)
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            return box
        return box.map(layer)

    def _sum(self, layer: Any, box: Box) -> Box:
        weight = layer.weight.to(box.lower.dtype)
        bias = None if layer.bias is None else layer.bias.to(weight.dtype)

        def apply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            return F.linear(x, w, b) if isinstance(layer, nn.Linear | Weights) else layer._conv_forward(x, w, b)

        total, width, half = box.lower + box.upper, box.upper - box.lower, weight / 2  # halves the weights instead: as exact, and fewer passes
        centre, spread = apply(total, half, bias), apply(width, half.abs(), None)
        if self.rounding:
            terms = weight[0].numel()
            spread = spread + growth(terms, self.rounding) * apply(total.abs() + width, half.abs(), None if bias is None else bias.abs())
        return Box(centre - spread, centre + spread)

    def _norm(self, layer: Any, box: Box) -> Box:
        if layer.training:
            raise InputError("interval bounds need batch norm in inference mode; its batch statistics mix rows")
        shape = (1, -1, *[1] * (box.lower.ndim - 2))
        mean, variance = layer.running_mean.to(box.lower.dtype), layer.running_var.to(box.lower.dtype)
        scale = (variance + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight.to(mean.dtype))
        shift = -mean * scale + (0 if layer.bias is None else layer.bias.to(mean.dtype))
        scale, shift = scale.reshape(shape), shift.reshape(shape)
        size = torch.maximum(box.lower.abs(), box.upper.abs()) * scale.abs() + shift.abs() + (mean.reshape(shape) * scale).abs()
        return self._times(box, scale).map(lambda t: t + shift).widen(8 * self.rounding * size if self.rounding else 0.0)

    def _times(self, box: Box, factor: Any) -> Box:
        a, b = box.lower * factor, box.upper * factor
        return Box(torch.minimum(a, b), torch.maximum(a, b))

    def _rounded(self, out: Box, source: Box | None, terms: int) -> Box:
        """Widened by the rounding of ``terms`` operations on values of the size of the source (or of 1 and the result)."""
        if not self.rounding:
            return out
        size = 1 + torch.maximum(out.lower.abs(), out.upper.abs()) if source is None else torch.maximum(source.lower.abs(), source.upper.abs()).amax()
        return out.widen(growth(terms, self.rounding) * size)

    def _method(self, name: str, box: Box, args: Any, kwargs: Any) -> Any:
        if name in SHAPE_METHODS:
            return getattr(box.lower, name)(*args, **kwargs)
        if name in ("float", "double"):
            return box
        out = box.map(lambda t: getattr(t, name)(*args, **kwargs))
        return self._rounded(out, None, 4) if name in UNFIT else out

    def _call(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is getattr:
            return getattr(args[0].lower, args[1])
        if target is torch.cat:
            boxes = [a if isinstance(a, Box) else Box(a, a) for a in args[0]]
            return Box(*(torch.cat([b[side] for b in boxes], *args[1:], **kwargs) for side in (0, 1)))
        if target is F.dropout:
            return args[0]
        if target is F.linear:
            return self._sum(Weights(*args[1:], **kwargs), args[0])
        if target in SIGNS:
            return self._add(args[0], args[1], SIGNS[target])
        if target in FACTORS:
            return self._factor(target, args)
        if target is operator.getitem and isinstance(args[0], Box):
            return args[0].map(lambda t: t[args[1]])
        kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}
        out = args[0].map(lambda t: target(t, *args[1:], **kwargs))
        if target in AVERAGE_CALLS:
            return self._rounded(out, args[0], averaged(args[0].lower))
        return self._rounded(out, None, 4) if target in SMOOTH_CALLS else out

    def _add(self, a: Any, b: Any, sign: int) -> Box:
        a, b = (v if isinstance(v, Box) else Box(v, v) for v in (a, b))
        out = Box(a.lower + b.lower, a.upper + b.upper) if sign > 0 else Box(a.lower - b.upper, a.upper - b.lower)
        return self._rounded(out, out, 1)

    def _factor(self, target: Any, args: Any) -> Box:
        multiply = target in (operator.mul, torch.mul)
        box, other = (args[0], args[1]) if isinstance(args[0], Box) else (args[1], args[0])
        if isinstance(other, Box) or (not multiply and box is args[1]):
            raise InputError("interval bounds do not know products of two results or division by a result; only factors that are constants")
        out = self._times(box, other if multiply else 1 / other)
        return self._rounded(out, out, 2)


class Weights(NamedTuple):
    """The weights of a functional linear call."""

    weight: Tensor
    bias: Tensor | None = None
