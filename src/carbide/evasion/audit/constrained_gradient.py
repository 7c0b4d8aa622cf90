"""Simonetto et al. 2024, https://arxiv.org/abs/2406.00775: adaptive gradient attack on tables whose features bind one another (CAPGD).

Momentum and step halving are those of APGD; every step is repaired: ratios follow their parts, linear relations are projected onto, whole
numbers rounded, groups and categories chosen among their values. Runs start from the clean row, from the best so far and at random. Unlike the
paper, changes may have prices: then a step is the steepest that some money buys and the projection onto the budget is exact, gradients run
along tight relations where the paper punishes broken ones in the loss, and an evasion is made as cheap as can be afterwards.

>>> import torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[0.0, 0.0], [1.0, 2.0]]), "bias": torch.tensor([0.0, -4.0])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> threat = FeatureBudget(money=9, prices=PriceTable(prices={"a": Price(down=1.0), "b": Price(down=4.0)}))
>>> ConstrainedGradient()(model, np.array([[5.0, 1.0]]), np.array([1]), threat, np.random.default_rng(0)).round(3).tolist()
[[2.0, 1.0]]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from carbide.evasion._ascent import MOMENTUM, RISING, checkpoints, scaled_margin
from carbide.evasion._cheaper import Holdings
from carbide.evasion._draws import Draws
from carbide.evasion._evolution import Evolution
from carbide.evasion._first_order import cheapest_change
from carbide.evasion._gradients import array, gradient_of, margins, surely_broken
from carbide.evasion._market import Market, bound_together, table_refusal, unasked_on
from carbide.evasion._scores import Scorer
from carbide.registry import Method
from carbide.types import Access, Array, FeatureBudget, InputError, LpBall, Rng, Threat

OVERSHOOT = (1.0005, 1.02, 1.1, 1.4)  # shares of the rise that a cheaper change needs to first order
NEARER = (0.7, 0.3, 0.08)  # of the way to the cheapest such change
HALVINGS = 12
POPULATION = 20  # of the genetic search at the end
ENOUGH, SHORTER, CLOSE = 1 - 1e-3, 0.3, 1e-2  # a price that falls by less is as good as stuck: shorter ways then, until they are this short


class Look(NamedTuple):
    """What the net says of inputs: the loss ``(m,)``, its gradient ``(m, d)`` along tight relations and as it is, whether they are wrong ``(m,)``."""

    loss: Array
    gradient: Array
    plain: Array
    wrong: Array


@dataclass(frozen=True, kw_only=True)
class ConstrainedGradient(Method):
    """CAPGD: ``restarts`` runs of ``steps`` repaired steps, then ``cheaper`` rounds of lowering the price of what was found."""

    steps: int = 20
    restarts: int = 4
    cheaper: int = 15
    queries: int = 500
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget, LpBall)
    needs: ClassVar[Access] = Access.GRADIENTS
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"constrained_gradient: steps is {self.steps} and restarts {self.restarts}; give whole numbers >= 1")
        if self.cheaper < 0 or self.queries < 0:
            raise InputError(f"constrained_gradient: cheaper is {self.cheaper} and queries {self.queries}; give whole numbers >= 0")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Tables, and norms along which features can be followed."""
        return table_refusal(case.model.space, threat)

    def unasked(self, case: Any, threat: Threat) -> bool:
        """On tables that are not trees', where changes have prices or rows more than bounds."""
        return unasked_on(case, threat)

    def quick(self) -> ConstrainedGradient:
        """Half the steps, two runs, a third of the rounds."""
        return replace(self, steps=max(1, self.steps // 2), restarts=min(2, self.restarts), cheaper=self.cheaper // 3, queries=self.queries // 4)

    def __call__(self, model: Any, x: Array, y: Array, threat: FeatureBudget | LpBall, rng: Rng) -> Array:
        """Rows ``(n, d)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``: the cheapest that is misread, or that of least margin."""
        clean, y = np.array(x, np.float64), np.asarray(y, np.int64)
        draws = Draws(rng, clean)
        if len(clean) == 0:
            return clean
        search = _Search(model, clean, y, threat, draws)
        for run in range(self.restarts):
            rows = search.left()
            if len(rows) == 0:
                break
            search.climb(rows, search.start(rows, run), self.steps)
        search.lower(self.cheaper)
        if self.queries and (search.market.choices or bound_together(model.space)):
            search.evolve(self.queries)
            search.lower(self.cheaper // 3)
        held = np.isfinite(search.found.price)
        return np.where(held[:, None], search.found.x, search.near)


class _Search:
    """The input of least margin ``near`` ``(n, d)`` of each row and the evasions that are held."""

    def __init__(self, model: Any, clean: Array, y: Array, threat: FeatureBudget | LpBall, draws: Draws) -> None:
        self.model, self.y, self.draws = model, y, draws
        self.market, self.scorer = Market(clean, threat, model.space), Scorer(model, y)
        self.found = Holdings(self.market, lambda rows, x: self.scorer.margins(rows, x)[1])
        self.near, self.loss, every = clean.copy(), np.full(len(y), -np.inf), np.arange(len(y))
        look = self.look(every, clean)
        self.note(every, clean, look, np.zeros(len(y)))

    def left(self) -> Array:
        """The rows that nothing has broken."""
        return np.flatnonzero(np.isinf(self.found.price))

    def look(self, rows: Array, x: Array) -> Look:
        """The loss is minus the margin at the operating point; its gradient runs along tight relations."""
        model = self.model
        labels = torch.as_tensor(self.y[rows], device=model.device)
        logits, loss, gradient = gradient_of(model, model.tensor(x), lambda z, y: scaled_margin(z, y, None, model.threshold), labels)
        wrong = surely_broken(margins(logits, labels, model.threshold), logits)
        plain = self.market.through_ratios(array(gradient), x)
        return Look(array(loss), self.market.along(plain, x, rows), plain, wrong.cpu().numpy())

    def note(self, rows: Array, x: Array, look: Look, price: Array) -> None:
        """Keep what is wrong and cheaper, and what comes nearest."""
        better = look.wrong & (price < self.found.price[rows])
        self.found.hold(rows[better], x[better], price[better])
        near = look.loss > self.loss[rows]
        self.near[rows[near]], self.loss[rows[near]] = x[near], look.loss[near]

    def start(self, rows: Array, run: int) -> Array:
        """Where a run begins: at the clean rows, at the change that breaks them to first order, at the nearest so far, then at random."""
        market, clean = self.market, self.market.clean[rows]
        if run == 0:
            return clean
        if run == 1:
            x = self.choose(rows, clean) if market.choices else clean
            return market.afford(self._aims(rows, x)[1], rows)[0]
        if run == 2:
            return self.choose(rows, self.near[rows]) if market.choices else self.near[rows]
        u = self.draws.uniform(rows, run, clean.shape[1] + 1)
        x = market.low[rows] + u[:, 1:] * (market.high - market.low)[rows]
        x = np.where(market.smooth, x, self.near[rows] if run % 2 else clean)
        return market.afford(market.project(x, rows, u[:, 0] * market.limit), rows)[0]

    def choose(self, rows: Array, x: Array) -> Array:
        """One after the other, the choices that lower the margin by more than their money would elsewhere."""
        market = self.market
        for _ in range(min(3, len(market.choices))):
            look = self.look(rows, x)
            price = market.fit(x, rows)[1]
            rate = market.rate(look.gradient, x, rows)
            best, gain = x.copy(), np.zeros(len(rows))
            for choice in market.choices:
                for value in choice.values:
                    trial = x.copy()
                    trial[:, choice.columns] = value
                    trial, asked = market.afford(trial, rows)
                    i = np.flatnonzero((asked <= market.limit) & (trial != x).any(1))
                    if len(i) == 0:
                        continue
                    margin, wrong = self.scorer.margins(rows[i], trial[i])
                    self.found.hold(*(v[wrong & (asked[i] < self.found.price[rows[i]])] for v in (rows[i], trial[i], asked[i])))
                    more = -margin - look.loss[i] - (rate * (asked - price))[i]
                    better = more > gain[i]
                    best[i[better]], gain[i[better]] = trial[i][better], more[better]
            if not (gain > 0).any():
                break
            x = best
        return x

    def climb(self, rows: Array, x: Array, steps: int) -> None:
        """One run: steepest steps with momentum, halved row by row where the loss stops rising; rows leave as they break."""
        market = self.market
        taken = np.where(market.smooth, market.clean[rows], x)
        spare = np.maximum(market.limit - market.fit(taken, rows)[1], 0.0) if market.choices else np.full(len(rows), market.limit)
        look, price = self.look(rows, x), market.price(x, rows)
        self.note(rows, x, look, price)
        s: dict[str, Array] = {"rows": rows, "x": x, "last": x, "spare": spare, "loss": look.loss, "gradient": look.gradient, "wrong": look.wrong,
                               "size": np.full(len(rows), 2 * market.limit), "top": x, "top_loss": look.loss, "top_gradient": look.gradient,
                               "seen": look.loss, "rises": np.zeros(len(rows)), "halved": np.zeros(len(rows), bool)}  # fmt: skip
        checks, since = set(checkpoints(steps)), 0
        for turn in range(1, steps + 1):
            if s["wrong"].any():
                s = {name: value[~s["wrong"]] for name, value in s.items()}
            rows = s["rows"]
            if len(rows) == 0:
                return
            x, price = self._step(s, turn)
            look = self.look(rows, x)
            self.note(rows, x, look, price)
            s["rises"] = s["rises"] + (look.loss > s["loss"])
            s["last"], s["x"], s["loss"], s["gradient"], s["wrong"] = s["x"], x, look.loss, look.gradient, look.wrong
            top = look.loss > s["top_loss"]
            s["top"], s["top_gradient"] = (np.where(top[:, None], s[b], s[a]) for a, b in (("top", "x"), ("top_gradient", "gradient")))
            s["top_loss"] = np.maximum(s["top_loss"], look.loss)
            if turn in checks:
                _halve(s, turn - since)
                since = turn

    def _step(self, s: dict[str, Array], turn: int) -> tuple[Array, Array]:
        market, rows, x = self.market, s["rows"], s["x"]
        straight = market.project(market.steepest(s["gradient"], x, rows, s["size"]), rows, s["spare"])
        if turn > 1:
            straight = market.project(x + MOMENTUM * (straight - x) + (1 - MOMENTUM) * (x - s["last"]), rows, s["spare"])
        return market.afford(straight, rows)

    def evolve(self, queries: int) -> None:
        """What gradients do not see, values to choose from and whole numbers, goes to a genetic search that starts from what they found."""
        rows = np.flatnonzero(self.found.price > 0)
        evolution = Evolution(self.market, self.scorer, self.found, self.draws, population=POPULATION)
        evolution.evolve(rows, [self.found.x[rows], self.near[rows]], queries)
        nearer = np.isinf(self.found.price) & (evolution.least < -self.loss)
        self.near[nearer], self.loss[nearer] = evolution.near[nearer], -evolution.least[nearer]

    def lower(self, rounds: int) -> None:
        """Make held evasions cheaper: along the way back, by the cheapest change to first order, change by change, and once more."""
        rows = np.flatnonzero(np.isfinite(self.found.price) & (self.found.price > 0))
        if len(rows) == 0 or rounds == 0:
            return
        self.found.walk_back(rows, self.market.clean[rows], HALVINGS)
        if not self.market.priced and self.market.p != 1:
            return
        self._bargain(rows, rounds)
        self.found.give_back(rows, HALVINGS // 2)
        self._bargain(rows, max(1, rounds // 3))
        self.found.walk_back(rows, self.market.clean[rows], HALVINGS)

    def _bargain(self, rows: Array, rounds: int) -> None:
        """The cheapest change that is wrong if the net is linear around what is held, and places between the two."""
        reach: Array = np.ones(len(self.y))
        aims: Array = np.zeros((len(OVERSHOOT), *self.near.shape))
        fresh = np.ones(len(self.y), bool)  # what is held has changed, so there is something new to aim at
        for _ in range(rounds):
            rows = rows[reach[rows] > CLOSE]
            if len(rows) == 0:
                return
            new = rows[fresh[rows]]
            if len(new):
                aims[:, new] = self._aims(new, self.found.x[new])
            x, t, before = self.found.x[rows], reach[rows, None], self.found.price[rows].copy()
            trials = [*(x + t * (aim[rows] - x) for aim in aims), *(x + t * share * (aims[1][rows] - x) for share in NEARER)]
            self.found.ask_all(rows, trials)
            self.found.walk_back(rows, np.where(self.market.smooth, self.market.clean[rows], self.found.x[rows]), HALVINGS // 2)
            fresh[rows] = self.found.price[rows] < before
            reach[rows] = np.where(self.found.price[rows] < before * ENOUGH, 1.0, reach[rows] * SHORTER)

    def _aims(self, rows: Array, x: Array) -> list[Array]:
        """The cheapest changes, with the choices of ``x``, that rise by a little more and more than is needed to first order around ``x``."""
        market, look = self.market, self.look(rows, x)
        way = np.where(market.smooth, np.nan_to_num(x - market.clean[rows]), 0.0)
        wanted = np.maximum(-look.loss + (look.plain * way).sum(1), 0.0)
        first = cheapest_change(market, look.plain, x, rows, wanted * OVERSHOOT[0])
        if market.space.relations:
            held = np.where(market.smooth, market.clean[rows], x)
            return [first, *(held + more * (first - held) for more in OVERSHOOT[1:])]
        return [first, *(cheapest_change(market, look.plain, x, rows, wanted * more) for more in OVERSHOOT[1:])]


def _halve(s: dict[str, Array], turns: int) -> None:
    """Rows whose loss rose too seldom go back to their best place with half the step."""
    stuck = (s["rises"] < RISING * turns) | (~s["halved"] & (s["top_loss"] == s["seen"]))
    s["size"] = np.where(stuck, s["size"] / 2, s["size"])
    for a, b in (("x", "top"), ("gradient", "top_gradient")):
        s[a] = np.where(stuck[:, None], s[b], s[a])
    s["loss"] = np.where(stuck, s["top_loss"], s["loss"])
    s["halved"], s["seen"], s["rises"] = stuck, s["top_loss"], np.zeros(len(stuck))
