"""How accurate a private linear model of scattered images is on Fashion-MNIST, and how long all of its training takes.

    python -m benchmarks.private_images [--epsilon 3] [--seeds 5] [--first 100] [--neighbours remove,replace]

It needs the data set beside the project. Seeds decide nothing but the noise: features are computed once and their seconds
counted in every training."""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.poisoning import fashion
from benchmarks.record import record
from carbide.privacy.scattered import ScatteredRecipe, features
from carbide.run import cores
from carbide.types import decide, rng_for


def main() -> None:
    """Train on all 60,000 images, judge on the 10,000 test images, write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--neighbours", default="remove,replace")
    options = parser.parse_args()
    train, test = fashion("train"), fashion("t10k")
    start = time.perf_counter()
    kept = features(train.x)
    scattering = time.perf_counter() - start
    rows = []
    for neighbours in options.neighbours.split(","):
        recipe, right, seconds = ScatteredRecipe(epsilon=options.epsilon, neighbours=neighbours), [], []
        seeds = range(options.first, options.first + options.seeds)
        for seed in seeds:
            start = time.perf_counter()
            model = recipe.learn(kept.copy(), train, rng_for(seed, "train"))
            seconds.append(scattering + time.perf_counter() - start)
            right.append(float((decide(model.predict(test.x)) == test.y).mean()))
            print(neighbours, seed, right[-1], seconds[-1], flush=True)
        error = np.sqrt(np.mean(right) * (1 - np.mean(right)) / len(test.y))
        rows.append({"neighbours": neighbours, "seeds": len(right), "test accuracy": f"{np.mean(right):.2%} ({min(right):.2%} to {max(right):.2%})",
                     "error of the test set": f"± {1.96 * error:.2%}", "seconds of training": f"{np.mean(seconds):.0f} ({max(seconds):.0f} at most)",
                     "certified TPR at 1% FPR": f"{recipe.privacy.tpr(0.01):.1%}"})  # fmt: skip
    record(f"Private images: Fashion-MNIST at epsilon {options.epsilon:g}, neighbours: {options.neighbours}", rows,
           protocol=f"Linear models of scattered images, 60,000 to train and 10,000 to test, seeds from {options.first}; delta 1e-5, neighbours as given (the paper: remove). "
                    f"Seconds hold {scattering:.0f} s of scattering; {cores()} cores.",
           notes=["The settings were chosen on 50,000 and 10,000 of the training images, which the epsilon does not count."])  # fmt: skip


if __name__ == "__main__":
    main()
