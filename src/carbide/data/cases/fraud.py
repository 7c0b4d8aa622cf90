"""Le Borgne et al. 2022, https://fraud-detection-handbook.github.io/fraud-detection-handbook/: card payments made with latent customers, terminals and frauds.

Customers pay in their own rhythm for 180 days; three ways of working defraud them: bursts with stolen card numbers, compromised
terminals, and accounts taken over. Counts, means and the terminal's risk are computed from the payments themselves and from
the reports known at the moment, which arrive after seven days. Every number here is invented; the shapes are not.

>>> made = make_fraud(2_000, seed=0)
>>> made.data.x.shape, sorted(set(made.way.tolist()))
((2000, 19), [0, 1, 2, 3])
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carbide.data.cases._fraud_world import DAYS, Events, World, alike, frauds, honest, in_order, joined, make_world
from carbide.data.cases._rows import row_ids
from carbide.types import Array, Dataset, InputError, Space, Splits, rng_for

ROWS = 80_000  # of the built-in case
DELAY = 7.0  # days until a fraud is reported
RATE = 0.009  # share of payments that are fraud
ALIKE = 0.0065  # share of payments that are honest and look like fraud
MISSED = 0.03  # share of the frauds that nobody reports: they stay labelled honest
CUTS = (95.0, 132.0)  # last day of training, last day of validation
WAYS = ("honest", "card-not-present burst", "compromised terminal", "account takeover")
NAMES = ("amount", "amount_ratio", "mean_amount", "credit_limit", "hour", "merchant_category", "country", "device", "email_domain", "device_age",
         "account_age", "credential_age", "tx_1h", "tx_24h", "tx_7d", "cards_per_device", "terminal_risk", "distance", "card_present")  # fmt: skip
WINDOWS = {"tx_1h": 1 / 24, "tx_24h": 1.0, "tx_7d": 7.0}  # days
MEMORY = 28  # days of reports that a terminal's risk looks back on


@dataclass(frozen=True, kw_only=True, eq=False)
class Fraud:
    """The payments in order of time: ``day`` ``(n,)`` in [0, 180), ``way`` ``(n,)`` index into ``WAYS``, the truth behind the labels."""

    data: Dataset
    day: Array
    way: Array

    def splits(self) -> Splits:
        """Train, validation and test in order of time; a part begins when the labels before it are known, seven days after the last one ended."""
        first, second = CUTS
        parts = (self.day < first, (self.day >= first + DELAY) & (self.day < second), self.day >= second + DELAY)
        train, validation, test = (self.data.take(rows) for rows in parts)
        return Splits(train=train, validation=validation, test=test)


@functools.cache
def fraud_space() -> Space:
    """The space of one payment, from ``fraud-space.json``: 19 named features, their bounds, kinds, categories and relations."""
    from carbide.space.files import load_space

    return load_space(Path(__file__).parent / "fraud-space.json")


def make_fraud(n: int = 100_000, *, seed: int = 0) -> Fraud:
    """``n`` payments over 180 days, 0.9% of them fraud, in order of time.

    Columns are ``NAMES``: dollars, days, kilometres, counts and category codes. Labels are what is reported: 3% of the frauds
    never are and stay labelled honest. Another 0.65% of the payments are honest and look much like fraud.

    Raises:
        InputError: if ``n`` is below 1,000.
    """
    if n < 1000:
        raise InputError(f"n is {n}; make at least 1000 payments, or there is no fraud to learn from")
    rng = rng_for(seed, "fraud")
    world = make_world(n, rng)
    bad, strange = frauds(world, round(RATE * n), rng), alike(world, round(ALIKE * n), rng)
    events = in_order(joined(honest(world, n - len(bad.day) - len(strange.day), rng), strange, bad))
    reported = (events.way > 0) & (rng.random(n) >= MISSED)
    x = _features(world, events, reported)
    data = Dataset(x=x, y=reported.astype(np.int64), ids=row_ids(x, events.day), source=world.acquirer[events.merchant], space=fraud_space(), classes=2,
                   class_names=("honest", "fraud"), name="fraud")  # fmt: skip
    return Fraud(data=data, day=events.day, way=events.way)


def splits(seed: int) -> Splits:
    """The built-in case: ``ROWS`` payments, cut by time."""
    return make_fraud(ROWS, seed=seed).splits()


def _features(world: World, e: Events, reported: Array) -> Array:
    """The columns ``NAMES`` of the payments ``(n, 19)``."""
    amount = np.maximum(np.round(np.minimum(e.amount, world.limit[e.customer]), 2), 0.5)
    order = np.lexsort((e.day, e.customer))
    key = e.customer[order] * 1000.0 + e.day[order]
    mean = _mean_before(key, amount[order], e.customer[order], world.wealth)
    columns = {"amount": amount, "credit_limit": world.limit[e.customer], "hour": np.floor(np.mod(e.day, 1.0) * 24), "country": e.country,
               "merchant_category": world.category[e.merchant], "device": e.device, "email_domain": e.email, "device_age": np.round(e.device_age, 1),
               "account_age": np.round(e.account_age, 1), "credential_age": np.round(e.credential_age, 1), "cards_per_device": e.cards,
               "terminal_risk": _terminal_risk(e, reported, len(world.category)), "distance": np.round(e.distance, 1), "card_present": ~e.online,
               "mean_amount": _back(order, mean)}  # fmt: skip
    columns["amount_ratio"] = columns["amount"] / columns["mean_amount"]
    for name, window in WINDOWS.items():
        columns[name] = _back(order, np.arange(len(key)) - np.searchsorted(key, key - window, side="right") + 1)
    return np.column_stack([np.asarray(columns[name], np.float64) for name in NAMES])


def _mean_before(key: Array, amount: Array, customer: Array, wealth: Array) -> Array:
    """Mean of the customer's payments up to a day before, with three payments of the usual size as a start."""
    total = np.concatenate([[0.0], np.cumsum(amount)])
    first, until = np.searchsorted(customer, customer), np.searchsorted(key, key - 1.0)
    until = np.maximum(until, first)
    usual = 45.0 * wealth[customer]
    return np.round((3 * usual + total[until] - total[first]) / (3 + until - first), 2)


def _terminal_risk(events: Events, reported: Array, merchants: int) -> Array:
    """Share of reported frauds among the merchant's payments of four weeks that ended before the delay, shrunk to the base rate."""
    days = int(DAYS)
    day = np.minimum(events.day.astype(int), days - 1)
    weights = (reported.astype(float), np.ones(len(day)))
    cell = np.stack([np.bincount(events.merchant * days + day, w, merchants * days).reshape(merchants, days) for w in weights])
    total = np.concatenate([np.zeros((2, merchants, 1)), cell.cumsum(axis=2)], axis=2)
    end = np.maximum(day - int(DELAY), 0)
    frauds, payments = total[:, events.merchant, end] - total[:, events.merchant, np.maximum(end - MEMORY, 0)]
    return np.round((frauds + 0.1) / (payments + 10.0), 4)


def _back(order: Array, values: Array) -> Array:
    """Values in sorted order ``(n,)`` put back in the order of the payments."""
    out = np.empty(len(values))
    out[order] = values
    return out
