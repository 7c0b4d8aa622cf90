"""Whether data and model belong together: ranges, normalisation, clipping, the order of labels, answers that never change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from carbide.types import Access, Array, Dataset, Model, Symptom, decide

SURE = 1e-4  # chance that a mend which helps this much helps by luck
GAIN = 0.15  # least rise of accuracy that a mend must bring to be named


def examine_answers(model: Model, x: Array, y: Array, train: Dataset) -> list[Symptom]:
    """Symptoms of the answers for rows ``x`` with labels ``y`` ``(n,)``."""
    p = model.predict(x)
    found = _range(model, x)
    if len(x) > 1 and float(np.ptp(p, axis=0).max()) < 1e-9 and float(np.ptp(x, axis=0).max()) > 0:
        label = int(decide(p[:1], model.threshold)[0])
        return [*found, Symptom(name="constant answers", done="noted", value=f"the model answers class {label} with the same probabilities whatever is asked",
                                mend="figures are those of guessing; check that the weights were loaded")]  # fmt: skip
    right = decide(p, model.threshold) == y
    scaled = _scale(model, x, y, train, right)
    return [*found, *(scaled or _order(p, y, model, right)), *_clipped(model, x, p)]


def _range(model: Model, x: Array) -> list[Symptom]:
    """Rows outside the declared bounds, or rows that fill almost nothing of them: eps would mean something else."""
    low, high = model.space.lower, model.space.upper
    known = np.isfinite(low) & np.isfinite(high) & (high > low)
    if not known.any():
        return []
    width = np.where(known, high - low, 1.0)
    past = np.where(known, np.maximum(low - x, x - high) / width, 0.0)
    said = f"rows hold {x.min():.4g} to {x.max():.4g}, the declared range is {low[known].min():.4g} to {high[known].max():.4g}"
    if past.max() > 0.05 and (past.max(axis=tuple(range(1, x.ndim))) > 0.05).mean() > 0.5:
        return [Symptom(name="range", done="refused", value=said, mend="scale the rows, or declare the range they have")]
    if model.space.is_image and float(np.ptp(x)) < 0.05 * float(width.max()):
        return [Symptom(name="range", done="noted", value=said, mend="declare the range that inputs have; eps is in these units")]
    return []


def _scale(model: Model, x: Array, y: Array, train: Dataset, right: Array) -> list[Symptom]:
    """The usual scalings, each tried on rows that the model gets wrong as they are."""
    if len(x) < 12 or right.mean() > 0.95:
        return []
    best = max(((name, *_paired(right, decide(model.predict(made), model.threshold) == y)) for name, made in _scalings(x, train)), key=lambda t: t[1])
    name, gain, luck = best
    after = float(right.mean()) + gain
    chance = float(np.bincount(y).max() / len(y))
    if gain < GAIN or luck > SURE or after < max(0.6, 1.2 * chance):
        return []
    done = "refused" if right.mean() < 0.6 * after else "noted"
    return [Symptom(name="normalisation", done=done, value=f"the model is right on {right.mean():.0%} of the rows as they are, but on {after:.0%} "
                    f"{name}", mend="put that step into the model, so that eps stays in input units")]  # fmt: skip


def _scalings(x: Array, train: Dataset) -> Iterator[tuple[str, Array]]:
    yield "divided by 255", x / 255
    yield "times 255", x * 255
    yield "moved from [0, 1] to [-1, 1]", 2 * x - 1
    yield "moved from [-1, 1] to [0, 1]", (x + 1) / 2
    yield "moved from [0, 255] to [-1, 1]", x / 127.5 - 1
    axes = (0, *range(2, x.ndim))  # a channel of images, a column of tables
    mean, spread = train.x.mean(axes, keepdims=True), train.x.std(axes, keepdims=True)
    spread = np.where(spread > 0, spread, 1.0)
    yield f"less the mean, over the deviation of each {'channel' if x.ndim > 2 else 'feature'}", (x - mean) / spread
    yield "with that standardisation undone", x * spread + mean
    if x.ndim == 4 and x.shape[1] == 3:
        wide = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
        yield "normalised as ImageNet is", (x - wide[0]) / wide[1]


def _paired(before: Array, after: Array) -> tuple[float, float]:
    """The rise of accuracy and the chance of one as large were the two equally good (McNemar's exact test, one-sided)."""
    from scipy.stats import binomtest

    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    luck = 1.0 if gained <= lost else float(binomtest(gained, gained + lost, alternative="greater").pvalue)
    return (gained - lost) / len(before), luck


def _order(p: Array, y: Array, model: Model, right: Array) -> list[Symptom]:
    """Another order of outputs, found on every second row and tried on the others."""
    from scipy.optimize import linear_sum_assignment

    predicted, k = decide(p, model.threshold), model.classes
    counts = np.zeros((k, k))
    np.add.at(counts, (predicted[::2], y[::2]), 1)
    said, meant = linear_sum_assignment(-counts)
    order = np.empty(k, int)
    order[said] = meant
    gain, luck = _paired(right[1::2], order[predicted[1::2]] == y[1::2])
    if gain < GAIN or luck > SURE:
        return []
    after, chance = float(right[1::2].mean()) + gain, float(np.bincount(y).max() / len(y))
    if after < max(0.6, 1.2 * chance):
        return []
    done = "refused" if right.mean() < min(chance, 0.5) else "noted"
    named = [int(np.flatnonzero(order == c)[0]) for c in range(k)] if k <= 12 else "that the data suggest"
    return [Symptom(name="label order", done=done, value=f"the model is right on {right.mean():.0%} of the rows, but on {after:.0%} if its outputs are read "
                    f"in the order {named}", mend="say so with labels, or check how labels became numbers")]  # fmt: skip


def _clipped(model: Model, x: Array, p: Array) -> list[Symptom]:
    """A net that cuts its inputs to a usual range although rows lie beyond it: what is cut off has no gradient."""
    if Access.GRADIENTS not in model.access:
        return []  # trees do not move between thresholds anyway
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        room = 0.01 * (high - low)
        beyond = float(((x < low - room) | (x > high + room)).mean())
        if beyond > 0.01 and float(np.abs(model.predict(x.clip(low, high)) - p).max()) < 1e-9:
            return [Symptom(name="clipped inputs", done="noted", value=f"the model cuts inputs to [{low:g}, {high:g}], but {beyond:.0%} of the values lie beyond",
                            mend="scale the rows into that range; changes beyond it do nothing")]  # fmt: skip
    return []
