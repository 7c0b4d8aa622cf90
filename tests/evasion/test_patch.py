import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from carbide.data.live import dataset_of
from carbide.evasion._counted import Counted
from carbide.evasion._places import mask, proportions, steepest, tiles
from carbide.evasion.audit.patch import PatchSearch
from carbide.evasion.judge import admit, audit, judge, verify
from carbide.models.torch_net import TorchModel
from carbide.run.store import decode, encode
from carbide.space.patches import box_pixels, inside_patch, pixels_of, shapes
from carbide.types import CarbideError, Case, InputError, LpBall, Patch, Space, Splits, rng_for
from tests.evasion.nets import digits, digits_net

SIDE = 6
SPACE = Space.image((2, SIDE, SIDE))


def rectangles(pixels, height, width):
    """Every rectangle of at most so many pixels, by brute force."""
    spans = itertools.product(range(height), range(1, height + 1), range(width), range(1, width + 1))
    return [(t, k, a, w) for t, k, a, w in spans if t + k <= height and a + w <= width and k * w <= pixels]


def flat(seed=0, *, bias=-0.2):
    """A linear model of two-channel images in float64: class 1 when ``w @ x + bias`` exceeds 0."""
    w = np.random.default_rng(seed).normal(size=SPACE.shape)
    layer = nn.Linear(w.size, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(np.stack([-w.ravel(), w.ravel()]) / 2))
        layer.bias.copy_(torch.tensor([-bias / 2, bias / 2]))
    return TorchModel(module=nn.Sequential(nn.Flatten(), layer), space=SPACE, classes=2), w, bias


def worst_by_brute_force(w, b, x, y, pixels):
    """The least margin ``(n,)`` that one patch leaves a linear model."""
    push = np.where(y == 1, -1.0, 1.0)[:, None, None, None]
    gain = np.maximum(push * w * (1 - x), push * w * (0 - x)).sum(1)
    clean = ((x * w).sum((1, 2, 3)) + b) * (2 * y - 1)
    best = np.max([gain[:, t : t + k, a : a + v].sum((1, 2)) for t, k, a, v in rectangles(pixels, SIDE, SIDE)], axis=0)
    return clean - best


@pytest.mark.parametrize("pixels", [1, 4, 7])
def test_on_a_linear_model_the_patch_is_brute_forces(pixels):
    x = np.random.default_rng(1).uniform(size=(60, *SPACE.shape))
    _, w, _ = flat()
    reach = worst_by_brute_force(w, 0.0, x, np.zeros(60, int), pixels)
    model, w, b = flat(bias=float(np.median(reach)))  # so that a patch takes half of the rows across
    y = ((x * w).sum((1, 2, 3)) + b > 0).astype(np.int64)
    threat = Patch(area=pixels / SIDE**2)
    found = PatchSearch(steps=3)(model, x, y, threat, rng_for(0))
    truth = worst_by_brute_force(w, b, x, y, pixels)
    outcome = judge(model, x, y, found, threat, SPACE)
    np.testing.assert_array_equal(outcome.success, truth < 0)
    assert 0.1 < outcome.success.mean() < 0.95
    stands = ~outcome.success
    left = ((found[stands] * w).sum((1, 2, 3)) + b) * (2 * y[stands] - 1)
    np.testing.assert_allclose(left, truth[stands], atol=1e-9)


class Spot(nn.Module):
    """Class 1 where the 2x2 block at one place is bright on average; elsewhere nothing matters, and the block is flat below."""

    def __init__(self, top, left):
        super().__init__()
        self.top, self.left = top, left
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        block = x[:, 0, self.top : self.top + 2, self.left : self.left + 2].mean((1, 2))
        score = 20 * torch.relu(block - 0.8) - 1 + self.anchor
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (10, 10), (5, 1)])
def test_a_place_that_alone_fools_is_found_though_its_gradient_is_flat(place):
    model = TorchModel(module=Spot(*place), space=Space.image((1, 12, 12)), classes=2)
    x, y = np.random.default_rng(0).uniform(0, 0.5, size=(5, 1, 12, 12)), np.zeros(5, np.int64)
    threat = Patch(area=16 / 144)
    outcome = judge(model, x, y, PatchSearch(steps=10)(model, x, y, threat, rng_for(0)), threat, model.space)
    assert outcome.success.all()
    assert (outcome.witness[:, 0, place[0] : place[0] + 2, place[1] : place[1] + 2].mean((1, 2)) > 0.8).all()
    assert (outcome.cost <= 16 / 144).all()


def test_a_net_falls_more_often_to_larger_patches_and_to_steps_than_to_views_alone():
    test, model = digits().test, digits_net()
    x, y = test.x[:40], test.y[:40]

    def broken(attack, pixels):
        threat = Patch(area=pixels / 64)
        return judge(model, x, y, attack(model, x, y, threat, rng_for(0)), threat, model.space).success.sum()

    one, four, nine = (broken(PatchSearch(steps=30), pixels) for pixels in (1, 4, 9))
    assert one < four < nine
    assert broken(PatchSearch(steps=30), 4) > broken(PatchSearch(views=2, places=1, steps=1), 4)
    grid = max(broken(lambda m, x, y, t, r, v=v: best_block(m, x, y, 2, v), 4) for v in (0.0, 1.0))
    assert four > grid


def best_block(model, x, y, side, value):
    """A yardstick: the plain block of one value that hurts most, at any place."""
    out, least = x.copy(), model.predict(x)[np.arange(len(x)), y]
    for top, left in itertools.product(range(9 - side), repeat=2):
        z = x.copy()
        z[:, :, top : top + side, left : left + side] = value
        p = model.predict(z)[np.arange(len(x)), y]
        out[p < least], least = z[p < least], np.minimum(p, least)
    return out


# The judge ---------------------------------------------------------------------------------------------------------


def cheats():
    x = np.random.default_rng(0).uniform(0.2, 0.8, size=(1, *SPACE.shape))
    z = np.repeat(x, 9, 0)
    z[0, :, 1:3, 1:3] = 1  # four pixels
    z[1, 0, 1, 1], z[1, 1, 2, 2] = 1, 1  # two corners, in different channels: four pixels all the same
    z[2, :, 0, 0:4] = 0  # a strip
    z[3, :, 1:3, 1:3], z[3, 0, 5, 5] = 1, 1  # one pixel elsewhere
    z[4, 0, 0, 0], z[4, 0, 5, 5] = 1, 1  # two rectangles of one pixel
    z[5, :, 0, 0:5] = 1  # one pixel too many
    z[6, 0, 1, 1] = 1.1  # outside the bounds
    z[7, 0, 1, 1] = np.nan
    return z, np.repeat(x, 9, 0), np.array([1, 1, 1, 0, 0, 0, 0, 0, 1], bool)


def test_only_one_rectangle_of_so_many_pixels_within_the_bounds_is_admitted():
    z, x, good = cheats()
    allowed, cost = admit(z, x, Patch(area=4 / 36), SPACE)
    np.testing.assert_array_equal(allowed, np.where(good[:, None, None, None], z, x))
    np.testing.assert_allclose(cost, np.array([4, 4, 4, 0, 0, 0, 0, 0, 0]) / 36)
    np.testing.assert_array_equal(admit(z[:6], x[:6], Patch(area=1.0), SPACE)[0], z[:6])


def test_pixels_that_cannot_change_or_have_steps_hold_in_a_patch_too():
    space = replace(SPACE, step=np.full(SPACE.shape, 0.25), mutable=np.arange(72).reshape(SPACE.shape) != 7)
    x = np.full((3, *SPACE.shape), 0.5)
    z = x.copy()
    z[0, 0, 1, 1], z[1, 0, 2, 2], z[2, 0, 2, 2] = 1.0, 0.6, 0.75  # pixel 7 is fixed, 0.6 is no step, 0.75 is one
    allowed, _ = admit(z, x, Patch(area=0.2), space)
    assert [(a != b).any() for a, b in zip(allowed, x, strict=True)] == [False, False, True]
    model, w, b = flat(bias=-0.2)
    model = replace(model, space=space)
    y = (((x * w).sum((1, 2, 3)) + b) > 0).astype(np.int64)
    found = PatchSearch(steps=3)(model, x, y, Patch(area=0.2), rng_for(0))
    assert (admit(found, x, Patch(area=0.2), space)[0] == found).all()
    assert (found != x).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_shapes_are_the_largest_rectangles_and_hold_every_other(pixels, height, width):
    found = shapes(pixels, height, width)
    every = {(k, w) for _, k, _, w in rectangles(pixels, height, width)}
    assert set(found) <= every
    assert all(any(k <= tall and w <= wide for tall, wide in found) for k, w in every)
    assert not any(a != b and a[0] <= b[0] and a[1] <= b[1] for a in found for b in found)
    assert set(proportions(pixels, height, width)) <= set(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 5)), max_size=6), st.integers(1, 36))
def test_boxes_are_counted_as_by_hand(changes, pixels):
    x = np.zeros((1, 2, 6, 6))
    for place in changes:
        x[(0, *place)] = 1.0
    rows, columns = [p[1] for p in changes], [p[2] for p in changes]
    count = (max(rows) - min(rows) + 1) * (max(columns) - min(columns) + 1) if changes else 0
    assert box_pixels(x, 0 * x)[0] == count
    assert inside_patch(x, 0 * x, Patch(area=pixels / 36), SPACE)[0] == (count <= pixels)


def test_areas_are_counted_in_whole_pixels():
    assert [pixels_of(Patch(area=a), Space.image((1, 10, 10))) for a in (0.07, 0.29, 0.009, 1.0)] == [7, 29, 0, 100]


# Places ------------------------------------------------------------------------------------------------------------


def test_the_steepest_place_is_the_largest_sum_and_places_are_masks():
    gain = torch.as_tensor(np.random.default_rng(0).uniform(size=(4, 7, 9)))
    sizes = ((2, 3), (6, 1))
    places = steepest(gain, sizes, 5)
    every = [(t, a, k, w) for k, w in sizes for t in range(8 - k) for a in range(10 - w)]
    for image, found in zip(gain, places, strict=True):
        sums = [float((image * mask(torch.tensor([p]), 7, 9)[0, 0]).sum()) for p in found.tolist()]
        assert sums == sorted(sums, reverse=True)
        assert sums[0] == pytest.approx(max(float(image[t : t + k, a : a + w].sum()) for t, a, k, w in every))
        assert len({tuple(p) for p in found.tolist()}) == 5
    assert mask(torch.tensor([[1, 2, 2, 3]]), 7, 9)[0, 0].nonzero().tolist() == [[r, c] for r in (1, 2) for c in (2, 3, 4)]


def test_tiles_cover_the_image_where_so_many_can():
    cover = mask(tiles((3, 4), 8, 9, 20), 8, 9).any(0)
    assert cover.all()
    assert len(tiles((1, 1), 8, 9, 20)) <= 20
    assert len(tiles((4, 4), 12, 12, 40)) == 36


# A whole audit -----------------------------------------------------------------------------------------------------


def case_of(model, x, y):
    data = dataset_of(x, y, space=model.space, classes=model.classes)
    return Case(model=model, data=Splits(train=data, validation=data, test=data))


def test_an_audit_names_the_area_repeats_and_verifies():
    test, model = digits().test, digits_net()
    case, threat = case_of(model, test.x[:40], test.y[:40]), Patch(area=4 / 64)
    section = audit(case, threat, {"patch": PatchSearch(steps=20)})
    again = audit(case, threat, {"patch": PatchSearch(steps=20)})
    assert encode(section) == encode(again)
    headline = section.headline()
    assert headline.metric == "robust accuracy"
    assert 0 < headline.value < 1
    assert section.threat == "one patch on at most 6.25% of an image"
    curve = next(f for f in section.figures if f.kind == "lines")
    assert "area" in curve.title
    assert (np.diff(curve.series[0].y) <= 0).all()
    assert curve.series[0].y[list(curve.series[0].x).index(4 / 64)] == headline.value
    assert any(f.kind == "gallery" for f in section.figures)
    section = decode(encode(section))
    [(_, said, found)] = verify(section, model, case, threat)
    assert said == found
    [(_, said, found)] = verify(section, model, case, Patch(area=1 / 64))
    assert found > said


def test_broken_rows_leave_and_inputs_stay():
    test, model = digits().test, digits_net()
    x, y = test.x[:30].copy(), test.y[:30].copy()
    easy, hard = Counted(model), Counted(model)
    first = PatchSearch(steps=20)(easy, x, y, Patch(area=1.0), rng_for(0))
    PatchSearch(steps=20)(hard, x, y, Patch(area=1 / 64), rng_for(0))
    assert easy.queries < hard.queries / 3
    np.testing.assert_array_equal(x, test.x[:30])
    np.testing.assert_array_equal(first, PatchSearch(steps=20)(model, x, y, Patch(area=1.0), rng_for(0)))


class Stepped(nn.Module):
    """The digits net on inputs rounded to quarters: no gradient anywhere."""

    def __init__(self):
        super().__init__()
        self.inner = digits_net().module

    def forward(self, x):
        return self.inner((4 * x).round() / 4)


def test_gradients_that_rounding_hides_are_mended_for_patches_too():
    test = digits().test
    model = TorchModel(module=Stepped(), space=digits_net().space, classes=10)
    case, threat = case_of(model, test.x[:40], test.y[:40]), Patch(area=2 / 64)
    section = audit(case, threat, {"patch": PatchSearch(steps=40)})
    assert [s.done for s in section.examination if "step" in s.name or "round" in s.value] == ["repaired"]
    blind = PatchSearch(steps=40)(model, test.x[:40], test.y[:40], threat, rng_for(0))
    unaided = 1 - judge(model, test.x[:40], test.y[:40], blind, threat, model.space).success.mean()
    assert section.headline().value < unaided - 0.1


class Grey(nn.Module):
    """Class 1 where a block is grey, which no view is, unless the first pixel is bright."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        score = 0.01 - ((x[:, 0, 5:7, 5:7] - 0.5) ** 2).mean((1, 2)) - 10 * x[:, 0, 0, 0] + self.anchor
        return torch.stack([-score, score], 1)


def test_a_row_that_breaks_while_it_is_painted_is_painted_no_more():
    model, threat = TorchModel(module=Grey(), space=Space.image((1, 12, 12)), classes=2), Patch(area=16 / 144)
    x, y = np.zeros((6, 1, 12, 12)), np.zeros(6, np.int64)
    x[3:, 0, 0, 0] = 1
    costs = []
    for rows in (slice(0, 3), slice(3, 6)):
        counted = Counted(model)
        outcome = judge(model, x[rows], y[rows], PatchSearch()(counted, x[rows], y[rows], threat, rng_for(0)), threat, model.space)
        assert outcome.success.all() == (rows.start == 0)
        assert outcome.success.any() == (rows.start == 0)
        costs.append(counted.queries)
    assert costs[0] < 0.8 * costs[1]


def test_what_cannot_carry_a_patch_is_said():
    case = case_of(digits_net(), digits().test.x[:4], digits().test.y[:4])
    assert "less than one pixel" in (PatchSearch().refuses(case, Patch(area=0.001)) or "")
    assert PatchSearch().refuses(case, Patch(area=0.1)) is None
    wide = replace(case, model=replace(case.model, space=Space.image((1, 8, 8), upper=np.inf)))
    assert "bounds" in (PatchSearch().refuses(wide, Patch(area=0.1)) or "")
    table = replace(case, model=replace(case.model, space=Space.table(["a", "b"])))
    assert "images" in (PatchSearch().refuses(table, Patch(area=0.1)) or "")
    for wrong in ({"views": 0}, {"places": 0}, {"steps": 0}, {"places": 290}):
        with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
            PatchSearch(**wrong)
    for area in (0, -1, 1.5, float("nan")):
        with pytest.raises(InputError, match="patch is"):
            Patch(area=area)
    with pytest.raises(CarbideError, match="shape"):
        judge(case.model, case.data.test.x, case.data.test.y, case.data.test.x[:, :, :4], Patch(area=0.1), case.model.space)
    assert LpBall(eps=0.1) != Patch(area=0.1)
