"""Price tables: what an attacker pays to change each feature, read from and written to JSON that users copy for their own.

A feature that is not named cannot be changed, and a direction without a price is impossible. ``matrix`` prices the moves
between the values ``lower .. lower + k - 1`` of a categorical or integer feature; null stands for impossible.

>>> import numpy as np
>>> from carbide.types import Space
>>> space = Space.table(["amount", "hour"], lower=np.array([0.0, 0.0]))
>>> table = load_prices({"currency": "$", "prices": {"amount": {"down": 1}, "hour": {"up": 0, "down": 0, "fixed": 2}}}, space)
>>> cost(np.array([[9.0, 3.0]]), np.array([[5.0, 4.0]]), table, space).tolist()
[6.0]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carbide.types import Array, InputError, Price, PriceTable, Ratio, Space

KEYS = ("currency", "gain", "prices")
PRICE_KEYS = ("up", "down", "fixed", "matrix")


def load_prices(source: str | Path | Mapping[str, Any], space: Space) -> PriceTable:
    """The price table of a JSON file (or of the mapping that such a file holds), checked against the space.

    Raises:
        InputError: if the file cannot be read, or a key, feature or price in it is wrong.
    """
    given = _read(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(given, Mapping) or not isinstance(given.get("prices"), Mapping):
        raise InputError('the price table has no prices; write {"currency": "$", "prices": {"amount": {"down": 1}}}')
    for key in given:
        if key not in KEYS:
            raise InputError(f"the price table has a key {key!r}; its keys are {', '.join(KEYS)}")
    prices = {_known(name, space): _price(str(name), entry) for name, entry in given["prices"].items()}
    currency = given.get("currency", "$")
    if not isinstance(currency, str):
        raise InputError(f"the price table's currency is {currency!r}; give a text such as $")
    gain = given.get("gain")
    table = PriceTable(prices=prices, currency=currency, gain=None if gain is None else _known(gain, space))
    check_prices(table, space)
    return table


def _known(name: Any, space: Space) -> str:
    """The name as the space spells it: data files often pad their column names with blanks, which reading takes off."""
    return str(name) if str(name) in space.names else str(name).strip()


def save_prices(table: PriceTable, path: str | Path) -> None:
    """Write a price table as the JSON that ``load_prices`` reads."""
    from carbide.run import write_whole

    write_whole(Path(path), (json.dumps(as_mapping(table), indent=1) + "\n").encode())


def as_mapping(table: PriceTable) -> dict[str, Any]:
    """A price table as plain JSON values; impossible moves are left out or null."""
    prices = {}
    for name, price in table.prices.items():
        entry: dict[str, Any] = {key: getattr(price, key) for key in ("up", "down") if math.isfinite(getattr(price, key))}
        if price.fixed:
            entry["fixed"] = price.fixed
        if price.matrix is not None:
            entry["matrix"] = [[float(v) if math.isfinite(v) else None for v in row] for row in np.asarray(price.matrix, float)]
        prices[name] = entry
    return {"currency": table.currency, **({"gain": table.gain} if table.gain is not None else {}), "prices": prices}


def check_prices(table: PriceTable, space: Space) -> None:
    """Check that every price is possible and belongs to a feature of the space.

    Raises:
        InputError: naming the first price that is wrong.
    """
    targets = {space.name(r.target) for r in space.relations if isinstance(r, Ratio)}
    if table.gain is not None:
        space.index(table.gain)
    for name, price in table.prices.items():
        feature = space.index(name)
        for key in ("up", "down", "fixed"):
            value = getattr(price, key)
            if not value >= 0:
                raise InputError(f"price {key} of {name} is {value}; give a number >= 0, or leave it out where the move is impossible")
        if not math.isfinite(price.fixed):
            raise InputError(f"price fixed of {name} is {price.fixed}; give a finite number, or leave the feature out if it cannot change")
        if name in targets:
            raise InputError(f"{name} has a price, but it is a ratio that follows its parts; price its numerator instead")
        if price.matrix is not None:
            _check_matrix(name, np.asarray(price.matrix, float), feature, space)


def price_arrays(table: PriceTable, space: Space) -> tuple[Array, Array, Array]:
    """``up``, ``down`` and ``fixed`` ``(d,)`` of every feature; inf where it cannot change (immutable or not named)."""
    d = math.prod(space.shape)
    up, down, fixed = np.full(d, np.inf), np.full(d, np.inf), np.zeros(d)
    for name, price in table.prices.items():
        f = space.index(name)
        if space.mutable.ravel()[f]:
            up[f], down[f], fixed[f] = price.up, price.down, price.fixed
    return up, down, fixed


def matrices(table: PriceTable, space: Space) -> dict[int, Array]:
    """The price matrix of each mutable feature that has one, by column, with its fixed price added to every move."""
    found = {}
    for name, price in table.prices.items():
        f = space.index(name)
        if price.matrix is not None and space.mutable.ravel()[f]:
            moved = np.asarray(price.matrix, float) + price.fixed
            np.fill_diagonal(moved, 0.0)
            found[f] = moved
    return found


def cost(x0: Array, x1: Array, prices: PriceTable, space: Space) -> Array:
    """What changing rows ``x0`` ``(n, d)`` into ``x1`` costs, ``(n,)`` in the table's currency; inf where it is impossible.

    Ratios that follow their parts cost nothing themselves.
    """
    up, down, fixed = price_arrays(prices, space)
    for relation in space.relations:
        if isinstance(relation, Ratio):
            up[relation.target] = down[relation.target] = fixed[relation.target] = 0.0
    a, b = (np.asarray(part, float).reshape(len(part), math.prod(part.shape[1:])) for part in (x0, x1))
    changed = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    with np.errstate(invalid="ignore"):
        rise = np.where(changed, b - a, 0.0)
        each = np.where(rise > 0, up * rise, np.where(rise < 0, down * -rise, 0.0)) + np.where(changed, fixed, 0.0)
    each = np.where(changed, np.where(np.isnan(each) | np.isnan(rise), np.inf, each), 0.0)
    for f, matrix in matrices(prices, space).items():
        each[:, f] = np.where(changed[:, f], _moves(a[:, f], b[:, f], matrix, space.lower.ravel()[f]), 0.0)
    return each.sum(1)


def _moves(a: Array, b: Array, matrix: Array, first: float) -> Array:
    start, end = a - first, b - first
    with np.errstate(invalid="ignore"):
        known = (start == np.floor(start)) & (end == np.floor(end)) & (np.minimum(start, end) >= 0) & (np.maximum(start, end) < len(matrix))
    i, j = np.where(known, start, 0).astype(int), np.where(known, end, 0).astype(int)
    return np.where(known, matrix[i, j], np.inf)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"price table {path} cannot be read ({error.strerror or error}); give the path of a JSON file") from error
    except ValueError as error:
        raise InputError(f"price table {path} is not JSON ({error}); compare it with the built-in one") from error


def _price(name: str, entry: Any) -> Price:
    if not isinstance(entry, Mapping):
        raise InputError(f'the price of {name} is {entry!r}; write {{"up": 1, "down": 2}}')
    for key in entry:
        if key not in PRICE_KEYS:
            raise InputError(f"the price of {name} has a key {key!r}; its keys are {', '.join(PRICE_KEYS)}")
    matrix = entry.get("matrix")
    plain = {key: _amount(name, key, entry[key]) for key in ("up", "down", "fixed") if entry.get(key) is not None}
    return Price(**plain, matrix=None if matrix is None else _matrix(name, matrix))


def _amount(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"price {key} of {name} is {value!r}; give a number >= 0")
    return float(value)


def _matrix(name: str, rows: Any) -> Array:
    try:
        return np.array([[math.inf if v is None else float(v) for v in row] for row in rows], float)
    except (TypeError, ValueError) as error:
        raise InputError(f"the price matrix of {name} is not a table of numbers ({error}); give k rows of k numbers or null") from error


def _check_matrix(name: str, matrix: Array, feature: int, space: Space) -> None:
    lower, upper = float(space.lower.ravel()[feature]), float(space.upper.ravel()[feature])
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"the price matrix of {name} has shape {matrix.shape}; give k rows of k numbers or null")
    if not math.isfinite(lower):
        raise InputError(f"the price matrix of {name} needs a lower bound, and its lower bound is {lower}; set the first value in the space")
    if math.isfinite(upper) and upper - lower + 1 != len(matrix):
        raise InputError(f"the price matrix of {name} has {len(matrix)} rows, but its values are {lower:g} to {upper:g}; give one row a value")
    if np.isnan(matrix).any() or (matrix < 0).any():
        raise InputError(f"the price matrix of {name} holds {np.nanmin(matrix):g}; give numbers >= 0, or null where a move is impossible")
    if np.diagonal(matrix).any():
        raise InputError(f"the price matrix of {name} charges {np.diagonal(matrix).max():g} for staying; put 0 on its diagonal")
