"""Numbers as people read them.

>>> of_100(0.712), of_100(0.0), of_100(0.002), of_100(0.998)
('71 of 100', '0 of 100', 'fewer than 1 of 100', 'more than 99 of 100')
"""

from __future__ import annotations

import math


def of_100(share: float) -> str:
    """A share as "x of 100"; never rounded to none or all unless it is. A difference below 0 is none."""
    if math.isnan(share):
        return "an unknown number of 100"
    if 0 < share < 0.005:
        return "fewer than 1 of 100"
    if 0.995 <= share < 1:
        return "more than 99 of 100"
    return f"{max(0, rounded(share))} of 100"


def rounded(share: float) -> int:
    """A share in whole hundredths, halves up."""
    return math.floor(100 * share + 0.5)


def percent(value: float) -> str:
    """A share in per cent with one decimal, or "unknown"."""
    return "unknown" if math.isnan(value) else f"{100 * value:.1f}%"


def number(value: float) -> str:
    """A number for a table: four significant digits, or a dash for none."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def interval(low: float, high: float) -> str:
    """An interval for a table, or nothing where there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low)}, {number(high)}]"


def level(confidence: float) -> str:
    """A confidence level.

    >>> level(0.95), level(0.9983)
    ('95%', '99.83%')
    """
    return f"{100 * confidence:.4g}%"


def size(size_bytes: float) -> str:
    """A size in the unit that fits.

    >>> size(512), size(1_260_000)
    ('512 B', '1.3 MB')
    """
    if size_bytes <= 0:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}" if size_bytes >= 10 else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError


def seconds(value: float) -> str:
    """A duration in the unit that fits.

    >>> seconds(0.25), seconds(75), seconds(7300)
    ('0.25 s', '1 min 15 s', '2 h 1 min')
    """
    if math.isnan(value):
        return "unknown"
    if value < 60:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
