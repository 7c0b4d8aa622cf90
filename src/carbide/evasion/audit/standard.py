"""Croce & Hein 2020, https://arxiv.org/abs/2003.01690, in the order that saves time: the ensemble of parameter-free attacks on nets.

Rows that interval bounds certify are never attacked. The others meet, each only until it breaks: a short sweep down the margin; short
APGD towards the classes that are near by gap over the dual norm of its gradient (MALT, Melamed et al. 2024,
https://arxiv.org/abs/2407.02240); where gradients at the rows foretell badly how far attacks get, a few steps towards every other likely
class; then, closest rows first and for as long as some of them break, longer runs from several starts, and the same for rows whose margin
did not move. An ascent is given up where its loss rises too slowly to matter. FAB-T and Square then try the rows in most doubt and a sample of the others, and all of them
as soon as one of the sample breaks: gradients that lead nowhere are no defence. For L0 it is sigma-zero alone.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.tensor([-0.9, 0.9])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> found = Standard().propose(model, np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([0, 0]), LpBall(eps=0.2), np.random.default_rng(0))
>>> bool(found.x[0, 0] < 0.9), found.stage.tolist()
(True, ['sweep', 'certified'])
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._ascent import ascend, cross_entropy, scaled_margin
from carbide.evasion._coarse import Coarse, coarse
from carbide.evasion._gradients import Ball, Best, array, batches, generator_of, gradient_of, margins
from carbide.evasion._masked import deepen, surround
from carbide.evasion._nearest import likeliest, towards
from carbide.evasion.audit.fab import FAB
from carbide.evasion.audit.sigma_zero import SigmaZero
from carbide.evasion.audit.square import Square
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.registry import Method
from carbide.run import track
from carbide.space.balls import norms, project
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat, decide

EFFORTS = ("quick", "full")
SWEEP = (1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.1, 0.1)  # the steps of the sweep, in multiples of eps
STEPS, MIDDLE, LONG = 12, 24, 60  # of APGD: towards each near class, each class of rows that came closest, and of each of their starts
SHORT = 4  # and towards each likely class that is not near, which shows where gradients at the rows order classes badly
HOPE = 2.0  # times as fast as at present that the loss of a row must have to rise for an ascent to be given up
AIMS, STARTS, MORE = 2, 2, 6  # nearest classes, starts towards each of them, and more starts of rows that hang by a thread
SPARSE = 3  # times as many steps for L1, where most are spent in wider balls
NEAR, ALL = 3, 3  # classes that are tried: where near to first order, and on rows that came closest
CANDIDATES = 6  # likeliest classes among which MALT orders
WITHIN, AROUND = 1.5, 3.0  # eps to first order within which a class is near, and within which a row's nearest class must be for others to be tried
STRAIGHT, FEW = 1.4, 20  # how much farther, to first order, attacks on a net that is as good as linear get on some rows than on others; among so many
AGAIN = 0.02  # share of the rows that must break for others to be tried so once more
CLOSE, STUCK = 0.1, 0.9  # shares of the clean margin left: with less the nearest class is tried however far it is, with more gradients led nowhere
GONE, THREAD = 0.05, 0.01  # with less the margin is nearly gone, or hangs by a thread
FRONT = 8  # rows that meet more classes at a time
SAMPLE = 16  # rows that a certificate tries first
DOUBTED, ASKED = 8, 8  # rows in most doubt, on either side, and others drawn at random, that an alarm tries first
ALARMS = {"fab": FAB(steps=12, targets=2), "square": Square(queries=100)}  # where gradients broke most rows, and for all once a sample broke
THOROUGH = {"fab": FAB(steps=60, targets=4), "square": Square(queries=1000)}  # where they left most


class Proposal(NamedTuple):
    """Inputs ``(n, *shape)`` and the stage ``(n,)`` that broke each row in its own eyes, ``certified`` where none can, else empty."""

    x: Array
    stage: Array


@dataclass(frozen=True, kw_only=True)
class Standard(Method):
    """The default ensemble for nets: certificate, margin sweep, targeted APGD, several starts, then FAB-T and Square as an alarm.

    ``effort`` ``quick`` ends after the sweep and APGD towards the nearest class, for choosing among candidates.
    """

    effort: str = "full"
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS | Access.SCORES
    rank: ClassVar[int] = 26
    alarms: ClassVar[tuple[str, ...]] = tuple(ALARMS)

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise InputError(f"standard: effort is {self.effort!r}; choose {' or '.join(EFFORTS)}")

    def quick(self) -> Standard:
        """The certificate, the sweep and APGD towards the nearest class."""
        return replace(self, effort="quick")

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """Inputs ``(n, *shape)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``: wrong ones, or the least margin seen."""
        return self.propose(model, x, y, threat, rng).x

    def propose(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Proposal:
        """The same, with the stage that broke each row."""
        if threat.p == 0:
            return self._fewest(model, x, y, threat, rng)
        field = _Field(model, np.array(x, np.float64), y, threat, rng)
        field.stage[certified(model, x, y, threat)] = "certified"
        full = self.effort == "full"
        own, dear = getattr(model, "own", None), getattr(model, "dear", False)
        if own is not None and (full or dear):
            field.surround(own, full=full, dear=dear)
        view = coarse(model, *field.left(), threat)
        field.climb(view, full=full and not dear)
        if full and not dear:
            often = np.isin(field.stage, ["", "certified"]).sum() > len(field.stage) / 2 and getattr(model, "draws", 1) == 1
            for name, alarm in (THOROUGH if often else ALARMS).items():
                field.ring(name, alarm, view)
        if full and getattr(model, "draws", 1) > 1:
            field.deepen(view)
        return Proposal(field.best, field.stage)

    def _fewest(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Proposal:
        """L0, in which nothing is climbed: sigma-zero alone."""
        attack = SigmaZero() if self.effort == "full" else SigmaZero().quick()
        z = attack(model, x, y, threat, rng)
        fooled = (decide(model.predict(z), model.threshold) != y) & (norms(z - x, 0) <= threat.eps) if len(x) else np.zeros(0, bool)
        return Proposal(z, np.where(fooled, "sigma_zero", ""))


def certified(model: Any, x: Array, y: Array, threat: LpBall) -> Array:
    """The rows ``(n,)`` bool that interval bounds prove to stand; none where they know not the net's layers or prove none of a few rows."""
    module, found = getattr(model, "module", None), np.zeros(len(x), bool)
    if module is None or model.outputs != "logits":
        return found
    bounds = IntervalBounds(halvings=0)
    few = np.linspace(0, len(x) - 1, min(SAMPLE, len(x))).astype(int)
    try:
        if len(x) and bounds(model, x[few], y[few], threat, np.random.default_rng(0)).holds.any():
            return bounds(model, x, y, threat, np.random.default_rng(0)).holds
    except InputError:  # a layer whose intervals are not known: nothing is certified, everything is attacked
        return found
    return found


class _Field:
    """All rows of one call: the inputs that came closest ``best``, the ``stage`` ``(n,)`` that broke each, and the share of its margin left, ``doubt``."""

    def __init__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> None:
        self.model, self.x, self.y, self.threat, self.rng = model, x, np.asarray(y), threat, rng
        self.best, self.stage, self.doubt = x.copy(), np.full(len(x), "", "U10"), np.zeros(len(x))

    def open(self) -> Array:
        """The indices of rows that nothing has decided."""
        return np.flatnonzero(self.stage == "")

    def left(self) -> tuple[Array, Array]:
        """Their inputs and labels."""
        rows = self.open()
        return self.x[rows], self.y[rows]

    def climb(self, view: Any, *, full: bool, rows: Array | None = None) -> None:
        """The gradient stages, for all open rows if none are given."""
        rows = self.open() if rows is None else rows
        for part, ball, labels in track(list(batches(view, self.x[rows], self.y[rows], self.threat)), label="standard"):
            run = _Run(view, ball, labels, generator_of(self.rng, ball.clean.device))
            run.climb(full=full)
            self.best[rows[part]], self.stage[rows[part]], self.doubt[rows[part]] = array(run.best.x), run.stage, array(run.best.margin / run.margin)
        if isinstance(view, Coarse):  # of what it calls broken far from the boundary it has not asked the net, which takes over where it objects
            fell = rows[self.stage[rows] != ""]
            stand = fell[self._right(fell)]
            self.stage[stand] = ""
            if len(stand):
                self.climb(self.model, full=full, rows=stand)

    def surround(self, own: Any, *, full: bool, dear: bool) -> None:
        """The net's own gradient and answers alone: they break most rows, and cost less than a gradient that is measured."""
        count = len(self.open())
        self.climb(own, full=False)
        if full and (dear or len(self.open()) < count):
            surround(self.open, lambda name, attack, rows: self.let(name, attack, own, rows))

    def deepen(self, view: Any) -> None:
        """Rows that fell or came close, on to where most single answers are wrong; which fell is decided anew."""
        rows = np.flatnonzero((self.stage != "certified") & ((self.stage != "") | (self.doubt < CLOSE)))
        if len(rows):
            self.best[rows], wrong = deepen(view, self.x[rows], self.y[rows], self.best[rows], self.threat, self.rng)
            stage = self.stage[rows]
            self.stage[rows] = np.where(wrong <= 0.5, "", np.where(stage == "", "starts", stage))

    def let(self, name: str, alarm: Method, view: Any, rows: Array) -> None:
        """Let an attack that needs no climbing try these rows, which may repeat; what breaks is noted as its."""
        if len(rows) == 0:
            return
        space, x, y = self.model.space, self.x[rows], self.y[rows]
        z = project(alarm(view, x, y, self.threat, self.rng), x, p=self.threat.p, eps=self.threat.eps, lower=space.lower, upper=space.upper)
        wrong = decide(self.model.predict(z), self.model.threshold) != y
        self.best[rows[wrong]], self.stage[rows[wrong]] = z[wrong], name

    def _right(self, rows: Array) -> Array:
        """Whether the net itself still decides right ``(n,)`` on the best inputs of these rows."""
        return decide(self.model.predict(self.best[rows]), self.model.threshold) == self.y[rows] if len(rows) else np.zeros(0, bool)

    def ring(self, name: str, alarm: Method, view: Any) -> None:
        """Let an alarm try the rows that did not move, those that came closest, each for as long as some break, and a sample; all, if that breaks."""
        rows = self.open()
        rows = rows[np.argsort(-self.doubt[rows], kind="stable")]
        queues = [rows, rows[::-1]]
        drawn = self.rng.permutation(rows[DOUBTED:-DOUBTED])[:ASKED]
        self.let(name, alarm, view, np.unique(np.concatenate([*(queue[:DOUBTED] for queue in queues), drawn])))
        if (self.stage[drawn] != "").any():
            self.let(name, ALARMS[name], view, np.setdiff1d(rows[DOUBTED:-DOUBTED], drawn))
        for queue in queues:
            start = 0
            while (self.stage[queue[start : start + DOUBTED]] == name).any():
                start += DOUBTED
                part = queue[start : start + DOUBTED]
                self.let(name, alarm, view, part[self.stage[part] == ""])


class _Run:
    """The gradient stages on one batch; ``best`` holds what they found, ``stage`` ``(n,)`` which of them broke each row."""

    def __init__(self, model: Any, ball: Ball, y: Tensor, generator: torch.Generator) -> None:
        self.model, self.ball, self.y, self.generator = model, ball, y, generator
        self.draws = getattr(model, "draws", 1)
        self.best, self.stage = Best(ball.clean), np.full(len(y), "", "U10")
        with torch.no_grad():
            self.logits = model.logits(ball.clean)
        self.margin = margins(self.logits, y, model.threshold)
        self.best.see(torch.arange(len(y), device=y.device), ball.clean, self.logits, self.margin)
        self._mark("wrong")

    def climb(self, *, full: bool) -> None:
        """All stages, or the sweep and one run towards the nearest class where it is near."""
        self._sweep()
        self._mark("sweep")
        rows = self.best.alive()
        if len(rows) == 0:
            return
        order, reach = self._order(rows)
        near = reach <= WITHIN * self.ball.eps
        near[:, NEAR if full else 1 :] = False
        near[:, 0] |= self._left(rows) < CLOSE
        row, which = near.nonzero(as_tuple=True)
        self._ascend(rows[row], order[row, which], STEPS)
        self._mark("targeted")
        if full:
            self._scatter(rows, order, reach, near)
            self._mark("scatter")
            self._front(rows, order)
            self._mark("starts")

    def _mark(self, name: str) -> None:
        """Name the stage for rows that broke since the last one."""
        self.stage[(self.best.broken.cpu().numpy()) & (self.stage == "")] = name

    def _ascend(self, rows: Tensor, target: Tensor | None, steps: int, *, hope: float = HOPE) -> None:
        """One run towards each row's target, or up the cross-entropy, which now and then breaks what no margin does."""
        if len(rows):
            steps *= SPARSE if self.ball.p == 1 else 1
            ascend(self.model, self.ball.rows(rows), self.y[rows], target, rows, self.best, steps, self.generator,
                   hope=hope, loss=scaled_margin if target is not None else cross_entropy)  # fmt: skip

    def _sweep(self) -> None:
        """A few steps of falling size down the bare margin, from the row itself."""
        rows = self.best.alive()
        ball, y, x = self.ball.rows(rows).tight(), self.y[rows], self.ball.clean[rows]
        for size in (*SWEEP, None):
            logits, gap, gradient = gradient_of(self.model, x, lambda z, y: towards(z, y, None, self.model.threshold), y)
            keep = self.best.see(rows, x, logits, -gap)
            if size is None or not bool(keep.any()):
                return
            if not bool(keep.all()):
                rows, x, y, gradient, ball = rows[keep], x[keep], y[keep], gradient[keep], ball.rows(keep)
            x = ball.near(x + size * ball.eps * ball.direction(gradient, x=x))

    def _scatter(self, rows: Tensor, order: Tensor, reach: Tensor, tried: Tensor) -> None:
        """A few steps towards each likely class that was not tried, where gradients at the rows foretell badly how far attacks get.

        Again towards all of them, from other starts, for as long as many rows break.
        """
        left = self._left(rows)
        got = (1 - left) * reach[:, 0]
        straight = len(rows) >= FEW and bool(got.quantile(0.95) <= STRAIGHT * got.quantile(0.05))
        if straight or self.draws > 1:  # lucky draws foretell nothing
            return
        rows, order, tried = (part[(reach[:, 0] <= AROUND * self.ball.eps) | (left > STUCK)] for part in (rows, order, tried))
        while len(rows := rows[alive := ~self.best.broken[rows]]):
            order, tried = order[alive], tried[alive]
            if order.shape[1] > 1:  # of two classes every loss has the same gradient, but for its size
                self._ascend(rows, None, SHORT, hope=math.inf)
            row, which = (~tried & ~self.best.broken[rows][:, None]).nonzero(as_tuple=True)
            self._ascend(rows[row], order[row, which], SHORT, hope=math.inf)
            tried = torch.zeros_like(tried)
            if float(self.best.broken[rows].double().mean()) < AGAIN:
                return

    def _front(self, rows: Tensor, order: Tensor) -> None:
        """More classes, and several starts where the margin is nearly gone, for rows that came closest and for those whose margin did not move.

        Some at a time, for as long as some of them break.
        """
        alive = ~self.best.broken[rows]
        rows, order, left = rows[alive], order[alive], self._left(rows[alive])
        stuck, gone = left > STUCK, left < GONE
        queues = (left.argsort()[: int((~stuck).sum())], left.argsort(descending=True)[: int(stuck.sum())])
        many = FRONT if self.draws > 1 else max(FRONT, int(gone.sum()))  # lucky draws make a margin look gone
        for queue, size in zip(queues, (many, FRONT), strict=True):
            first = 0
            while first < len(queue) and self._start_often(rows[queue[first : first + size]], order[queue[first : first + size]]):
                first, size = first + size, FRONT

    def _start_often(self, rows: Tensor, order: Tensor) -> bool:
        """Many classes, then several starts of those in doubt, more of those that hang by a thread; whether a row broke."""
        count, aims = min(ALL, order.shape[1]), min(AIMS, order.shape[1])
        if count > 1:
            self._ascend(rows, None, MIDDLE)
            self._ascend(rows.repeat(count), order[:, :count].T.flatten(), MIDDLE)
        left = self._left(rows)
        starts = STARTS * ((left < GONE) | (left > STUCK)).long() + MORE * ((left < THREAD) & (self.draws == 1)).long()
        which = torch.arange(len(rows), device=rows.device).repeat_interleave(starts.masked_fill(self.best.broken[rows], 0))
        self._ascend(rows[which].repeat(aims), order[which, :aims].T.flatten(), LONG)
        return bool(self.best.broken[rows].any())

    def _left(self, rows: Tensor) -> Tensor:
        """The share of the clean margin that the best attack so far leaves."""
        return self.best.margin[rows] / self.margin[rows]

    def _order(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Other classes of each row, and how far those tried are to first order, nearest first: gap over the dual norm of its gradient."""
        y = self.y[rows]
        every = likeliest(self.logits[rows], y)
        targets = every[:, :CANDIDATES]
        dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.ball.p]
        x = self.ball.clean[rows].detach().requires_grad_(True)
        logits = self.model.logits(x)
        reach = []
        for target in targets.T:
            gap = towards(logits, y, target, self.model.threshold)
            (gradient,) = torch.autograd.grad(gap.sum(), x, retain_graph=True)
            reach.append(-gap.detach() / norms(gradient, dual).clamp_min(torch.finfo(x.dtype).tiny))
        away, order = torch.stack(reach, 1).sort(dim=1)
        return torch.cat([targets.gather(1, order), every[:, CANDIDATES:]], 1), away
