"""Interval bounds through a torch net: whatever goes into a box comes out of a box, layer by layer.

The net is traced, so residual additions and reshapes are followed too; what a trace leaves out (hooks, dropout that is on)
is refused, and ``carbide.evasion._faithful`` compares it with the net before anything is claimed. With ``rounding`` > 0 every layer's box is
widened by more than the rounding of an evaluation in that unit can amount to (the standard bound n u of a sum of n
terms, doubled); with 0, as in training, nothing is added. Layers that are not known are refused, never guessed.
"""

from __future__ import annotations

import math
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
NEGATIONS: set[Any] = {operator.neg, torch.neg, torch.negative, "neg", "negative"}  # functions and methods
MOVING_METHODS = {"flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "float", "double"}
KEEPING_METHODS = {"relu", "clamp", "clip", "sigmoid", "tanh"}
SHAPE_METHODS = {"size", "dim"}
SIGNS = {operator.add: 1, operator.iadd: 1, torch.add: 1, operator.sub: -1, torch.sub: -1}
FACTORS = {operator.mul, torch.mul, operator.truediv, torch.div}
SHAPES = {"shape", "ndim", "dtype", "device"}  # attributes of a result that say nothing of its numbers
UNREAD = {"rounding_mode": None, "out": None, "return_indices": False}  # options of calls that are refused unless they change nothing
UNFIT = {"sigmoid", "tanh"}  # among the methods, those that round

INPLACE = {F.relu: 1, F.relu6: 1, F.leaky_relu: 2, F.elu: 2, F.hardtanh: 3}  # where calls have that option
VIEWS = MOVING_CALLS | MOVING_METHODS | {F.dropout}
LAYERS = KEEPING + SMOOTH + MOVING + AVERAGES + SUMS + NORMS
CALLS = (KEEPING_CALLS | SMOOTH_CALLS | MOVING_CALLS | AVERAGE_CALLS | set(SIGNS) | FACTORS | {f for f in NEGATIONS if callable(f)}
         | {F.linear, F.dropout, torch.cat, getattr})  # fmt: skip
METHODS = MOVING_METHODS | KEEPING_METHODS | SHAPE_METHODS | {name for name in NEGATIONS if isinstance(name, str)}


class _Kept(NamedTuple):
    """A graph, and whether it was checked for certificates and not for training alone."""

    graph: fx.GraphModule
    strict: bool


_traced: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()


def traced(module: nn.Module, *, training: bool = False, fresh: bool = False) -> fx.GraphModule:
    """The module's graph, sharing its parameters.

    A graph is kept until a ``fresh`` one is asked for: what became of the module since is not seen. In ``training`` dropout
    that is on is passed over and hooks are left out, as bounds then only lead the way; else both are refused.

    Raises:
        InputError: if it cannot be traced, uses a layer whose interval is not known, or does what a trace leaves out.
    """
    kept = _traced.get(module)
    if kept is None or fresh or not (training or kept.strict):
        if not training:
            _check_plain(module)
        try:
            graph = fx.symbolic_trace(module)
        except Exception as error:  # tracing runs the user's forward, which may fail in any way
            raise InputError(
                f"{type(module).__name__} cannot be traced ({str(error).splitlines()[0]}); write its forward without branches on values"
            ) from error
        live = _live(graph)
        for node in graph.graph.nodes:
            _check(graph, node, live, training=training)
        if not training:
            _check_shared(graph)
        kept = _traced[module] = _Kept(graph, strict=not training)
    return kept.graph


def _check_plain(module: nn.Module) -> None:
    """Refuse what calls of a module do besides the forward of its class; torch's own hooks, which make weights anew, are let be.

    Raises:
        InputError: if there is such a thing.
    """
    for name, part in module.named_modules():
        where = f"layer {name} ({type(part).__name__})" if name else f"the net ({type(part).__name__})"
        hooks = (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
        if not all(any(kind.__module__.startswith("torch.nn.utils.") for kind in type(hook).__mro__) for hook in hooks):
            raise InputError(
                f"interval bounds read layers and not hooks, and {where} has a forward hook; write what it does into forward, or remove it"
            )
        if "forward" in vars(part) or not (isinstance(part, fx.GraphModule) or type(part).__call__ is nn.Module.__call__):
            raise InputError(f"interval bounds read the forward of a class, and {where} has its own way of being called; write it into forward")


def _live(graph: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose numbers depend on the input.

    Raises:
        InputError: if there are several inputs.
    """
    live: set[fx.Node] = set()
    inputs = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise InputError(f"interval bounds know nets of one input, and forward takes {', '.join(inputs)}; give a module whose forward takes x alone")
    for node in graph.graph.nodes:
        shape = (node.op == "call_method" and node.target in SHAPE_METHODS) or (node.target is getattr and node.args[1] in SHAPES)
        if node.op == "placeholder" or (not shape and any(source in live for source in node.all_input_nodes)):
            live.add(node)
    return live


def _check(graph: fx.GraphModule, node: fx.Node, live: set[fx.Node], *, training: bool) -> None:
    odd: str | None
    if node.op == "call_module":
        layer: Any = graph.get_submodule(str(node.target))
        known, name, odd = isinstance(layer, LAYERS), type(layer).__name__, _odd_layer(layer, training=training)
        if node.kwargs or len(node.args) != 1 or node.args[0] not in live:
            odd = "other arguments than one result"
    elif node.op == "call_function":
        known, name, odd = node.target in CALLS, getattr(node.target, "__name__", str(node.target)), _odd_call(node, live, training=training)
    elif node.op == "call_method":
        known, name, odd = str(node.target) in METHODS, str(node.target), _odd_arguments(node, live)
    else:
        return
    if not known:
        raise InputError(f"interval bounds do not know the layer {name} (node {node.name}); they know linear, convolution, pooling, batch norm, "
                         "flatten, additions and activations that keep order")  # fmt: skip
    if odd:
        raise InputError(f"interval bounds do not know {name} with {odd} (node {node.name})")


def _odd_layer(layer: Any, *, training: bool) -> str | None:
    """What about a layer of a known kind changes what it does so that its bounds would not hold; None if nothing does."""
    kind = next((kind for kind in LAYERS if isinstance(layer, kind)), nn.Module)
    if any(getattr(type(layer), name, None) is not getattr(kind, name, None) for name in ("forward", "_conv_forward")):
        return "a forward of its own"
    if getattr(layer, "return_indices", False):
        return "return_indices"
    if isinstance(layer, nn.Hardtanh) and not layer.min_val <= layer.max_val:
        return "min_val above max_val"
    if isinstance(layer, nn.LeakyReLU) and not layer.negative_slope >= 0:
        return "a negative slope"
    if isinstance(layer, nn.ELU | nn.CELU) and not layer.alpha >= 0:
        return f"the negative alpha {layer.alpha:g}, which does not keep order"
    if isinstance(layer, nn.Softplus) and not layer.beta > 0:
        return f"the beta {layer.beta:g}, which is not positive"
    if (getattr(layer, "divisor_override", None) or 1) < 0:
        return "a negative divisor"
    if isinstance(layer, NORMS) and layer.running_mean is None:
        return "statistics of the batch, which mix rows"
    if isinstance(layer, NORMS) and layer.training and not training:
        return "training on, when it takes statistics of the batch, which mix rows; put it in inference mode"
    if isinstance(layer, nn.Dropout | nn.Dropout2d) and layer.training and layer.p > 0 and not training:
        return "training on, when it draws at random; put it in inference mode"
    return None


def _odd_call(node: fx.Node, live: set[fx.Node], *, training: bool) -> str | None:
    """The same of a call of a known function."""
    target: Any = node.target
    odd = [key for key, plain in UNREAD.items() if node.kwargs.get(key, plain) != plain]
    if target in SIGNS and node.kwargs.get("alpha", 1) != 1:
        odd.append("alpha")
    if target in SIGNS or target in FACTORS:
        if len(node.args) != 2:
            odd.append(f"{len(node.args)} arguments by position in the place of two")
        elif target in FACTORS and (node.args[1] in live if target in (operator.truediv, torch.div) else all(a in live for a in node.args)):
            odd.append("two results, of which one must be a constant factor")
    elif (more := _odd_arguments(node, live)) is not None:
        odd.append(more)
    if target is F.leaky_relu and not _number(slope_of(node)) >= 0:
        odd.append("a negative slope")
    if target is F.elu and not (alpha := _number(option_of(node, 1, "alpha", 1.0))) >= 0:
        odd.append(f"the negative alpha {alpha:g}, which does not keep order")
    if target is F.softplus and not (beta := _number(option_of(node, 1, "beta", 1.0))) > 0:
        odd.append(f"the beta {beta:g}, which is not positive")
    if target is F.avg_pool2d and (option_of(node, 6, "divisor_override", None) or 1) < 0:
        odd.append("a negative divisor")
    if target is F.dropout and not training and option_of(node, 2, "training", True) and option_of(node, 1, "p", 0.5) != 0:
        odd.append("training=True, its default, when it draws at random; give it training=self.training")
    if target is getattr and node.args[0] in live and node.args[1] not in SHAPES:
        odd.append(f"the attribute {node.args[1]}")
    return " and ".join(odd) or None


def _odd_arguments(node: fx.Node, live: set[fx.Node]) -> str | None:
    """Results among the arguments of a call elsewhere than in the first place."""
    later: list[fx.Node] = []
    map_arg((node.args[1:], node.kwargs), later.append)
    return "a result by keyword or in a later place; give it one result, in the first place" if any(n in live for n in later) else None


def option_of(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument of a call, given by position or by name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _number(value: Any) -> float:
    """A number as it is, what is not known before the net runs as NaN."""
    return float(value) if isinstance(value, int | float) else math.nan


def _check_shared(graph: fx.GraphModule) -> None:
    """Refuse layers that overwrite a result which a later layer reads again, itself or a view of it: a graph does not show that.

    Raises:
        InputError: if there is one.
    """
    order = {node: i for i, node in enumerate(graph.graph.nodes)}

    def views(node: fx.Node) -> bool:
        return isinstance(graph.get_submodule(str(node.target)), MOVING) if node.op == "call_module" else node.target in VIEWS

    for node in graph.graph.nodes:
        layer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        given = option_of(node, INPLACE.get(node.target, len(node.args)), "inplace", False)
        if not (getattr(layer, "inplace", False) or given or getattr(node.target, "__name__", "").startswith("iadd")):
            continue
        base = node.args[0]
        while isinstance(base, fx.Node) and views(base) and isinstance(base.args[0], fx.Node):
            base = base.args[0]
        same = [base] if isinstance(base, fx.Node) else []
        for held in same:  # grows: every view of what is overwritten, made before
            same += [user for user in held.users if user is not node and order[user] < order[node] and views(user)]
        if any(order[user] > order[node] for held in same for user in held.users):
            raise InputError(f"layer {node.name} overwrites a result that a later layer reads; give it inplace=False")


def slope_of(node: fx.Node) -> Any:
    """The slope below zero of a call of leaky ReLU."""
    return option_of(node, 1, "negative_slope", 0.01)


def logit_gaps(module: nn.Module, box: Box, y: Tensor, rounding: float = 0.0) -> Tensor:
    """Lower bounds ``(n, k)`` of ``logit[y] - logit[j]`` over the box of inputs; 0 at ``j = y``.

    A last linear layer is bounded together with the difference, which is tighter than bounding each logit.

    Raises:
        InputError: as ``traced``.
    """
    run = Pass(traced(module, training=not rounding), rounding)
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
        if isinstance(layer, nn.Softplus):
            return self._softplus(box, layer.beta, layer.threshold)
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

    def _softplus(self, box: Box, beta: float, threshold: float) -> Box:
        """Softplus falls, where it turns straight, by what it then leaves out."""
        turn, fall = threshold / beta, (math.log1p(math.exp(-threshold)) if threshold > -700 else -threshold) / beta
        near = growth(4, self.rounding) * (1 + abs(turn))
        crossed = (box.lower <= turn + near) & (box.upper >= turn - near)
        return self._rounded(box.map(lambda t: F.softplus(t, beta, threshold)).widen(fall * crossed), None, 4)

    def _method(self, name: str, box: Box, args: Any, kwargs: Any) -> Any:
        if name in SHAPE_METHODS:
            return getattr(box.lower, name)(*args, **kwargs)
        if name in ("float", "double"):
            return box
        if name in NEGATIONS:
            return Box(-box.upper, -box.lower)
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
        if target in NEGATIONS:
            return Box(-args[0].upper, -args[0].lower)
        if target is F.softplus:
            return self._softplus(args[0], **{"beta": 1.0, "threshold": 20.0, **dict(zip(("beta", "threshold"), args[1:], strict=False)), **kwargs})
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
        constants = [torch.as_tensor(v.lower).abs().amax() for v in (a, b) if not isinstance(v.lower, Tensor)]  # rounded to the net's precision
        return self._rounded(out, out, 1) if not constants else self._rounded(out, out.widen(max(constants)), 1)

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
