"""Philox against the published answers of its authors, and the normal numbers against what they must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import njit
from scipy.stats import anderson_ksamp, chisquare, kstest, norm

from carbide.models._noise import _log, _sine_cosine, fill_normal, philox

ONES = np.uint32(0xFFFFFFFF)


def normals(n: int, **options: int) -> np.ndarray:
    out = np.full(n, np.nan, np.float32)
    fill_normal(out, **{"key": 3, "stream": 0, "deviation": 1.0} | options)
    return out


def philox_by_hand(counter: int, stream: int, key0: int, key1: int) -> list[int]:
    """The generator in Python's own integers, as its paper writes it (figure 2)."""
    block = [counter, stream, 0, 0]
    for _ in range(10):
        (high0, low0), (high1, low1) = divmod(0xD2511F53 * block[0], 2**32), divmod(0xCD9E8D57 * block[2], 2**32)
        block = [high1 ^ block[1] ^ key0, low1, high0 ^ block[3] ^ key1, low0]
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return block


@njit
def compiled(counter, stream, key0, key1):
    return philox(np.uint32(counter), np.uint32(stream), np.uint32(key0), np.uint32(key1))


def test_philox_gives_the_published_answers():
    assert [hex(v) for v in compiled(0, 0, 0, 0)] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]  # of Random123's known answers
    for numbers in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (2**32 - 1, 7, 0xA4093822, 0x299F31D0)):
        assert list(compiled(*numbers)) == philox_by_hand(*numbers)


@njit
def parts(bits):
    found = np.empty((len(bits), 3), np.float32)
    for i in range(len(bits)):
        found[i, 0] = _log(bits[i])
        found[i, 1], found[i, 2] = _sine_cosine(bits[i])
    return found


def test_logarithm_sine_and_cosine_are_right_everywhere():
    edges = [0, 1, 2, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 2**31 + 2**30, 3 * 2**29, 2**32 - 129, 2**32 - 1]
    bits = np.concatenate([edges, np.random.default_rng(0).integers(2**32, size=200_000)]).astype(np.uint32)
    found, share = parts(bits), (bits.astype(np.float64) + 0.5) / 2**32
    truth = np.stack([np.log(share), np.sin(2 * np.pi * bits / 2**32), np.cos(2 * np.pi * bits / 2**32)], 1)
    assert np.abs(found - truth)[:, 1:].max() < 2e-7
    assert (np.abs(found[:, 0] - truth[:, 0]) < 2e-7 * (1 + np.abs(truth[:, 0]))).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 1023, 400_001])
def test_every_place_is_filled_and_numbers_follow_from_key_and_stream(n):
    one = normals(n)
    assert np.isfinite(one).all()
    assert np.array_equal(one, normals(n))
    for other in (normals(n, key=4), normals(n, key=3 + 2**32), normals(n, stream=1), normals(n, key=-3)):
        assert not np.isclose(one, other).any() if n < 100 else np.isclose(one, other).mean() < 1e-3
    assert np.allclose(normals(n, deviation=2.5), 2.5 * one, rtol=1e-6)


def test_numbers_are_normal_in_the_middle_and_in_the_tails():
    many = np.concatenate([normals(400_002, key=k) for k in range(10)]).astype(float)
    assert kstest(many, "norm").pvalue > 1e-3
    edges = np.array([-np.inf, -4.5, -4, -3.5, -3, -2, 0, 2, 3, 3.5, 4, 4.5, np.inf])
    counts = np.histogram(many, edges)[0]
    assert chisquare(counts, len(many) * np.diff(norm.cdf(edges))).pvalue > 1e-3
    assert anderson_ksamp([many[:50_000], np.random.default_rng(1).standard_normal(50_000)], variant="midrank").pvalue > 1e-3


def test_numbers_owe_nothing_to_each_other():
    n = 400_000
    base = normals(n)
    pairs = [(base[: n // 4], base[part : part + n // 4]) for part in (n // 4, n // 2, 3 * n // 4)]  # of one block
    pairs += [(base[:-1], base[1:]), (base, normals(n, stream=1)), (base, normals(n, key=4)), (base, normals(n, key=3 + 2**32))]
    for a, b in pairs:
        for kind in (lambda v: v, np.abs, np.square):
            r = np.corrcoef(kind(a.astype(float)), kind(b.astype(float)))[0, 1]
            assert abs(r) < 4.5 / math.sqrt(len(a))
