"""Spatter against what is known of it: drops whose rims, depth and light are counted by hand."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from carbide.space.corruptions import STRENGTHS
from carbide.space.spatter import MUD, WATER, edges, equalized, spatter, water
from carbide.types import rng_for

MUDDY, WET = (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.3, 1.0, 0.69, 0.5, 0)


def canny_by_hand(grey):
    """Pixel by pixel: Sobel's sums, the neighbours along the gradient, then a walk from every strong edge."""
    height, width = grey.shape

    def at(i, j):
        return grey[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]

    def slopes(i, j):
        across = sum(w * (at(i + k, j + 1) - at(i + k, j - 1)) for k, w in ((-1, 1), (0, 2), (1, 1)))
        down = sum(w * (at(i + 1, j + k) - at(i - 1, j + k)) for k, w in ((-1, 1), (0, 2), (1, 1)))
        return across, down

    def size(i, j):
        return sum(map(abs, slopes(i, j))) if 0 <= i < height and 0 <= j < width else 0

    ridge = set()
    for i, j in itertools.product(range(height), range(width)):
        across, down = slopes(i, j)
        angle = np.degrees(np.arctan2(down, across)) % 180
        straight = angle < 22.5 or angle > 157.5 or 67.5 < angle < 112.5
        step = (0, 1) if angle < 22.5 or angle > 157.5 else (1, 1) if angle < 67.5 else (1, 0) if angle < 112.5 else (1, -1)
        before, after = size(i - step[0], j - step[1]), size(i + step[0], j + step[1])
        if size(i, j) > 50 and size(i, j) > before and (size(i, j) >= after if straight else size(i, j) > after):
            ridge.add((i, j))
    found, walk = set(), [p for p in ridge if size(*p) > 150]
    while walk:
        i, j = walk.pop()
        if (i, j) not in found:
            found.add((i, j))
            walk += [(i + a, j + b) for a, b in itertools.product((-1, 0, 1), repeat=2) if (i + a, j + b) in ridge]
    return np.array([[(i, j) in found for j in range(width)] for i in range(height)])


@pytest.mark.parametrize(("seed", "scale", "sigma"), [(0, 255, 0.8), (1, 255, 1.5), (2, 90, 1.0), (3, 60, 0.6)])
def test_edges_are_cannys(seed, scale, sigma):
    soft = gaussian_filter(np.random.default_rng(seed).uniform(size=(18, 23)), sigma)
    grey = np.floor((soft - soft.min()) / np.ptp(soft) * scale)
    found = edges(grey)
    np.testing.assert_array_equal(found, canny_by_hand(grey))
    assert 0 < found.sum() < found.size


def test_a_step_has_one_line_of_edges_and_a_weak_one_none():
    step = np.zeros((6, 8))
    step[:, 4:] = 200
    np.testing.assert_array_equal(np.flatnonzero(edges(step)[2]), [3])
    assert not edges(step / 10).any()


def test_equalised_levels_are_shares_of_what_lies_below():
    levels = np.array([[3, 3, 5, 9], [5, 3, 3, 9]])
    np.testing.assert_array_equal(equalized(levels), np.rint([[0, 0, 127.5, 255], [127.5, 0, 0, 255]]))
    np.testing.assert_array_equal(equalized(np.full((2, 2), 7)), 7)


def test_water_shines_inside_drops_and_mud_covers():
    for seed in range(4):
        dark = np.zeros((1, 3, 32, 32))
        noise = gaussian_filter(rng_for(seed).normal(WET[0], WET[1], size=(32, 32)), WET[2], mode="nearest")
        wet = spatter(dark, WET, rng_for(seed))[0]
        assert wet.max() == pytest.approx(WET[4] * 238 / 255)  # the brightest point of the water
        assert np.abs(wet[:, noise < WET[3]]).max() == 0
        assert wet[:, noise >= WET[3]].mean() > 0.05
        np.testing.assert_allclose(wet[0], wet[1] * WATER[0] / WATER[1])
        np.testing.assert_allclose(spatter(dark + 0.25, WET, rng_for(seed))[0] - wet, 0.25)


def test_mud_is_a_mixture_of_image_and_brown_where_enough_of_it_lies():
    dark, light = (spatter(np.full((1, 3, 32, 32), tone), MUDDY, rng_for(3))[0] for tone in (0.0, 1.0))
    noise = gaussian_filter(rng_for(3).normal(MUDDY[0], MUDDY[1], size=(32, 32)), MUDDY[2], mode="nearest")
    cover = gaussian_filter((noise > MUDDY[3]) * 1.0, MUDDY[4], mode="nearest")
    cover = cover * (cover >= 0.8)
    assert 0.02 < (cover > 0).mean() < 0.4
    np.testing.assert_allclose(light - dark, np.tile(1 - cover, (3, 1, 1)))
    np.testing.assert_allclose(dark, cover * np.array(MUD)[:, None, None] / 255)


def test_light_comes_from_one_corner():
    drop = np.zeros((40, 40))
    drop[10:30, 10:30] = 0.8
    light = water(drop)
    assert light[:9].max() == light[31:].max() == 0
    assert light.max() == 1
    assert light[12:18, 12:18].mean() > 2 * light[22:28, 22:28].mean() > 0  # lit where depth grows away from the light
    np.testing.assert_allclose(light[10:30, 10:30], light[10:30, 10:30].T)


def test_no_drop_leaves_the_image_and_grey_images_see_its_grey():
    x = rng_for(0).uniform(size=(2, 1, 20, 20))
    np.testing.assert_array_equal(spatter(x, (0.2, 0.01, 1.0, 0.69, 0.5, 0), rng_for(0)), x)
    np.testing.assert_array_equal(spatter(x, (0.2, 0.01, 1.0, 0.69, 0.5, 1), rng_for(0)), x)
    colour = spatter(np.tile(x, (1, 3, 1, 1)), WET, rng_for(1))
    np.testing.assert_allclose(spatter(x, WET, rng_for(1))[:, 0], np.einsum("nchw,c->nhw", colour, (0.299, 0.587, 0.114)))


@pytest.mark.parametrize("side", [0, 1])
def test_severities_one_to_three_are_water_and_the_others_mud(side):
    assert [s[-1] for s in STRENGTHS["spatter"][side]] == [0, 0, 0, 1, 1]
