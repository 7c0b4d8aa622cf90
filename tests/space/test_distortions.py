"""What rendering makes of images, against other ways to compute it: rotations by quarters, whole shifts, libraries, moments."""

import colorsys
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from carbide.space.corruptions import DRAWS, SMALL, STRENGTHS, drawn, kinds_of, missing_kinds
from carbide.space.distortions import axes, every_corruption, in_range, missing, render, said, sizes, typical_draws
from carbide.space.hsv import shift_hsv
from carbide.types import CORRUPTIONS, Corruption, Distortion, InputError, Space, rng_for

GREY, COLOUR = Space.image((1, 9, 9)), Space.image((3, 8, 12))
X, RGB = np.random.default_rng(0).uniform(size=(4, 1, 9, 9)), np.random.default_rng(1).uniform(size=(4, 3, 8, 12))


def rendered(x, threat, *parameters, space=None):
    return render(x, np.tile(parameters, (len(x), 1)).astype(float), threat, space or (GREY if x.shape[1] == 1 else COLOUR))


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (180, 2), (-90, 3), (-180, 2)])
def test_quarter_turns_are_exact(degrees, quarters):
    np.testing.assert_allclose(rendered(X, Distortion(rotation=180), degrees), np.rot90(X, quarters, (2, 3)), atol=1e-12)


def test_whole_shifts_move_pixels_and_black_comes_in():
    moved = rendered(RGB, Distortion(translation=3), 2, -3)
    np.testing.assert_allclose(moved[:, :, 2:, :-3], RGB[:, :, :-2, 3:], atol=1e-12)
    assert np.abs(moved[:, :, :2]).max() < 1e-12
    assert np.abs(moved[:, :, :, -3:]).max() < 1e-12
    dark = Space.image((3, 8, 12), lower=-1.0)
    np.testing.assert_allclose(rendered(RGB, Distortion(translation=3), 2, -3, space=dark)[:, :, :2], -1, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-180, 180), st.floats(-4, 4), st.floats(-4, 4))
def test_turned_and_shifted_images_are_scipys(degrees, down, across):
    found = rendered(RGB[:1], Distortion(rotation=180, translation=4), degrees, down, across)
    a, middle = np.deg2rad(degrees), np.array([3.5, 5.5])
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    wide = np.pad(RGB[0], ((0, 0), (2, 2), (2, 2)))  # scipy cuts off at the outermost centres, torch fades out over the next pixel
    offset = middle + 2 - turn @ (middle + 2 + [down, across])
    truth = [ndimage.affine_transform(c, turn, offset, order=1, mode="constant")[2:-2, 2:-2] for c in wide]
    np.testing.assert_allclose(found[0], truth, atol=1e-9)


def test_light_follows_its_formulas():
    np.testing.assert_allclose(rendered(X, Distortion(brightness=0.5), -0.25), np.clip(X - 0.25, 0, 1))
    middle = X.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(rendered(X, Distortion(contrast=0.5), 0.5), np.clip(middle + 1.5 * (X - middle), 0, 1))
    wide = Space.image((1, 9, 9), upper=255.0)
    np.testing.assert_allclose(rendered(255 * X, Distortion(brightness=0.5), 0.25, space=wide), 255 * np.clip(X + 0.25, 0, 1))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0, 1)] * 3), st.floats(-0.5, 0.5), st.floats(-1, 1))
def test_colour_is_the_standard_librarys(rgb, hue, saturation):
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    truth = colorsys.hsv_to_rgb((h + hue) % 1.0, min(max(s + saturation, 0), 1), v)
    found = shift_hsv(np.array(rgb).reshape(1, 3, 1, 1), np.array([hue]), np.array([saturation]), np.zeros(1)).ravel()
    np.testing.assert_allclose(found, truth, atol=1e-9)
    both = rendered(np.tile(np.array(rgb).reshape(1, 3, 1, 1), (1, 1, 8, 12)), Distortion(hue=0.5, saturation=1.0), hue, saturation)
    np.testing.assert_allclose(both[0, :, 0, 0], truth if hue or saturation else rgb, atol=1e-9)


def test_blur_is_scipys_for_each_row_and_jpeg_is_pillows():
    sigma = np.array([[0.0], [0.5], [2.0], [0.5]])
    found = render(X, sigma, Distortion(blur=2.0), GREY)
    truth = [x if s == 0 else ndimage.gaussian_filter(x, (0, s, s), mode="nearest") for x, (s,) in zip(X, sigma, strict=True)]
    np.testing.assert_allclose(found, truth)
    from PIL import Image

    blob = io.BytesIO()
    Image.fromarray(np.round(RGB[0].transpose(1, 2, 0) * 255).astype(np.uint8)).save(blob, "JPEG", quality=30)
    truth = np.asarray(Image.open(blob)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(rendered(RGB, Distortion(jpeg=10), 70)[0], truth)
    np.testing.assert_array_equal(rendered(RGB, Distortion(jpeg=10), 0), RGB)


EVERYTHING = Distortion(rotation=20, translation=2, brightness=0.2, contrast=0.3, hue=0.1, saturation=0.3, blur=1.0, jpeg=30)


def test_each_row_is_rendered_from_its_own_parameters_whatever_lies_beside_it():
    _, draws = typical_draws(EVERYTHING, COLOUR, 4, rng_for(0))
    together = render(RGB, draws[0], EVERYTHING, COLOUR)
    alone = np.concatenate([render(RGB[i : i + 1], draws[0][i : i + 1], EVERYTHING, COLOUR) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-12)
    assert ((together >= 0) & (together <= 1)).all()
    np.testing.assert_array_equal(render(RGB, 0 * draws[0], EVERYTHING, COLOUR), RGB)
    assert len(axes(EVERYTHING, COLOUR)) == draws[0].shape[1] == 9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_draws_lie_in_the_range_and_what_lies_outside_is_seen(seed):
    _, draws = typical_draws(EVERYTHING, COLOUR, 5, rng_for(seed))
    for d in draws:
        assert in_range(d, EVERYTHING, COLOUR).all()
        assert (sizes(d, EVERYTHING, COLOUR) <= 1).all()
        column = seed % d.shape[1]
        wrong = d.copy()
        wrong[0, column], wrong[1, column], wrong[2, 8] = 1e3, np.nan, 0.5  # too far, no number, half a JPEG quality
        np.testing.assert_array_equal(in_range(wrong, EVERYTHING, COLOUR), [False, False, False, True, True])


def test_steps_and_fixed_pixels_hold():
    space = Space.image((1, 9, 9))
    fixed = np.ones((1, 9, 9), bool)
    fixed[0, 4, 2] = False
    space = Space(shape=space.shape, lower=space.lower, upper=space.upper, step=np.full(space.shape, 0.25), mutable=fixed, kind=space.kind)
    found = rendered(X, Distortion(brightness=0.5), 0.3, space=space)
    np.testing.assert_array_equal(found[:, 0, 4, 2], X[:, 0, 4, 2])
    assert np.isin(found[:, fixed], np.arange(5) / 4).all()


# Corruptions -------------------------------------------------------------------------------------------------------


def corrupted(x, kind, severity=3, draw=0, space=None):
    return rendered(x, Corruption(severity=severity, kinds=(kind,)), 0, draw, space=space)


BIG = Space.image((3, 40, 40))
FLAT = np.full((1, 3, 40, 40), 0.5)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_the_moments_of_its_kind(severity):
    s = {kind: STRENGTHS[kind][0][severity - 1] for kind in CORRUPTIONS}
    assert np.std(corrupted(FLAT, "gaussian_noise", severity, space=BIG)) == pytest.approx(s["gaussian_noise"], rel=0.05)
    assert np.std(corrupted(FLAT, "speckle_noise", severity, space=BIG)) == pytest.approx(0.5 * s["speckle_noise"], rel=0.05)
    shot = corrupted(FLAT, "shot_noise", severity, space=BIG)
    assert shot.mean() == pytest.approx(0.5, abs=0.01)
    assert shot.var() == pytest.approx(0.5 / s["shot_noise"], rel=0.1)  # of a Poisson count
    salt = np.stack([corrupted(FLAT, "impulse_noise", severity, draw=d, space=BIG) for d in range(DRAWS)])
    assert (salt == 1).mean() == pytest.approx(s["impulse_noise"] / 2, rel=0.35)
    assert (salt == 0).mean() == pytest.approx(s["impulse_noise"] / 2, rel=0.35)
    assert np.abs(corrupted(0 * FLAT, "shot_noise", severity, space=BIG)).max() == 0


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_corruption_repeats_changes_more_with_severity_and_stays_in_the_bounds(kind):
    x = ndimage.gaussian_filter(np.random.default_rng(3).uniform(size=(2, 3, 40, 40)), (0, 0, 1, 1))
    x = (x - x.min()) / np.ptp(x)
    found = [corrupted(x, kind, s, space=BIG) for s in (1, 3, 5)]
    change = [np.abs(f - x).mean() for f in found]
    assert change[0] > 0
    assert change[2] > change[0] or kind in ("glass_blur", "elastic_transform", "frost")  # the strengths bend finer, and show less of the image
    assert all(((f >= 0) & (f <= 1)).all() for f in found)
    np.testing.assert_array_equal(found[0], corrupted(x, kind, 1, space=BIG))
    other = corrupted(x, kind, 3, draw=1, space=BIG)
    assert np.array_equal(other, found[1]) == (not drawn(kind))
    large = Space.image((3, 80, 72))
    y = np.tile(x, (1, 1, 2, 2))[:, :, :, :72]
    change = [np.abs(corrupted(y, kind, s, space=large) - y).mean() for s in (1, 3, 5)]  # with the strengths of large images
    assert change[0] > 0
    assert change[2] > change[0] or kind in ("elastic_transform", "frost")


def test_blurs_keep_the_mean_and_pixelation_makes_blocks():
    for kind in ("gaussian_blur", "defocus_blur"):
        np.testing.assert_allclose(corrupted(FLAT, kind, 5, space=BIG), FLAT, atol=1e-9)
    large = Space.image((1, 80, 80))
    assert min(large.shape[1:]) > SMALL
    x = np.random.default_rng(0).uniform(size=(1, 1, 80, 80))
    means = x.reshape(20, 4, 20, 4).mean((1, 3))
    np.testing.assert_allclose(corrupted(x, "pixelate", 5, space=large)[0, 0], np.kron(means, np.ones((4, 4))), atol=1e-6)  # to a quarter


def test_saturation_is_multiplied_and_moved():
    pixel = np.array([0.5, 0.4, 0.25])
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    for severity, (gain, more) in enumerate(STRENGTHS["saturate"][0], 1):
        found = corrupted(np.tile(pixel.reshape(1, 3, 1, 1), (1, 1, 8, 12)), "saturate", severity)[0, :, 3, 3]
        np.testing.assert_allclose(found, colorsys.hsv_to_rgb(h, min(gain * s + more, 1), v), atol=1e-9)


def test_a_corruption_is_a_kind_and_a_pattern_and_nothing_else():
    threat = Corruption(severity=2)
    every = every_corruption(threat, COLOUR)
    assert len(every) == 8 + 11 * DRAWS
    assert in_range(every, threat, COLOUR).all()
    assert not in_range(np.array([[19.0, 0], [0, DRAWS], [0.5, 0], [-1, 0]]), threat, COLOUR).any()
    assert said(every[0], threat, COLOUR) == "gaussian noise"
    assert said(np.array([10.0, 0, -2.5]), Distortion(rotation=30, translation=3), GREY) == "rotation 10, across -2.5"


def test_what_cannot_be_rendered_is_named_with_its_reason(monkeypatch):
    assert set(missing_kinds(Corruption(), GREY)) == {"saturate"}
    two = Space.image((2, 8, 8))
    assert set(missing(Corruption(), two)) == {"saturate", "jpeg_compression"}
    assert "jpeg_compression" not in kinds_of(Corruption(), two)
    assert set(missing(EVERYTHING, two)) == {"hue", "saturation", "jpeg"}
    assert missing(EVERYTHING, COLOUR) == {}
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pillow" in missing(EVERYTHING, COLOUR)["jpeg"]
    assert "torch" in missing(EVERYTHING, COLOUR)["rotation"]
    assert set(missing(Corruption(), COLOUR)) == {"jpeg_compression", "pixelate"}


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Distortion(), "no change"),
        (lambda: Distortion(rotation=-1), "rotation is -1"),
        (lambda: Distortion(rotation=200), "180"),
        (lambda: Distortion(blur=float("inf")), "blur is inf"),
        (lambda: Distortion(hue=0.6), "hue is 0.6"),
        (lambda: Distortion(contrast=float("nan")), "contrast is nan"),
        (lambda: Distortion(jpeg=99), "jpeg is 99"),
        (lambda: Distortion(jpeg=2.5), "jpeg is 2.5"),
        (lambda: Corruption(severity=6), "corruption is 6"),
        (lambda: Corruption(severity=True), "corruption is True"),
        (lambda: Corruption(kinds=("rain",)), "'rain'"),
    ],
)
def test_wrong_ranges_are_named(make, word):
    with pytest.raises(InputError, match=word):
        make()
