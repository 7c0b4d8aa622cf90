"""What one noisy sum leaves of accuracy on small tables, beside what is trained and what is not private, split by split.

    python -m benchmarks.private_ceiling [--epsilon 1] [--splits 40] [--first 300] [--only wine,iris]

The whole budget goes to the sums of each class, told as differences from each other, of rows around their exact mean brought to
length one: leaving a row out moves them by ``sqrt((k - 1) / k)``. They span the k - 1 directions that tell k classes apart most
plainly. All else, the mean and the linear discriminant inside that span, is taken from the rows without noise: no private training
can do that, so what it loses is lost to the noise of the span alone.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from benchmarks.private_tables import DELTA, TABLES, Cut, cuts, plain, value
from benchmarks.record import record
from carbide.privacy.additive import PrivateAdditiveRecipe
from carbide.privacy.linear import PrivateLinearRecipe, unit
from carbide.privacy.logistic import Scaling
from carbide.stats.accounting import gdp_mu
from carbide.types import Array, Rng, rng_for

DRAWS = 5  # of the noise, a split


def differences(rows: Array, y: Array, classes: int, sigma: float, noise: Rng) -> Array:
    """Noisy sums ``(k, d)`` of the rows of each class, their mean taken off."""
    sums = np.stack([rows[y == label].sum(0) for label in range(classes)]) + sigma * noise.standard_normal((classes, rows.shape[1]))
    return sums - sums.mean(0)


def within(cut: Cut, sigma: float, noise: Rng) -> tuple[float, float]:
    """100 accuracy of the nearest of the noisy means, and of the exact linear discriminant inside their span."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    train, test, k = cut.train, cut.test, cut.train.classes
    ball, other = (Scaling(curve=1.0).ball(part.x, train.space) for part in (train, test))
    centre = ball.mean(0)
    means = differences(unit(ball - centre), train.y, k, sigma, noise) * k / len(train)
    nearest = unit(other - centre) @ means.T - 0.5 * (means**2).sum(1)
    span = np.linalg.svd(means, full_matrices=False)[2][: k - 1].T
    inside = LinearDiscriminantAnalysis().fit(ball @ span, train.y).predict(other @ span)
    return 100 * float((nearest.argmax(1) == test.y).mean()), 100 * float((inside == test.y).mean())


def one(cut: Cut, seed: int, epsilon: float) -> dict[str, float]:
    """The value of every way on one split."""
    k = cut.train.classes
    sigma = math.sqrt((k - 1) / k) / gdp_mu(epsilon, DELTA)
    clear = within(cut, 0.0, rng_for(seed, "noise"))
    noisy = np.mean([within(cut, sigma, rng_for(seed, "noise", draw)) for draw in range(DRAWS)], axis=0)
    found = {"best of logistic regression and boosting, not private": plain(cut.train, cut.test),
             "nearest class mean, no noise": clear[0], "discriminant in the span of the class means, no noise": clear[1],
             "nearest of noisy means, their centre exact": noisy[0], "discriminant in the span of noisy means, all else exact": noisy[1]}  # fmt: skip
    for title, recipe in {"Carbide private_linear, neighbours: remove": PrivateLinearRecipe, "Carbide private_additive, neighbours: remove": PrivateAdditiveRecipe}.items():  # fmt: skip
        models = (recipe(epsilon=epsilon, delta=DELTA, neighbours="remove").fit(cut.train, rng_for(seed, "train", draw)) for draw in range(DRAWS))
        found[title] = float(np.mean([value(model.predict(cut.test.x), cut.test.y) for model in models]))
    return found


def main() -> None:
    """Measure and write one section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--first", type=int, default=300)
    parser.add_argument("--only", default="wine,iris")
    options = parser.parse_args()
    splits, columns = range(options.first, options.first + options.splits), {}
    for name in options.only.split(","):
        found = [one(cut, seed, options.epsilon) for seed, cut in zip(splits, cuts(TABLES[name](), splits), strict=True)]
        columns[name] = {title: np.array([row[title] for row in found]) for title in found[0]}
    titles = list(next(iter(columns.values())))
    rows: list[dict[str, Any]] = [
        {"model": title, **{name: f"{found[title].mean():.1f}, loses {(found[titles[0]] - found[title]).mean():.2f} ± "
                            f"{(found[titles[0]] - found[title]).std(ddof=1) / math.sqrt(len(splits)):.2f}" for name, found in columns.items()}}
        for title in titles]  # fmt: skip
    record(f"Private tables at epsilon {options.epsilon:g}: what one noisy sum leaves", rows,
           protocol=f"{options.splits} splits of each table, seeds from {options.first}, {DRAWS} draws of the noise a split; delta {DELTA:g}, leaving out one row; "
                    "accuracy in percent, and the mean and standard error of what is lost to the first row.",
           notes=["The rows of means are no private models: they say how much the noise of one release on the whole budget costs, and how much is lost to the rest.",
                  "Tried on other splits of wine (124 rows) and left: the nearest of noisy means as a private model, which is no better than private_additive "
                  "there and far worse on digits; a second look that mends means and covariances inside the span, which helps four features and costs "
                  "thirteen more noise than it mends; shrinking features or directions of the means."])  # fmt: skip


if __name__ == "__main__":
    main()
