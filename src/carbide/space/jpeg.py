"""Images written as JPEG and read again, by pillow.

>>> jpeg(np.full((1, 8, 8), 0.5), 90).round(1).ravel()[:3].tolist()
[0.5, 0.5, 0.5]
"""

from __future__ import annotations

import io

import numpy as np

from carbide.types import Array


def jpeg(image: Array, quality: int) -> Array:
    """One image ``(1 or 3, height, width)`` in [0, 1] written as a JPEG of this quality (1 to 100) and read again."""
    from PIL import Image

    levels = np.round(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    blob = io.BytesIO()
    Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(blob, "JPEG", quality=quality)
    read = np.asarray(Image.open(blob), np.float64) / 255
    return read[None] if read.ndim == 2 else read.transpose(2, 0, 1)
