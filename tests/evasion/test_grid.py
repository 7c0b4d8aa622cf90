from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.data.live import dataset_of
from carbide.evasion._counted import Counted
from carbide.evasion.audit.grid import GridSearch, lattice
from carbide.evasion.judge import admit, audit, judge, verify
from carbide.models.torch_net import TorchModel
from carbide.run.store import decode, encode
from carbide.space.distortions import every_corruption, render, sizes, typical_draws
from carbide.types import Access, CarbideError, Case, Corruption, Distortion, InputError, Space, Splits, decide, rng_for
from tests.evasion.nets import digits, digits_net

SPACE = Space.image((1, 9, 9))


class Corner(nn.Module):
    """Class 1 where the mean of the top left corner exceeds 1/2."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        score = 10 * (x[:, 0, :3, :3].mean((1, 2)) - 0.5) + self.anchor
        return torch.stack([-score, score], 1)


CORNER = TorchModel(module=Corner(), space=SPACE, classes=2)


def bright_at(top, left):
    x = np.zeros((1, 1, 9, 9))
    x[0, 0, top : top + 3, left : left + 3] = 1
    return x


def found(threat, x, y, model=CORNER, attack=None):
    return judge(model, x, y, (attack or GridSearch())(model, x, y, threat, rng_for(0)), threat, model.space)


@pytest.mark.parametrize(("corner", "degrees"), [((0, 6), 90), ((6, 6), 180), ((6, 0), -90)])
def test_a_corner_is_turned_to_where_the_model_looks(corner, degrees):
    x, y = bright_at(*corner), np.zeros(1, np.int64)
    outcome = found(Distortion(rotation=180), x, y)
    assert outcome.success[0]
    angles = np.linspace(-180, 180, 7201)
    broken = angles[render(np.repeat(x, 7201, 0), angles[:, None], Distortion(rotation=180), SPACE)[:, 0, :3, :3].mean((1, 2)) > 0.5]
    least = np.abs(broken).min()
    assert least <= abs(outcome.parameters[0, 0]) <= least + 12  # the mildest point of a grid of 12 degrees
    assert not found(Distortion(rotation=least - 1), x, y).success[0]
    nearer = found(Distortion(rotation=least + 0.5), x, y)
    assert nearer.success[0], "a range that ends just beyond is searched to its end"
    assert min(abs(outcome.parameters[0, 0] - degrees), 360 - abs(outcome.parameters[0, 0] - degrees)) < 40


def test_shifts_need_exactly_their_pixels():
    x, y = bright_at(2, 3), np.zeros(1, np.int64)
    assert not found(Distortion(translation=1), x, y).success[0]
    outcome = found(Distortion(translation=3), x, y)
    assert outcome.success[0]
    assert (outcome.parameters[0] < 0).all()
    np.testing.assert_array_equal(outcome.witness, render(x, outcome.parameters, Distortion(translation=3), SPACE))


def test_refinement_finds_what_lies_between_the_points_of_a_grid():
    class Narrow(nn.Module):
        """Wrong only where the mean of the image is within a thousandth of 0.6137."""

        def __init__(self):
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x):
            score = 0.001 - (x.mean((1, 2, 3)) - 0.6137).abs() + self.anchor
            return torch.stack([-score, score], 1)

    model = TorchModel(module=Narrow(), space=SPACE, classes=2)
    x, y, threat = np.full((2, 1, 9, 9), [[[[0.5]]], [[[0.4]]]]), np.zeros(2, np.int64), Distortion(brightness=0.3)
    assert not found(threat, x, y, model, GridSearch(tries=9, rounds=0)).success.any()
    assert found(threat, x, y, model, GridSearch(tries=9, rounds=10)).success.all()


def test_more_tries_find_more_and_labels_alone_will_do():
    test, model = digits().test, digits_net()
    x, y, threat = test.x[:60], test.y[:60], Distortion(rotation=30, translation=1)
    few, many = (found(threat, x, y, model, GridSearch(tries=t, rounds=0)).success.sum() for t in (9, 400))
    assert few < many

    class Says:
        access, threshold, classes, space = Access.LABELS, 0.5, 10, model.space

        def predict(self, z):
            return np.eye(10)[decide(model.predict(z))]

    blind = found(threat, x, y, Says(), GridSearch(rounds=0)).success
    np.testing.assert_array_equal(blind, found(threat, x, y, model, GridSearch(rounds=0)).success)


def test_the_worst_corruption_is_found_by_trying_all():
    test, model, threat = digits().test, digits_net(), Corruption(severity=5)
    x, y = test.x[:60], test.y[:60]
    every = [decide(model.predict(render(x, np.tile(p, (60, 1)), threat, model.space))) != y for p in every_corruption(threat, model.space)]
    outcome = found(threat, x, y, model)
    np.testing.assert_array_equal(outcome.success, np.any(every, axis=0) | (decide(model.predict(x)) != y))
    assert outcome.success.any()


def test_queries_are_counted_and_rows_leave_as_they_break():
    x, y, threat = np.concatenate([bright_at(3, 3), 0 * bright_at(0, 0)]), np.zeros(2, np.int64), Distortion(translation=4)
    counted = Counted(CORNER)
    GridSearch(tries=81, rounds=2)(counted, x[1:], y[1:], threat, rng_for(0))
    assert counted.queries == 80 + 2 * 4, "every point but the unchanged one, then a step either way of two parameters, twice"
    alone = counted.queries
    counted = Counted(CORNER)
    GridSearch(tries=81, rounds=2)(counted, x, y, threat, rng_for(0))
    assert counted.queries < 2 * alone, "the row that broke asked no more once its points were judged"


def test_a_grid_goes_from_mild_to_strong_and_gives_way_to_draws():
    threat = Distortion(rotation=30, translation=2, brightness=0.2)
    points, spacing = lattice(threat, SPACE, 400, rng_for(0))
    assert len(points) == 3**4 - 1
    assert (np.diff(sizes(points, threat, SPACE)) >= 0).all()
    np.testing.assert_allclose(spacing, [30, 2, 2, 0.2])
    many = Distortion(rotation=30, translation=2, brightness=0.2, contrast=0.2, blur=1, jpeg=50)
    points, _ = lattice(many, SPACE, 200, rng_for(0))
    assert len(points) == 200
    assert len(np.unique(points, axis=0)) == 200
    np.testing.assert_array_equal(points[:, -1], points[:, -1].round())
    points, _ = lattice(Distortion(jpeg=90), SPACE, 400, rng_for(0))
    np.testing.assert_array_equal(points.ravel(), np.arange(1, 11))


# The judge ---------------------------------------------------------------------------------------------------------


def test_only_parameters_of_the_range_are_rendered_and_images_are_refused():
    x, threat = np.repeat(bright_at(0, 6), 4, 0), Distortion(rotation=100)
    made, cost = admit(np.array([[90.0], [101.0], [np.nan], [-100.0]]), x, threat, SPACE)
    np.testing.assert_allclose(made[0], np.rot90(x[0], 1, (1, 2)), atol=1e-12)
    np.testing.assert_array_equal(made[1:3], x[1:3])
    np.testing.assert_allclose(cost, [0.9, 0, 0, 1])
    y = np.zeros(4, np.int64)
    outcome = judge(CORNER, x, y, np.array([[90.0], [101.0], [np.nan], [-100.0]]), threat, SPACE)
    np.testing.assert_array_equal(outcome.success, [True, False, False, False])
    np.testing.assert_array_equal(outcome.parameters, [[90.0], [np.nan], [np.nan], [np.nan]])
    with pytest.raises(CarbideError, match="rendered here"):
        judge(CORNER, x, y, np.ones_like(x), threat, SPACE)  # an image that breaks every row, of no family


def case_of(model, x, y):
    data = dataset_of(x, y, space=model.space, classes=model.classes)
    return Case(model=model, data=Splits(train=data, validation=data, test=data))


@pytest.mark.parametrize("threat", [Distortion(rotation=30, translation=1), Corruption(severity=4)])
def test_an_audit_tells_the_worst_case_from_the_average_and_verifies(threat):
    test, model = digits().test, digits_net()
    case = case_of(model, test.x[:60], test.y[:60])
    section, again = (audit(case, threat, {"grid": GridSearch(tries=81)}) for _ in range(2))
    assert encode(section) == encode(again)
    worst = section.headline()
    average = next(f for f in section.findings if f.metric.startswith("mean accuracy"))
    assert worst.metric == "robust accuracy"
    assert worst.value < average.value < 1
    assert average.low < average.value < average.high
    assert "average case" in average.note
    section = decode(encode(section))
    [(_, said, value)] = verify(section, model, case, threat)
    assert said == value
    moved = replace(section, evidence=dict(section.evidence) | {"parameters": 0 * section.evidence["parameters"]})
    if isinstance(threat, Distortion):
        assert verify(moved, model, case, threat)[0][2] > said
    e = section.evidence
    rows = np.flatnonzero(e["broken"] & ~e["wrong"])
    np.testing.assert_allclose(e["witness"][rows], render(e["x"][rows], e["parameters"][rows], threat, model.space), atol=1e-12)


def test_the_average_of_corruptions_is_the_mean_of_their_accuracies():
    test, model, threat = digits().test, digits_net(), Corruption(severity=5, kinds=("contrast", "gaussian_noise", "saturate"))
    case = case_of(model, test.x[:60], test.y[:60])
    section = audit(case, threat, {"grid": GridSearch()})
    truth = {}
    for kind in ("contrast", "gaussian_noise"):
        alone = Corruption(severity=5, kinds=(kind,))
        right = [(decide(model.predict(render(test.x[:60], np.tile(p, (60, 1)), alone, model.space))) == test.y[:60]).mean()
                 for p in every_corruption(alone, model.space)]  # fmt: skip
        truth[f"accuracy under {kind}"] = np.mean(right)
    said = {f.metric: f.value for f in section.findings if "under" in f.metric}
    assert said == pytest.approx(truth | {"mean accuracy under corruption": np.mean(list(truth.values()))})
    assert [(s.method, "colour" in s.reason) for s in section.skipped] == [("saturate", True)]
    assert [f.kind for f in section.figures][:2] == ["bars", "bars"]


def test_a_row_that_only_a_draw_breaks_is_broken():
    test, model, threat = digits().test, digits_net(), Distortion(rotation=60)
    section = audit(case_of(model, test.x[:60], test.y[:60]), threat, {"grid": GridSearch(tries=2, rounds=0)})
    e = section.evidence
    assert (e["method"] == "a draw of the average case").any()
    _, draws = typical_draws(threat, model.space, 60, rng_for(0, "evasion", "typical"))
    for draw in draws:
        assert e["broken"][decide(model.predict(render(e["x"], draw, threat, model.space))) != e["y"]].all()
    assert section.headline().value <= next(f for f in section.findings if f.metric.startswith("mean")).value


def test_what_cannot_be_searched_is_said():
    case = case_of(digits_net(), digits().test.x[:4], digits().test.y[:4])
    assert GridSearch().refuses(case, Distortion(rotation=10)) is None
    assert "3 channels" in (GridSearch().refuses(case, Distortion(hue=0.1)) or "")
    assert "3 channels" in (GridSearch().refuses(case, Corruption(kinds=("saturate",))) or "")
    assert GridSearch().refuses(case, Corruption()) is None
    table = replace(case, model=replace(case.model, space=Space.table(["a", "b"])))
    assert "images" in (GridSearch().refuses(table, Distortion(rotation=10)) or "")
    wide = replace(case, model=replace(case.model, space=Space.image((1, 8, 8), upper=np.inf)))
    assert "bounds" in (GridSearch().refuses(wide, Distortion(rotation=10)) or "")
    with pytest.raises(InputError, match="tries is 1"):
        GridSearch(tries=1)
