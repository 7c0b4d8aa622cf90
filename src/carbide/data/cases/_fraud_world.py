"""The hidden world behind the fraud case: customers, merchants, honest payments, and fraudsters with three ways of working."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from carbide.types import Array, Rng

DAYS = 180.0
CAREFUL = 0.08  # share of the fraudsters who take care: small sums, an older machine, one card

# Merchant categories in the order of the feature's categories: median payment in dollars, popularity, share of online payments.
TYPICAL = np.array([38.0, 27.0, 42.0, 55.0, 140.0, 120.0, 18.0, 45.0])
POPULAR = np.array([0.30, 0.21, 0.13, 0.12, 0.04, 0.08, 0.08, 0.04])
ONLINE = np.array([0.12, 0.15, 0.0, 0.55, 0.75, 0.65, 1.0, 0.8])
IN_PERSON = (2, 3, 5)  # categories whose terminals take cloned cards: fuel, fashion, electronics
GOLDEN = 0.6180339887498949  # steps of this share spread any number of points evenly over the unit interval


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """Payments as columns ``(n,)``; ``way`` 0 is honest, 1 to 3 are the ways of working."""

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
class World:
    """Latent customers (``k`` of them) and merchants (``m``).

    Of customers: ``wealth`` (1 = usual), credit ``limit`` in dollars, payment ``rate``, usual hour ``waking``, day ``joined``, ``email`` and
    ``device`` codes, days ``replaced`` ``(k, 5)`` on which the machine was new, cards in the ``household``, day of the last new ``credential``.
    Of merchants: ``category``, ``popularity``, ``far`` (km to its customers), ``acquirer``.
    """

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


def make_world(n: int, rng: Rng) -> World:
    """The customers and merchants of ``n`` payments: 25 payments a customer, 100 a merchant on average."""
    k, m = max(200, n // 25), max(100, n // 100)
    wealth = rng.lognormal(0.0, 0.45, k)
    joined = np.where(rng.random(k) < 0.15, rng.uniform(0, DAYS, k), -rng.exponential(900.0, k))
    replaced = -rng.exponential(400.0, (k, 1)) + np.concatenate([np.zeros((k, 1)), np.cumsum(rng.exponential(400.0, (k, 4)), axis=1)], axis=1)
    category = rng.choice(len(TYPICAL), m, p=POPULAR)
    names = np.array([f"acquirer {i:02d}" for i in range(12)])
    return World(wealth=wealth, limit=np.round(np.clip(3000 * wealth * rng.lognormal(0, 0.5, k), 500, 25000), -2), rate=rng.gamma(1.6, 1.0, k),
                  waking=rng.normal(14.5, 2.0, k), joined=joined, email=rng.choice(6, k, p=[0.30, 0.13, 0.46, 0.05, 0.045, 0.015]),
                  device=rng.choice(6, k, p=[0.36, 0.31, 0.22, 0.08, 0.027, 0.003]), replaced=np.sort(replaced, axis=1),
                  household=1 + rng.poisson(0.4, k) + np.where(rng.random(k) < 0.02, rng.geometric(0.25, k) + 1, 0),
                  credential=-rng.exponential(350.0, k), category=category, popularity=rng.lognormal(0, 0.8, m), far=rng.lognormal(1.6, 1.0, m),
                  acquirer=rng.choice(names, m, p=_share(np.arange(12, 0, -1.0))))  # fmt: skip


def honest(world: World, n: int, rng: Rng) -> Events:
    """``n`` ordinary payments, some of them on journeys, on new machines, by guests or after a new password."""
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
    return Events(day=day, customer=customer, merchant=merchant, amount=amount, way=np.zeros(n, int), online=online,
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


def frauds(world: World, n: int, rng: Rng) -> Events:
    """``n`` fraudulent payments: incidents of one victim each, of 1 to 7 payments, by the three ways of working."""
    begin = np.mod(rng.random() + np.arange(n) * GOLDEN, 1.0) * DAYS
    drift = begin / DAYS  # takeovers grow, the other two shrink, fewer frauds happen at night
    draw = rng.random(n)
    way = np.where(draw < 0.30 - 0.04 * drift, 1, np.where(draw < 0.62 - 0.12 * drift, 2, 3))
    careful = rng.random(n) < CAREFUL
    few, more, many = rng.choice([1, 2], n, p=[0.75, 0.25]), rng.choice([1, 2, 3], n), 1 + rng.geometric(0.35, n).clip(max=6)
    length = np.where(careful | (way == 2), few, np.where(way == 1, many, more))
    incident = np.repeat(np.arange(n), length)[:n]
    step = np.arange(n) - np.searchsorted(incident, incident)
    way, drift, careful = way[incident], drift[incident], careful[incident]
    parts = [maker(world, rng, incident, step, drift, careful) for maker in (_burst, _terminal, _takeover)]
    merged = {f.name: np.choose(way - 1, [getattr(p, f.name) for p in parts]) for f in fields(Events) if f.name not in ("day", "way")}
    gap = np.choose(way - 1, [0.02, 0.2, 0.06]) * step * rng.exponential(1.0, n)
    hour = np.where(rng.random(n)[incident] < 0.40 - 0.2 * drift, rng.normal(3.0, 1.8, n)[incident], rng.uniform(0, 24, n)[incident])
    day = np.floor(begin[incident]) + np.where(way == 2, np.mod(rng.normal(15, 4, n), 24), np.mod(hour, 24)) / 24 + gap
    return Events(day=np.minimum(day, DAYS - 1e-3), way=way, **merged)


def alike(world: World, n: int, rng: Rng) -> Events:
    """``n`` honest payments that look like fraud: a buyer with many cards, a journey paid from a hotel, a day of shopping far away."""
    e = frauds(world, n, rng)
    known = rng.exponential(0.5, n)
    age = np.minimum(e.account_age * (1 + known), np.maximum(e.day - world.joined[e.customer], e.account_age))
    return replace(e, way=np.zeros(n, int), amount=e.amount * rng.uniform(0.75, 1.0, n), account_age=age,
                   device_age=np.minimum(e.device_age * (1 + known), age), credential_age=np.minimum(e.credential_age * (1 + known), age),
                   cards=np.maximum(1, e.cards - rng.poisson(0.5, n)))  # fmt: skip


def _burst(world: World, rng: Rng, incident: Array, step: Array, drift: Array, careful: Array) -> Events:
    """Stolen card numbers used quickly, by a new guest account, from one machine that has seen other cards."""
    n = len(incident)
    victim = rng.choice(len(world.rate), n, p=_share(world.rate))[incident]
    merchant = _shop(world, rng, np.array([0.05, 0.03, 0.0, 0.17, 0.10, 0.27, 0.20, 0.18]), n)
    amount = rng.lognormal(5.3, 0.5, n) * world.wealth[victim] ** 0.3 * np.where(step == 0, 0.6, 1.0) * np.where(careful, 0.4, 1.0)
    account = np.where(careful, rng.exponential(120.0, n)[incident], rng.exponential(4.0, n)[incident])
    cards = np.where(careful, 1 + rng.poisson(0.5, n)[incident], 4 + rng.poisson(6.0 - 1.0 * drift, n)[incident])
    return Events(day=drift, way=incident, customer=victim, merchant=merchant, amount=amount, online=np.ones(n, bool),
                   country=_pick(rng, incident, [0.45, 0.10, 0.20, 0.25]), device=_pick(rng, incident, [0.23, 0.12, 0.38, 0.04, 0.11, 0.12]),
                   email=_pick(rng, incident, [0.06, 0.03, 0.45, 0.02, 0.18, 0.26]),
                   device_age=np.minimum(rng.exponential(1.2, n)[incident] + np.where(careful, account, 0), account), account_age=account,
                   credential_age=account, cards=cards, distance=rng.lognormal(3.2, 1.2, n)[incident])  # fmt: skip


def _terminal(world: World, rng: Rng, incident: Array, step: Array, drift: Array, careful: Array) -> Events:
    """Cards cloned and used in person at one of a few terminals that look away, far from the holder's home."""
    n = len(incident)
    victim = rng.choice(len(world.rate), n, p=_share(world.rate))[incident]
    shops = np.flatnonzero(np.isin(world.category, IN_PERSON))
    crooked = rng.permutation(shops)[: max(3, len(world.category) // 260)]
    merchant = crooked[(rng.random(n)[incident] * len(crooked)).astype(int)]
    age = np.maximum(drift * DAYS - world.joined[victim], 1.0)
    amount = rng.lognormal(5.3, 0.5, n) * world.wealth[victim] ** 0.5 * np.where(careful, 0.5, 1.0)
    return Events(day=drift, way=incident, customer=victim, merchant=merchant, amount=amount, online=np.zeros(n, bool),
                   country=_pick(rng, incident, [0.9, 0.06, 0.04, 0.0]), device=world.device[victim], email=world.email[victim],
                   device_age=np.minimum(_device_age(world, victim, drift * DAYS), age), account_age=age,
                   credential_age=np.minimum(np.maximum(drift * DAYS - world.credential[victim], 0.1), age), cards=world.household[victim],
                   distance=rng.lognormal(5.2, 0.9, n)[incident])  # fmt: skip


def _takeover(world: World, rng: Rng, incident: Array, step: Array, drift: Array, careful: Array) -> Events:
    """A real account entered with stolen credentials, on a machine it has never seen, and emptied in a few large payments."""
    n = len(incident)
    victim = rng.choice(len(world.rate), n, p=_share(world.limit))[incident]
    merchant = _shop(world, rng, np.array([0.03, 0.02, 0.0, 0.17, 0.20, 0.34, 0.06, 0.18]), n)
    amount = world.limit[victim] * rng.beta(2.5, 4.5, n) * np.where(careful, 0.15, 1.0)
    age = np.maximum(drift * DAYS - world.joined[victim], 20.0)
    changed = (rng.random(n) < 0.92)[incident]
    old = np.minimum(np.maximum(drift * DAYS - world.credential[victim], 0.1), age)
    return Events(day=drift, way=incident, customer=victim, merchant=merchant, amount=amount, online=np.ones(n, bool),
                   country=_pick(rng, incident, [0.50, 0.10, 0.20, 0.20]), device=_pick(rng, incident, [0.27, 0.15, 0.38, 0.05, 0.09, 0.06]),
                   email=np.where(changed, _pick(rng, incident, [0.05, 0.03, 0.50, 0.02, 0.22, 0.18]), world.email[victim]),
                   device_age=np.minimum(rng.exponential(1.0, n)[incident] + np.where(careful, 20.0, 0.0), age), account_age=age,
                   credential_age=np.where(changed, rng.exponential(1.0, n)[incident], old),
                   cards=np.where(careful, 1, 1 + rng.poisson(1.6, n)[incident]), distance=rng.lognormal(3.4, 1.2, n)[incident])  # fmt: skip


def _device_age(world: World, customer: Array, day: Array) -> Array:
    """Days since the customer last replaced the machine."""
    age = day[:, None] - world.replaced[customer]
    return np.where(age >= 0, age, np.inf).min(axis=1)


def _shop(world: World, rng: Rng, taste: Array, n: int) -> Array:
    """Merchants whose category is drawn by ``taste``."""
    share = taste / np.maximum(np.bincount(world.category, minlength=len(taste)), 1)
    return rng.choice(len(world.category), n, p=_share(share[world.category]))


def _pick(rng: Rng, incident: Array, shares: list[float]) -> Array:
    """One category an incident."""
    return rng.choice(len(shares), len(incident), p=shares)[incident]


def _share(weights: Array) -> Array:
    return weights / weights.sum()


def joined(*parts: Events) -> Events:
    """The payments of all parts."""
    return Events(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Events)})


def in_order(events: Events) -> Events:
    """The payments in order of time."""
    order = np.argsort(events.day, kind="stable")
    return Events(**{f.name: getattr(events, f.name)[order] for f in fields(Events)})
