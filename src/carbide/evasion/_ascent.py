"""Croce & Hein 2020 and 2021, https://arxiv.org/abs/2003.01690, https://arxiv.org/abs/2103.01208: the ascent that APGD repeats.

The loss is a margin of logits over their spread, so that logits of any scale have a gradient. For Linf and L2 the step starts
at twice the radius and is halved, row by row, when the loss stops rising. For L1 steps move few features at a time, fewer and
fewer as the best point so far turns out sparse, and the first two thirds search in balls three and two times as large.
A row leaves the batch the moment it is misclassified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from carbide.evasion._gradients import Ball, Best, cut, gradient_of, margins, spread

MOMENTUM = 0.75  # weight of the new step against the last move
NOW, TOP = ("x", "loss", "gradient", "margin"), ("top", "top_loss", "top_gradient", "top_margin")  # where a row is, and the best place it has been
RISING = 0.75  # share of steps between two checkpoints in which the loss must have risen
WIDER = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # L1: multiples of eps and the share of the steps spent there
SPARSER = 1.5  # L1: each checkpoint moves so much fewer features than the best point has changed, or so much less far
CHECK = 4  # L1: steps from one checkpoint to the next
START = 0.2  # L1: the share of the features that the first steps move

Loss = Callable[[Tensor, Tensor, "Tensor | None", float], Tensor]  # of logits, labels, targets and the threshold


def scaled_margin(logits: Tensor, y: Tensor, target: Tensor | None, threshold: float) -> Tensor:
    """What the attack raises, ``(n,)``: minus the margin against the runner-up (or the target), over the spread of the top logits."""
    if target is None:
        loss = -margins(logits, y, threshold)
    else:
        loss = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    if logits.shape[1] == 2:
        return loss
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    low = top[:, 2] if target is None or logits.shape[1] == 3 else (top[:, 2] + top[:, 3]) / 2
    return loss / (top[:, 0] - low + 1e-12)


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None, threshold: float) -> Tensor:
    """The cross-entropy ``(n,)`` of the decision at the operating point."""
    if logits.shape[1] == 2:
        logits = logits - torch.tensor([0.0, cut(threshold)], dtype=logits.dtype, device=logits.device)
    return nn.functional.cross_entropy(logits, y, reduction="none")


def checkpoints(steps: int) -> Iterator[int]:
    """The steps at which the step size is reconsidered: farther apart at first, then closer."""
    last, share = 0.0, 0.22
    while share <= 1:
        yield math.ceil(round(share * steps, 6))  # 0.41 * 100 is a hair above 41 in floating point
        last, share = share, share + max(share - last - 0.03, 0.06)


def ascend(
    model: Any,
    ball: Ball,
    y: Tensor,
    target: Tensor | None,
    rows: Tensor,
    best: Best,
    steps: int,
    generator: torch.Generator,
    x: Tensor | None = None,
    loss: Loss = scaled_margin,
    hope: float = math.inf,
) -> None:
    """One run of ``steps`` steps for rows ``rows`` of ``best``, which may repeat; ball and labels are theirs. It starts at ``x`` or at random.

    A row leaves it early (Linf, L2) where twice in a row the loss rose so slowly that ``hope`` times that would not bring it to 0.
    """
    ball = ball.tight()
    x = ball.random(generator) if x is None else x
    more = {} if target is None else {"target": target}
    if ball.p != 1:
        _climb(model, ball, {"rows": rows, "y": y, "x": x} | more, best, steps, loss, hope)
        return
    sparse = torch.full((len(y),), START * x[0].numel(), dtype=x.dtype, device=x.device)
    for factor, share in WIDER:
        near = replace(ball, eps=factor * ball.eps)
        start = {"rows": rows, "y": y, "x": near.project(x), "keep": sparse} | more
        s = _climb(model, near, start, best if factor == 1 else None, math.ceil(share * steps), loss)
        x, sparse = s["top"], s["keep"]


def _climb(model: Any, ball: Ball, s: dict[str, Tensor], best: Best | None, steps: int, loss: Loss, hope: float = math.inf) -> dict[str, Tensor]:
    """Everything that a row needs is in ``s``, so that finished rows can be dropped; without ``best`` no row is ever finished."""

    def score(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
        return loss(logits, y, target, model.threshold)

    def look(s: dict[str, Tensor]) -> Tensor | None:
        logits, s["loss"], s["gradient"] = gradient_of(model, s["x"], score, s["y"], s.get("target"))
        if best is None:
            return None
        s["margin"] = margins(logits, s["y"], model.threshold)
        return best.fall(s["rows"], s["x"], logits, s["margin"])

    move, adapt = (_sparse_move, _sparser) if ball.p == 1 else (_move, _halve)
    checks, since = set(range(CHECK, steps + 1, CHECK)) if ball.p == 1 else set(checkpoints(steps)), 0
    keep = look(s)
    zero = torch.zeros_like(s["loss"])
    s |= {"last": s["x"], "top": s["x"], "top_loss": s["loss"], "top_gradient": s["gradient"], "seen_loss": s["loss"], "rises": zero,
          "size": zero + ball.eps * (1 if ball.p == 1 else 2), "halved": zero.bool(), "was": zero + s["x"][0].numel(), "slow": zero.bool()}  # fmt: skip
    s |= {} if best is None else {"top_margin": s["margin"]}
    for turn in range(1, steps + 1):
        if keep is not None and not bool(keep.all()):
            left = keep.nonzero().squeeze(1)
            s, ball = {name: value.index_select(0, left) for name, value in s.items()}, ball.rows(left)
        if len(s["rows"]) == 0:
            return s
        before, s["last"], s["x"] = s["loss"], s["x"], move(s, ball, turn)
        keep = look(s)
        s["rises"] = s["rises"] + (s["loss"] > before)
        _copy(s, s["loss"] > s["top_loss"], NOW, TOP)
        if turn in checks:
            if best is not None and math.isfinite(hope):
                keep = _hopeful(s, best, (steps - turn) / (turn - since) * hope) & (keep if keep is not None else True)
            adapt(s, ball, turn - since)
            since = turn
    if best is not None:
        left = (~best.broken[s["rows"]]).nonzero().squeeze(1)
        best.note(s["rows"][left], s["top"][left], s["top_margin"][left])
    return s


def _move(s: dict[str, Tensor], ball: Ball, turn: int) -> Tensor:
    x = s["x"]
    straight = ball.near(torch.addcmul(x, ball.direction(s["gradient"]), spread(s["size"], x)))
    return straight if turn == 1 else ball.near(torch.lerp(x, straight, MOMENTUM).add_(x - s["last"], alpha=1 - MOMENTUM))


def _halve(s: dict[str, Tensor], ball: Ball, turns: int) -> None:
    """Rows whose loss rose too seldom go back to their best point with half the step."""
    stuck = (s["rises"] < RISING * turns) | (~s["halved"] & (s["top_loss"] == s["seen_loss"]))
    s["size"] = torch.where(stuck, s["size"] / 2, s["size"])
    _copy(s, stuck, TOP, NOW)
    s["halved"], s["seen_loss"], s["rises"] = stuck, s["top_loss"], torch.zeros_like(s["rises"])


def _hopeful(s: dict[str, Tensor], best: Best, times: float) -> Tensor:
    """Which rows ``(n,)`` may still break if the loss rises ``times`` as much as since the last checkpoint; of the others the best place is noted."""
    slow = (s["top_loss"] - s["seen_loss"]) * times < -s["top_loss"]
    lost = slow & s["slow"]
    s["slow"] = slow
    best.note(s["rows"][lost], s["top"][lost], s["top_margin"][lost])
    return ~lost


def _sparse_move(s: dict[str, Tensor], ball: Ball, turn: int) -> Tensor:
    return ball.project(s["x"] + spread(s["size"], s["x"]) * ball.direction(s["gradient"], x=s["x"], keep=s["keep"]))


def _sparser(s: dict[str, Tensor], ball: Ball, turns: int) -> None:
    """Where the best point has become sparser, fewer features and full steps again from there; elsewhere shorter steps."""
    changed = (s["top"] != ball.clean).flatten(1).sum(1).to(s["loss"].dtype)
    fewer = changed < 0.95 * s["was"]
    s["keep"] = changed / SPARSER
    s["size"] = torch.where(fewer, 0 * s["size"] + ball.eps, (s["size"] / SPARSER).clamp_min(ball.eps / 10))
    _copy(s, fewer, TOP, NOW)
    s["was"] = changed


def _copy(s: dict[str, Tensor], rows: Tensor, source: tuple[str, ...], goal: tuple[str, ...]) -> None:
    for a, b in zip(source, goal, strict=True):
        if a in s:
            s[b] = torch.where(spread(rows, s[b]), s[a], s[b])
