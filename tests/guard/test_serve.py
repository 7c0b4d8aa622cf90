"""The shield answers, refuses and counts as it says, over the ASGI protocol itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from carbide.guard.serve import Budget, Shield, serve
from carbide.models.estimators import EstimatorModel
from carbide.types import Access, InputError, Space


@dataclass(frozen=True, kw_only=True)
class Ramp:
    space: Space
    classes: int = 2
    access: Access = Access.LABELS | Access.SCORES
    threshold: float = 0.5

    def predict(self, x):
        p = np.clip(x[:, 0], 0, 1)
        return np.stack([1 - p, p], 1)

    def at(self, threshold):
        return replace(self, threshold=threshold)

    def digest(self):
        return "ramp"


def ask(shield, body, *, path="/predict", method="POST", headers=()):
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers), "client": ("10.0.0.1", 1)}
    asyncio.run(shield(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def shield(rows=10, **changes):
    return Shield(model=replace(Ramp(space=Space.table(["a", "b"])), **changes), budget=Budget(rows=rows, clock=lambda: 0.0))


def test_answers_are_the_models():
    status, answer = ask(shield(), b'{"inputs": [[0.25, 0], [0.75, 0]]}')
    assert (status, answer) == (200, {"labels": [0, 1], "probabilities": [[0.75, 0.25], [0.25, 0.75]]})


def test_a_model_of_labels_tells_labels_only():
    assert "probabilities" not in ask(shield(access=Access.LABELS), b'{"inputs": [[0.25, 0]]}')[1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"inputs": 3}',
        b'{"inputs": [[1]]}',
        b'{"inputs": [[1, NaN]]}',
        b'{"inputs": []}',
        b'{"inputs": [["a", 1]]}',
        b"\xff",
        b"[" * 100_000,
        b'{"inputs": [["1", "2"]]}',
        b'{"inputs": [[true, 1]]}',
        b'{"inputs": [[null, 1]]}',
        b'{"inputs": [[1, 2], [1, 2, 3]]}',
        b'{"inputs": [[0, 0]], "inputs": [[1, 1]]}',
        b'{"inputs": [[1' + b"0" * 400 + b", 1]]}",
    ],
)
def test_bad_requests_are_refused_in_words(body):
    status, answer = ask(shield(), body)
    assert status == 422
    assert answer["error"]


def test_the_budget_is_counted_a_key_and_refills():
    clock = [0.0]
    budget = Budget(rows=3, clock=lambda: clock[0])
    assert [budget.spend("a", 1).action for _ in range(4)] == ["allow", "allow", "allow", "deny"]
    assert budget.spend("b", 3).action == "allow"
    clock[0] = 1200.0  # a third of the hour gives one row back
    assert [budget.spend("a", 1).action for _ in range(2)] == ["allow", "deny"]
    with pytest.raises(InputError, match="0"):
        Budget(rows=0)


def test_keys_over_http_are_kept_apart():
    served = shield(rows=1)
    body = b'{"inputs": [[0, 0]]}'
    assert [ask(served, body, headers=[(b"authorization", key)])[0] for key in (b"x", b"x", b"y")] == [200, 429, 200]


def test_other_paths_and_health():
    assert ask(shield(), b"", path="/", method="GET")[0] == 404
    assert ask(shield(), b"", path="/health", method="GET") == (200, {"status": "ok", "classes": 2, "shape": [2]})


@pytest.mark.parametrize("large", ["1e39", "-1e300", "3.5e38"])
def test_numbers_that_single_precision_does_not_hold_are_refused_before_a_model_sees_them(large):
    x = np.random.default_rng(0).normal(size=(60, 2))
    forest = RandomForestClassifier(3, random_state=0).fit(x, x[:, 0] > 0)
    served = Shield(model=EstimatorModel(estimator=forest, space=Space.table(["a", "b"]), classes=2), budget=Budget(rows=10))
    status, answer = ask(served, f'{{"inputs": [[0, 1], [{large}, 1]]}}'.encode())
    assert (status, f"{float(large):g}" in answer["error"]) == (422, True)
    assert ask(served, b'{"inputs": [[3.4e38, -3.4e38]]}')[0] == 200


def test_a_port_that_is_none_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match="port is 70000"):
        serve(tmp_path, host="127.0.0.1", port=70000, budget=5)
