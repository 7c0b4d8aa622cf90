"""Zhang et al. 2018, https://arxiv.org/abs/1811.00866: CROWN, linear bounds walked back from the logits to the input.

Where intervals forget how neurons hang together, lines remember it: each activation is replaced by a line above and one
below, and what remains is a linear function of the input whose least value over the ball is known. ``alpha`` steps
choose the lines below by their gradient (Xu et al. 2021, https://arxiv.org/abs/2011.13824).

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.zeros(2)})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> CROWN(halvings=20)(model, np.array([[1.0, 0.5]]), np.array([0]), LpBall(p=2, eps=0.5), np.random.default_rng(0)).bound.round(3)
array([1.])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from carbide.evasion._linear_bounds import LinearBounds, Net, Region
from carbide.evasion._tightening import needed, right, rivals, tightened
from carbide.evasion.prove.interval_bounds import IntervalBounds, of_logits
from carbide.registry import Method
from carbide.run import rows_at_once, track
from carbide.types import Access, Array, Case, Certificate, InputError, LpBall, Rng, Threat

BATCH = 32
SURE = "the net runs in inference mode in its stored precision; sums may be taken in any order"
FIXED = "features that the space calls immutable do not change"


@dataclass(frozen=True, kw_only=True)
class CROWN(Method):
    """Linear bounds of a feed-forward torch net in float64 with room for the net's own rounding; intervals take what they can first.

    Statement: for each row that holds, every input within the threat's ball and the space's bounds gets the row's label.
    ``alpha`` is how many gradient steps choose the lines below, for rows that need it; ``halvings`` how finely the largest
    certified radius is searched, up to ``reach`` times the threat's eps (0 = only the threat's eps is tried).
    """

    alpha: int = 0
    halvings: int = 3
    reach: float = 4.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS | Access.WEIGHTS
    default: ClassVar[bool] = False
    after: ClassVar[tuple[str, ...]] = ("interval_bounds",)

    def __post_init__(self) -> None:
        for name in ("alpha", "halvings"):
            if not getattr(self, name) >= 0:
                raise InputError(f"crown: {name} is {getattr(self, name)}; give a whole number >= 0")
        if not self.reach >= 1:
            raise InputError(f"crown: reach is {self.reach}; give a factor >= 1")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """As interval bounds: it needs a module whose every layer it knows, and a norm whose ball a box can hold."""
        return IntervalBounds().refuses(case, threat)

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Certificate:
        """The certificate for rows ``x`` ``(n, *shape)`` with labels ``y`` ``(n,)``; ``bound`` is a radius in input units.

        Raises:
            InputError: if the net has a layer that bounds do not know.
        """
        model = of_logits(model)
        quick = IntervalBounds(halvings=10 if self.halvings else 0, reach=self.reach)(model, x, y, threat, rng)
        holds, bound = quick.holds.copy(), quick.bound.copy()
        rows = np.flatnonzero(right(model, x, y))
        size = rows_at_once(BATCH)
        for part in track([rows[i : i + size] for i in range(0, len(rows), size)], label="crown"):
            holds[part], bound[part] = self._batch(model, x[part], y[part], threat, bound[part])
        return Certificate(claim=quick.claim, holds=holds, bound=bound, failure_probability=0.0, method="crown", threat=threat.words(),
                           unit="input units", metric=quick.metric, assumptions=(SURE, FIXED, *getattr(model, "assumptions", ())))  # fmt: skip

    def _batch(self, model: Any, x: Array, y: Array, threat: LpBall, known: Array) -> tuple[Array, Array]:
        """Whether rows hold and their radii, from the radii that intervals know: within those nothing is walked."""
        eps = np.full(len(x), float(threat.eps))

        def fine(radius: Array) -> Array:
            found = known >= radius
            found[~found] = self.certified(model, x[~found], y[~found], threat.p, radius[~found])
            return found

        holds = fine(eps)
        good, bad = np.where(holds, np.maximum(eps, known), known), np.where(holds, self.reach * eps, eps)
        for _ in range(self.halvings if threat.eps > 0 else 0):
            middle = (good + bad) / 2
            held = fine(middle)
            good, bad = np.where(held, middle, good), np.where(held, bad, middle)
        return holds, good

    def certified(self, model: Any, x: Array, y: Array, p: float, eps: Array) -> Array:
        """Whether each row ``(n,)`` keeps its label within its own radius ``eps`` ``(n,)``."""
        if not len(x):
            return np.zeros(0, bool)
        region = Region.of(model, x, p, eps)
        net = Net(model.module, region, torch.finfo(model.dtype).eps)
        labels = torch.as_tensor(np.asarray(y, np.int64), device=model.device)
        gaps, need = rivals(labels, net.classes), needed(model, labels)[:, None]
        low = torch.full_like(gaps[:, :, 0], -math.inf)
        for turn in range(3 if self.alpha else 2):  # from cheap to dear, each on the rows that those before it left open
            rows = torch.nonzero((low <= need).any(1)).squeeze(1)
            if not len(rows):
                break
            if turn < 2:
                with torch.no_grad():
                    bounds, part = LinearBounds(net, region.take(rows), refine=turn == 1), rows
                    found = bounds.lower(net.output, gaps[rows])
            else:
                bounds = bounds.take(torch.isin(part, rows).nonzero().squeeze(1))
                found = tightened(bounds, gaps[rows], steps=self.alpha, goal=need[rows]).low
            low[rows] = torch.maximum(low[rows], found)
        return (low > need).all(1).cpu().numpy()
