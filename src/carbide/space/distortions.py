"""Images rendered from parameters: what a ``Distortion`` or a ``Corruption`` makes of an image is decided here and nowhere else.

An attack proposes parameters, the judge renders them with ``render``; so no image that the family did not make is ever judged. A
distortion is applied in the order geometry (Engstrom et al. 2019, https://arxiv.org/abs/1712.02779), brightness, contrast, colour
(Hosseini & Poovendran 2018, https://arxiv.org/abs/1804.00499), blur, JPEG. Values are mapped to [0, 1] by the space's bounds first.

>>> from carbide.types import Distortion, Space
>>> space, threat = Space.image((1, 2, 2)), Distortion(brightness=0.5)
>>> [axis.name for axis in axes(threat, space)], render(np.full((1, 1, 2, 2), 0.25), np.array([[0.5]]), threat, space).ravel().tolist()
(['brightness'], [0.75, 0.75, 0.75, 0.75])
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np

from carbide.space.corruptions import DRAWS, corrupt, drawn, kinds_of, missing_kinds
from carbide.space.hsv import shift_hsv
from carbide.space.jpeg import jpeg
from carbide.types import DISTORTIONS, Array, Corruption, Distortion, Rng, Space, Threat

TYPICAL = 10  # draws a row of the average case
CHUNK = 8_000_000  # numbers that geometry holds at once
WHOLE = 100  # jpeg: a loss of q is quality 100 - q, and a loss of 0 is no JPEG at all


class Axis(NamedTuple):
    """One parameter: its name, its range and whether it is a whole number. Distortions leave the image alone at 0."""

    name: str
    low: float
    high: float
    whole: bool = False


def axes(threat: Distortion | Corruption, space: Space) -> tuple[Axis, ...]:
    """The parameters of a threat, in the order of a proposal's columns."""
    if isinstance(threat, Corruption):
        return Axis("kind", 0, max(len(kinds_of(threat, space)) - 1, 0), True), Axis("draw", 0, DRAWS - 1, True)
    found = []
    for name in DISTORTIONS:
        size = getattr(threat, name)
        both = ("down", "across") if name == "translation" else (name,)
        found += [Axis(part, 0.0 if name == "blur" else -size, size) for part in both if size]
    return tuple(found + ([Axis("jpeg", 0, WHOLE - threat.jpeg, True)] if threat.jpeg else []))


def missing(threat: Threat, space: Space) -> dict[str, str]:
    """The changes of a threat that cannot be rendered here, with the reason of each."""
    if isinstance(threat, Corruption):
        return missing_kinds(threat, space)
    if not isinstance(threat, Distortion):
        return {}
    channels, found = space.shape[0], {}
    for name in ("hue", "saturation"):
        if getattr(threat, name) and channels != 3:
            found[name] = f"{name} is of images of 3 channels, and these have {channels}"
    for name in ("rotation", "translation"):
        if getattr(threat, name) and importlib.util.find_spec("torch") is None:
            found[name] = f"{name} needs the torch extra"
    if threat.jpeg and channels not in (1, 3):
        found["jpeg"] = f"JPEG is of images of 1 or 3 channels, and these have {channels}"
    elif threat.jpeg and importlib.util.find_spec("PIL") is None:
        found["jpeg"] = "JPEG needs the images extra (pillow)"
    return found


def proposal_shape(x: Array, threat: Threat, space: Space) -> tuple[int, ...]:
    """The shape of what an attack proposes for rows ``x``: parameters where a threat's changes are rendered, else inputs."""
    return (len(x), len(axes(threat, space))) if isinstance(threat, Distortion | Corruption) else x.shape


def in_range(parameters: Array, threat: Distortion | Corruption, space: Space) -> Array:
    """Whether each row of parameters ``(n, k)`` is one that the threat allows, ``(n,)`` bool; never for nan."""
    every = axes(threat, space)
    low, high, whole = (np.array([axis[i] for axis in every], float) for i in (1, 2, 3))
    with np.errstate(invalid="ignore"):
        inside = (parameters >= low) & (parameters <= high) & ((whole == 0) | (parameters == np.round(parameters)))
    possible = bool(kinds_of(threat, space)) if isinstance(threat, Corruption) else True
    return inside.all(1) & possible


def sizes(parameters: Array, threat: Distortion | Corruption, space: Space) -> Array:
    """How large each change is ``(n,)``: the largest share that a parameter takes of its range; 1 for every corruption."""
    if isinstance(threat, Corruption):
        return np.ones(len(parameters))
    return np.abs(parameters / np.array([axis.high for axis in axes(threat, space)])).max(1)


def every_corruption(threat: Corruption, space: Space) -> Array:
    """All parameters ``(m, 2)`` of a corruption: each kind, with each pattern of noise where the kind draws one."""
    kinds = kinds_of(threat, space)
    return np.array([(i, draw) for i, kind in enumerate(kinds) for draw in range(DRAWS if drawn(kind) else 1)], float).reshape(-1, 2)


def typical_draws(threat: Distortion | Corruption, space: Space, n: int, rng: Rng) -> tuple[list[str], list[Array]]:
    """The average case: parameters ``(n, k)`` of each draw, and the corruption that it stands for, empty for distortions.

    Distortions are drawn uniformly from the whole range, row by row; corruptions are all kinds with all their patterns.
    """
    if isinstance(threat, Corruption):
        every = every_corruption(threat, space)
        return [kinds_of(threat, space)[int(kind)] for kind, _ in every], [np.tile(point, (n, 1)) for point in every]
    low, high, whole = (np.array([axis[i] for axis in axes(threat, space)], float) for i in (1, 2, 3))
    drawn = [rng.uniform(low, high, size=(n, len(low))) for _ in range(TYPICAL)]
    return [""] * TYPICAL, [np.where(whole == 1, np.round(d), d) for d in drawn]


def said(parameters: Array, threat: Distortion | Corruption, space: Space) -> str:
    """One row of parameters in words."""
    if isinstance(threat, Corruption):
        return kinds_of(threat, space)[int(parameters[0])].replace("_", " ")
    words = [
        f"JPEG {WHOLE - value:g}" if axis.name == "jpeg" else f"{axis.name} {value:.3g}"
        for axis, value in zip(axes(threat, space), parameters, strict=True)
        if value
    ]
    return ", ".join(words) or "unchanged"


def render(x: Array, parameters: Array, threat: Distortion | Corruption, space: Space) -> Array:
    """The images ``(n, channels, height, width)`` that parameters ``(n, k)`` within the range make of images ``x``, float64.

    Values are cut to the bounds and to the space's steps; pixels that cannot change do not. Parameters of 0 leave an image as it is.
    """
    x, parameters = np.asarray(x, np.float64), np.asarray(parameters, np.float64)
    if len(x) == 0:
        return x
    width = space.upper - space.lower
    unit = (x - space.lower) / np.where(width > 0, width, 1.0)
    values = {axis.name: parameters[:, i] for i, axis in enumerate(axes(threat, space))}
    out = corrupt(unit, values["kind"], values["draw"], threat, space) if isinstance(threat, Corruption) else _distorted(unit, values)
    out = space.lower + np.clip(out, 0.0, 1.0) * width
    if (space.step > 0).any():
        step = np.where(space.step > 0, space.step, 1.0)
        out = np.where(space.step > 0, np.clip(space.lower + step * np.round((out - space.lower) / step), space.lower, space.upper), out)
    same = (parameters == 0).all(1) & (not isinstance(threat, Corruption))
    return np.where(same[:, None, None, None] | ~space.mutable, x, out)


def _distorted(x: Array, values: dict[str, Array]) -> Array:
    none = np.zeros(len(x))
    wide = {name: values.get(name, none)[:, None, None, None] for name in ("brightness", "contrast")}
    moves = [values.get(name, none) for name in ("rotation", "down", "across")]
    x = _changed(x, np.any(moves, 0), lambda rows: _moved(x[rows], *(m[rows] for m in moves)))
    if "brightness" in values:
        x = np.clip(x + wide["brightness"], 0.0, 1.0)
    if "contrast" in values:
        middle = x.mean((1, 2, 3), keepdims=True)
        x = np.clip(middle + (1 + wide["contrast"]) * (x - middle), 0.0, 1.0)
    if "hue" in values or "saturation" in values:
        x = shift_hsv(x, values.get("hue", none), values.get("saturation", none), none)
    if "blur" in values:
        x = _blurred(x, values["blur"])
    if "jpeg" in values:
        x = _changed(x, values["jpeg"] > 0, lambda rows: np.stack([jpeg(x[r], int(WHOLE - values["jpeg"][r])) for r in rows]))
    return x


def _changed(x: Array, which: Array, how: Any) -> Array:
    """``x`` with ``how(rows)`` in the place of the rows that ``which`` ``(n,)`` names."""
    rows = np.flatnonzero(which)
    if len(rows) == 0:
        return x
    out = x.copy()
    out[rows] = how(rows)
    return out


def _moved(x: Array, degrees: Array, down: Array, across: Array) -> Array:
    """Rotated about the centre (counter-clockwise as seen) and then moved, read bilinearly; what comes in from outside is 0."""
    import torch

    n, _, height, width = x.shape
    if n * x[0].size > CHUNK:
        parts = np.array_split(np.arange(n), -(-n * x[0].size // CHUNK))
        return np.concatenate([_moved(x[p], degrees[p], down[p], across[p]) for p in parts])
    turn, fallen, aside = (torch.as_tensor(v)[:, None, None] for v in (np.deg2rad(degrees), down, across))
    rows = torch.arange(height, dtype=torch.float64)[None, :, None] - (height - 1) / 2 - fallen
    columns = torch.arange(width, dtype=torch.float64)[None, None, :] - (width - 1) / 2 - aside
    source_row = torch.cos(turn) * rows + torch.sin(turn) * columns
    source_column = torch.cos(turn) * columns - torch.sin(turn) * rows
    grid = torch.stack([source_column * 2 / width, source_row * 2 / height], 3)  # -1 and 1 are the outer edges of the image
    return torch.nn.functional.grid_sample(torch.as_tensor(x), grid, mode="bilinear", padding_mode="zeros", align_corners=False).numpy()


def _blurred(x: Array, sigma: Array) -> Array:
    from scipy.ndimage import gaussian_filter

    out = x.copy()
    for value in np.unique(sigma[sigma > 0]):
        rows = np.flatnonzero(sigma == value)
        out[rows] = gaussian_filter(x[rows], (0, 0, value, value), mode="nearest")
    return out
