"""Snow, frost and fog against what is known of them."""

import numpy as np
import pytest

from carbide.space.weather import fog, frost, plasma, snow
from carbide.types import rng_for


def by_hand(side, decay, rng):
    """Diamonds and squares on a torus, point by point."""
    land, step, rough = np.zeros((side, side)), side, 100.0
    while step > 1:
        half = step // 2
        grid = range(0, side, step)
        for middles, neighbours in (
            ([(r + half, c + half) for r in grid for c in grid], [(-half, -half), (-half, half), (half, -half), (half, half)]),
            ([(r, c + half) for r in grid for c in grid], [(-half, 0), (half, 0), (0, -half), (0, half)]),
            ([(r + half, c) for r in grid for c in grid], [(-half, 0), (half, 0), (0, -half), (0, half)]),
        ):
            draws = rng.uniform(-rough, rough, size=(side // step, side // step)).ravel()
            new = [
                np.mean([land[(r + i) % side, (c + j) % side] for i, j in neighbours]) + rough * d for (r, c), d in zip(middles, draws, strict=True)
            ]
            for (r, c), value in zip(middles, new, strict=True):
                land[r % side, c % side] = value
        step, rough = half, rough / decay
    return (land - land.min()) / (land.max() - land.min())


@pytest.mark.parametrize("decay", [1.5, 3.0])
def test_a_plasma_is_midpoint_displacement(decay):
    np.testing.assert_allclose(plasma(16, 16, decay, rng_for(1)), by_hand(16, decay, rng_for(1)), atol=1e-12)
    np.testing.assert_array_equal(plasma(11, 16, decay, rng_for(1)), plasma(16, 16, decay, rng_for(1))[:11])


def test_a_plasma_is_smoother_where_its_roughness_falls_faster():
    steps = [np.mean([np.abs(np.diff(plasma(64, 64, decay, rng_for(seed)), 2, axis=1)).mean() for seed in range(5)]) for decay in (1.5, 2.0, 3.0)]
    assert steps[0] > 1.3 * steps[1] > 1.69 * steps[2]


def test_fog_keeps_the_brightest_and_covers_by_its_plasma():
    x = rng_for(0).uniform(size=(3, 1, 20, 20))
    x[1] *= 0.5
    found, cover = fog(x, (1.5, 2.0), rng_for(4)), plasma(20, 20, 2.0, rng_for(4))
    for image, out in zip(x, found, strict=True):
        np.testing.assert_allclose(out, (image + 1.5 * cover) * image.max() / (image.max() + 1.5))
        assert out.max() <= image.max() + 1e-12


def test_frost_is_a_sum_of_image_and_ice():
    dark, light = np.zeros((1, 3, 32, 32)), np.full((1, 3, 32, 32), 0.5)
    ice = frost(dark, (0.8, 0.6), rng_for(2))
    np.testing.assert_allclose(frost(light, (0.8, 0.6), rng_for(2)) - ice, 0.4)
    assert ice.min() >= 0
    assert 0.55 < ice.max() <= 0.6
    assert 0.2 < ice.mean() < 0.45
    assert np.ptp(ice[0], axis=0).max() == 0  # white: the same in every channel


def test_snow_whitens_and_flakes_come_in_pairs():
    x = rng_for(0).uniform(size=(2, 3, 32, 32))
    bare = (0.1, 0.2, 1.0, 9.0, 4, 2.0, 0.9)  # no flake is that bright
    grey = x[:, 0] * 0.299 + x[:, 1] * 0.587 + x[:, 2] * 0.114
    pale = 0.9 * x + 0.1 * np.maximum(x, 1.5 * grey[:, None] + 0.5)
    np.testing.assert_allclose(snow(x, bare, rng_for(1)), pale)
    fallen = snow(x, (0.1, 0.3, 1.75, 0.55, 10, 4.0, 0.9), rng_for(1)) - pale
    assert fallen.min() >= -1e-12
    np.testing.assert_allclose(fallen[0], fallen[1], atol=1e-12)  # the same flakes before every image
    np.testing.assert_allclose(fallen, fallen[:, :, ::-1, ::-1], atol=1e-12)
    assert fallen.max() > 0.05


def test_more_snow_falls_where_flakes_are_likelier():
    x = np.zeros((1, 1, 64, 64))
    few, many = (snow(x, (mean, 0.3, 1.0, 0.6, 4, 2.0, 1.0), rng_for(0)).mean() for mean in (0.0, 0.4))
    assert many > 3 * few > 0
