"""The values that a sensitive feature may have, as an attacker tries them: codes, one-hot groups, or ranges of a number.

>>> import numpy as np
>>> from carbide.types import AttributeInference, Space
>>> levels = levels_of(AttributeInference(feature="b"), Space.table(["a", "b"]), np.array([[0.5, 1.0], [0.7, 3.0]]))
>>> levels.names, levels.of(np.array([[0.0, 3.0], [0.0, 1.0], [0.0, 2.0]])).tolist()
(('1', '3'), [1, 0, -1])
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from carbide.types import Array, AttributeInference, InputError, Kind, Space

FEW = 10  # distinct values that are tried one by one
MOST = 30  # categories of a column that can be guessed


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """``v`` values: what stands in ``columns`` ``(c,)`` for each, ``values`` ``(v, c)``, and their ``names``.

    A range has ``edges`` ``(v - 1,)`` that cut it from the next, and is tried at its median; None = the values are themselves.
    """

    columns: Array
    values: Array
    names: tuple[str, ...]
    edges: Array | None = None

    def __len__(self) -> int:
        return len(self.names)

    def of(self, x: Array) -> Array:
        """Which value each row ``(n, d)`` has, ``(n,)`` int64; -1 = none of these."""
        own = x[:, self.columns]
        if self.edges is not None:
            return np.searchsorted(self.edges, own[:, 0], side="left").astype(np.int64)
        same = (own[:, None, :] == self.values[None]).all(2)
        return np.where(same.any(1), same.argmax(1), -1).astype(np.int64)

    def candidates(self, x: Array) -> Array:
        """Each row ``(n, d)`` with each value in turn, ``(n, v, d)``; what the rows had there leaves no trace."""
        tried = np.repeat(x[:, None, :], len(self), axis=1)
        tried[:, :, self.columns] = self.values[None]
        return tried

    def others(self, x: Array) -> Array:
        """The features of rows ``(n, d)`` beside this one, ``(n, d - c)``."""
        return np.delete(x, self.columns, axis=1)


def check_feature(threat: AttributeInference, space: Space) -> tuple[int, ...]:
    """The columns of the feature: itself, or the one-hot group that it is in or that it names.

    Raises:
        InputError: if inputs are images, or no feature or group has that name.
    """
    if space.is_image or len(space.shape) != 1:
        raise InputError(f"attribute guesses a feature of a table, but inputs have the shape {space.shape}; images are asked about by reconstruction")
    if threat.feature not in space.names:
        for group in space.groups:
            if all(space.name(j).startswith((f"{threat.feature}=", f"{threat.feature}_")) for j in group):
                return group
    column = space.index(threat.feature)
    return next((group for group in space.groups if column in group), (column,))


def levels_of(threat: AttributeInference, space: Space, x: Array) -> Levels:
    """The values of the feature that rows ``(m, d)`` show, which the attacker knows.

    Raises:
        InputError: as ``check_feature``, or if the rows show one value only, or more categories than can be guessed.
    """
    columns = np.array(check_feature(threat, space), np.int64)
    if len(columns) > 1:
        return Levels(columns=columns, values=np.eye(len(columns)), names=tuple(space.name(int(j)) for j in columns))
    own = x[:, columns[0]]
    seen = np.unique(own)
    if len(seen) < 2:
        raise InputError(
            f"feature {threat.feature!r} is {seen.tolist()} in all {len(x)} validation rows, so there is nothing to guess; name another one"
        )
    categorical = space.kind[columns[0]] == Kind.CATEGORICAL
    if len(seen) > FEW and not categorical:
        return _ranges(threat, columns, own)
    if len(seen) > MOST:
        raise InputError(f"feature {threat.feature!r} has {len(seen)} categories, more than the {MOST} that are guessed; merge rare ones")
    told = space.categories.get(space.name(int(columns[0])), ())
    names = tuple(told[int(v)] if categorical and 0 <= v < len(told) else f"{v:g}" for v in seen)
    return Levels(columns=columns, values=seen[:, None], names=names)


def _ranges(threat: AttributeInference, columns: Array, own: Array) -> Levels:
    edges = np.unique(np.quantile(own, np.arange(1, threat.bins) / threat.bins, method="lower"))
    edges = edges[edges < own.max()]
    if not len(edges):
        raise InputError(f"feature {threat.feature!r} is {own.max():g} in most rows, so its ranges are one; name another feature")
    place = np.searchsorted(edges, own, side="left")
    middle = np.array([np.quantile(own[place == b], 0.5, method="nearest") for b in range(len(edges) + 1)])
    names = (f"up to {edges[0]:.3g}", *(f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)), f"above {edges[-1]:.3g}")
    return Levels(columns=columns, values=middle[:, None], names=names, edges=edges)
