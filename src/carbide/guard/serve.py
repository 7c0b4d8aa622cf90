"""The hardened model behind HTTP: checked requests, the output policy it was hardened with, and a query budget a key.

``POST /predict`` takes ``{"inputs": [[...], ...]}`` and answers ``{"probabilities": [[...], ...], "labels": [...]}`` or labels
alone for a model that gives labels only. With a price table each alert has a certificate beside its score: the price below which no
change turns it off. The key is the ``authorization`` header, else the client's address.
"""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carbide.types import Access, Array, Decision, FeatureBudget, InputError, Kind, Model, Space, decide

WINDOW = 3600.0  # seconds over which a budget counts
KEYS = 100_000  # keys remembered; the ones idle longest are forgotten first
BODY = 32 * 2**20  # bytes of one request
SLACK = 1e-9  # how far beyond a bound still counts as on it, relative
PORTS = 65_535
OUTSIDE = {"no_flip_under": None, "exact": False, "words": "the row lies outside the space, so nothing is certified about it"}


@dataclass(kw_only=True)
class Budget:
    """Rows a key may ask for in an hour, as a bucket that refills steadily; keeps at most ``KEYS`` keys."""

    rows: int
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(f"budget is {self.rows}; give a whole number of rows >= 1")

    def spend(self, key: str, rows: int) -> Decision:
        """Take ``rows`` from the key's bucket if they are there."""
        start = time.perf_counter()
        now = self.clock()
        left, seen = self._buckets.pop(key, (float(self.rows), now))
        left = min(float(self.rows), left + (now - seen) * self.rows / WINDOW)
        allowed = rows <= left
        self._buckets[key] = (left - rows if allowed else left, now)
        while len(self._buckets) > KEYS:
            self._buckets.popitem(last=False)
        reason = "within the budget" if allowed else f"{rows} rows asked, {int(left)} left of {self.rows} an hour"
        return Decision(
            action="allow" if allowed else "deny", score=1 - left / self.rows, reason=reason, milliseconds=(time.perf_counter() - start) * 1e3
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Certifier:
    """Certificates of alerts under a price table; see ``carbide.evasion.guard.price_certificate``."""

    method: Any
    state: Any

    @classmethod
    def of(cls, model: Model, threat: FeatureBudget, *, boxes: int | None = None) -> Certifier:
        """The certifier of a model, made ready.

        Raises:
            InputError: if the model shows no trees or the prices cannot be searched.
        """
        from carbide.evasion.guard.price_certificate import PriceCertificate

        method = PriceCertificate() if boxes is None else PriceCertificate(boxes=boxes)
        return cls(method=method, state=method.state(model, threat))

    def answer(self, x: Array, alert: Array) -> dict[str, Any]:
        """For each row ``no_flip_under`` (a price, null where there is no alert), ``exact`` (one at that price does) and words.

        An alert outside the space (its bounds, its whole numbers) has no certificate: the prices are about rows inside.
        """
        known = alert & within(x, self.state.model.space)
        bounds = self.method.certify(x, self.state, known)
        currency = self.state.threat.prices.currency
        return {"certificates": [OUTSIDE if a and not k else {"no_flip_under": b.price if k else None, "exact": b.exact, "words": b.words(currency)}
                                 for a, k, b in zip(alert, known, bounds, strict=True)]}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shield:
    """A pure ASGI application that serves one model within a budget; ``certifier`` says what stands beside its scores."""

    model: Model
    budget: Budget
    certifier: Certifier | None = None

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        """Answer one HTTP request; other protocols are refused."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise InputError(f"protocol {scope['type']!r} is not served; use HTTP")
        status, answer = await self._answer(scope, receive)
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[int, dict[str, Any]]:
        if scope["path"] == "/health" and scope["method"] == "GET":
            return 200, {"status": "ok", "classes": self.model.classes, "shape": list(self.model.space.shape)}
        if scope["path"] != "/predict" or scope["method"] != "POST":
            return 404, {"error": f"{scope['method']} {scope['path']} is not served; POST /predict or GET /health"}
        body = await _body(receive)
        if body is None:
            return 413, {"error": f"the request is larger than {BODY} bytes; send fewer rows at a time"}
        try:
            x = read_inputs(body, self.model)
        except InputError as error:
            return 422, {"error": str(error)}
        decision = self.budget.spend(_key(scope), len(x))
        if decision.action == "deny":
            return 429, {"error": decision.reason}
        answer = answer_of(self.model, x)
        return 200, answer if self.certifier is None else answer | self.certifier.answer(x, np.array(answer["labels"]) == 1)


def read_inputs(body: bytes, model: Model) -> Array:
    """The rows of a request ``(n, *shape)``.

    Raises:
        InputError: if the body is no JSON of that form, or a row lies outside the model's space.
    """
    try:
        raw = json.loads(body, object_pairs_hook=_unique)
        cells = np.array(raw["inputs"], dtype=object)
        if not set(map(type, cells.ravel())) <= {int, float}:
            raise TypeError("a cell is no number")  # which numpy would make one of, from "1" and from true
        x = cells.astype(np.float64)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError('the body is not of the form {"inputs": [[numbers], ...]}; send JSON with one list a row') from error
    shape = model.space.shape
    if x.ndim != len(shape) + 1 or x.shape[1:] != shape or len(x) == 0:
        raise InputError(f"inputs have shape {x.shape}; send (rows, {', '.join(map(str, shape))})")
    if not np.isfinite(x).all():
        raise InputError("inputs hold NaN or infinity; send finite numbers")
    with np.errstate(over="ignore"):
        large = ~np.isfinite(x.astype(np.float32))
    if large.any():
        raise InputError(f"inputs hold {x[large][0]:g}, which is too large for a model; send numbers of at most {np.finfo(np.float32).max:.2g}")
    if model.space.is_image and ((x < model.space.lower) | (x > model.space.upper)).any():
        raise InputError(f"inputs lie in [{x.min():g}, {x.max():g}], outside the model's range; scale them to [0, 1]")
    return x


def within(x: Array, space: Space) -> Array:
    """Whether each row ``(n, *shape)`` keeps the bounds and whole numbers of the space, ``(n,)`` bool."""
    low, high = space.lower - SLACK * (1 + np.abs(space.lower)), space.upper + SLACK * (1 + np.abs(space.upper))
    return ((x >= low) & (x <= high) & ((space.kind == Kind.REAL) | (x == np.round(x)))).reshape(len(x), -1).all(1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputError("a key stands twice in the body; send each once")
    return found


def answer_of(model: Model, x: Array) -> dict[str, Any]:
    """What a caller is told: labels, and probabilities where the model's policy gives them."""
    probabilities = model.predict(x)
    answer: dict[str, Any] = {"labels": decide(probabilities, model.threshold).tolist()}
    if Access.SCORES in model.access:
        answer["probabilities"] = [[value if math.isfinite(value) else None for value in row] for row in probabilities.tolist()]
    return answer


def _key(scope: dict[str, Any]) -> str:
    for name, value in scope.get("headers", []):
        if name == b"authorization":
            return "key " + value.decode("latin-1")
    return "address " + str((scope.get("client") or ("unknown",))[0])


async def _body(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes | None:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


async def _lifespan(receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def serve(run: Path, *, host: str, port: int, budget: int, prices: Path | None = None, money: float | None = None) -> None:
    """Serve the hardened model of a finished run until stopped; with ``prices`` and ``money`` certificates stand beside its scores.

    Raises:
        InputError: if the port is none, the run has no hardened model or the serve extra is missing.
    """
    from carbide.models import load_saved

    if not 0 <= port <= PORTS:
        raise InputError(f"port is {port}; give a whole number from 1 to {PORTS}")
    folder = run / "hardened"
    if not folder.is_dir():
        raise InputError(f"{run} has no hardened model; run: carbide harden PLAN --out {run}")
    shield = shield_of(load_saved(folder), budget=budget, prices=prices, money=money)
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise InputError("serving needs uvicorn; install it with: pip install 'carbide[serve]'") from error
    uvicorn.run(shield, host=host, port=port, log_level="warning")  # type: ignore[arg-type]


def shield_of(model: Model, *, budget: int, prices: Path | None = None, money: float | None = None) -> Shield:
    """The application that serves a model.

    Raises:
        InputError: if only one of ``prices`` and ``money`` is given, or certificates cannot be had.
    """
    if (prices is None) != (money is None):
        raise InputError(
            f"certificates need prices and money, and {'money' if money is None else 'prices'} is not given; add --prices FILE --money 50"
        )
    if prices is None or money is None:
        return Shield(model=model, budget=Budget(rows=budget))
    if not math.isfinite(money):
        raise InputError(f"money is {money}; give the finite price up to which certificates look")
    from carbide.space.prices import load_prices

    threat = FeatureBudget(money=money, prices=load_prices(prices, model.space))
    return Shield(model=model, budget=Budget(rows=budget), certifier=Certifier.of(model, threat))
