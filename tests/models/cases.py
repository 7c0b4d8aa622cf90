"""Small data and models of every library, fitted once for all tests of the model door."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np

from carbide.types import Dataset, Space


def make_dataset(n: int = 120, *, classes: int = 2, seed: int = 0) -> Dataset:
    """Rows in [0, 1]^4 whose class is the third their sum lies in (or half, for two classes)."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4))
    y = np.digitize(x.sum(1), [2.0] if classes == 2 else [1.6, 2.4]).astype(np.int64)
    space = Space.table(["a", "b", "c", "d"], lower=np.zeros(4), upper=np.ones(4))
    return Dataset(x=x, y=y, ids=np.array([f"r{i}" for i in range(n)]), source=np.array(["us"] * n), space=space, classes=classes)


@functools.cache
def fitted(name: str, classes: int = 2) -> Any:
    """A small fitted estimator by name."""
    from lightgbm import LGBMClassifier
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import (
        AdaBoostClassifier,
        BaggingClassifier,
        ExtraTreesClassifier,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
        VotingClassifier,
    )
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, LinearSVC
    from sklearn.tree import DecisionTreeClassifier
    from xgboost import XGBClassifier

    makers = {
        "random_forest": lambda: RandomForestClassifier(5, random_state=0),
        "extra_trees": lambda: ExtraTreesClassifier(5, random_state=0),
        "gradient_boosting": lambda: GradientBoostingClassifier(n_estimators=3, random_state=0),
        "hist_gradient_boosting": lambda: HistGradientBoostingClassifier(max_iter=3, random_state=0),
        "decision_tree": lambda: DecisionTreeClassifier(max_depth=3, random_state=0),
        "logistic_regression": lambda: LogisticRegression(),
        "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        "mlp": lambda: MLPClassifier((4,), max_iter=5, random_state=0),
        "svc": lambda: SVC(probability=True, random_state=0),
        "naive_bayes": lambda: GaussianNB(),
        "lda": lambda: LinearDiscriminantAnalysis(),
        "sgd": lambda: SGDClassifier(loss="log_loss", random_state=0),
        "ada_boost": lambda: AdaBoostClassifier(n_estimators=3, random_state=0),
        "bagging": lambda: BaggingClassifier(n_estimators=3, random_state=0),
        "calibrated": lambda: CalibratedClassifierCV(LinearSVC(random_state=0), cv=2),
        "voting": lambda: VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
        "neighbors": lambda: KNeighborsClassifier(),
        "xgboost": lambda: XGBClassifier(n_estimators=4, max_depth=3, n_jobs=1),
        "dart": lambda: XGBClassifier(n_estimators=3, booster="dart", n_jobs=1),
        "gblinear": lambda: XGBClassifier(n_estimators=3, booster="gblinear", n_jobs=1),
        "lightgbm": lambda: LGBMClassifier(n_estimators=4, num_leaves=5, n_jobs=1, verbose=-1),
    }
    data = make_dataset(classes=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return makers[name]().fit(data.x, data.y)


SKLEARN = ("random_forest", "extra_trees", "gradient_boosting", "hist_gradient_boosting", "decision_tree", "logistic_regression", "pipeline", "mlp",
           "svc", "naive_bayes", "lda", "sgd", "ada_boost", "bagging", "calibrated", "voting")  # fmt: skip
BOOSTERS = ("xgboost", "dart", "gblinear", "lightgbm")
