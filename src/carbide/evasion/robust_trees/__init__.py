"""Tree ensembles trained against an attacker, as scikit-learn estimators that XGBoost serves.

``RobustBoostingClassifier`` minimises an upper bound of the worst-case logistic loss, ``RobustForestClassifier`` splits by the worst-case
Gini impurity. The attacker is ``Box`` (each feature moves so far up and down) or ``Spender`` (a price table and a budget a row).

>>> import numpy as np
>>> from carbide.evasion.robust_trees import Box, RobustBoostingClassifier
>>> x = np.array([[0.0, 0.4], [0.1, 0.45], [0.9, 0.55], [1.0, 0.6]] * 10)
>>> y = np.array([0, 0, 1, 1] * 10)
>>> model = RobustBoostingClassifier(attacker=Box(up=0.3, down=0.3), max_depth=1, n_estimators=5).fit(x, y)
>>> model.trees_[0].feature[0].tolist()  # the second feature tells the classes apart too, but the attacker moves it across
0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carbide.evasion.robust_trees.attackers import Box, Spender
    from carbide.evasion.robust_trees.boosting import RobustBoostingClassifier
    from carbide.evasion.robust_trees.forest import RobustForestClassifier

__all__ = ["Box", "RobustBoostingClassifier", "RobustForestClassifier", "Spender"]

PLACES = {"Box": "attackers", "Spender": "attackers", "RobustBoostingClassifier": "boosting", "RobustForestClassifier": "forest"}


def __getattr__(name: str) -> Any:  # scikit-learn is imported only where an estimator is used
    import importlib

    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{PLACES[name]}"), name)
