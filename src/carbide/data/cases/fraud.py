"""Card payments with fraud, made from latent customers, merchants and fraudsters; the fields follow the Fraud Detection Handbook, https://fraud-detection-handbook.github.io/fraud-detection-handbook/.

Customers pay in their own rhythm for 180 days; three ways of working defraud them: bursts with stolen card numbers, compromised
terminals, and accounts taken over. Counts and means are taken over the payments themselves, reports arrive after seven days.

>>> world = make_fraud(2_000, seed=0)
>>> world.data.x.shape, sorted(set(world.way.tolist()))
((2000, 19), [0, 1, 2, 3])
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from carbide.data.cases._rows import row_ids
from carbide.types import Array, Dataset, InputError, Kind, Linear, Ratio, Rng, Space, Splits, rng_for

ROWS = 80_000  # of the built-in case
DAYS = 180.0
DELAY = 7.0  # days until a fraud is reported
RATE = 0.009  # share of payments that are fraud
CAREFUL = 0.08  # share of the fraudsters who take care
ALIKE = 0.0055  # share of payments that are honest and look like fraud
MISSED = 0.03  # share of the frauds that nobody reports: they stay labelled honest
WAYS = ("honest", "card-not-present burst", "compromised terminal", "account takeover")
CUTS = (95.0, 132.0)  # last day of training, last day of validation

CATEGORIES = {
    "merchant_category": ("groceries", "restaurants", "fuel", "fashion", "travel", "electronics", "digital goods", "gift cards"),
    "country": ("home", "neighbour", "abroad", "hosting provider"),
    "device": ("android", "ios", "windows", "mac", "linux", "headless"),
    "email_domain": ("provider", "company", "webmail", "school", "privacy", "disposable"),
}
NAMES = ("amount", "amount_ratio", "mean_amount", "credit_limit", "hour", "merchant_category", "country", "device", "email_domain", "device_age",
         "account_age", "credential_age", "tx_1h", "tx_24h", "tx_7d", "cards_per_device", "terminal_risk", "distance", "card_present")  # fmt: skip
INTEGERS = ("hour", "tx_1h", "tx_24h", "tx_7d", "cards_per_device", "card_present")
UPPER = {"hour": 23.0, "terminal_risk": 1.0, "card_present": 1.0}

# Median payment in dollars and popularity of each merchant category.
TYPICAL = np.array([38.0, 27.0, 42.0, 55.0, 140.0, 120.0, 18.0, 45.0])
POPULAR = np.array([0.30, 0.21, 0.13, 0.12, 0.04, 0.08, 0.08, 0.04])
ONLINE = np.array([0.12, 0.15, 0.0, 0.55, 0.75, 0.65, 1.0, 0.8])


@dataclass(frozen=True, kw_only=True, eq=False)
class Fraud:
    """The payments in order of time: ``day`` ``(n,)`` in [0, 180), ``way`` ``(n,)`` index into ``WAYS``, the truth behind the labels."""

    data: Dataset
    day: Array
    way: Array

    def splits(self) -> Splits:
        """Train, validation and test in order of time; the days before each cut whose labels were not yet known are left out."""
        first, second = CUTS
        parts = (self.day < first, (self.day >= first + DELAY) & (self.day < second), self.day >= second + DELAY)
        train, validation, test = (self.data.take(rows) for rows in parts)
        return Splits(train=train, validation=validation, test=test)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Events:
    """Payments as columns of the same length; ``incident`` is -1 for honest ones."""

    day: Array
    customer: Array
    merchant: Array
    amount: Array
    way: Array
    online: Array
    country: Array
    device: Array
    email: Array
    device_age: Array
    account_age: Array
    credential_age: Array
    cards: Array
    distance: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class _World:
    """Latent customers (``k``) and merchants (``m``)."""

    wealth: Array
    limit: Array
    rate: Array
    waking: Array
    joined: Array
    email: Array
    device: Array
    replaced: Array
    household: Array
    credential: Array
    category: Array
    popularity: Array
    far: Array
    acquirer: Array


def fraud_space() -> Space:
    """The space of one payment: 19 named features, their bounds, kinds, categories and relations."""
    kind = np.array([Kind.CATEGORICAL if n in CATEGORIES else Kind.INTEGER if n in INTEGERS else Kind.REAL for n in NAMES], np.int8)
    upper = np.array([len(CATEGORIES[n]) - 1 if n in CATEGORIES else UPPER.get(n, np.inf) for n in NAMES], float)
    lower = np.array([1.0 if n in ("tx_1h", "tx_24h", "tx_7d", "cards_per_device") else 0.01 if n in ("amount", "mean_amount") else 0.0 for n in NAMES])
    at = NAMES.index
    no_more = [("amount", "credit_limit"), ("tx_1h", "tx_24h"), ("tx_24h", "tx_7d"), ("device_age", "account_age"), ("credential_age", "account_age")]
    relations = (Ratio(target=at("amount_ratio"), numerator=at("amount"), denominator=at("mean_amount")),
                 *(Linear(features=(at(a), at(b)), coefficients=(1.0, -1.0), upper=0.0) for a, b in no_more))  # fmt: skip
    fixed = ("credit_limit", "mean_amount", "terminal_risk", "distance", "card_present")
    space = Space.table(NAMES, lower=lower, upper=upper, kind=kind, mutable=np.array([n not in fixed for n in NAMES]), relations=relations)
    return replace(space, categories=CATEGORIES)


def make_fraud(n: int = 100_000, *, seed: int = 0) -> Fraud:
    """``n`` payments over 180 days, about 1.1% of them fraud, in order of time.

    Labels are what is reported after seven days: 3% of the frauds never are. The features that look back (counts, mean
    amount, the terminal's risk) are computed from the payments and from the reports known at the moment of payment.

    Raises:
        InputError: if ``n`` is below 1,000.
    """
    if n < 1000:
        raise InputError(f"n is {n}; make at least 1000 payments, or there is no fraud to learn from")
    rng = rng_for(seed, "fraud")
    world = _world(n, rng)
    bad = _frauds(world, round(RATE * n), rng)
    alike = _alike(world, round(ALIKE * n), rng)
    good = _honest(world, n - len(bad.day) - len(alike.day), rng)
    events = _in_order(_joined(good, alike, bad))
    reported = (events.way > 0) & (rng.random(n) >= MISSED)
    x = _features(world, events, reported)
    data = Dataset(x=x, y=reported.astype(np.int64), ids=row_ids(x, events.day), source=world.acquirer[events.merchant], space=fraud_space(), classes=2,
                   class_names=("honest", "fraud"), name="fraud")  # fmt: skip
    return Fraud(data=data, day=events.day, way=events.way)


def _world(n: int, rng: Rng) -> _World:
    k, m = max(200, n // 25), max(100, n // 100)
    wealth = rng.lognormal(0.0, 0.45, k)
    joined = np.where(rng.random(k) < 0.15, rng.uniform(0, DAYS, k), -rng.exponential(900.0, k))
    replaced = -rng.exponential(400.0, (k, 1)) + np.concatenate([np.zeros((k, 1)), np.cumsum(rng.exponential(400.0, (k, 4)), axis=1)], axis=1)
    category = rng.choice(len(TYPICAL), m, p=POPULAR)
    names = np.array([f"acquirer {i:02d}" for i in range(12)])
    return _World(wealth=wealth, limit=np.round(np.clip(3000 * wealth * rng.lognormal(0, 0.5, k), 500, 25000), -2), rate=rng.gamma(1.6, 1.0, k),
                  waking=rng.normal(14.5, 2.0, k), joined=joined, email=rng.choice(6, k, p=[0.30, 0.13, 0.46, 0.05, 0.045, 0.015]),
                  device=rng.choice(6, k, p=[0.36, 0.31, 0.22, 0.08, 0.027, 0.003]), replaced=np.sort(replaced, axis=1),
                  household=1 + rng.poisson(0.4, k) + np.where(rng.random(k) < 0.02, rng.geometric(0.25, k) + 1, 0),
                  credential=-rng.exponential(350.0, k), category=category, popularity=rng.lognormal(0, 0.8, m), far=rng.lognormal(1.6, 1.0, m),
                  acquirer=rng.choice(names, m, p=_share(np.arange(12, 0, -1.0))))  # fmt: skip


def _honest(world: _World, n: int, rng: Rng) -> _Events:
    first = np.maximum(world.joined, 0.0)
    customer = rng.choice(len(first), n, p=_share(world.rate * (DAYS - first)))
    hour = np.mod(rng.normal(world.waking[customer], 3.4), 24.0)
    day = np.floor(first[customer] + rng.random(n) * (DAYS - first[customer])) + hour / 24
    customer, day = _sprees(customer, day, rng)
    merchant = rng.choice(len(world.category), n, p=_share(world.popularity))
    category = world.category[merchant]
    odd = rng.random(n) < 0.015  # a move, a present, a journey: several things change at once
    treat = np.where(rng.random(n) < 0.02 + 0.4 * odd, rng.uniform(2.5, 10.0, n), 1.0)
    amount = TYPICAL[category] * world.wealth[customer] * rng.lognormal(0, 0.6, n) * treat * (1 + 0.05 * day / DAYS)
    online = rng.random(n) < ONLINE[category]
    travelling = rng.random(n) < 0.02 + 0.3 * odd
    borrowed = online & (rng.random(n) < 0.02 + 0.25 * odd)
    guest = online & (rng.random(n) < 0.02 + 0.15 * odd)
    age = np.where(guest, rng.exponential(3.0, n), np.maximum(day - world.joined[customer], 0.1))
    forgotten = rng.random(n) < 0.005 + 0.1 * odd
    credential = np.where(forgotten, rng.exponential(2.0, n), np.maximum(day - world.credential[customer], 0.1))
    near = world.far[merchant] * rng.lognormal(0.3, 0.7, n) * np.where(online, rng.lognormal(0.5, 1.0, n), 1.0)
    return _Events(day=day, customer=customer, merchant=merchant, amount=amount, way=np.zeros(n, int), online=online,
                   country=np.where(travelling, rng.choice(4, n, p=[0.1, 0.4, 0.4, 0.1]), rng.choice(4, n, p=[0.96, 0.02, 0.01, 0.01])),
                   device=np.where(borrowed, rng.choice(6, n, p=[0.3, 0.2, 0.33, 0.1, 0.05, 0.02]), world.device[customer]),
                   email=np.where(guest, rng.choice(6, n, p=[0.2, 0.08, 0.45, 0.04, 0.14, 0.09]), world.email[customer]),
                   device_age=np.minimum(np.where(borrowed, rng.exponential(2.0, n), _device_age(world, customer, day)), age),
                   account_age=age, credential_age=np.minimum(credential, age),
                   cards=np.where(borrowed & (rng.random(n) < 0.3), 1 + rng.geometric(0.3, n), world.household[customer]),
                   distance=np.where(travelling, rng.lognormal(5.0, 1.0, n), near))  # fmt: skip


def _sprees(customer: Array, day: Array, rng: Rng) -> tuple[Array, Array]:
    """Some payments follow an earlier one of the same customer within the hour: a day in town, a shop that bills in parts."""
    n = len(day)
    follows = (rng.random(n) < 0.10) & (np.arange(n) > 0)
    leader = np.maximum.accumulate(np.where(follows, 0, np.arange(n)))
    gap = np.where(follows, rng.exponential(0.03, n), 0.0) * (np.arange(n) - leader)
    return customer[leader], np.minimum(day[leader] + gap, DAYS - 1e-3)


def _frauds(world: _World, n: int, rng: Rng) -> _Events:
    """``n`` fraudulent payments: incidents of one victim each, of 1 to 9 payments, by the three ways of working."""
    begin = np.mod(rng.random() + np.arange(n) * 0.6180339887498949, 1.0) * DAYS  # evenly spread over the days, whatever the number of incidents
    drift = begin / DAYS  # bursts grow, takeovers too; terminals are slowly replaced
    draw = rng.random(n)
    way = np.where(draw < 0.30 - 0.04 * drift, 1, np.where(draw < 0.62 - 0.12 * drift, 2, 3))
    careful = rng.random(n) < CAREFUL  # small sums, an old device, few cards: hard to tell
    length = np.where(careful | (way == 2), rng.choice([1, 2], n, p=[0.75, 0.25]), np.where(way == 1, 1 + rng.geometric(0.35, n).clip(max=6), rng.choice([1, 2, 3], n)))
    incident = np.repeat(np.arange(n), length)[:n]
    step = np.arange(n) - np.searchsorted(incident, incident)
    way, drift, careful = way[incident], drift[incident], careful[incident]
    parts = [maker(world, rng, incident, step, drift, careful) for maker in (_burst, _terminal, _takeover)]
    merged = {f.name: np.choose(way - 1, [getattr(p, f.name) for p in parts]) for f in fields(_Events) if f.name not in ("day", "way")}
    gap = np.choose(way - 1, [0.02, 0.2, 0.06]) * step * rng.exponential(1.0, n)
    hour = np.where(rng.random(n)[incident] < 0.40 - 0.2 * drift, rng.normal(3.0, 1.8, n)[incident], rng.uniform(0, 24, n)[incident])
    day = np.floor(begin[incident]) + np.where(way == 2, np.mod(rng.normal(15, 4, n), 24), np.mod(hour, 24)) / 24 + gap
    return _Events(day=np.minimum(day, DAYS - 1e-3), way=way, **merged)


def _alike(world: _World, n: int, rng: Rng) -> _Events:
    """Honest payments that look like fraud: a buyer with many cards, a holiday paid from a hotel after a password reset, a day of shopping far away."""
    e = _frauds(world, n, rng)
    known = rng.exponential(1.0, n)
    age = np.minimum(e.account_age * (1 + known), np.maximum(e.day - world.joined[e.customer], e.account_age))
    return replace(e, way=np.zeros(n, int), amount=e.amount * rng.uniform(0.6, 1.0, n), account_age=age, device_age=np.minimum(e.device_age * (1 + known), age),
                   credential_age=np.minimum(e.credential_age * (1 + known), age), cards=np.maximum(1, e.cards - rng.poisson(1.0, n)))  # fmt: skip


def _burst(world: _World, rng: Rng, incident: Array, step: Array, drift: Array, careful: Array) -> _Events:
    """Stolen card numbers used quickly, by a new guest account, from one machine that has seen other cards."""
    n = len(incident)
    victim = rng.choice(len(world.rate), n, p=_share(world.rate))[incident]
    merchant = _shop(world, rng, np.array([0.05, 0.03, 0.0, 0.17, 0.10, 0.27, 0.20, 0.18]), n)
    amount = rng.lognormal(5.3, 0.5, n) * world.wealth[victim] ** 0.3 * np.where(step == 0, 0.6, 1.0)
    account = np.where(careful, rng.exponential(120.0, n)[incident], rng.exponential(4.0, n)[incident])
    cards = np.where(careful, 1 + rng.poisson(0.5, n)[incident], 4 + rng.poisson(6.0 - 1.0 * drift, n)[incident])
    return _Events(day=drift, way=incident, customer=victim, merchant=merchant, amount=np.where(careful, 0.4 * amount, amount), online=np.ones(n, bool),
                   country=_pick(rng, incident, [0.45, 0.10, 0.20, 0.25]), device=_pick(rng, incident, [0.23, 0.12, 0.38, 0.04, 0.11, 0.12]),
                   email=_pick(rng, incident, [0.06, 0.03, 0.45, 0.02, 0.18, 0.26]),
                   device_age=np.minimum(rng.exponential(1.2, n)[incident] + np.where(careful, account, 0), account), account_age=account,
                   credential_age=account, cards=cards, distance=rng.lognormal(3.2, 1.2, n)[incident])  # fmt: skip


def _terminal(world: _World, rng: Rng, incident: Array, step: Array, drift: Array, careful: Array) -> _Events:
    """Cards cloned and used in person at one of a few terminals that look away, far from the holder's home."""
    n = len(incident)
    victim = rng.choice(len(world.rate), n, p=_share(world.rate))[incident]
    shops = np.flatnonzero(np.isin(world.category, (2, 3, 5)))
    crooked = rng.permutation(shops)[: max(3, len(world.category) // 260)]
    merchant = crooked[(rng.random(n)[incident] * len(crooked)).astype(int)]
    age = np.maximum(drift * DAYS - world.joined[victim], 1.0)
    amount = rng.lognormal(5.3, 0.5, n) * world.wealth[victim] ** 0.5
    return _Events(day=drift, way=incident, customer=victim, merchant=merchant, amount=amount, online=np.zeros(n, bool),
                   country=_pick(rng, incident, [0.9, 0.06, 0.04, 0.0]), device=world.device[victim], email=world.email[victim],
                   device_age=np.minimum(_device_age(world, victim, drift * DAYS), age), account_age=age,
                   credential_age=np.minimum(np.maximum(drift * DAYS - world.credential[victim], 0.1), age), cards=world.household[victim],
                   distance=rng.lognormal(5.2, 0.9, n)[incident])  # fmt: skip


def _takeover(world: _World, rng: Rng, incident: Array, step: Array, drift: Array, careful: Array) -> _Events:
    """A real account entered with stolen credentials, on a machine it has never seen, and emptied in a few large payments."""
    n = len(incident)
    victim = rng.choice(len(world.rate), n, p=_share(world.limit))[incident]
    merchant = _shop(world, rng, np.array([0.03, 0.02, 0.0, 0.17, 0.20, 0.34, 0.06, 0.18]), n)
    amount = world.limit[victim] * rng.beta(2.5, 4.5, n) * np.where(careful, 0.15, 1.0)
    age = np.maximum(drift * DAYS - world.joined[victim], 20.0)
    changed = (rng.random(n) < 0.92)[incident]
    old = np.minimum(np.maximum(drift * DAYS - world.credential[victim], 0.1), age)
    return _Events(day=drift, way=incident, customer=victim, merchant=merchant, amount=amount, online=np.ones(n, bool),
                   country=_pick(rng, incident, [0.50, 0.10, 0.20, 0.20]), device=_pick(rng, incident, [0.27, 0.15, 0.38, 0.05, 0.09, 0.06]),
                   email=np.where(changed, _pick(rng, incident, [0.05, 0.03, 0.50, 0.02, 0.22, 0.18]), world.email[victim]),
                   device_age=np.minimum(rng.exponential(1.0, n)[incident] + np.where(careful, 20.0, 0.0), age), account_age=age,
                   credential_age=np.where(changed, rng.exponential(1.0, n)[incident], old), cards=np.where(careful, 1, 1 + rng.poisson(1.6, n)[incident]),
                   distance=rng.lognormal(3.4, 1.2, n)[incident])  # fmt: skip


def _features(world: _World, events: _Events, reported: Array) -> Array:
    e = events
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
    for name, window in (("tx_1h", 1 / 24), ("tx_24h", 1.0), ("tx_7d", 7.0)):
        columns[name] = _back(order, np.arange(len(key)) - np.searchsorted(key, key - window, side="right") + 1)
    return np.column_stack([np.asarray(columns[name], np.float64) for name in NAMES])


def _mean_before(key: Array, amount: Array, customer: Array, wealth: Array) -> Array:
    """Mean of the customer's payments up to a day before, with three payments of the usual size as a start."""
    total = np.concatenate([[0.0], np.cumsum(amount)])
    first, until = np.searchsorted(customer, customer), np.searchsorted(key, key - 1.0)
    until = np.maximum(until, first)
    usual = 45.0 * wealth[customer]
    return np.round((3 * usual + total[until] - total[first]) / (3 + until - first), 2)


def _terminal_risk(events: _Events, reported: Array, merchants: int) -> Array:
    """Share of reported frauds among the merchant's payments of four weeks that ended before the delay, shrunk to the base rate."""
    days = int(DAYS)
    day = np.minimum(events.day.astype(int), days - 1)
    cell = np.stack([np.bincount(events.merchant * days + day, w, merchants * days).reshape(merchants, days) for w in (reported.astype(float), np.ones(len(day)))])
    total = np.concatenate([np.zeros((2, merchants, 1)), cell.cumsum(axis=2)], axis=2)
    end = np.maximum(day - int(DELAY), 0)
    frauds, payments = total[:, events.merchant, end] - total[:, events.merchant, np.maximum(end - 28, 0)]
    return np.round((frauds + 0.1) / (payments + 10.0), 4)


def _device_age(world: _World, customer: Array, day: Array) -> Array:
    age = day[:, None] - world.replaced[customer]
    return np.where(age >= 0, age, np.inf).min(axis=1)


def _shop(world: _World, rng: Rng, taste: Array, n: int) -> Array:
    """Merchants whose category is drawn by ``taste``."""
    share = taste / np.maximum(np.bincount(world.category, minlength=len(taste)), 1)
    return rng.choice(len(world.category), n, p=_share(share[world.category]))


def _pick(rng: Rng, incident: Array, shares: list[float]) -> Array:
    """One category an incident."""
    return rng.choice(len(shares), len(incident), p=shares)[incident]


def _share(weights: Array) -> Array:
    return weights / weights.sum()


def _back(order: Array, values: Array) -> Array:
    out = np.empty(len(values))
    out[order] = values
    return out


def _joined(*parts: _Events) -> _Events:
    return _Events(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(_Events)})


def _in_order(events: _Events) -> _Events:
    order = np.argsort(events.day, kind="stable")
    return _Events(**{f.name: getattr(events, f.name)[order] for f in fields(_Events)})


def splits(seed: int) -> Splits:
    """The built-in case: ``ROWS`` payments, cut by time."""
    return make_fraud(ROWS, seed=seed).splits()
