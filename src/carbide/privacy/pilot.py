"""Trainings for an audit of a claimed epsilon: as many as it may look at, and those that the judge keeps to itself.

An attack sees trainings of a pilot and knows what each was trained on. What it is judged by are other trainings, made afterwards, of
which it sees the releases only through the score that it handed in.

>>> halves(5).tolist()
[False, True, False, True, False]
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from carbide.models.releases import release
from carbide.privacy._neighbours import Neighbours
from carbide.run import cores, spread
from carbide.types import Array, CarbideError, Dataset, InputError, Recipe, rng_for

STACK = 4096  # stacked trainings at once
AGREE = 1e-6  # relative; how far a stacked training may be from the same one alone


def halves(count: int) -> Array:
    """Which of ``count`` trainings hold the canary ``(count,)``: every second one."""
    return np.arange(count) % 2 == 1


def stacks(recipe: Recipe, pool: Dataset) -> bool:
    """Whether the recipe trains many models at once."""
    able = getattr(recipe, "stacks", None)
    return able is not None and bool(able(pool))


@dataclass(kw_only=True, eq=False)
class Pilot:
    """Trainings with known sides that an attack may choose and fit by; ``left`` of them."""

    recipe: Recipe
    seed: int
    left: int
    _made: int = field(default=0, init=False)

    def train(self, neighbours: Neighbours, count: int) -> tuple[Array, Array]:
        """Releases ``(count // 2, p)`` of trainings without the canary, and as many with it; those of one place share their random numbers.

        What two data sets do differently shows in far fewer trainings where chance does the same to both. Only the judge's are independent.

        Raises:
            InputError: if fewer than ``count`` trainings are left.
        """
        if not 2 <= count <= self.left:
            raise InputError(f"count is {count}, and {self.left} trainings of the pilot are left; ask for at least 2 and at most those")
        self.left -= count
        self._made += 1
        sides = halves(count // 2 * 2)
        releases = train(self.recipe, neighbours, sides, self.seed, f"pilot {self._made}", paired=True)
        return releases[~sides], releases[sides]


def train(recipe: Recipe, neighbours: Neighbours, sides: Array, seed: int, stream: str, *, paired: bool = False) -> Array:
    """Releases ``(m, p)`` of one training for each of ``sides`` ``(m,)`` bool, each with a random stream of its own, or two with the same.

    Raises:
        InputError: if a training fails or releases are of different lengths.
    """
    base = rng_for(seed, "privacy", "claim", stream, neighbours.name).integers(2**32, size=4).tolist()
    streams = [i // 2 if paired else i for i in range(len(sides))]
    rngs = [np.random.default_rng([*base, i]) for i in streams]
    parts = [neighbours.inside if side else neighbours.outside for side in sides]
    if stacks(recipe, neighbours.pool):
        found = [recipe.release_many(neighbours.pool, parts[i : i + STACK], rngs[i : i + STACK]) for i in range(0, len(sides), STACK)]  # type: ignore[attr-defined]
        _must_agree(recipe, neighbours, parts, [np.random.default_rng([*base, i]) for i in streams[:2]], found[0])
        return np.concatenate(found)
    size = max(1, -(-len(sides) // (4 * cores())))
    blocks = [(parts[i : i + size], rngs[i : i + size]) for i in range(0, len(sides), size)]
    releases = [
        vector for block in spread(functools.partial(_block, recipe, neighbours), blocks, label="trainings", chunk=len(blocks)) for vector in block
    ]
    lengths = {len(vector) for vector in releases}
    if len(lengths) > 1:
        raise InputError(f"trainings released {min(lengths)} to {max(lengths)} numbers; the training function must always return as many")
    return np.stack(releases)


def _block(recipe: Recipe, neighbours: Neighbours, block: tuple[list[Array], list[np.random.Generator]]) -> list[Array]:
    return [release(recipe, neighbours.pool.take(part), rng, neighbours.probes) for part, rng in zip(*block, strict=True)]


def _must_agree(recipe: Recipe, neighbours: Neighbours, parts: list[Array], rngs: list[np.random.Generator], found: Array) -> None:
    """What is audited is the recipe's own training: the first two stacked ones must be what it gives alone."""
    for i, rng in enumerate(rngs):
        model = recipe.fit(neighbours.pool.take(parts[i]), rng)
        alone = np.concatenate([model.weights.ravel(), model.centre])  # type: ignore[attr-defined]
        if not np.allclose(found[i], alone, rtol=AGREE, atol=AGREE):
            raise CarbideError(f"a stacked training differs from the same one alone by {np.abs(found[i] - alone).max():.2g}; report it")
