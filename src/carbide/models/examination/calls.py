"""How a model answers: the same rows alike each time, a row alike whatever stands beside it, and nothing of itself changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.types import Array, InputError, Model, Symptom

FAILURES = (InputError, RuntimeError, ValueError, TypeError, IndexError)
NEAR = 1e-4  # probabilities that differ by less are the same up to the order of sums


def examine_calls(model: Model, x: Array) -> list[Symptom]:
    """Symptoms of the way a model answers rows ``x`` ``(n, *shape)``; randomness excludes the questions that need repetition."""
    found = _module(getattr(model, "module", None), getattr(model, "mended", ()))
    before = _hidden(model)
    first = model.predict(x)
    gap, moved = answers_vary(model, x, first)
    if gap > NEAR:
        found.append(Symptom(name="randomness", done="noted", value=f"the same rows get other answers when asked again (by up to {gap:.2g}; "
                             f"{moved:.0%} get another label)", mend="switch off dropout, noise and sampling, or read figures as of one draw"))  # fmt: skip
    else:
        found += _neighbours(model, x, first) or _layout(model, x, first)
    changed = [name for name, value in _hidden(model).items() if not np.array_equal(value, before.get(name, value), equal_nan=True)]
    if changed:
        found.append(Symptom(name="state", done="refused", value=f"the model changes {changed[0]} while it answers in inference mode",
                             mend="make eval() freeze its buffers"))  # fmt: skip
    return found


def answers_vary(model: Model, x: Array, first: Array | None = None) -> tuple[float, float]:
    """The largest difference of probabilities between two answers to the same rows, and the share of rows with another label."""
    first = model.predict(x) if first is None else first
    again = [model.predict(x.copy()) for _ in range(2)]
    gap = max(float(np.abs(other - first).max(initial=0.0)) for other in again)
    return gap, max(float((other.argmax(1) != first.argmax(1)).mean()) for other in again)


def _neighbours(model: Model, x: Array, first: Array) -> list[Symptom]:
    """The rows in reverse, one alone, a few, and other rows put into the same array: caches and batch statistics show."""
    half = max(len(x) // 2, 1)
    turned = model.predict(x[::-1].copy())[::-1]
    try:
        alone = model.predict(x[:1].copy())
    except FAILURES as error:  # a model of the user may fail with any of these
        return [_batch(f"the model fails on one row by itself ({_first_line(error)})")]
    small = np.concatenate([alone, *(model.predict(part) for part in (x[1:half].copy(), x[half:].copy()) if len(part))])
    held = x.copy()
    model.predict(held)
    held[...] = np.roll(x, 1, axis=0)
    reused = np.roll(model.predict(held), -1, axis=0)
    gap = max(float(np.abs(other - first).max()) for other in (turned, small, reused))
    return [_batch(f"a row's answer depends on the rows beside it (by up to {gap:.2g})")] if gap > NEAR else []


def _batch(value: str) -> Symptom:
    return Symptom(name="batch dependence", done="refused", value=value,
                   mend="use running statistics in inference mode and drop caches, so that each row is answered by itself")  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _layout(model: Model, x: Array, first: Array) -> list[Symptom]:
    """The same numbers in another memory order: attacks slice and turn arrays."""
    wide = np.repeat(x, 2, axis=0)[::2]  # not contiguous
    for held in (np.asfortranarray(x), wide):
        try:
            other = _asked(model, held)
        except FAILURES as error:
            return [_order(f"the model refuses inputs that are not contiguous in memory ({_first_line(error)})")]
        if float(np.abs(other - first).max()) > NEAR:
            return [_order("the model answers otherwise when the same inputs lie otherwise in memory")]
    return []


def _asked(model: Any, x: Array) -> Array:
    """The answers; a torch module is given the tensor as it lies, not the contiguous one that Carbide would make of it.

    A model that another library answers for, its reading as a net notwithstanding, is asked as it is.
    """
    torch_like = getattr(model, "module", None) is not None and hasattr(model, "logits") and hasattr(model, "tensor")
    if not torch_like or hasattr(type(model), "reading"):
        return model.predict(x)
    tensor = model.tensor(x)
    axes = tuple(reversed(range(tensor.ndim)))
    turned = tensor.permute(axes).contiguous().permute(axes)  # the same numbers, the last axis slowest
    return model.logits(turned).detach().double().softmax(1).cpu().numpy()


def _order(value: str) -> Symptom:
    return Symptom(
        name="memory layout", done="repaired", value=value, mend="Carbide gives it contiguous inputs; use reshape in place of view to serve it"
    )


def _module(module: Any, mended: tuple[str, ...]) -> list[Symptom]:
    """What can be read off a torch module: NaN among its numbers, parts that stay in training mode, what the door mended."""
    found = [Symptom(name=name, value=value, done="repaired", mend=mend) for name, value, mend in map(_door, mended)]
    if module is None or not hasattr(module, "named_parameters"):
        return found
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            found.append(Symptom(name="NaN", done="refused", value=f"{int(tensor.isnan().sum())} of the {tensor.numel()} numbers in {name} are NaN",
                                 mend="train the model again or give an earlier file"))  # fmt: skip
            break
    training = [name or type(part).__name__ for name, part in module.named_modules() if part.training]
    if training:
        found.append(Symptom(name="training mode", done="noted", value=f"{len(training)} parts stay in training mode after eval() (first: {training[0]})",
                             mend="let eval() reach them, so that dropout is off and batch statistics stand still"))  # fmt: skip
    return found


def _door(what: str) -> tuple[str, str, str]:
    return {
        "training mode": ("training mode", "the module came in training mode", "it was put into inference mode"),
        "one output": ("one output", "the module returns one number a row for two classes", "it was read as the second class's, against 0 for the first"),
    }[what]  # fmt: skip


def _hidden(model: Any) -> dict[str, Array]:
    """Buffers by name, also those that a module leaves out of its state."""
    module = getattr(model, "module", None)
    if module is None or not hasattr(module, "named_buffers"):
        return {}
    return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in module.named_buffers()}
