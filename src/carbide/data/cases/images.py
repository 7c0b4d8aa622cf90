"""Alpaydin and Kaynak 1998, https://archive.ics.uci.edu/dataset/80: handwritten digits of 8 by 8 pixels, as scikit-learn ships them.

1,797 images with 17 grey levels, scaled to [0, 1] and shaped ``(n, 1, 8, 8)``; every value is exact in float32.

>>> data = images()
>>> data.x.shape, float(data.x.max())
((1797, 1, 8, 8), 1.0)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.data.cases._rows import row_ids, stratified
from carbide.types import Dataset, Space, Splits

SHARES = (0.55, 0.15, 0.3)


def images() -> Dataset:
    """All images in the order of the source."""
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    x = np.asarray(raw.images, np.float64).reshape(-1, 1, 8, 8) / 16.0
    return Dataset(x=x, y=raw.target.astype(np.int64), ids=row_ids(x), source=np.full(len(x), "builtin"), space=Space.image((1, 8, 8)), classes=10,
                   class_names=tuple("0123456789"), name="images")  # fmt: skip


def splits(seed: int) -> Splits:
    """Stratified rows."""
    return stratified(images(), SHARES, seed)
