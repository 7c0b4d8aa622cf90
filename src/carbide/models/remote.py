"""A model behind an HTTP endpoint: rows go out as JSON, answers come back; no address is called but the one the user names.

The request is ``{"inputs": [[...], ...]}`` (NaN as null), the answer ``{"probabilities": [[...], ...]}``, ``{"logits": ...}``
or ``{"labels": [...]}``.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from carbide.models._answers import ANSWERS, check_answers, probe_rows, to_probabilities
from carbide.models._files import one_line
from carbide.types import BLACK_BOX, Access, Array, InputError, Space, digest, rng_for


class Counter:
    """How many rows were sent, shared by the copies of a model at other thresholds."""

    def __init__(self) -> None:
        self.rows = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class HttpModel:
    """The endpoint at ``url``; ``answers`` is what it returns (``auto`` = by the key of its first answer).

    ``timeout`` is in seconds for a whole batch, ``retries`` counts further tries after a failed connection or a status of
    500 and more, with pauses of ``pause``, twice, four times ... seconds. ``token_variable`` names the environment variable
    whose value is sent in ``token_header``; the value itself is never stored.
    """

    url: str
    space: Space
    classes: int
    answers: str = "auto"
    labels: tuple[Any, ...] = ()
    timeout: float = 10.0
    retries: int = 3
    pause: float = 0.5
    batch: int = 256
    token_variable: str = ""
    token_header: str = "Authorization"
    threshold: float = 0.5
    counter: Counter = field(default_factory=Counter, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(str(self.url))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"url is {self.url!r}; give an address that begins with http:// or https://")
        if parts.username or parts.password:
            raise InputError(f"url of {parts.hostname} holds a password; put it into an environment variable and name that under token_variable")
        for name, least in (("timeout", 1e-3), ("retries", 0), ("pause", 0), ("batch", 1)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} of {self.url} is {getattr(self, name)}; give a number of at least {least:g}")
        if check_answers(self.answers) == "auto":
            object.__setattr__(self, "answers", self._first_answer())

    @property
    def access(self) -> Access:
        """Labels alone, or scores too."""
        return Access.LABELS if self.answers == "labels" else BLACK_BOX

    @property
    def queries(self) -> int:
        """The rows sent so far."""
        return self.counter.rows

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64; one-hot where the endpoint answers labels.

        Raises:
            InputError: if the endpoint is silent, refuses or answers something else.
        """
        if len(x) == 0:
            return np.zeros((0, self.classes))
        with self._client() as client:
            parts = [self._answer(client, x[i : i + self.batch]) for i in range(0, len(x), self.batch)]
        return np.concatenate(parts)

    def at(self, threshold: float) -> HttpModel:
        """The same endpoint deciding at another threshold.

        Raises:
            InputError: if it answers labels only, whose threshold nobody can move.
        """
        if self.answers == "labels" and threshold != self.threshold:
            raise InputError(f"{self.url} answers labels only, so its threshold cannot be set to {threshold:g}; leave out operating_point")
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the address and of how it is read; what stands behind it cannot be seen."""
        return digest(self.url, self.answers, self.classes, list(self.labels), self.threshold)

    def to_state(self) -> dict[str, Any]:
        """The address and how it is read; no secret."""
        return {"url": self.url, "space": self.space, "classes": self.classes, "answers": self.answers, "labels": list(self.labels),
                "timeout": self.timeout, "retries": self.retries, "pause": self.pause, "batch": self.batch, "token_variable": self.token_variable,
                "token_header": self.token_header, "threshold": self.threshold}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> HttpModel:
        """The model of ``to_state``; the address must have been named by the user in this process."""
        from carbide.models.packing import check_allowed

        check_allowed(state["url"])
        return cls(**{**state, "labels": tuple(state["labels"])})

    def _client(self) -> Any:
        try:
            import httpx
        except ImportError as error:
            raise InputError(f"the endpoint {self.url} needs the serve extra; install it with: pip install 'carbide[serve]'") from error
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token_variable:
            token = os.environ.get(self.token_variable, "")
            if not token or not token.isascii() or not token.isprintable():
                raise InputError(
                    f"the environment variable {self.token_variable} is {'not set' if not token else 'not one printable line'}; set it to "
                    f"the token of {self.url}"
                )
            headers[self.token_header] = f"Bearer {token}" if self.token_header.lower() == "authorization" and " " not in token else token
        return httpx.Client(timeout=self.timeout, headers=headers, follow_redirects=False, trust_env=False)

    def _answer(self, client: Any, x: Array) -> Array:
        body = self._send(client, x)
        if self.answers not in body:
            said = ", ".join(map(repr, list(body)[:5])) or "nothing"
            raise InputError(f'{self.url} answers {said} where {self.answers!r} is declared; answer {{"{self.answers}": [...]}}')
        return to_probabilities(body[self.answers], rows=len(x), classes=self.classes, answers=self.answers, name=self.url, labels=self.labels)

    def _first_answer(self) -> str:
        with self._client() as client:
            body = self._send(client, probe_rows(self.space, rng_for(0, "probe")))
        found = [name for name in ANSWERS if name in body]
        if not found:
            raise InputError(
                f'{self.url} answers {", ".join(map(repr, list(body)[:5])) or "nothing"}; answer {{"probabilities": [...]}}, logits or labels'
            )
        return found[0]

    def _send(self, client: Any, x: Array) -> dict[str, Any]:
        import httpx

        content = json.dumps({"inputs": _without_nan(x)}).encode()
        said = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                status, raw = self._post(client, content, limit=(1 << 16) + 64 * len(x) * (self.classes + 1))
            except httpx.TimeoutException as error:
                raise InputError(
                    f"{self.url} did not answer within {self.timeout:g} seconds; raise timeout, send smaller batches or check the endpoint"
                ) from error
            except httpx.TransportError as error:
                said = f"cannot be reached ({one_line(error)})"
                continue
            except httpx.HTTPError as error:
                raise InputError(f"{self.url} answers something that is not HTTP ({one_line(error)}); check the address") from error
            if status < 500:
                self.counter.rows += len(x)
                return self._body(status, raw)
            said = f"answers with status {status}"
        raise InputError(f"{self.url} {said}, {self.retries + 1} times; check that the endpoint runs")

    def _post(self, client: Any, content: bytes, *, limit: int) -> tuple[int, bytes]:
        """Status and body; the whole exchange ends by the deadline and the body is read no further than ``limit`` bytes."""
        import httpx

        deadline = time.monotonic() + self.timeout
        with client.stream("POST", self.url, content=content) as response:
            parts, size = [], 0
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise InputError(f"{self.url} answers more than {limit} bytes; answer one value a class and row")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer takes too long")
            return response.status_code, b"".join(parts)

    def _body(self, status: int, raw: bytes) -> dict[str, Any]:
        if status != 200:
            mend = "call the final address" if 300 <= status < 400 else "check address, token and the shape of a row"
            raise InputError(f"{self.url} answers with status {status} ({raw[:80].decode(errors='replace')!r}); {mend}")
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f'{self.url} answers {raw[:40].decode(errors="replace")!r}, which is not JSON; answer {{"probabilities": [...]}}'
            ) from error
        if not isinstance(body, dict):
            raise InputError(f'{self.url} answers a JSON {type(body).__name__}; answer {{"probabilities": [...]}}')
        return body


def _without_nan(x: Array) -> list[Any]:
    """Rows as JSON holds them: what is missing becomes null."""
    if not np.isnan(x).any():
        return x.tolist()
    held = x.astype(object)
    held[np.isnan(x)] = None
    return held.tolist()
