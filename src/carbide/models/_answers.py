"""What a foreign model answers: telling probabilities, logits and labels apart and turning them into probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.models._files import one_line
from carbide.types import Array, InputError, Rng, Space

ANSWERS = ("probabilities", "logits", "labels")
OUTPUTS_OF = ("probabilities", "logits", "auto")  # what a torch module may answer
TOLERANCE = 1e-3  # how far rows of probabilities may sum from one: float16 endpoints and rounded JSON stay within
DECIMALS = (3, 2)  # to which endpoints round probabilities
LOOSEST = 0.25  # how far the sum of rounded probabilities of many classes may lie from one


def check_answers(answers: str) -> str:
    """The name of the answers.

    Raises:
        InputError: if it is not known.
    """
    if answers not in (*ANSWERS, "auto"):
        raise InputError(f"answers is {answers!r}; choose {', '.join(ANSWERS)} or auto")
    return answers


def detect(raw: Any, *, classes: int, name: str) -> str:
    """``probabilities``, ``logits`` or ``labels``, from answers to a few rows."""
    out = numbers(raw, name)
    if out.ndim == 1 and np.issubdtype(out.dtype, np.integer):
        return "labels"
    if _one_column(out, classes):
        if np.isin(out, (0.0, 1.0)).all() and out.ndim == 1:
            return "labels"
        return "probabilities" if ((out >= 0) & (out <= 1)).all() else "logits"
    if out.ndim == 1:
        return "labels"
    return "probabilities" if sums_to_one(out) else "logits"


def sums_to_one(out: Array) -> bool:
    """Whether every row ``(n, k)`` is a distribution, up to rounding, be it to two decimals."""
    return bool(_inside(out) and (np.abs(out.sum(1) - 1) <= _explained(out)).all())


def _inside(out: Array) -> bool:
    return bool(((out >= -1e-6) & (out <= 1 + 1e-6)).all())


def _explained(out: Array) -> Array:
    """How far the sum of each row ``(n, k)`` may lie from one: half a unit of the last of its decimals (two or more) for each class."""
    found, k = np.full(len(out), TOLERANCE), out.shape[1]
    for decimals in DECIMALS:
        rounded = (np.abs(out - np.round(out, decimals)) <= 1e-6).all(1)
        found = np.where(rounded, np.maximum(found, min(k * 0.5 * 10.0**-decimals + 1e-6, LOOSEST)), found)
    return found


def numbers(raw: Any, name: str) -> Array:
    """The answers as a finite numeric array.

    Raises:
        InputError: if they are ragged, not numbers, or hold NaN or infinity.
    """
    if hasattr(raw, "detach"):
        raw = raw.detach().cpu()
        raw = raw.float() if str(raw.dtype) == "torch.bfloat16" else raw  # numpy has no such dtype
    try:
        out = np.asarray(raw)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} answers something that is no array ({one_line(error)}); answer one row of {', '.join(ANSWERS)} a row") from error
    if out.dtype == bool:
        out = out.astype(np.int64)
    if not (np.issubdtype(out.dtype, np.integer) or np.issubdtype(out.dtype, np.floating)):
        raise InputError(f"{name} answers values of type {out.dtype}, not numbers; answer probabilities, logits or whole-number labels")
    if not np.isfinite(out).all():
        bad = int(np.flatnonzero(~np.isfinite(out.reshape(len(out), -1)).all(1))[0]) if out.ndim else 0
        raise InputError(f"{name} answers NaN or infinity (first in row {bad}); repair the model or its inputs")
    return out


def to_probabilities(raw: Any, *, rows: int, classes: int, answers: str, name: str, labels: tuple[Any, ...] = ()) -> Array:
    """Probabilities ``(rows, classes)`` float64 from answers of the stated kind; labels become one-hot rows.

    ``labels`` are the model's own names of classes 0, 1, ... where they are not the numbers themselves.

    Raises:
        InputError: if the answers are not of that kind or shape.
    """
    if answers == "labels":
        return _one_hot(raw, rows, classes, name, labels)
    out = numbers(raw, name).astype(np.float64)
    if _one_column(out, classes):
        if answers == "probabilities" and not ((out >= 0) & (out <= 1)).all():
            raise _not_probabilities(name, out)
        second = out.reshape(-1)
        out = np.stack([1 - second, second], 1) if answers == "probabilities" else np.stack([np.zeros_like(second), second], 1)
    if out.shape != (rows, classes):
        raise InputError(f"{name} answers an array of shape {out.shape} for {rows} rows, not ({rows}, {classes}); answer one value a class and row")
    if answers == "logits":
        out = np.exp(out - out.max(1, keepdims=True)) if rows else out
        return out / out.sum(1, keepdims=True)
    if not sums_to_one(out):
        raise _not_probabilities(name, out)
    total = out.sum(1, keepdims=True)
    return np.where(np.abs(total - 1) > TOLERANCE, out / total, out)  # what was rounded to a few decimals


def _one_column(out: Array, classes: int) -> bool:
    return classes == 2 and (out.ndim == 1 or (out.ndim == 2 and out.shape[1] == 1)) and np.issubdtype(out.dtype, np.floating)


def _not_probabilities(name: str, out: Array) -> InputError:
    totals = out.reshape(len(out), -1).sum(1)
    total = float(totals[0])
    if out.ndim == 2 and out.shape[1] > 1 and _inside(out):
        row = int(np.argmax(np.abs(totals - 1) > _explained(out)))
        return InputError(f"{name} answers values between 0 and 1 that are no distribution where probabilities are declared (row {row} sums to "
                          f"{totals[row]:.4g}, not 1, which rounding to two decimals does not explain); answer one probability a class, summing to 1")  # fmt: skip
    return InputError(f"{name} returns logits where probabilities are declared (its first row sums to {total:.4g}, not 1); "
                      "declare logits or apply softmax in the model")  # fmt: skip


def _one_hot(raw: Any, rows: int, classes: int, name: str, labels: tuple[Any, ...]) -> Array:
    out = np.asarray(raw.detach().cpu() if hasattr(raw, "detach") else raw)
    if out.ndim == 2 and out.shape[1] == 1:
        out = out[:, 0]
    if out.shape != (rows,):
        raise InputError(f"{name} answers an array of shape {out.shape} where labels are declared, not ({rows},); answer one label a row")
    if labels:
        places = {str(label): i for i, label in enumerate(labels)}
        unknown = next((item for item in out.tolist() if str(item) not in places), None)
        if unknown is not None:
            raise InputError(f"{name} answers the label {unknown!r}, which is none of {', '.join(places)}; name every label under labels:")
        out = np.array([places[str(item)] for item in out.tolist()], np.int64)
    out = numbers(out, name)
    if rows and not ((out == np.round(out)).all() and out.min() >= 0 and out.max() < classes):
        wrong = out[(out != np.round(out)) | (out < 0) | (out >= classes)][0].item()
        raise InputError(f"{name} answers the label {wrong!r}, but there are {classes} classes; answer whole numbers 0 to {classes - 1} "
                         "or name the labels under labels:")  # fmt: skip
    return np.eye(classes)[out.astype(np.int64)]


def probe_rows(space: Space, rng: Rng, n: int = 3) -> Array:
    """A few inputs ``(n, *shape)`` within the space, to see what a model answers before data arrive."""
    low = np.where(np.isfinite(space.lower), space.lower, np.where(np.isfinite(space.upper), space.upper - 1, 0.0))
    high = np.where(np.isfinite(space.upper), space.upper, low + 1)
    x = low + rng.random((n, *space.shape)) * (high - low)
    step = np.where(space.step > 0, space.step, 1.0)
    x = np.where(space.step > 0, np.minimum(low + np.floor((x - low) / step) * step, high), x)
    for group in space.groups:
        x[:, list(group)] = np.eye(len(group))[rng.integers(len(group), size=n)]
    return x
