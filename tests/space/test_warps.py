"""Motion, zoom, glass and elastic changes against what is known of them."""

import numpy as np
import pytest
from scipy import ndimage

from carbide.space.warps import elastic, glass_blur, motion_blur, shuffled, zoom_blur, zoomed
from carbide.types import rng_for

FLAT = np.full((1, 2, 20, 26), 0.4)


@pytest.mark.parametrize(
    ("how", "strength"), [(motion_blur, (6, 2.0)), (zoom_blur, (1.2, 0.05)), (glass_blur, (0.4, 1, 2)), (elastic, (0.1, 0.05, 0.06))]
)
def test_nothing_of_one_colour_changes(how, strength):
    np.testing.assert_allclose(how(FLAT, strength, rng_for(3)), FLAT, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 90.0, -45.0, 180.0])
def test_motion_is_half_a_bell_along_its_direction(angle):
    point = np.zeros((1, 1, 41, 41))
    point[0, 0, 20, 20] = 1
    found = motion_blur(point, (5, 2.0), rng_for(0), angles=(angle, angle))[0, 0]
    bell = np.exp(-(np.arange(11) ** 2) / 8)
    bell /= bell.sum()
    step = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    expected = np.zeros((41, 41))
    for i in range(11):  # a pixel reads what lies along the direction, so the streak of a point lies against it
        row, column = (20 - np.ceil(i * step - 0.5)).astype(int)
        expected[row, column] += bell[i]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_directions_are_drawn_within_their_range():
    point = np.zeros((1, 1, 61, 61))
    point[0, 0, 30, 30] = 1
    for seed in range(20):
        rows, columns = np.nonzero(motion_blur(point, (10, 30.0), rng_for(seed))[0, 0])
        assert columns.min() < 30
        assert columns.max() == 30  # -45 to 45 degrees: the streak is to one side
        assert np.abs(rows - 30).max() <= 30 - columns.min() + 1


def test_a_zoom_reads_the_middle():
    ramp = np.tile(np.linspace(0, 1, 40), (1, 1, 24, 1))
    found = zoomed(ramp, 2.0)
    assert found.shape == ramp.shape
    np.testing.assert_allclose(found[0, 0, :, [0, -1]], np.stack([np.full(24, ramp[0, 0, 0, 10]), np.full(24, ramp[0, 0, 0, 29])]), atol=1e-12)
    np.testing.assert_array_equal(zoomed(ramp, 1.0), ramp)
    np.testing.assert_allclose(
        zoom_blur(ramp, (1.1, 0.1), rng_for(0)), (2 * ramp + zoomed(ramp, 1.1)) / 3
    )  # the image, its zoom by 1, its zoom by 1.1


@pytest.mark.parametrize(("reach", "rounds"), [(1, 1), (2, 1), (2, 3)])
def test_glass_shuffles_pixels_near_by(reach, rounds):
    place = shuffled(18, 23, reach, rounds, rng_for(1))
    np.testing.assert_array_equal(np.sort(place), np.arange(18 * 23))  # none is lost, none comes twice
    assert (place != np.arange(18 * 23)).mean() > 0.4
    image = rng_for(2).uniform(size=(2, 1, 18, 23))
    sharp = glass_blur(image, (1e-9, reach, rounds), rng_for(1))
    np.testing.assert_allclose(sharp.reshape(2, -1), image.reshape(2, -1)[:, place], atol=1e-12)
    soft = glass_blur(image, (1.0, reach, rounds), rng_for(1))
    blurred = ndimage.gaussian_filter(image, (0, 0, 1.0, 1.0), mode="nearest").reshape(2, 1, -1)[..., place].reshape(image.shape)
    np.testing.assert_allclose(soft, ndimage.gaussian_filter(blurred, (0, 0, 1.0, 1.0), mode="nearest"), atol=1e-12)


def test_one_swap_moves_one_step():
    place = shuffled(3, 3, 1, 1, rng_for(0)).reshape(3, 3)  # one pixel alone may move: the last but none
    moved = np.argwhere(place != np.arange(9).reshape(3, 3))
    assert len(moved) in (0, 2)


def test_an_elastic_change_is_affine_where_nothing_is_shifted():
    rows, columns = np.indices((30, 30)) / 60.0
    plane = (0.2 + rows + 0.5 * columns)[None, None]
    found = elastic(plane, (0.0, 0.0, 0.08), rng_for(5))[0, 0][8:22, 8:22]  # far from the rims, where reflection bends it
    for axis in (0, 1):
        assert np.abs(np.diff(found, 2, axis=axis)).max() < 1e-12  # a plane stays a plane
    assert np.abs(found - plane[0, 0, 8:22, 8:22]).max() > 1e-3


def test_an_elastic_change_takes_its_points_where_it_says(monkeypatch):
    class Fixed:
        def uniform(self, low, high, size):
            return np.full(size, high)  # all three points move by the same: a shift of the whole image

    image = rng_for(0).uniform(size=(1, 1, 20, 20))
    found = elastic(image, (0.0, 0.0, 0.1), Fixed())  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0, 0, 2:, 2:], image[0, 0, :-2, :-2], atol=1e-9)


def test_the_points_of_an_elastic_change_lie_about_the_middle():
    class Fixed:
        def uniform(self, low, high, size):
            return np.array([[0.0, 0.0], [0.0, 0.0], [-3.0, -3.0]])  # the upper left point alone moves away: it stretches, the two others stay

    rows, columns = np.indices((21, 21)) / 42.0
    found = [elastic(plane[None, None], (0.0, 0.0, 0.1), Fixed())[0, 0] for plane in (rows, columns)]  # type: ignore[arg-type]
    for r, c, source in ((17, 17, (17, 17)), (17, 3, (17, 3)), (0, 0, (3, 3))):
        assert [42 * f[r, c] for f in found] == pytest.approx(source, abs=1e-6)


def test_shifts_are_as_high_as_they_say_and_smooth():
    class Fixed:
        def __init__(self):
            self.calls = 0

        def uniform(self, low, high, size):
            self.calls += 1
            return np.zeros(size) if self.calls == 1 else np.full(size, high)  # no affine change, then shifts of one height everywhere

    image = rng_for(0).uniform(size=(1, 1, 20, 20))
    found = elastic(image, (0.15, 0.1, 0.0), Fixed())  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0, 0, :-3, :-3], image[0, 0, 3:, 3:], atol=1e-9)
