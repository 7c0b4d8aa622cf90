"""Price tables in plain words, one line a feature, for a person who knows the attackers to confirm or correct.

>>> from carbide.types import Price, PriceTable, Space
>>> space = Space.table(["amount", "age"])
>>> print(describe_prices(PriceTable(prices={"amount": Price(down=1), "age": Price(up_steps=((7, 5), (30, 20)))}, gain="amount"), space))
what changes cost:
  amount: $1 a unit down, never up
  age: up by at most 7 $5, by at most 30 $20, never farther; never down
  what passes earns its amount as it stands at first
"""

from __future__ import annotations

import math

import numpy as np

from carbide.types import Price, PriceTable, Space


def describe_prices(table: PriceTable, space: Space) -> str:
    """The price table in plain words; features that it does not name stay as they are."""
    lines = ["what changes cost:"]
    for name, price in table.prices.items():
        said = _price_words(price, table.currency)
        still = "" if space.mutable.ravel()[space.index(name)] else " (but the space does not let it change)"
        lines.append(f"  {name}: {said}{still}")
    for names, price in table.groups.items():
        lines.append(f"  another one of {', '.join(names)}: {_group_words(price, table.currency)}")
    if table.gain is not None:
        lines.append(f"  what passes earns its {table.gain} {'as it is once changed' if table.follows else 'as it stands at first'}")
    return "\n".join(lines)


def _price_words(price: Price, currency: str) -> str:
    if price.matrix is not None:
        parts = [f"a matrix of prices, {_range(price, currency)}"]
    else:
        up, down = (_way(word, rate, steps, currency)
                    for word, rate, steps in (("up", price.up, price.up_steps), ("down", price.down, price.down_steps)))  # fmt: skip
        parts = [f"{up}; {down}" if price.up_steps or price.down_steps else ", ".join(sorted((up, down), key=lambda part: part.startswith("never")))]
        if price.fixed:
            parts.append(f"and {currency}{price.fixed:g} for any change")
    for word, paid in (("to make it missing", price.hide), ("to fill it where it is missing", price.fill)):
        if math.isfinite(paid):
            parts.append(f"{currency}{paid:g} {word}")
    return "; ".join(parts)


def _way(word: str, rate: float, steps: tuple[tuple[float, float], ...], currency: str) -> str:
    if steps:
        said = ", ".join(f"by {f'at most {by:g}' if math.isfinite(by) else 'any distance'} {currency}{paid:g}" for by, paid in steps)
        return f"{word} {said}{', never farther' if math.isfinite(steps[-1][0]) else ''}"
    return f"{currency}{rate:g} a unit {word}" if math.isfinite(rate) else f"never {word}"


def _range(price: Price, currency: str) -> str:
    matrix = np.asarray(price.matrix, float)
    moves = matrix[~np.eye(len(matrix), dtype=bool)]
    moves = moves[np.isfinite(moves)] + price.fixed
    return f"{currency}{moves.min():g} to {currency}{moves.max():g}" if len(moves) else "none of them possible"


def _group_words(price: Price, currency: str) -> str:
    return f"{currency}{price.fixed:g}" if price.matrix is None else f"a matrix of prices, {_range(price, currency)}"
