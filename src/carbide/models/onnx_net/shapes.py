"""What moves numbers about without changing them, and the constants that say where to."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from carbide.models._reading import NotRead
from carbide.models.onnx_net.reader import Operator, Reader, Step, Value

LARGEST = 1 << 24  # numbers in a constant that a graph may make up
TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
         11: torch.float64}  # fmt: skip


def axes_of(step: Step, place: int, dims: int) -> list[int] | None:
    """The axes of a step, from its attribute or its input; None where it names none."""
    given = step.maybe(place)
    found = given.reshape(-1).tolist() if given is not None else step.get("axes")
    return None if found is None else sorted(int(a) % dims for a in found)


def _flatten(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    axis = step.get("axis", 1)
    axis = axis + x.sample.ndim if axis < 0 else axis
    return reader.reshape(x, (x.sample.shape[:axis].numel(), x.sample.shape[axis:].numel()))


def _reshape(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    target = step.get("shape") if step.maybe(1) is None else step.constant(1).tolist()
    shape = [x.sample.shape[i] if n == 0 and not step.get("allowzero", 0) else int(n) for i, n in enumerate(target)]
    return reader.reshape(x, x.sample.reshape(shape).shape)


def _squeeze(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    axes = axes_of(step, 1, x.sample.ndim)
    if axes is None:
        axes = [i for i, n in enumerate(x.sample.shape) if n == 1]
    return reader.reshape(x, [n for i, n in enumerate(x.sample.shape) if i not in axes])


def _unsqueeze(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    given = step.maybe(1)
    count = len(given.reshape(-1) if given is not None else step.get("axes"))
    axes = axes_of(step, 1, x.sample.ndim + count) or []
    shape = list(x.sample.shape)
    for axis in axes:
        shape.insert(axis, 1)
    return reader.reshape(x, shape)


def _transpose(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    order = list(step.get("perm") or range(x.sample.ndim)[::-1])
    if x.node is not None and order[0] != 0:
        raise NotRead("its graph turns the batch around")
    return reader.call(torch.permute, x, order)


def _concat(reader: Reader, step: Step) -> Value:
    parts = [part for part in step.inputs if part is not None]
    axis, dims = step.get("axis", 1), parts[0].sample.ndim
    live = [part.node is not None for part in parts]
    if any(live) and (not all(live) or axis % dims == 0):
        raise NotRead("its Concat joins rows, or rows with constants")
    return reader.call(torch.cat, list(parts), axis)


def _gather(reader: Reader, step: Step) -> Value:
    x, index = step.value(0), step.constant(1)
    axis = step.get("axis", 0) % x.sample.ndim
    if x.node is None:
        return Value(None, torch.from_numpy(np.array(np.take(x.sample.numpy(), index.numpy(), axis))))
    if axis == 0 or index.ndim > 1:
        raise NotRead("its Gather chooses rows, or in several axes")
    return reader.call(operator.getitem, x, (*[slice(None)] * axis, int(index) if index.ndim == 0 else [int(i) for i in index]))


def _columns(reader: Reader, step: Step) -> Value:
    return reader.call(operator.getitem, step.value(0), (slice(None), [int(i) for i in step.constant(1).reshape(-1)]))


def _slice(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    starts, ends = (step.get(name) if step.maybe(i) is None else step.constant(i).tolist() for i, name in ((1, "starts"), (2, "ends")))
    axes = step.get("axes") if step.maybe(3) is None else step.constant(3).tolist()
    steps = [1] * len(starts) if step.maybe(4) is None else step.constant(4).tolist()
    chosen: list[Any] = [slice(None)] * x.sample.ndim
    for start, end, axis, by in zip(starts, ends, range(len(starts)) if axes is None else axes, steps, strict=True):
        size = x.sample.shape[axis]
        if x.node is not None and axis % x.sample.ndim == 0:
            raise NotRead("its Slice chooses rows")
        part = range(size)[slice(start, end, by)]
        chosen[axis % x.sample.ndim] = slice(part.start, part.stop, by) if by > 0 else list(part)
    return reader.call(operator.getitem, x, tuple(chosen))


def _split(reader: Reader, step: Step) -> list[Value]:
    x = step.value(0)
    axis = step.get("axis", 0) % x.sample.ndim
    size, given = x.sample.shape[axis], step.maybe(1)
    sizes = given.tolist() if given is not None else step.get("split")
    if sizes is None:
        each = -(-size // len(step.outputs))
        sizes = [min(each, size - start) for start in range(0, size, each)]
    if axis == 0 and x.node is not None:
        raise NotRead("its Split parts the rows")
    places = np.cumsum([0, *sizes]).tolist()
    return [reader.call(operator.getitem, x, (*[slice(None)] * axis, slice(a, b))) for a, b in itertools.pairwise(places)]


def _shape(reader: Reader, step: Step) -> Value:
    return Value(None, torch.tensor(list(step.value(0).sample.shape)[step.get("start", 0) : step.get("end")], dtype=torch.int64))


def _constant(reader: Reader, step: Step) -> Value:
    import onnx

    for name, value in step.attributes.items():
        if name == "value":
            return Value(None, torch.from_numpy(np.array(onnx.numpy_helper.to_array(value))))
        if name in ("value_float", "value_floats"):
            return Value(None, torch.tensor(value, dtype=torch.float32))
        if name in ("value_int", "value_ints"):
            return Value(None, torch.tensor(value, dtype=torch.int64))
    raise NotRead("its graph holds a constant that is no number")


def _filled(reader: Reader, step: Step) -> Value:
    import onnx

    shape = _small(step.constant(0).tolist())
    value = step.get("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(np.array(onnx.numpy_helper.to_array(value))).reshape(1)
    return Value(None, fill.expand(shape).clone())


def _expand(reader: Reader, step: Step) -> Value:
    x, shape = step.value(0), step.constant(1).tolist()
    wide = _small(torch.broadcast_shapes(x.sample.shape, torch.Size(shape)))
    if x.node is not None and wide != list(x.sample.shape):
        raise NotRead("its Expand repeats what depends on the row")
    return x if x.node is not None else Value(None, x.sample.expand(wide))


def _small(shape: Sequence[int]) -> list[int]:
    if torch.Size(shape).numel() > LARGEST:
        raise NotRead("its graph makes up a constant that is too large")
    return list(shape)


def _where(reader: Reader, step: Step) -> Value:
    return reader.call(torch.where, *(Value(None, step.constant(i)) for i in range(3)))


def _cast(reader: Reader, step: Step) -> Value:
    x, to = step.value(0), TYPES.get(step.get("to", 0))
    if to is None or (x.node is not None and to != x.sample.dtype):
        raise NotRead("its graph changes the precision of values on the way")
    return x if x.node is not None else Value(None, x.sample.to(to))


OPERATORS: dict[str, Operator] = {
    "Flatten": _flatten, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Concat": _concat,
    "Gather": _gather, "ArrayFeatureExtractor": _columns, "Slice": _slice, "Split": _split, "Shape": _shape, "Constant": _constant,
    "ConstantOfShape": _filled, "Expand": _expand, "Where": _where, "Cast": _cast}  # fmt: skip
