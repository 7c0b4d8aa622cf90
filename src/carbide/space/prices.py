"""Price tables: what an attacker pays to change each feature, read from and written to JSON that users copy for their own.

A feature that is not named cannot be changed, and a direction without a price is impossible. ``up`` and ``down`` are prices a unit or
stairs, ``[[1, 5], [10, 20]]``: a move of at most 1 costs 5, of at most 10 costs 20, and farther is impossible (null in place of the last
number: any distance). ``matrix`` prices the moves between the values ``lower .. lower + k - 1`` of a categorical or integer feature; null
stands for impossible. ``hide`` makes a value missing, ``fill`` puts any value where it is missing; each is the whole price of doing so.
``group_prices`` prices one-hot groups: ``[{"features": ["red", "green"], "fixed": 3}]``, with a ``matrix`` of its members in place of the
flat price or on top of it. A space file may hold all these keys too: then one file says what can be changed and at what price.

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

from carbide.space.relations import features_of, targets_of
from carbide.types import Array, InputError, Price, PriceTable, Ratio, Space, Sum

KEYS = ("currency", "gain", "prices", "group_prices")
SPACE_KEYS = ("features", "groups", "relations")  # of a space file that holds the prices too
PRICE_KEYS = ("up", "down", "fixed", "matrix", "hide", "fill")
GROUP_KEYS = ("features", "fixed", "matrix")
GAIN_KEYS = ("feature", "follows")
REACH = 1e-9  # how much farther than a stair's ``by`` a move may be, relative


def load_prices(source: str | Path | Mapping[str, Any], space: Space) -> PriceTable:
    """The price table of a JSON file (or of the mapping that such a file holds), checked against the space.

    Raises:
        InputError: if the file cannot be read, or a key, feature or price in it is wrong.
    """
    given = _read(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(given, Mapping) or not isinstance(given.get("prices"), Mapping):
        raise InputError('the price table has no prices; write {"currency": "$", "prices": {"amount": {"down": 1}}}')
    for key in given:
        if key not in KEYS and not (key in SPACE_KEYS and "features" in given):
            raise InputError(f"the price table has a key {key!r}; its keys are {', '.join(KEYS)}")
    prices = {_known(name, space): _price(str(name), entry) for name, entry in given["prices"].items()}
    currency = given.get("currency", "$")
    if not isinstance(currency, str):
        raise InputError(f"the price table's currency is {currency!r}; give a text such as $")
    gain, follows = _gain(given.get("gain"))
    table = PriceTable(prices=prices, currency=currency, gain=None if gain is None else _known(gain, space), follows=follows,
                       groups=_groups(given.get("group_prices", []), space))  # fmt: skip
    check_prices(table, space)
    if not table.groups and not any(_changes(price) for price in prices.values()):
        raise InputError("the price table prices no change, so nobody could make one; give at least one feature a price up or down")
    return table


def _changes(price: Price) -> bool:
    """Whether some change has a price."""
    return math.isfinite(min(price.up, price.down, price.hide, price.fill)) or bool(price.up_steps or price.down_steps) or price.matrix is not None


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
        prices[name] = _entry(price)
    gain = {"feature": table.gain, "follows": True} if table.follows else table.gain
    groups = [{"features": list(names), **_entry(price)} for names, price in table.groups.items()]
    return {
        "currency": table.currency,
        **({"gain": gain} if gain is not None else {}),
        "prices": prices,
        **({"group_prices": groups} if groups else {}),
    }


def _entry(price: Price) -> dict[str, Any]:
    entry: dict[str, Any] = {key: getattr(price, key) for key in ("up", "down", "hide", "fill") if math.isfinite(getattr(price, key))}
    for key, steps in (("up", price.up_steps), ("down", price.down_steps)):
        if steps:
            entry[key] = [[by if math.isfinite(by) else None, paid] for by, paid in steps]
    if price.fixed:
        entry["fixed"] = price.fixed
    if price.matrix is not None:
        entry["matrix"] = [[float(v) if math.isfinite(v) else None for v in row] for row in np.asarray(price.matrix, float)]
    return entry


def check_prices(table: PriceTable, space: Space) -> None:
    """Check that every price is possible and belongs to a feature of the space.

    Raises:
        InputError: naming the first price that is wrong.
    """
    targets = {space.name(r.target): type(r).__name__.lower() for r in space.relations if isinstance(r, Ratio | Sum)}
    related = {space.name(f) for r in space.relations for f in features_of(r)}
    if table.gain is not None:
        space.index(table.gain)
    for name, price in table.prices.items():
        feature = space.index(name)
        for key in ("up", "down", "fixed", "hide", "fill"):
            value = getattr(price, key)
            if not value >= 0:
                raise InputError(f"price {key} of {name} is {value}; give a number >= 0, or leave it out where the move is impossible")
        if not math.isfinite(price.fixed):
            raise InputError(f"price fixed of {name} is {price.fixed}; give a finite number, or leave the feature out if it cannot change")
        if name in targets:
            raise InputError(f"{name} has a price, but it is a {targets[name]} that follows its parts; price those instead")
        for key, steps in (("up", price.up_steps), ("down", price.down_steps)):
            _check_steps(f"price {key} of {name}", steps, getattr(price, key), price)
        _check_missing(name, price, feature, space, related)
        if price.matrix is not None:
            _check_matrix(name, np.asarray(price.matrix, float), feature, space)
    for names, price in table.groups.items():
        _check_group(names, price, table, space)


def price_arrays(table: PriceTable, space: Space) -> tuple[Array, Array, Array]:
    """``up``, ``down`` and ``fixed`` ``(d,)`` of every feature; inf where it cannot change (immutable or not named).

    What these cannot say is charged no more than it costs: stairs their first step, and a move in a priced one-hot group the cheapest
    one, half of it for either member. Values that go missing or are filled have no price here.
    """
    up, down, fixed = unit_prices(table, space)
    for name, price in table.prices.items():
        f = space.index(name)
        if (price.up_steps or price.down_steps) and space.mutable.ravel()[f]:
            first = [steps[0][1] if steps else 0.0 if math.isfinite(rate) else math.inf
                     for steps, rate in ((price.up_steps, price.up), (price.down_steps, price.down))]  # fmt: skip
            fixed[f] += min(first)
            up[f], down[f] = (0.0 if steps else rate for steps, rate in ((price.up_steps, up[f]), (price.down_steps, down[f])))
    for group, moves in group_moves(table, space).items():
        members, least = list(space.groups[group]), moves[~np.eye(len(moves), dtype=bool)].min()
        if any(space.name(f) in names for names in table.groups for f in members) and math.isfinite(least):
            up[members], down[members], fixed[members] = 0.0, 0.0, least / 2
    return up, down, fixed


def unit_prices(table: PriceTable, space: Space) -> tuple[Array, Array, Array]:
    """As ``price_arrays``, but inf where there is no price a unit: stairs and priced groups are left to ``stairs`` and ``group_moves``."""
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
            found[f] = _with_fixed(price)
    return found


def stairs(table: PriceTable, space: Space) -> dict[int, Price]:
    """The price of each mutable feature that has stairs, by column."""
    found = {}
    for name, price in table.prices.items():
        f = space.index(name)
        if (price.up_steps or price.down_steps) and space.mutable.ravel()[f]:
            found[f] = price
    return found


def group_moves(table: PriceTable, space: Space) -> dict[int, Array]:
    """What turning on another member costs, ``(k, k)`` from row to column, for each one-hot group (by its number) that can change.

    A group without a price of its own is changed at the prices of its two members.
    """
    priced = {frozenset(names): (names, price) for names, price in table.groups.items()}
    up, down, fixed = unit_prices(table, space)
    tables, found = matrices(table, space), {}
    for number, group in enumerate(space.groups):
        members = list(group)
        names = [space.name(f) for f in members]
        if frozenset(names) in priced:
            order, price = priced[frozenset(names)]
            moves = np.full((len(names), len(names)), price.fixed) if price.matrix is None else _with_fixed(price)
            at = [order.index(name) for name in names]
            moves = np.where(space.mutable[members][:, None] & space.mutable[members], moves[np.ix_(at, at)], np.inf)
        else:
            off, on = (np.array([tables[f][i, 1 - i] if f in tables else rate[f] + fixed[f] for f in members]) for i, rate in ((1, down), (0, up)))
            moves = off[:, None] + on
        np.fill_diagonal(moves, 0.0)
        if np.isfinite(moves).sum() > len(members):
            found[number] = moves
    return found


def _with_fixed(price: Price) -> Array:
    moved = np.asarray(price.matrix, float) + price.fixed
    np.fill_diagonal(moved, 0.0)
    return moved


def cost(x0: Array, x1: Array, prices: PriceTable, space: Space) -> Array:
    """What changing rows ``x0`` ``(n, d)`` into ``x1`` costs, ``(n,)`` in the table's currency; inf where it is impossible.

    Ratios and sums that follow their parts cost nothing themselves.
    """
    up, down, fixed = unit_prices(prices, space)
    targets = targets_of(space)
    up[targets] = down[targets] = fixed[targets] = 0.0
    a, b = (np.asarray(part, float).reshape(len(part), math.prod(part.shape[1:])) for part in (x0, x1))
    changed = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    with np.errstate(invalid="ignore"):
        rise = np.where(changed, b - a, 0.0)
        each = np.where(rise > 0, up * rise, np.where(rise < 0, down * -rise, 0.0)) + np.where(changed, fixed, 0.0)
    each = np.where(changed, np.where(np.isnan(each) | np.isnan(rise), np.inf, each), 0.0)
    for f, price in stairs(prices, space).items():
        for way, steps in ((1.0, price.up_steps), (-1.0, price.down_steps)):
            if steps:
                each[:, f] = np.where(way * rise[:, f] > 0, _climbed(way * rise[:, f], steps) + price.fixed, each[:, f])
    for f, matrix in matrices(prices, space).items():
        each[:, f] = np.where(changed[:, f], _moves(a[:, f], b[:, f], matrix, space.lower.ravel()[f]), 0.0)
    _missing_(each, a, b, prices, space)
    total = each.sum(1)
    if prices.groups:
        total = _grouped(each, changed, a, b, prices, space)
    return total


def _climbed(way: Array, steps: tuple[tuple[float, float], ...]) -> Array:
    """The price of each distance by the stairs; inf beyond the last."""
    by, paid = (np.array(part, float) for part in zip(*steps, strict=True))
    return np.append(paid, np.inf)[np.searchsorted(by * (1 + REACH), way)]


def _missing_(each: Array, a: Array, b: Array, prices: PriceTable, space: Space) -> None:
    """Put the prices of values that went missing or were filled."""
    for name, price in prices.prices.items():
        f = space.index(name)
        if min(price.hide, price.fill) < math.inf and space.mutable.ravel()[f]:
            was, is_ = np.isnan(a[:, f]), np.isnan(b[:, f])
            each[:, f] = np.where(was == is_, np.where(was, 0.0, each[:, f]), np.where(is_, price.hide, price.fill))


def _grouped(each: Array, changed: Array, a: Array, b: Array, prices: PriceTable, space: Space) -> Array:
    """The sum of all prices, with those of priced one-hot groups in place of their members'; a group that is not one-hot cannot change."""
    moves, named = group_moves(prices, space), [set(names) for names in prices.groups]
    total = np.zeros(len(each))
    for number, group in enumerate(space.groups):
        members = list(group)
        if {space.name(f) for f in members} in named:
            each[:, members] = 0.0
            matrix = moves.get(number)
            sides = [
                np.where((np.isin(x[:, members], (0.0, 1.0)).all(1)) & (x[:, members].sum(1) == 1), x[:, members].argmax(1), np.nan) for x in (a, b)
            ]
            paid = np.full(len(each), np.inf) if matrix is None else _moves(sides[0], sides[1], matrix, 0.0)
            total += np.where(changed[:, members].any(1), paid, 0.0)
    return total + each.sum(1)


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
    stair = {key: _steps(name, key, entry[key]) for key in ("up", "down") if isinstance(entry.get(key), list)}
    plain = {
        key: _amount(name, key, entry[key]) for key in ("up", "down", "fixed", "hide", "fill") if entry.get(key) is not None and key not in stair
    }
    up, down, hide, fill = (plain.get(key, math.inf) for key in ("up", "down", "hide", "fill"))
    return Price(up=up, down=down, hide=hide, fill=fill, fixed=plain.get("fixed", 0.0), matrix=None if matrix is None else _matrix(name, matrix),
                 up_steps=stair.get("up", ()), down_steps=stair.get("down", ()))  # fmt: skip


def _steps(name: str, key: str, given: list[Any]) -> tuple[tuple[float, float], ...]:
    """Stairs as pairs (by, price)."""
    if not given or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in given):
        raise InputError(f"price {key} of {name} is {str(given)[:80]}; give a number a unit, or stairs such as [[1, 5], [10, 20]]: up to 1 costs 5")
    return tuple((math.inf if by is None else _amount(name, key, by), _amount(name, key, paid)) for by, paid in given)


def _gain(given: Any) -> tuple[Any, bool]:
    """The feature that the attacker earns, and whether the changed row says how much."""
    if not isinstance(given, Mapping):
        return given, False
    for key in given:
        if key not in GAIN_KEYS:
            raise InputError(f"the price table's gain has a key {key!r}; its keys are {', '.join(GAIN_KEYS)}")
    follows = given.get("follows", False)
    if given.get("feature") is None or not isinstance(follows, bool):
        raise InputError(f'the price table\'s gain is {dict(given)}; write {{"feature": "amount", "follows": true}}')
    return given["feature"], follows


def _groups(given: Any, space: Space) -> dict[tuple[str, ...], Price]:
    if not isinstance(given, list) or not all(isinstance(g, Mapping) and isinstance(g.get("features"), list) for g in given):
        raise InputError(f'the price table\'s group_prices are {str(given)[:80]}; write [{{"features": ["red", "green"], "fixed": 3}}]')
    found: dict[tuple[str, ...], Price] = {}
    for entry in given:
        for key in entry:
            if key not in GROUP_KEYS:
                raise InputError(f"a group's price has a key {key!r}; its keys are {', '.join(GROUP_KEYS)}")
        names = tuple(_known(name, space) for name in entry["features"])
        if frozenset(names) in {frozenset(known) for known in found}:
            raise InputError(f"the group of {names[0]} has two prices; keep one")
        if entry.get("fixed") is None and entry.get("matrix") is None:
            raise InputError(f"the price of the group of {names[0] if names else 'nothing'} says neither fixed nor matrix; give one")
        found[names] = _price(f"the group of {names[0]}", {key: value for key, value in entry.items() if key != "features"})
    return found


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


def _check_steps(what: str, steps: tuple[tuple[float, float], ...], rate: float, price: Price) -> None:
    if not steps:
        return
    if math.isfinite(rate) or price.matrix is not None:
        raise InputError(f"{what} goes by steps, and the feature has a price a unit or a matrix besides; keep one")
    for (by, paid), (before, less) in zip(steps, ((0.0, 0.0), *steps), strict=False):
        if not (by > before and math.isfinite(paid) and paid >= less):
            raise InputError(f"{what} steps to {paid:g} at {by:g}; give distances that rise from above 0 and finite prices that do not fall")


def _check_missing(name: str, price: Price, feature: int, space: Space, related: set[str]) -> None:
    for key in ("hide", "fill"):
        if math.isfinite(getattr(price, key)):
            if key == "hide" and (space.missing is None or not space.missing.ravel()[feature]):
                raise InputError(f"{name} has a price for making it missing, but the space does not let it be; add missing: true to it in the space")
            if name in related or any(feature in group for group in space.groups):
                raise InputError(
                    f"price {key} of {name} makes a value missing or fills it, but a relation or one-hot group holds it; leave the price out"
                )


def _check_group(names: tuple[str, ...], price: Price, table: PriceTable, space: Space) -> None:
    members = {space.index(name) for name in names}
    if len(names) != len(members) or members not in [set(group) for group in space.groups]:
        raise InputError(f"group_prices names {', '.join(names)}, which is no one-hot group of the space; name all members of one, each once")
    own = next((name for name in names if name in table.prices), None)
    if own is not None:
        raise InputError(f"{own} has a price of its own and one in its group; keep one")
    matrix = np.zeros((len(names), len(names))) if price.matrix is None else np.asarray(price.matrix, float)
    if matrix.shape != (len(names), len(names)):
        raise InputError(
            f"the price matrix of the group of {names[0]} has shape {matrix.shape}; give {len(names)} rows of {len(names)} numbers or null"
        )
    if np.isnan(matrix).any() or (matrix < 0).any() or np.diagonal(matrix).any() or not 0 <= price.fixed < math.inf:
        raise InputError(
            f"the price of the group of {names[0]} holds a number below 0 or charges for staying; give numbers >= 0 and 0 on the diagonal"
        )
