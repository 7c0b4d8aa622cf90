"""The truth about tiny ReLU nets by mixed-integer programs (HiGHS): independent of the bounds that are tested against it."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn


def layers(net: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a perceptron."""
    return [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in net if isinstance(m, nn.Linear)]


def least(net: nn.Sequential, c: np.ndarray, lower: np.ndarray, upper: np.ndarray, *, boxes=None, shift=None) -> float:
    """The least ``c @ net(x)`` over a box; with ``boxes`` (those of each hidden layer) of the triangle relaxation instead.

    With ``c`` ``(m, k)`` and ``shift`` ``(m,)`` the least over the box of the largest of ``c @ net(x) - shift``.
    """
    parts, relaxed = layers(net), boxes is not None
    hidden = [len(b) for _, b in parts[:-1]]
    d, total = len(lower), len(lower) + 3 * sum(hidden) + (shift is not None)
    low, high, whole = np.full(total, -np.inf), np.full(total, np.inf), np.zeros(total)
    low[:d], high[:d] = lower, upper
    rows, down, up = [], [], []
    previous, at = slice(0, d), d
    box = (lower, upper)

    def add(terms, lo, hi):
        row = np.zeros(total)
        for index, value in terms:
            row[index] += value
        rows.append(row), down.append(lo), up.append(hi)

    for k, (w, b) in enumerate(parts[:-1]):
        m = len(b)
        z, a, s = (slice(at + i * m, at + (i + 1) * m) for i in range(3))
        at += 3 * m
        centre, radius = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
        zl, zu = w @ centre + b - np.abs(w) @ radius, w @ centre + b + np.abs(w) @ radius
        if relaxed:
            zl, zu = boxes[k]
        low[a], low[s], high[s] = 0, 0, 1
        whole[s] = 0 if relaxed else 1
        for i in range(m):
            add([(z.start + i, 1.0), *((previous.start + j, -w[i, j]) for j in range(w.shape[1]))], b[i], b[i])
            add([(a.start + i, 1.0), (z.start + i, -1.0)], 0, np.inf)
            if zu[i] <= 0 or zl[i] >= 0:
                add([(a.start + i, 1.0), (z.start + i, -1.0 if zl[i] >= 0 else 0.0)], 0, 0)
            elif relaxed:
                share = zu[i] / (zu[i] - zl[i])
                add([(a.start + i, 1.0), (z.start + i, -share)], -np.inf, -share * zl[i])
            else:
                add([(a.start + i, 1.0), (z.start + i, -1.0), (s.start + i, -zl[i])], -np.inf, -zl[i])
                add([(a.start + i, 1.0), (s.start + i, -zu[i])], -np.inf, 0)
        previous, box = a, (np.maximum(zl, 0), np.maximum(zu, 0))
    w, b = parts[-1]
    cost = np.zeros(total)
    if shift is not None:
        cost[-1] = 1.0
        for row, limit in zip(c, shift, strict=True):
            add([(total - 1, -1.0), *((previous.start + j, value) for j, value in enumerate(row @ w))], -np.inf, limit - row @ b)
    else:
        cost[previous] = c @ w
    found = milp(cost, constraints=LinearConstraint(np.array(rows), down, up), bounds=Bounds(low, high), integrality=whole)
    assert found.status == 0, found.message
    return float(found.fun + (c @ b if shift is None else 0.0))


def robust(model, x: np.ndarray, y: np.ndarray, eps: float) -> np.ndarray:
    """By how much each row ``(n,)`` keeps its label in the worst case of its Linf ball within the space: the least gap of logits."""
    found = []
    for row, label in zip(x, y, strict=True):
        box = np.maximum(row - eps, np.minimum(model.space.lower, row)), np.minimum(row + eps, np.maximum(model.space.upper, row))
        gaps = [np.eye(model.classes)[label] - np.eye(model.classes)[j] for j in range(model.classes) if j != label]
        found.append(min(least(model.module, gap, *box) for gap in gaps))
    return np.array(found)
