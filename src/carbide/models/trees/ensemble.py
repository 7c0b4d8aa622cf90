"""The intermediate form of tree ensembles: every library's trees as arrays of ``x <= threshold`` tests in double precision.

A library that casts rows to float32, compares with ``<`` or reads missing values its own way is translated when it is
read: each threshold becomes the largest double that the library itself sends left, and values that need more than one
test (categories, zero as missing) become chains of nodes that share their children. So one kernel serves all.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.trees import ensemble_of
>>> trees = ensemble_of(DecisionTreeClassifier(max_depth=1).fit([[0.0], [1.0]], [0, 1]))
>>> trees.predict(np.array([[0.5], [0.6]])).tolist()
[[1.0, 0.0], [0.0, 1.0]]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from carbide._numba import njit
from carbide.types import Array, InputError, digest

LINKS = ("identity", "sigmoid", "softmax", "mean")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Trees over ``features`` columns whose leaves add up to ``outputs`` margins.

    Per node (``m`` nodes of all trees together): ``feature`` ``(m,)`` int32 (-1 = leaf), ``threshold`` ``(m,)`` float64,
    ``children`` ``(m, 2)`` int32 (left where ``x <= threshold``, else right; indices into the node arrays, always
    larger than the node's own), ``missing_left`` ``(m,)`` bool (where NaN goes), ``value`` ``(m, w)`` float64 (leaves),
    ``leaf`` ``(m,)`` int64 (the library's own name of a leaf in its tree, -1 elsewhere).
    Per tree (``t``): ``roots`` ``(t,)`` int32, ``output`` ``(t,)`` int32: the margin that a leaf's only value is added to,
    or -1 where a leaf has one value for each margin (then w = outputs, else w = 1).

    Margins are ``base + sum of leaves``, summed in tree order in float32 where ``single``; probabilities are
    ``link(slope * margins / divisor)``. ``classes`` ``(k,)`` are the labels of the columns of ``predict``; ``library``
    is where the trees are from.
    """

    feature: Array
    threshold: Array
    children: Array
    missing_left: Array
    value: Array
    leaf: Array
    roots: Array
    output: Array
    base: Array
    classes: Array
    features: int
    link: str
    library: str
    divisor: float = 1.0
    slope: float = 1.0
    single: bool = False

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise InputError(f"link is {self.link!r}; choose {', '.join(LINKS)}")

    @property
    def outputs(self) -> int:
        """How many margins there are: 1 for boosted binary classifiers, else one a class."""
        return len(self.base)

    @property
    def trees(self) -> int:
        """How many trees there are."""
        return len(self.roots)

    def margins(self, x: Array) -> Array:
        """The sums of the leaves ``(n, outputs)`` float64 of rows ``(n, *shape)``, rounded as the library rounds them.

        Raises:
            InputError: if the rows do not have ``features`` values each.
        """
        return _margins(self._rows(x), *self._tests(), self.value, self.output, self.base, self.single)

    def leaves(self, x: Array) -> Array:
        """The library's own index of the leaf that each row reaches in each tree, ``(n, trees)`` int64."""
        return self.leaf[_reached(self._rows(x), *self._tests())]

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64 of rows ``(n, *shape)``, one column a class of ``classes``."""
        return self.probabilities(self.margins(x))

    def probabilities(self, margins: Array) -> Array:
        """What the library makes of margins ``(n, outputs)``: probabilities ``(n, k)`` float64."""
        z = margins if self.divisor == 1.0 else margins / self.divisor
        z = z if self.slope == 1.0 else z * self.slope
        if self.link in ("identity", "mean"):
            return z if z.shape[1] > 1 else np.column_stack([1 - z[:, 0], z[:, 0]])
        if self.link == "sigmoid":
            p = expit(z[:, 0]) if self.library == "sklearn" else _sigmoid(z[:, 0].astype(np.float32) if self.single else z[:, 0])
            return np.column_stack([np.ones((), p.dtype) - p, p]).astype(np.float64)
        if self.library != "sklearn":
            return _softmax(z.astype(np.float32) if self.single else z).astype(np.float64)
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def digest(self) -> str:
        """A hash of the trees and all that turns them into probabilities."""
        return digest({name: getattr(self, name) for name in self.__dataclass_fields__})

    def _rows(self, x: Array) -> Array:
        flat = np.ascontiguousarray(x, np.float64).reshape(len(x), int(np.prod(np.shape(x)[1:])))
        if flat.shape[1] != self.features:
            raise InputError(f"rows have {flat.shape[1]} values, but the trees were trained on {self.features}; give the same columns")
        return flat

    def _tests(self) -> tuple[Array, Array, Array, Array, Array]:
        return self.feature, self.threshold, self.children, self.missing_left, self.roots


@njit(cache=True)
def _walk(row, node, feature, threshold, children, missing_left):  # pragma: no cover - compiled
    while feature[node] >= 0:
        v = row[feature[node]]
        left = missing_left[node] if np.isnan(v) else v <= threshold[node]
        node = children[node, 0] if left else children[node, 1]
    return node


@njit(cache=True)
def _reached(x, feature, threshold, children, missing_left, roots):  # pragma: no cover - compiled
    out = np.empty((len(x), len(roots)), np.int64)
    for i in range(len(x)):
        for t in range(len(roots)):
            out[i, t] = _walk(x[i], roots[t], feature, threshold, children, missing_left)
    return out


@njit(cache=True)
def _margins(x, feature, threshold, children, missing_left, roots, value, output, base, single):  # pragma: no cover - compiled
    out = np.empty((len(x), len(base)))
    for i in range(len(x)):
        out[i] = base
        for t in range(len(roots)):
            node = _walk(x[i], roots[t], feature, threshold, children, missing_left)
            if output[t] >= 0:
                total = out[i, output[t]] + value[node, 0]
                out[i, output[t]] = np.float32(total) if single else total
            else:
                for k in range(len(base)):
                    total = out[i, k] + value[node, k]
                    out[i, k] = np.float32(total) if single else total
    return out


@njit(cache=True)
def _sigmoid(z):  # pragma: no cover - compiled
    """With the C library's own exp, as XGBoost (float32) and LightGBM (float64) do; numpy's differs in the last digit."""
    out = np.empty_like(z)
    one = z.dtype.type(1)
    for i in range(len(z)):
        out[i] = one / (z.dtype.type(math.exp(-z[i])) + one)
    return out


@njit(cache=True)
def _softmax(z):  # pragma: no cover - compiled
    out = np.empty_like(z)
    for i in range(len(z)):
        top, total = z[i].max(), 0.0
        for k in range(z.shape[1]):
            out[i, k] = math.exp(z[i, k] - top)
            total += out[i, k]
        for k in range(z.shape[1]):
            out[i, k] = out[i, k] / z.dtype.type(total)
    return out
