"""The net while it is read: an fx graph that grows node by node beside what every value is for a few sample rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from carbide.models._reading import NotRead


class Value(NamedTuple):
    """A value of the graph: the node that computes it (None = a constant) and what it is for the sample rows."""

    node: fx.Node | None
    sample: Tensor


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node of the file: its operator, attributes, inputs (None = left out) and the names of its outputs.

    ``alone`` says of each input whether nothing else uses what was computed for it.
    """

    op: str
    attributes: dict[str, Any]
    inputs: list[Value | None]
    outputs: list[str]
    alone: list[bool]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        return self.attributes.get(name, default)

    def value(self, place: int) -> Value:
        """An input that must be there.

        Raises:
            NotRead: if it is not.
        """
        if place >= len(self.inputs) or (found := self.inputs[place]) is None:
            raise NotRead(f"its operator {self.op} lacks input {place}")
        return found

    def constant(self, place: int) -> Tensor:
        """An input that must be there and not depend on the rows.

        Raises:
            NotRead: if it does.
        """
        found = self.value(place)
        if found.node is not None:
            raise NotRead(f"its operator {self.op} takes weights or shapes that depend on the row")
        return found.sample

    def maybe(self, place: int) -> Tensor | None:
        """A constant input, None where it is left out."""
        return self.constant(place) if place < len(self.inputs) and self.inputs[place] is not None else None


class Reader:
    """The net so far: an fx graph, the modules and constants it uses, and the value of every name of the file."""

    def __init__(self, batch: int, opset: int, end: str) -> None:
        self.root, self.graph = nn.Module(), fx.Graph()
        self.batch, self.opset, self.end = batch, opset, end
        self.values: dict[str, Value] = {}
        self.uses: Counter[str] = Counter()
        self.held: dict[int, tuple[Tensor, fx.Node]] = {}

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """A function of values and plain arguments; computed at once where no value depends on the rows."""
        sample = function(*(_each(a, lambda v: v.sample) for a in args), **kwargs)
        if not any(_live(a) for a in args):
            return Value(None, sample)
        node = self.graph.call_function(function, tuple(_each(a, self._node) for a in args), kwargs)
        return self._apart(Value(node, sample))

    def apply(self, module: nn.Module, x: Value) -> Value:
        """A layer on a value."""
        with torch.no_grad():
            sample = module.eval()(x.sample)
        if x.node is None:
            return Value(None, sample)
        name = f"layer{len(list(self.root.children()))}"
        self.root.add_module(name, module)
        return self._apart(Value(self.graph.call_module(name, (x.node,)), sample))

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """A value in another shape that keeps the rows apart."""
        if x.node is None:
            return Value(None, x.sample.reshape(list(shape)))
        if not shape or shape[0] != self.batch or x.sample.numel() != torch.Size(shape).numel():
            raise NotRead("its graph mixes rows of a batch")
        if list(shape) == list(x.sample.shape):
            return x
        return self.apply(nn.Flatten(), x) if len(shape) == 2 else self.call(torch.reshape, x, (-1, *shape[1:]))

    def module(self, x: Value) -> Any:
        """The layer that made a value, None where none did."""
        return self.root.get_submodule(str(x.node.target)) if x.node is not None and x.node.op == "call_module" else None

    def _node(self, value: Value) -> fx.Node:
        if value.node is not None:
            return value.node
        if id(value.sample) not in self.held:
            name = f"constant{len(self.held)}"
            self.root.register_buffer(name, value.sample)
            self.held[id(value.sample)] = (value.sample, self.graph.get_attr(name))
        return self.held[id(value.sample)][1]

    def _apart(self, value: Value) -> Value:
        if value.sample.ndim == 0 or len(value.sample) != self.batch:
            raise NotRead("its graph mixes rows of a batch")
        return value


def _each(item: Any, use: Callable[[Value], Any]) -> Any:
    """An argument with every value in it replaced."""
    if isinstance(item, Value):
        return use(item)
    return type(item)(_each(part, use) for part in item) if type(item) in (list, tuple) else item


def _live(item: Any) -> bool:
    if isinstance(item, Value):
        return item.node is not None
    return type(item) in (list, tuple) and any(_live(part) for part in item)


Operator = Callable[[Reader, Step], Any]  # a Value, or a list of one for each output
