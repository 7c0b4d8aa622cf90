"""Brown et al. 2017, https://arxiv.org/abs/1712.09665: an adversarial patch, placed, proportioned and painted for each image.

Places are ranked by what their pixels could do to first order and by the model's answers on painted views. The best of them are
painted together by signed ascent with momentum on the margin (LaVAN, Karmon et al. 2018, https://arxiv.org/abs/1801.02608), the worse
half dropped after each of ever longer stages; then the last two are painted from noise towards single classes. A row leaves with all its places the
moment one of them breaks it.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import Patch, Space
>>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
>>> with torch.no_grad():
...     _ = net[1].weight.copy_(torch.stack([torch.zeros(16), torch.arange(16.0) / 16])), net[1].bias.copy_(torch.tensor([0.0, -3.0]))
>>> model = TorchModel(module=net, space=Space.image((1, 4, 4)), classes=2)
>>> x = PatchSearch()(model, np.zeros((1, 1, 4, 4)), np.array([0]), Patch(area=0.25), np.random.default_rng(0))
>>> x[0, 0].astype(int).tolist()
[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._gradients import BATCH, Ball, Best, array, generator_of, gradient_of, margins, spread, surely_broken
from carbide.evasion._nearest import likeliest, towards
from carbide.evasion._places import mask, proportions, steepest, tiles
from carbide.registry import Method
from carbide.run import track
from carbide.space.patches import pixels_of
from carbide.space.repair import repair
from carbide.types import Access, Array, InputError, LpBall, Patch, Rng, Threat

MOMENTUM = 0.75
SIZES = (0.3, 0.02)  # the first and the last step of a stage, as a share of the range between the bounds
STAGES = ((1, 0.05), (2, 0.1), (4, 0.2), (8, 0.4))  # what part of the places is painted, and for what share of the steps
AIMED = 0.25  # share of the steps towards each single class
TARGETS = 3  # likeliest classes that the last stage aims at
ROOM = 16_000_000  # numbers that the copies of one batch may hold


@dataclass(frozen=True, kw_only=True)
class PatchSearch(Method):
    """A patch at the best of ``views`` places: ``places`` of them are painted, fewer and fewer, the last by about ``steps`` gradient steps."""

    views: int = 200
    places: int = 32
    steps: int = 100
    threats: ClassVar[tuple[type[Threat], ...]] = (Patch,)
    needs: ClassVar[Access] = Access.GRADIENTS
    rank: ClassVar[int] = 20

    def __post_init__(self) -> None:
        if self.views < 1 or self.places < 1 or self.steps < 1:
            raise InputError(f"patch: views is {self.views}, places {self.places} and steps {self.steps}; give whole numbers >= 1")
        if self.places > self.views:
            raise InputError(f"patch: places is {self.places}, more than the {self.views} views they are chosen from; give at most views")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Images with finite bounds, on which the patch covers a pixel."""
        return patch_refusal(case.model.space, threat)

    def quick(self) -> PatchSearch:
        """Half the places, a third of the steps."""
        return replace(self, places=max(1, self.places // 2), steps=max(1, self.steps // 3))

    def __call__(self, model: Any, x: Array, y: Array, threat: Patch, rng: Rng) -> Array:
        """Images ``(n, channels, height, width)`` with one patch each, for rows ``x`` with labels ``y`` ``(n,)``: the least margin seen."""
        out, space, pixels = np.array(x, np.float64), model.space, pixels_of(threat, model.space)
        if pixels < 1 or len(out) == 0:
            return out
        size = int(min(BATCH, max(1, ROOM // (self.places * out[0].size))))
        for start in track(list(range(0, len(out), size)), label="patch"):
            part = slice(start, start + size)
            ball = Ball.of(model, out[part], LpBall(p=0, eps=pixels * space.shape[0]))  # the most values that a patch changes
            run = _Run(model, ball, torch.as_tensor(np.asarray(y[part], np.int64), device=ball.clean.device), generator_of(rng, ball.clean.device))
            run.attack(self, pixels)
            moved = (run.best.x != ball.clean).cpu().numpy()
            found = array(run.best.x).clip(np.minimum(space.lower, out[part]), np.maximum(space.upper, out[part]))
            out[part] = np.where(moved, found, out[part])
        return repair(out, np.asarray(x, np.float64), space)


def patch_refusal(space: Any, threat: Threat) -> str | None:
    """Why no patch can be put on inputs of a space, or None."""
    if not space.is_image:
        return f"patches are for images (channels, height, width), and inputs have the shape {space.shape}"
    if not (np.isfinite(space.lower).all() and np.isfinite(space.upper).all()):
        return "a patch is painted between the bounds of the pixels, and the space has none; give images in [0, 1]"
    if isinstance(threat, Patch) and pixels_of(threat, space) < 1:
        return f"a patch of {threat.area:g} of an image covers less than one pixel; give at least {1 / math.prod(space.shape[1:]):.2g}"
    return None


class _Run:
    """One batch: ``best`` holds what was found; the copies of a row, one a place, lie side by side in every state."""

    def __init__(self, model: Any, ball: Ball, y: Tensor, generator: torch.Generator) -> None:
        self.model, self.ball, self.y, self.generator = model, ball, y, generator
        self.height, self.width = ball.clean.shape[2:]
        self.best = Best(ball.clean)

    def attack(self, options: PatchSearch, pixels: int) -> None:
        """Look, paint the best places, halve them after each stage, aim the last two at single classes."""
        s = self._look(options, proportions(pixels, self.height, self.width))
        for share, stage in STAGES:
            s = self._paint(self._fewer(s, max(1, options.places // share)), max(1, round(stage * options.steps)))
        self._keep(self._fewer(s, 1))
        if len(s["rows"]):
            self._keep(self._fewer(self._paint(self._aimed(self._fewer(s, 2)), max(1, round(AIMED * options.steps))), 1))

    def _look(self, options: PatchSearch, sizes: tuple[tuple[int, int], ...]) -> dict[str, Tensor]:
        """The likeliest places of rows that no view breaks, painted as in their best view."""
        ball, every = self.ball, torch.arange(len(self.y), device=self.y.device)
        logits, _, gradient = gradient_of(self.model, ball.clean, lambda z: towards(z, self.y, None, self.model.threshold))
        self.best.see(every, ball.clean, logits, margins(logits, self.y, self.model.threshold))
        bold = torch.where(gradient > 0, ball.upper, torch.where(gradient < 0, ball.lower, self._noise(ball.lower, ball.upper)))
        paints = torch.stack([bold, ball.upper, ball.lower])
        steep = steepest((gradient * (torch.where(gradient > 0, ball.upper, ball.lower) - ball.clean)).sum(1), sizes, -(-3 * options.views // 5))
        even = tiles(sizes[0], self.height, self.width, max(1, options.views // 5)).to(steep.device).expand(len(every), -1, -1)
        places = torch.cat([steep, even, even], 1)
        paint = [0] * steep.shape[1] + [1] * even.shape[1] + [2] * even.shape[1]
        margin = torch.full(places.shape[:2], math.inf, dtype=ball.clean.dtype, device=ball.clean.device)
        for view, colour in enumerate(paint):
            rows = self.best.alive()
            x = torch.where(mask(places[rows, view], self.height, self.width), paints[colour, rows], ball.clean[rows])
            with torch.no_grad():
                logits = self.model.logits(x)
            margin[rows, view] = margins(logits, self.y[rows], self.model.threshold).nan_to_num(nan=math.inf)
            self.best.see(rows, x, logits, margin[rows, view])
        rows = self.best.alive()
        order = margin[rows].argsort(dim=1, stable=True)[:, : options.places]
        many, chosen = rows.repeat_interleave(order.shape[1]), order.flatten()
        at = mask(places[many, chosen], self.height, self.width)
        s = {"rows": many, "at": at, "top": torch.where(at, paints[torch.as_tensor(paint, device=at.device)[chosen], many], ball.clean[many])}
        return s | {"least": margin[many, chosen]}

    def _keep(self, s: dict[str, Tensor]) -> None:
        """The best copy of each row that stands is what it came closest with, if no view came closer."""
        better = s["least"] < self.best.margin[s["rows"]]
        self.best.x[s["rows"][better]], self.best.margin[s["rows"][better]] = s["top"][better], s["least"][better]

    def _noise(self, lower: Tensor, upper: Tensor) -> Tensor:
        return lower + (upper - lower) * torch.rand(lower.shape, generator=self.generator, device=lower.device, dtype=lower.dtype)

    def _fewer(self, s: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        """The ``count`` best copies of each row, at their best."""
        alive = len(torch.unique_consecutive(s["rows"]))
        copies = len(s["rows"]) // max(alive, 1)
        if copies <= count:
            return s
        order = s["least"].reshape(-1, copies).argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
        kept = (order + copies * torch.arange(alive, device=order.device)[:, None]).flatten()
        return {name: value[kept] for name, value in s.items()}

    def _aimed(self, s: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each copy again from noise, once for each of the likeliest other classes."""
        with torch.no_grad():
            classes = likeliest(self.model.logits(s["top"]), self.y[s["rows"]])[:, :TARGETS]
        count = classes.shape[1]
        s = {name: value.repeat_interleave(count, 0) for name, value in s.items()}
        near = self.ball.rows(s["rows"])
        return s | {"target": classes.flatten(), "top": torch.where(s["at"], self._noise(near.lower, near.upper), near.clean),
                    "least": torch.full_like(s["least"], math.inf)}  # fmt: skip

    def _paint(self, s: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
        """Signed ascent from the best of each copy; what comes back are the copies of rows that stand."""
        s = s | {"x": s["top"], "push": torch.zeros_like(s["top"])}
        for turn in range(steps + 1):
            if len(s["rows"]) == 0:
                break
            near, y = self.ball.rows(s["rows"]), self.y[s["rows"]]
            logits, _, gradient = gradient_of(self.model, s["x"], lambda z, s=s, y=y: towards(z, y, s.get("target"), self.model.threshold))
            keep = self._see(s, logits, y)
            if turn < steps:
                gradient = gradient * s["at"]
                s["push"] = MOMENTUM * s["push"] + gradient / spread(
                    gradient.abs().flatten(1).amax(1).clamp_min(torch.finfo(gradient.dtype).tiny), gradient
                )
                size = SIZES[0] * (SIZES[1] / SIZES[0]) ** (turn / max(steps - 1, 1))
                s["x"] = torch.minimum(torch.maximum(s["x"] + size * (near.upper - near.lower) * s["push"].sign(), near.lower), near.upper)
            if not bool(keep.all()):
                s = {name: value[keep] for name, value in s.items()}
        return {name: value for name, value in s.items() if name in ("rows", "at", "top", "least")}

    def _see(self, s: dict[str, Tensor], logits: Tensor, y: Tensor) -> Tensor:
        """Note what copies have come to; which of them belong to rows that stand."""
        margin = margins(logits, y, self.model.threshold).nan_to_num(nan=math.inf)
        better = margin < s["least"]
        s["top"], s["least"] = torch.where(spread(better, s["top"]), s["x"], s["top"]), torch.minimum(margin, s["least"])
        done = torch.nonzero(surely_broken(margin, logits)).squeeze(1)
        rows = s["rows"][done]
        first = done[torch.cat([rows[:1] >= 0, rows[1:] != rows[:-1]])]
        self.best.see(s["rows"][first], s["x"][first], logits[first], margin[first])
        return ~self.best.broken[s["rows"]]
