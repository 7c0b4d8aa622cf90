"""White-box readings: a torch net that answers as a model of another library does, and the check that it really does.

A reading is never trusted. Before anybody sees its gradients its answers are compared with the model's own on random
rows, on corners of the space and on rows between two decisions; where they differ the model stays a black box and the
report says why. What is audited, judged and stored is always the model itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.models._answers import probe_rows
from carbide.models._files import one_line
from carbide.types import Access, Array, InputError, Space, rng_for

LOOSEST = 1e-3  # what rounding may explain at most, relative to a row's largest logit
HALVINGS = 24  # steps towards the border between two decisions
REACH = (-1.0, 2.0)  # powers of ten that features without bounds are tried at, in units of their spread


class NotRead(Exception):
    """Why a model has no reading, as the end of the sentence "its gradients are not known: ..."."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """A torch module whose logits agreed with the model on ``rows`` rows, or None and the reason in ``note``."""

    module: Any = None
    note: str = ""
    rows: int = 0


class Readable:
    """Base of models that another library answers for, and that may be read as a torch net in inference mode besides."""

    classes: int
    threshold: float

    @functools.cached_property
    def reading(self) -> Reading:
        """The checked reading; made when somebody first asks."""
        raise NotImplementedError

    @property
    def module(self) -> Any:
        """The torch module that maps ``(n, *shape)`` to logits ``(n, k)``; None where there is no reading."""
        return self.reading.module

    @property
    def outputs(self) -> str:
        """What the module returns."""
        return "logits"

    @property
    def device(self) -> str:
        """Where the module is."""
        return "cpu"

    @property
    def dtype(self) -> Any:
        """The dtype of the module.

        Raises:
            InputError: if there is no reading.
        """
        return dtype_of(self._net())

    def tensor(self, x: Array) -> Any:
        """Inputs as a tensor of the module's dtype.

        Raises:
            InputError: if there is no reading.
        """
        return tensor_of(self._net(), x)

    def logits(self, x: Any) -> Any:
        """Logits ``(n, k)`` of a tensor, differentiable; their softmax is what ``predict`` answers, up to rounding.

        Raises:
            InputError: if there is no reading.
        """
        return self._net()(x)

    @property
    def slack(self) -> float:
        """How far apart two logits must be so that rounding of the model's own probabilities cannot turn its decision.

        Four units of the precision in a probability, at the threshold for two classes, else where ``k`` classes are level.
        """
        import torch

        threshold = min(max(self.threshold, 1e-12), 1 - 1e-12)
        return 4 * float(torch.finfo(self.dtype).eps) * (1 / (threshold * (1 - threshold)) if self.classes == 2 else 2 * self.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why there is no reading, for the report."""
        note = self.reading.note
        return (f"gradients were not used: {note}",) if note else ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What a certificate about the module assumes about the model."""
        rows = self.reading.rows
        return (f"the model answers as Carbide's reading of it, as it did on {rows} random rows, corners and rows between decisions",) if rows else ()

    def _net(self) -> Any:
        if self.reading.module is None:
            raise InputError(f"the model has no gradients: {self.reading.note}; use attacks that need answers only")
        return self.reading.module


def shown(reading: Reading) -> Access:
    """What a reading adds to a model's access."""
    return Access.GRADIENTS | Access.WEIGHTS if reading.module is not None else Access(0)


def dtype_of(module: Any) -> Any:
    """The dtype of a module's parameters and buffers (float32 if it has none)."""
    import torch

    return next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)


def tensor_of(module: Any, x: Array) -> Any:
    """Inputs as a tensor of the module's dtype."""
    import torch

    return torch.as_tensor(np.ascontiguousarray(x), dtype=dtype_of(module))


def read(make: Callable[[], Any], check: Callable[[Any], Reading]) -> Reading:
    """The module that ``make`` builds once ``check`` has passed it, or the reason why there is none."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return Reading(note="torch is not installed; install it with: pip install 'carbide[torch]'")
    try:
        module = make().eval().requires_grad_(False)
        return check(module)
    except NotRead as reason:
        return Reading(note=str(reason))
    except Exception as error:  # a foreign model may fail with anything on some row of its space; then there is nothing to compare with
        return Reading(note=f"it could not be compared with its reading as a net ({type(error).__name__}: {one_line(error)})")


def answers_of(module: Any, x: Array, *, batch: int = 256) -> Array:
    """The module's logits ``(n, k)`` float64.

    Raises:
        NotRead: if it fails, or answers another shape or NaN.
    """
    import torch

    try:
        with torch.no_grad():
            found = torch.cat([module(tensor_of(module, x[i : i + batch])).double() for i in range(0, len(x), batch)]).numpy()
    except Exception as error:  # whatever a graph that was read wrongly does
        raise NotRead(f"its reading as a net fails on rows of shape {x.shape[1:]} ({type(error).__name__})") from error
    if found.ndim != 2 or len(found) != len(x) or not np.isfinite(found).all():
        raise NotRead(f"its reading as a net answers NaN, infinity or the shape {found.shape} for {len(x)} rows")
    return found


def exact_answers(module: Any, x: Array) -> Array:
    """The logits ``(n, k)`` that the module gives to the same rounded inputs in float64.

    Raises:
        NotRead: as ``answers_of``.
    """
    import copy

    return answers_of(copy.deepcopy(module).double(), tensor_of(module, x).double().numpy())


def rounding_of(logits: Array, exact: Array) -> float:
    """How far two evaluations in a precision may lie apart, relative to 1 and a row's largest logit: seen on ``n`` rows, at most ``LOOSEST``."""
    size = 1 + np.abs(exact).max(1)
    return min(1e-6 + 16 * float((np.abs(logits - exact).max(1) / size).max()), LOOSEST)


def compare_raw(logits: Array, exact: Array, own: Array, *, second: bool) -> None:
    """See that the model's own logits ``(n, k)``, or its one score for class 1 where ``second``, are the reading's up to rounding.

    Raises:
        NotRead: if they are not.
    """
    mine = exact[:, 1:] if second else exact
    allowed = rounding_of(logits, exact)
    if own.shape != mine.shape:
        raise NotRead(f"its reading as a net answers {mine.shape[1]} values a row, the model {own.shape[1]}")
    worst = float((np.abs(mine - own).max(1) / (1 + np.abs(exact).max(1))).max())
    if not worst <= allowed:
        raise NotRead(f"its reading as a net differs from its own logits by up to {worst:.2g} of their size, where {allowed:.2g} is allowed")


def compare(logits: Array, own: Array, *, tolerance: float, labels_only: bool = False) -> None:
    """See that logits ``(n, k)`` say what the model's own probabilities ``(n, k)`` say, or its one-hot labels.

    Raises:
        NotRead: if a probability differs by more than the tolerance, or a decision does on a row that is no tie.
    """
    if logits.shape != own.shape:
        raise NotRead(f"its reading as a net answers {logits.shape[1]} values a row, the model {own.shape[1]}")
    powers = np.exp(logits - logits.max(1, keepdims=True))
    mine = powers / powers.sum(1, keepdims=True)
    worst = 0.0 if labels_only else float(np.abs(mine - own).max(initial=0.0))
    if worst > tolerance:
        raise NotRead(f"its reading as a net differs from its own answers by up to {worst:.2g} in probability, where {tolerance:.2g} is allowed")
    ordered = np.sort(logits, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 8 * tolerance * (1 + np.abs(logits).max(1))
    wrong = int((clear & (logits.argmax(1) != own.argmax(1))).sum())
    if wrong:
        raise NotRead(f"its reading as a net decides {wrong} of {len(own)} rows otherwise than the model")


def trial_rows(space: Space, decide: Callable[[Array], Array], *, middle: Array | None = None, spread: Array | None = None) -> Array:
    """Rows ``(n, *shape)`` in the space on which a reading is compared with its model.

    Random rows, corners, and rows halfway between decisions (``decide`` gives ``(n, k)`` of rows). ``middle`` and
    ``spread`` say where features without bounds lie.
    """
    rng = rng_for(0, "reading")
    few = math.prod(space.shape) > 4096  # a large image costs a large net
    low, high = space.lower, space.upper
    open_ = ~(np.isfinite(low) & np.isfinite(high))
    centre = np.zeros(space.shape) if middle is None else middle
    width = np.ones(space.shape) if spread is None else spread
    random = probe_rows(space, rng, 8 if few else 64)
    size = 10.0 ** rng.uniform(*REACH, size=(len(random), *[1] * len(space.shape)))
    far = np.clip(centre + width * size * rng.standard_normal(random.shape), low, high)
    random = np.where(open_, far, random)
    bottom, top = (np.where(np.isfinite(end), end, np.clip(centre + sign * 100 * width, low, high)) for end, sign in ((low, -1), (high, 1)))
    corners = np.where(rng.random((4 if few else 16, *space.shape)) < 0.5, bottom, top)
    plain = np.stack([bottom, top, np.clip(centre, low, high), np.clip(np.zeros(space.shape), low, high)])
    rows = np.concatenate([random, corners, plain])
    return np.concatenate([rows, _between(rows, decide, rng, 4 if few else 16, 8 if few else HALVINGS)])


def _between(rows: Array, decide: Callable[[Array], Array], rng: Any, pairs: int, halvings: int) -> Array:
    """Rows on the way from one decision to another, ever closer to where they part."""
    said = decide(rows).argmax(1)
    first, second = rng.integers(len(rows), size=(2, 20 * pairs))
    apart = np.flatnonzero(said[first] != said[second])[:pairs]
    a, b, of_a = rows[first[apart]], rows[second[apart]], said[first[apart]]
    kept = [a[:0]]
    for step in range(halvings if len(a) else 0):
        middle = (a + b) / 2
        same = (decide(middle).argmax(1) == of_a).reshape(-1, *[1] * (rows.ndim - 1))
        a, b = np.where(same, middle, a), np.where(same, b, middle)
        if step in (2, 5, halvings - 1):
            kept.append(middle)
    return np.concatenate(kept)
