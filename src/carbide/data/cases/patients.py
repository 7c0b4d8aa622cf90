"""Street, Wolberg and Mangasarian 1993, https://doi.org/10.1117/12.148698: breast-tumour measurements, as scikit-learn ships them.

569 patients, 30 measurements of cell nuclei; class 1 is malignant, the class a doctor must not miss. Every measurement is a
length, an area, a ratio or a count of pixels, so none is negative; no price is known for changing one. Upper bounds are
generous round figures of what such measurements can be (a nucleus of radius 40, its circumference and area, grey values,
ratios), meant to be used as public knowledge.

>>> data = patients()
>>> data.x.shape, int(data.y.sum())
((569, 30), 212)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.data.cases._rows import row_ids, stratified
from carbide.types import Dataset, Space, Splits

SHARES = (0.5, 0.2, 0.3)
# radius, texture, perimeter, area, smoothness, compactness, concavity, concave points, symmetry, fractal dimension
LARGEST = (
    *(40.0, 100.0, 250.0, 5000.0, 0.25, 1.0, 1.0, 0.5, 0.5, 0.2),  # mean over the cells
    *(5.0, 10.0, 50.0, 1000.0, 0.05, 0.25, 0.5, 0.1, 0.1, 0.05),  # standard error
    *(40.0, 100.0, 300.0, 5000.0, 0.25, 1.5, 1.5, 0.5, 0.75, 0.25),  # mean of the three largest
)


def patients() -> Dataset:
    """All rows in the order of the source."""
    from sklearn.datasets import load_breast_cancer

    raw: Any = load_breast_cancer()
    x = np.asarray(raw.data, np.float64)
    names = [str(name).replace(" ", "_") for name in raw.feature_names]
    space = Space.table(names, lower=np.zeros(len(names)), upper=np.array(LARGEST))
    return Dataset(x=x, y=1 - raw.target.astype(np.int64), ids=row_ids(x), source=np.full(len(x), "builtin"), space=space, classes=2,
                   class_names=("benign", "malignant"), name="patients")  # fmt: skip


def splits(seed: int) -> Splits:
    """Stratified rows: half to train, a fifth to validate, the rest to test."""
    return stratified(patients(), SHARES, seed)
