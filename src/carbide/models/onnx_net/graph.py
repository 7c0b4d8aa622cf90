"""From a checked graph to a net: what is needed is walked in order, and what makes answers of logits is left out.

>>> sorted(set(OPERATORS) & {"Conv", "Gemm", "If"})
['Conv', 'Gemm']
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from carbide.models._files import one_line
from carbide.models._reading import NotRead
from carbide.models.onnx_net import arithmetic, layers, shapes, windows
from carbide.models.onnx_net.reader import Operator, Reader, Step, Value

OPERATORS: dict[str, Operator] = {**arithmetic.OPERATORS, **layers.OPERATORS, **shapes.OPERATORS, **windows.OPERATORS}
PASSED = ("Identity", "Dropout", "ZipMap", "Normalizer", "Cast")  # between probabilities and what the file gives out


class Found(NamedTuple):
    """A net and the value ``raw`` of the file that its logits are, or its second logit where ``second``; "" where the file has none."""

    module: fx.GraphModule
    raw: str
    second: bool


def net_of(model: Any, *, entry: str, output: str, sample: Tensor, row: tuple[int, ...], answers: str, keys: list[str]) -> Found:
    """The net of a checked graph (a ``ModelProto``): from ``entry`` to the logits behind ``output``.

    ``sample`` ``(n, *shape)`` are rows of the space, ``row`` is the shape that the graph takes them in, ``keys`` are the
    names of the classes in order.

    Raises:
        NotRead: if the graph uses what has no translation.
    """
    if answers == "labels":
        raise NotRead("it answers labels only")
    if not sample.is_floating_point():
        raise NotRead("it takes whole numbers")
    try:
        return _net_of(model, entry, output, sample, row, answers, keys)
    except NotRead:
        raise
    except Exception as error:  # a graph that the runtime accepts may still hold anything
        raise NotRead(f"its graph cannot be read as a net ({type(error).__name__}: {one_line(error)})") from error


def raw_net_of(model: Any, *, entry: str, output: str, sample: Tensor, row: tuple[int, ...]) -> fx.GraphModule:
    """The net from ``entry`` to what ``output`` holds, nothing left out, as ``(n, *row) -> (n, k)``; arguments as in ``net_of``.

    Raises:
        NotRead: if the graph uses what has no translation.
    """
    if not sample.is_floating_point():
        raise NotRead("it takes whole numbers")
    try:
        reader = _walked(model, entry, output, sample, row)
        found = reader.values[output]
        if found.node is None:
            raise NotRead("its answers do not depend on the row")
        found = reader.reshape(found, (len(sample), found.sample.numel() // len(sample)))
        assert found.node is not None
        reader.graph.output(found.node)
        return fx.GraphModule(reader.root, reader.graph)
    except NotRead:
        raise
    except Exception as error:  # as in net_of
        raise NotRead(f"its graph cannot be read as a net ({type(error).__name__}: {one_line(error)})") from error


def _net_of(model: Any, entry: str, output: str, sample: Tensor, row: tuple[int, ...], answers: str, keys: list[str]) -> Found:
    end = _end(_producers(_inlined(model)), output, answers)
    reader = _walked(model, entry, end.name, sample, row)
    logits, raw = _finish(reader, end)
    second = reader.values[end.name].sample.numel() == len(sample)
    if end.labels and (order := [end.labels.index(key) for key in keys]) != list(range(len(keys))):
        logits, raw = reader.call(operator.getitem, logits, (slice(None), order)), ""
    assert logits.node is not None
    reader.graph.output(logits.node)
    return Found(fx.GraphModule(reader.root, reader.graph), raw, second)


def _inlined(model: Any) -> Any:
    from onnx.inliner import inline_local_functions

    return (inline_local_functions(model) if model.functions else model).graph


def _producers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.node for name in node.output if name}


def _walked(model: Any, entry: str, end: str, sample: Tensor, row: tuple[int, ...]) -> Reader:
    """Every value of the graph that ``end`` depends on."""
    import onnx

    graph = _inlined(model)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
    reader = Reader(len(sample), opset, end)
    rows = Value(reader.graph.placeholder("x"), sample)
    reader.values[entry] = rows if tuple(sample.shape[1:]) == row else reader.apply(nn.Flatten(), rows)
    for tensor in graph.initializer:
        reader.values[tensor.name] = Value(None, _tensor(onnx.numpy_helper.to_array(tensor)))
    needed = _needed(_producers(graph), end)
    reader.uses = Counter(name for node in needed for name in node.input)
    reader.uses[end] += 1
    for node in needed:
        _walk(reader, node)
    return reader


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy: initializers are read-only, and weights may be shared


class _End(NamedTuple):
    """The value ``name`` behind which answers are made of logits, and what it holds.

    ``kind`` is ``logits``, ``sigmoid`` (what went into one), ``probabilities`` or ``scores`` (of a LinearClassifier, read
    as logits). ``labels`` are the file's own names of its columns, where it gives some.
    """

    name: str
    kind: str
    labels: tuple[str, ...] = ()


def _end(producers: dict[str, Any], output: str, answers: str) -> _End:
    """Walk back from the output over what turns logits into answers."""
    name, labels = output, ()
    while name in producers and producers[name].op_type in PASSED:
        given = _attributes(producers[name])
        if producers[name].op_type == "ZipMap":
            labels = tuple(_text(item) for item in given.get("classlabels_strings") or given.get("classlabels_int64s") or ())
        if producers[name].op_type == "Normalizer" and _text(given.get("norm", "MAX")) != "L1":
            break
        name = producers[name].input[0]
    node = producers.get(name)
    kind = node.op_type if node is not None else ""
    if node is None or kind == "LinearClassifier":
        return _End(name, "scores", labels)
    if kind == "LogSoftmax" or (kind == "Softmax" and answers == "probabilities"):
        return _End(node.input[0], "logits", labels)
    if answers != "probabilities":
        return _End(name, "logits", labels)
    if kind == "Concat" and len(node.input) == 2:  # [1 - p, p]
        rest, second = producers.get(node.input[0]), producers.get(node.input[1])
        if rest is not None and second is not None and rest.op_type == "Sub" and rest.input[1] == node.input[1] and second.op_type == "Sigmoid":
            return _End(second.input[0], "sigmoid", labels)
    return _End(node.input[0], "sigmoid", labels) if kind == "Sigmoid" else _End(name, "probabilities", labels)


def _finish(reader: Reader, end: _End) -> tuple[Value, str]:
    """The logits ``(n, k)`` from the value at the graph's end, and the name of the value of the file that they are ("" = none)."""
    x = reader.values[end.name]
    if x.node is None:
        raise NotRead("its answers do not depend on the row")
    if x.sample.ndim == 1:
        x = reader.call(torch.unsqueeze, x, 1)
    if x.sample.ndim != 2:
        raise NotRead(f"its answers have the shape {tuple(x.sample.shape[1:])} a row")
    one = x.sample.shape[1] == 1
    if end.kind == "probabilities" or (end.kind == "sigmoid" and not one):
        x = reader.apply(nn.Sigmoid(), x) if end.kind == "sigmoid" else x
        x = reader.call(torch.cat, [reader.call(operator.sub, 1.0, x), x], 1) if one else x
        return reader.call(torch.log, reader.call(torch.clamp, x, min=float(torch.finfo(x.sample.dtype).tiny))), ""
    return _two(reader, x) if one else x, "" if end.kind == "scores" else end.name


def _two(reader: Reader, score: Value) -> Value:
    """Logits ``[0, score]`` of a score ``(n, 1)``."""
    both = nn.Linear(1, 2, bias=False, dtype=score.sample.dtype)
    with torch.no_grad():
        both.weight.copy_(torch.tensor([[0.0], [1.0]]))
    return reader.apply(both, score)


def _needed(producers: dict[str, Any], name: str) -> list[Any]:
    """The nodes that a value depends on, in an order in which they can be walked."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(producers.get(name), False)]
    while waiting:
        node, done = waiting.pop()
        if node is None or (id(node) in seen and not done):
            continue
        if done:
            found.append(node)
            continue
        seen.add(id(node))
        waiting.append((node, True))
        waiting += [(producers.get(text), False) for text in node.input]
    return found


def _walk(reader: Reader, node: Any) -> None:
    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
        raise NotRead(f"its graph uses the operator {node.op_type}, which is not among those that Carbide reads as a net")
    if any(name and name not in reader.values for name in node.input):
        raise NotRead(f"its operator {node.op_type} uses a second result that Carbide does not read")
    inputs = [reader.values[name] if name else None for name in node.input]
    step = Step(op=node.op_type, attributes=_attributes(node), inputs=inputs, outputs=list(node.output), alone=[_alone(reader, v) for v in inputs])
    made = OPERATORS[node.op_type](reader, step)
    if isinstance(made, Value):
        reader.values[node.output[0]] = made
    else:
        reader.values.update(zip(node.output, made, strict=False))


def _alone(reader: Reader, value: Value | None) -> bool:
    """Whether a value is used once, under whatever names it has."""
    if value is None or value.node is None or value.node.op != "call_module":
        return False
    return all(reader.uses[name] == 1 for name, other in reader.values.items() if other.node is value.node)


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
