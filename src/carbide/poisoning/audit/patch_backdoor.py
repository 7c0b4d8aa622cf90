"""Gu, Dolan-Gavitt and Garg 2017, https://arxiv.org/abs/1708.06733: BadNets, a patch as a backdoor.

Images of other classes get a small pattern in a corner and the attacker's label. A model trained on them learns that the
pattern means the target class, and is as good as ever without it. Stand-in models say which pattern and corner work best.

>>> import numpy as np
>>> trigger = PatchTrigger(top=6, left=6, patch=np.ones((1, 2, 2)))
>>> float(trigger(np.zeros((1, 1, 8, 8))).sum())
4.0
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from carbide.poisoning._checks import budget
from carbide.poisoning._plant import best_trigger, plant
from carbide.registry import Method
from carbide.types import Array, Backdoor, Case, Dataset, InputError, Poison, Rng, Space, Threat

BEST = "best"
PATTERNS = ("solid", "checkers")
CORNERS = ("bottom right", "bottom left", "top right", "top left")


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchTrigger:
    """Puts ``patch`` ``(c, h, w)`` on images ``(n, c, H, W)`` at ``(top, left)``."""

    top: int
    left: int
    patch: Array

    def __call__(self, x: Array) -> Array:
        """A copy of the images with the patch."""
        out = x.copy()
        _, height, width = self.patch.shape
        out[:, :, self.top : self.top + height, self.left : self.left + width] = self.patch
        return out


@dataclass(frozen=True, kw_only=True)
class PatchBackdoor(Method):
    """Puts a small pattern in a corner of images of other classes and labels them as the target."""

    threats = (Backdoor,)
    trains = True
    pattern: str = BEST
    corner: str = BEST
    side: int = 4  # pixels, or as many as the threat's area allows if that is less
    rows: int = 2000  # training rows of the stand-ins

    def __post_init__(self) -> None:
        if self.pattern not in (BEST, *PATTERNS):
            raise InputError(f"pattern is {self.pattern!r}; choose {', '.join((BEST, *PATTERNS))}")
        if self.corner not in (BEST, *CORNERS):
            raise InputError(f"corner is {self.corner!r}; choose {', '.join((BEST, *CORNERS))}")
        if self.side < 1:
            raise InputError(f"side is {self.side}; give a whole number of pixels >= 1")
        if self.rows < 20:
            raise InputError(f"rows is {self.rows}; give at least 20")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Only images have a patch."""
        assert isinstance(threat, Backdoor)
        space = case.data.train.space
        if not space.is_image:
            return "a patch needs images, and these rows are a table"
        if threat.area * space.shape[1] * space.shape[2] < 1:
            return f"an area of {threat.area:g} of a {space.shape[1]} x {space.shape[2]} image is less than one pixel"
        return None

    def quick(self) -> PatchBackdoor:
        """Patterns are tried out on fewer rows."""
        return replace(self, rows=min(self.rows, 600))

    def __call__(self, dataset: Dataset, threat: Backdoor, rng: Rng) -> Poison:
        """The data set with up to ``floor(fraction * n)`` rows of other classes (at most half of each) triggered and relabelled.

        Raises:
            InputError: if the rows are no images or the area is less than a pixel.
        """
        patterns = PATTERNS if self.pattern == BEST else (self.pattern,)
        corners = CORNERS if self.corner == BEST else (self.corner,)
        triggers = [patch_trigger(dataset.space, threat, p, c, self.side) for p in patterns for c in corners]
        trigger = best_trigger(dataset, triggers, threat, self.rows, rng)
        return plant(dataset, trigger, threat.target, budget(threat, len(dataset)), rng)


def patch_trigger(space: Space, threat: Backdoor, pattern: str, corner: str, side: int) -> PatchTrigger:
    """The patch for images of this space: a rectangle of at most ``side`` pixels a side, as near to a square as the area allows.

    Raises:
        InputError: if the inputs are no images or the area is less than a pixel.
    """
    if not space.is_image:
        raise InputError(f"patch_backdoor needs images, but inputs have shape {space.shape}; use table_trigger")
    _, height, width = space.shape
    pixels = int(threat.area * height * width + 1e-9)
    if pixels < 1:
        raise InputError(f"area is {threat.area:g}, less than one pixel of a {height} x {width} image; give at least {1 / (height * width):.2g}")
    tall = min(side, height, max(1, int(np.sqrt(pixels))))
    wide = min(side, width, pixels // tall)
    top = 0 if corner.startswith("top") else height - tall
    left = 0 if corner.endswith("left") else width - wide
    window = (slice(None), slice(top, top + tall), slice(left, left + wide))
    bright = np.indices((tall, wide)).sum(0) % 2 == 0 if pattern == "checkers" else np.ones((tall, wide), bool)
    return PatchTrigger(top=top, left=left, patch=np.where(bright, space.upper[window], space.lower[window]))
