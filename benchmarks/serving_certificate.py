"""A certificate beside the score: how long it takes for one alert at a time, as it comes to a server.

    python -m benchmarks.serving_certificate [--seeds 2] [--first 20] [--rows 40000]

Models of 100 trees of depth 6 on worlds of the built-in fraud case, plain and with monotone constraints; every alert of the test
period is certified alone, up to $50. Beside the certificate: the model's own score of one row, and the whole answer of the shield.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier
from xgboost import XGBClassifier

from benchmarks.record import record
from carbide.data.cases import builtin_prices
from carbide.data.cases.fraud import make_fraud
from carbide.evasion._blind import constrained, one_way
from carbide.evasion._retraining import natural_signs
from carbide.evasion._tree_search import search
from carbide.guard.serve import Budget, Certifier, Shield
from carbide.models.estimators import EstimatorRecipe
from carbide.models.operating import calibrated
from carbide.types import Array, FeatureBudget, Model, OperatingPoint, Splits, rng_for

LOOP = asyncio.new_event_loop()
MONEY = 50.0
POINT = OperatingPoint(false_positive_rate=0.01)
RECIPES = {"XGBoost": EstimatorRecipe(estimator=XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, n_jobs=1)),
           "LightGBM": EstimatorRecipe(estimator=LGBMClassifier(n_estimators=100, num_leaves=63, max_depth=6, verbose=-1, n_jobs=1))}  # fmt: skip


def seconds(call: Callable[[Array], Any], rows: Array) -> list[float]:
    """How long the call takes for each row alone."""
    call(rows[:1])
    found = []
    for i in range(len(rows)):
        start = time.perf_counter()
        call(rows[i : i + 1])
        found.append(time.perf_counter() - start)
    return found


def request(shield: Shield, rows: Array) -> None:
    """One whole request over the ASGI protocol, without the network."""
    body = json.dumps({"inputs": rows.tolist()}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    LOOP.run_until_complete(shield({"type": "http", "path": "/predict", "method": "POST", "headers": []}, receive, send))


def models(splits: Splits, threat: FeatureBudget, seed: int) -> dict[str, Model]:
    """The fitted models of one world at their operating point."""
    recipes = dict(RECIPES)
    bound = constrained(RECIPES["XGBoost"], natural_signs(splits.train, one_way(splits.train.space, threat.prices)))
    assert bound is not None
    recipes["XGBoost, monotone"] = bound
    return {name: calibrated(recipe.fit(splits.train, rng_for(seed, "train")), splits.validation, POINT) for name, recipe in recipes.items()}


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=20)
    parser.add_argument("--rows", type=int, default=40_000)
    options = parser.parse_args()
    prices = builtin_prices("fraud")
    assert prices is not None
    threat = FeatureBudget(money=MONEY, prices=prices)
    times: dict[str, dict[str, list[float]]] = {}
    exact: dict[str, list[bool]] = {}
    agree: dict[str, list[float]] = {}
    for seed in range(options.first, options.first + options.seeds):
        splits = make_fraud(options.rows, seed=seed).splits()
        for name, model in models(splits, threat, seed).items():
            certifier = Certifier.of(model, threat)
            alerts = splits.test.x[model.predict(splits.test.x)[:, 1] >= model.threshold][:400]
            shield = Shield(model=model, budget=Budget(rows=10**9), certifier=certifier)
            bounds = certifier.method.certify(alerts, certifier.state)
            full = search(model.ensemble, alerts, prices, model.space, threshold=model.threshold, budget=MONEY)  # type: ignore[attr-defined]
            own = times.setdefault(name, {"certificate": [], "score": [], "answer": []})
            own["certificate"] += seconds(lambda x, c=certifier: c.answer(x, np.ones(1, bool)), alerts)
            own["score"] += seconds(model.predict, alerts)
            own["answer"] += seconds(lambda x, s=shield: request(s, x), alerts)
            found = np.array([b.price for b in bounds])
            least = np.minimum(full.lower, MONEY)
            assert (found <= least + 1e-6).all(), "a certificate promised more than the exact search"
            exact.setdefault(name, []).extend(found >= least - 1e-6)
            agree.setdefault(name, []).extend((found / np.maximum(least, 1e-9)).tolist())
    rows = []
    for name, own in times.items():
        cell = {kind: np.percentile(np.array(values) * 1e3, [50, 99, 100]) for kind, values in own.items()}
        rows.append({"model, 100 trees": name, "alerts": len(own["certificate"]), "certificate p50, ms": f"{cell['certificate'][0]:.2f}",
                     "p99": f"{cell['certificate'][1]:.2f}", "most": f"{cell['certificate'][2]:.2f}", "score alone p50": f"{cell['score'][0]:.2f}",
                     "whole answer p50": f"{cell['answer'][0]:.2f}", "whole answer p99": f"{cell['answer'][1]:.2f}",
                     "bound is the exact price (or $50)": f"{np.mean(exact[name]):.1%}"})  # fmt: skip
    record("Serving: a certificate beside the score", rows,
           protocol=f"{options.seeds} worlds of {options.rows:,} payments (seeds {options.first} to {options.first + options.seeds - 1}), at most 400 alerts of each "
                    f"test period, one row a call; prices of the built-in case, up to ${MONEY:.0f}; one thread.",
           notes=["Every bound was compared with the exact search without a limit: none promises more.",
                  "The whole answer is a request over the ASGI protocol without the network: JSON, score, certificate, JSON."])  # fmt: skip


if __name__ == "__main__":
    main()
