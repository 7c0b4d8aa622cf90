"""Small parts of pictures: scales, axes, marks and text as inline SVG that follows the page's colours.

Colours are CSS variables with a fallback, so one picture serves light, dark and print. Nothing here depends on fonts,
clocks or libraries: the same numbers give the same bytes.

>>> Scale(low=0, high=10, start=0, stop=100).at(2.5)
25.0
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from carbide.types import Array

INK, FAINT, GRID = "var(--ink,#1b1f24)", "var(--faint,#5c6670)", "var(--grid,#dfe3e8)"
PLAIN_COLOURS = ("var(--plain,#c44e00)", "var(--plain-2,#a66a00)", "var(--plain-3,#8a4a6f)")
HARD_COLOURS = ("var(--hard,#0067a5)", "var(--hard-2,#00795a)", "var(--hard-3,#4a5bc4)")
COLOURS = (HARD_COLOURS[0], PLAIN_COLOURS[0], HARD_COLOURS[1], PLAIN_COLOURS[2], PLAIN_COLOURS[1], HARD_COLOURS[2])


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps ``low..high`` (linearly or by logarithm) to ``start..stop`` in the picture's units; outside values are clipped."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies."""
        value = min(max(value, self.low), self.high)
        low, high, here = (math.log10(self.low), math.log10(self.high), math.log10(value)) if self.log else (self.low, self.high, value)
        return self.start + (self.stop - self.start) * ((here - low) / (high - low) if high > low else 0.5)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values for the axis."""
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """At most ``count`` + 1 round values within ``low..high``.

    >>> linear_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9)), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within ``low..high``; with 2 and 5 times them where fewer than three fit."""
    powers = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    tens = [10.0**p for p in powers if low * (1 - 1e-9) <= 10.0**p <= high * (1 + 1e-9)]
    if len(tens) >= 3:
        return tens
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low * (1 - 1e-9) <= m * 10.0**p <= high * (1 + 1e-9)]


def tick_text(value: float, *, share: bool) -> str:
    """The label of a tick: per cent for shares, else short.

    >>> tick_text(0.2, share=True), tick_text(10000, share=False), tick_text(0.001, share=True)
    ('20%', '10k', '0.1%')
    """
    if share:
        return f"{100 * value:.3g}%"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}".replace("-", "−")


def tag(name: str, content: str = "", **attributes: str | float) -> str:
    """One element; underscores in names become hyphens, a trailing one is dropped; numbers get one decimal."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"' for key, value in attributes.items() if value != "")
    return f"<{name}{said}>{content}</{name}>" if content else f"<{name}{said}/>"


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return html.escape(value, quote=True)
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, colour: str = INK, weight: str = "") -> str:
    """Words at a point."""
    return tag("text", html.escape(words), x=x, y=y, text_anchor=anchor, font_size=float(size), fill=colour, font_weight=weight)


def line(x1: float, y1: float, x2: float, y2: float, *, colour: str = GRID, width: float = 1, dash: str = "") -> str:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width, stroke_dasharray=dash)


def path(points: Iterable[tuple[float, float]], *, colour: str, width: float = 2.2, dash: str = "") -> str:
    """A line through points."""
    return tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dash,
               stroke_linejoin="round")  # fmt: skip


def band(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], *, colour: str) -> str:
    """The area between two lines."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return tag("polygon", points=points, fill=colour, fill_opacity="0.13")


def mark(x: float, y: float, *, colour: str, shape: str, words: str) -> str:
    """A point with a tooltip: ``circle``, ``square``, ``diamond`` or ``ring``."""
    tip = tag("title", html.escape(words))
    if shape == "circle":
        return tag("circle", tip, cx=x, cy=y, r=3.4, fill=colour)
    if shape == "ring":
        return tag("circle", tip, cx=x, cy=y, r=3.6, fill="var(--card,#fff)", stroke=colour, stroke_width="1.8")
    if shape == "square":
        return tag("rect", tip, x=x - 3.2, y=y - 3.2, width=6.4, height=6.4, fill=colour)
    return tag("path", tip, d=f"M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6 -4.6z", fill=colour)


def width_of(words: str, size: int = 12) -> float:
    """About how wide words are."""
    return 0.56 * size * len(words)


def picture(width: float, height: float, body: str, *, title: str, description: str) -> str:
    """A whole inline picture with its words for those who cannot see it."""
    label = html.escape(f"{title}. {description}", quote=True)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}" '
            f'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">{body}</svg>')  # fmt: skip


def png(image: Array) -> bytes:
    """An image ``(channels, height, width)`` in [0, 1] as PNG bytes; other than 1 or 3 channels are averaged to grey."""
    image = np.asarray(image, float)
    if image.shape[0] not in (1, 3):
        image = image.mean(0, keepdims=True)
    pixels = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * channels)], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def image(x: float, y: float, side: float, pixels: Array, *, words: str) -> str:
    """An image in a square with its words."""
    data = base64.b64encode(png(pixels)).decode()
    return tag(
        "image",
        tag("title", html.escape(words)),
        x=x,
        y=y,
        width=side,
        height=side,
        href=f"data:image/png;base64,{data}",
        style="image-rendering:pixelated",
    )
