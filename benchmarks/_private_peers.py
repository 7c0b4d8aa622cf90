"""Trains diffprivlib's and interpret's private models on splits in a folder; run by ``private_tables`` in an environment that has them."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")


def logistic(x, y, lower, upper, epsilon, delta, seed):
    """diffprivlib's logistic regression on features brought to [-1, 1] by the public bounds."""
    from diffprivlib.models import LogisticRegression

    width = np.where(upper > lower, upper - lower, 1)
    scale = lambda a: 2 * np.clip((a - lower) / width, 0, 1) - 1  # noqa: E731
    model = LogisticRegression(epsilon=epsilon, data_norm=float(np.sqrt(x.shape[1])), max_iter=500, random_state=seed).fit(scale(x), y)
    return lambda a: model.predict_proba(scale(a))


def bayes(x, y, lower, upper, epsilon, delta, seed):
    """diffprivlib's naive Bayes."""
    from diffprivlib.models import GaussianNB

    return GaussianNB(epsilon=epsilon, bounds=(lower, upper), random_state=seed).fit(x, y).predict_proba


def forest(x, y, lower, upper, epsilon, delta, seed):
    """diffprivlib's random forest."""
    from diffprivlib.models import RandomForestClassifier

    return (
        RandomForestClassifier(epsilon=epsilon, bounds=(lower, upper), classes=np.unique(y), n_estimators=10, random_state=seed)
        .fit(x, y)
        .predict_proba
    )


def additive(x, y, lower, upper, epsilon, delta, seed):
    """interpret's DP-EBM, told the public bounds."""
    from interpret.privacy import DPExplainableBoostingClassifier

    bounds = {i: (float(a), float(b)) for i, (a, b) in enumerate(zip(lower, upper, strict=True))}
    kinds = ["continuous"] * x.shape[1]
    model = DPExplainableBoostingClassifier(feature_types=kinds, epsilon=epsilon, delta=delta, privacy_bounds=bounds, random_state=seed, n_jobs=1)
    return model.fit(x, y).predict_proba


def main() -> None:
    """Probabilities of every peer for every split, beside it."""
    folder, epsilon, delta = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    makers = {"diffprivlib logistic regression": logistic, "diffprivlib naive Bayes": bayes, "diffprivlib forest": forest, "DP-EBM": additive}
    paths = sorted((p for p in folder.glob("*.npz")), key=lambda p: int(p.stem))
    if int(np.load(paths[0])["classes"]) > 2:
        del makers["DP-EBM"]  # it knows two classes only
    for path in paths:
        cut = np.load(path)
        answers = {}
        for name, make in makers.items():
            predict = make(cut["x"], cut["y"], cut["lower"], cut["upper"], epsilon, delta, int(path.stem))
            answers[name] = np.nan_to_num(np.asarray(predict(cut["test"]), float), nan=0.0)
        np.savez(path.with_suffix(".out.npz"), **answers)
    (folder / "names.json").write_text(json.dumps(list(makers)))


if __name__ == "__main__":
    main()
