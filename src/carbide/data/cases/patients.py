"""Street, Wolberg and Mangasarian 1993, https://doi.org/10.1117/12.148698: breast-tumour measurements, as scikit-learn ships them.

569 patients, 30 measurements of cell nuclei; class 1 is malignant, the class a doctor must not miss. Every measurement is a
length, an area, a ratio or a count of pixels, so none is negative; no price is known for changing one.

>>> data = patients()
>>> data.x.shape, int(data.y.sum())
((569, 30), 212)
"""

from __future__ import annotations

import numpy as np

from carbide.data.cases._rows import row_ids, stratified
from carbide.types import Dataset, Space, Splits

SHARES = (0.5, 0.2, 0.3)


def patients() -> Dataset:
    """All rows in the order of the source."""
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    x = np.asarray(raw.data, np.float64)
    names = [str(name).replace(" ", "_") for name in raw.feature_names]
    space = Space.table(names, lower=np.zeros(len(names)))
    return Dataset(x=x, y=1 - raw.target.astype(np.int64), ids=row_ids(x), source=np.full(len(x), "builtin"), space=space, classes=2,
                   class_names=("benign", "malignant"), name="patients")  # fmt: skip


def splits(seed: int) -> Splits:
    """Stratified rows: half to train, a fifth to validate, the rest to test."""
    return stratified(patients(), SHARES, seed)
