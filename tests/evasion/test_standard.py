import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

from carbide import registry
from carbide._audit import Ask, attacks
from carbide.evasion._alarm import SAMPLE, sample_first
from carbide.evasion._ascent import ascend
from carbide.evasion._counted import Counted
from carbide.evasion._gradients import Ball, Best, batches, gradient_of, margins
from carbide.evasion.audit import standard
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.audit.standard import Standard, certified
from carbide.evasion.examination import views
from carbide.evasion.examination.views import Repair, View
from carbide.evasion.examination.votes import Asked
from carbide.evasion.judge import audit, judge
from carbide.evasion.prove.branch_and_bound import BranchAndBound
from carbide.models.torch_net import TorchModel
from carbide.space.balls import inside_ball, norms
from carbide.types import Case, InputError, LpBall, decide, rng_for
from tests.evasion.nets import bounded, digits, digits_net, linear, tiny, unit_space


class Steps(nn.Module):
    """Rounds inputs to steps before a net sees them: the gradient is nothing everywhere."""

    def __init__(self, inner, step):
        super().__init__()
        self.inner, self.step = inner, step

    def forward(self, x):
        return self.inner((x / self.step).round() * self.step)


class Loud(nn.Module):
    """Logits times a factor."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x):
        return self.factor * self.inner(x)


def broken(model, attack, x, y, threat):
    return judge(model, x, y, attack(model, x, y, threat, rng_for(0)), threat, model.space).success


@pytest.mark.parametrize("p", [1, 2, np.inf])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_linear_model_falls_exactly_where_its_plane_is(p, scale):
    model, x, y, distance = bounded(4)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.mul_(scale)
    eps = float(np.median(distance[p]))
    found = broken(model, Standard(), x, y, LpBall(p=p, eps=eps))
    sure = np.abs(distance[p] / eps - 1) > 2e-3
    np.testing.assert_array_equal(found[sure], (distance[p] < eps)[sure])


def test_two_classes_are_attacked_at_the_operating_point():
    model, x, y, distance = bounded(4)
    with torch.no_grad():
        model.module.bias[1] += np.log(0.9 / 0.1)
    eps = float(np.median(distance[np.inf]))
    found = broken(model.at(0.9), Standard(), x, y, LpBall(eps=eps))
    sure = np.abs(distance[np.inf] / eps - 1) > 2e-3
    np.testing.assert_array_equal(found[sure], (distance[np.inf] < eps)[sure])


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_finds_what_a_dense_grid_finds(p):
    missed = reachable = 0
    steps = np.linspace(-1, 1, 81) * 0.1
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    grid = grid[np.linalg.norm(grid, ord=p, axis=1) <= 0.1]
    for seed in (0, 2, 3):
        model = tiny(seed, classes=4)
        x = np.random.default_rng(seed).uniform(0.2, 0.8, size=(40, 2))
        y = decide(model.predict(x))
        truth = np.array([(decide(model.predict(row + grid)) != label).any() for row, label in zip(x, y, strict=True)])
        missed += int((truth & ~broken(model, Standard(), x, y, LpBall(p=p, eps=0.1))).sum())
        reachable += int(truth.sum())
    assert reachable > 10
    assert missed <= 1


@pytest.mark.parametrize(("p", "eps"), [(np.inf, 0.1), (2, 0.5), (1, 2.0)])
def test_breaks_what_long_runs_to_every_class_break(p, eps):
    model, threat = digits_net(), LpBall(p=p, eps=eps)
    x, y = digits().test.x[:50], digits().test.y[:50]
    ours, theirs = Counted(model), Counted(model)
    mine = broken(ours, Standard(), x, y, threat)
    long = broken(theirs, APGD(steps=80, target_steps=60), x, y, threat)
    assert mine.sum() >= long.sum() - 1
    assert ours.queries < 3 * theirs.queries  # alarms included, which on few rows are most of it


@pytest.mark.parametrize("factor", [100.0, 1e4])
def test_logits_of_any_scale_are_followed(factor):
    net, threat = digits_net(), LpBall(eps=0.1)
    x, y = digits().test.x[:80], digits().test.y[:80]
    loud = TorchModel(module=Loud(net.module, factor), space=net.space, classes=10)
    mine = broken(loud, Standard(), x, y, threat)
    assert abs(int(mine.sum()) - int(broken(net, Standard(), x, y, threat).sum())) <= 1
    assert broken(loud, PGD(), x, y, threat).sum() < mine.sum() - 3, "the case is too easy to show anything"


def test_certified_rows_are_never_attacked():
    model, x, y, distance = bounded(4)
    eps = float(np.median(distance[np.inf]))
    proven = certified(model, x, y, LpBall(eps=eps))
    np.testing.assert_array_equal(proven, distance[np.inf] > eps)  # interval bounds are exact for one linear layer
    counted = Counted(model)
    found = Standard().propose(counted, x[proven], y[proven], LpBall(eps=eps), rng_for(0))
    assert counted.queries == 0
    np.testing.assert_array_equal(found.x, x[proven])
    assert set(found.stage) == {"certified"}


def test_a_net_that_cannot_be_traced_is_attacked_without_a_certificate():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(1) - 1, (1 - x.sum(1)).cosh() - 1], 1) if x.sum() > -1e9 else x

    model = TorchModel(module=Odd(), space=unit_space(2), classes=2)
    x, threat = np.array([[0.9, 0.9], [0.55, 0.55]]), LpBall(eps=0.2)
    y = decide(model.predict(x))
    assert not certified(model, x, y, threat).any()
    assert broken(model, Standard(), x, y, threat).any()


def test_what_gradients_miss_rings_the_alarm():
    model, x, y, _ = bounded(4, rows=120)
    masked = TorchModel(module=Steps(model.module, 1e-3), space=model.space, classes=2)
    found = Standard().propose(masked, x, y, LpBall(eps=0.15), rng_for(0))
    assert (found.stage == "square").sum() > 32, "one broken row of the sample sends the alarm to all"
    assert not np.isin(found.stage, ["sweep", "fab"]).any()


def test_the_report_says_that_gradients_may_be_masked(monkeypatch):
    from carbide.evasion import judge
    from tests.evasion.test_judge import case_of, table

    monkeypatch.setattr(judge, "examine", lambda *_: judge.SOUND)  # which would repair these gradients

    masked = TorchModel(module=Steps(linear([2.0, -1.0, 0.5, 0.0], -0.8, space=unit_space(4)).module, 1e-3), space=unit_space(4), classes=2)
    section = audit(case_of(masked, table(100)), LpBall(eps=0.1), {"standard": Standard()})
    share = next(f for f in section.findings if f.method == "standard")
    assert share.value > 0.1
    assert "may be masked" in share.note
    assert "standard (square)" in section.evidence["method"].tolist()
    honest = audit(case_of(linear([2.0, -1.0, 0.5, 0.0], -0.8, space=unit_space(4)), table(100)), LpBall(eps=0.1), {"standard": Standard()})
    assert "masked" not in next(f for f in honest.findings if f.method == "standard").note
    assert "standard (sweep)" in honest.evidence["method"].tolist()


def test_an_alarm_tries_a_sample_and_the_rest_only_if_it_breaks_one():
    seen: list[np.ndarray] = []

    def attack(falls):
        seen.clear()

        def on(number, rows):
            seen.append(rows)
            return int(np.isin(rows, falls).sum())

        return on

    assert sample_first(np.arange(500), rng_for(0), attack([])) == (SAMPLE, 0)
    assert sample_first(np.arange(500), rng_for(0), attack(np.arange(500))) == (500, 500)
    assert sorted(np.concatenate(seen).tolist()) == list(range(500))
    assert sample_first(np.arange(10), rng_for(0), attack([])) == (10, 0)
    assert len(seen) == 1


def test_quick_is_cheaper_and_finds_most():
    test, model, threat = digits().test, digits_net(), LpBall(eps=0.08)
    full, quick = Counted(model), Counted(model)
    all_, some = (broken(m, a, test.x, test.y, threat).sum() for m, a in ((full, Standard()), (quick, Standard().quick())))
    assert some >= 0.9 * all_
    assert quick.queries < full.queries / 3


def test_it_is_what_runs_on_nets_unless_others_are_named():
    case = Case(model=digits_net(), data=digits())
    chosen, _ = attacks(case, Ask(threat=LpBall(eps=0.1)))
    assert set(chosen) == {"standard", "boundary"}
    named, _ = attacks(case, Ask(threat=LpBall(eps=0.1), methods={"pgd": {}, "apgd": {}}))
    assert set(named) == {"pgd", "apgd"}
    assert {"fab", "square"} <= {entry.name for entry in registry.methods(room="evasion", verb="audit")}


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="effort is 'huge'"):
        Standard(effort="huge")


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_leaves_no_row_that_a_complete_search_breaks(eps):
    model = tiny(1, inputs=3, classes=4)
    x = np.random.default_rng(1).uniform(0.1, 0.9, size=(60, 3))
    y, threat = decide(model.predict(x)), LpBall(eps=eps)
    stands = BranchAndBound()(model, x, y, threat, rng_for(0)).holds
    found = broken(model, Standard(), x, y, threat)
    assert 5 < stands.sum() < 55
    assert not (found & stands).any()
    assert (~stands & ~found).sum() <= 1, "the search leaves undecided what is within rounding"


def test_rows_that_came_closest_and_rows_that_did_not_move_get_several_starts(monkeypatch):
    seen = []
    monkeypatch.setattr(standard._Run, "_start_often", lambda self, rows, order: seen.append(rows) or False)
    model, x, y, _ = bounded(4, rows=120)
    masked = TorchModel(module=Steps(model.module, 1e-3), space=model.space, classes=2)
    Standard().propose(masked, x, y, LpBall(eps=0.15), rng_for(0))
    assert len(seen) == 1, "a row without a gradient has all of its margin left, so that none came close"
    assert 8 <= len(seen[0]) < 120
    seen.clear()
    Standard().propose(digits_net(), digits().test.x, digits().test.y, LpBall(eps=0.05), rng_for(0))
    assert len(seen) >= 1


def test_an_ascent_may_repeat_rows_and_keeps_the_closest_of_them():
    best = Best(torch.zeros(3, 1))
    rows, x = torch.tensor([0, 0, 1, 0]), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    best.note(rows, x, torch.tensor([0.5, 0.2, 0.7, 0.4]))
    assert best.x.flatten().tolist() == [2.0, 3.0, 0.0]
    left = best.fall(rows, x, torch.ones(4, 2), torch.tensor([0.5, 0.2, 0.7, -1.0]))
    assert left.tolist() == [False, False, True, False]
    assert best.x.flatten().tolist() == [4.0, 3.0, 0.0]


def test_rows_in_slices_have_the_gradient_of_all_at_once():
    x, y = torch.rand(250, 2, generator=torch.Generator().manual_seed(0)), torch.arange(250) % 3
    model = tiny(0)
    for whole, parts in zip(*(gradient_of(model, x, lambda z, *_: margins(z, y[: len(z)] * 0), *given) for given in ((), (y,))), strict=True):
        torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_what_an_ascent_projects_to_is_allowed_and_reaches_the_rim(p):
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(200, 6))
    model = TorchModel(module=torch.nn.Linear(6, 2).double(), space=unit_space(6), classes=2)
    ball = Ball.of(model, clean, LpBall(p=p, eps=0.3)).tight()
    near = ball.near(torch.as_tensor(clean + rng.normal(size=clean.shape))).numpy()
    assert inside_ball(near, clean, p=p, eps=0.3, lower=0.0, upper=1.0, slack=1e-9).all()
    assert np.median(norms(near - clean, p)) > 0.29


class Crumbled(nn.Module):
    """A net behind a fine random texture: its own gradient follows the net, and its answers jump with every step."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + 0.3 * torch.sin(1e4 * x.detach().sum(1, keepdim=True) * torch.arange(1, 3))


def test_where_a_gradient_costs_many_answers_the_nets_own_and_answers_alone_come_first(monkeypatch):
    inner = linear([1.0, -1.0], 0.0)
    model = TorchModel(module=Crumbled(inner.module), space=inner.space, classes=2)
    asked = []
    measured = views._Estimated.backward
    monkeypatch.setattr(views._Estimated, "backward", staticmethod(lambda ctx, *g: asked.append(len(g[0])) or measured(ctx, *g)))
    x = np.random.default_rng(0).uniform(0.1, 0.9, (80, 2))
    y = model.predict(x).argmax(1)
    view = View(model, Repair(estimate=0.05))
    found = Standard().propose(view, x, y, LpBall(eps=0.1), np.random.default_rng(0))
    fell = judge(model, x, y, found.x, LpBall(eps=0.1), model.space).success
    away = np.abs(x[:, 0] - x[:, 1]) / 2
    assert fell[away < 0.08].all()  # the net's own part of the answer is followed without measuring
    assert max(asked, default=0) <= int((~fell).sum()) + (found.stage == "").sum()
    assert "targeted" in found.stage or "sweep" in found.stage


class Gap(nn.Module):
    """Class 2 wins a little way off to either side, and neither its logit nor class 1's, which looks near, says so at the row itself."""

    def forward(self, x):
        off = (x[:, 0] - 0.5).abs()
        near = torch.stack([torch.full_like(off, 1.0), 1.0 - 0.2 + (x[:, 1] - 0.5).clamp_max(0.02), 0.5 + 20 * (off - 0.05).clamp_min(0)], 1)
        return near - near.detach().mean(1, keepdim=True)


def test_classes_that_gradients_at_the_row_do_not_see_are_tried(monkeypatch):
    monkeypatch.setattr(standard, "ALARMS", {})
    monkeypatch.setattr(standard, "THOROUGH", {})
    model = TorchModel(module=Gap(), space=unit_space(2), classes=3)
    x = np.full((30, 2), 0.5) + np.random.default_rng(0).uniform(-0.01, 0.01, (30, 2))
    found = Standard().propose(model, x, np.zeros(30, int), LpBall(eps=0.1), rng_for(0))
    assert (found.stage == "scatter").mean() > 0.9
    assert judge(model, x, np.zeros(30, int), found.x, LpBall(eps=0.1), model.space).success.mean() > 0.9


def test_an_ascent_without_hope_is_given_up_and_keeps_its_best():
    test, model = digits().test, digits_net()
    ((_, ball, y),) = batches(model, test.x, test.y, LpBall(eps=0.04))
    found, asked = [], []
    for hope in (np.inf, 2.0):
        counted, best = Counted(model), Best(ball.clean)
        ascend(counted, ball, y, None, torch.arange(len(y)), best, 60, torch.Generator().manual_seed(0), hope=hope)
        found.append(best)
        asked.append(counted.queries)
    assert asked[1] < 0.7 * asked[0]
    assert torch.equal(found[0].broken, found[1].broken)
    assert (found[1].margin - found[0].margin).abs().max() < 0.02 * found[0].margin.abs().max()
    with torch.no_grad():
        torch.testing.assert_close(margins(model.logits(found[1].x), y), found[1].margin, atol=1e-4, rtol=1e-4)


class Mirror(nn.Module):
    """Inputs the other way round: the identity in its place leads away from the boundary."""

    def forward(self, x):
        return 1 - x


def test_where_a_layer_is_passed_the_nets_own_gradient_is_tried_too(monkeypatch):
    monkeypatch.setattr(standard, "ALARMS", {})
    monkeypatch.setattr(standard, "THOROUGH", {})
    inner = linear([1.0, -1.0], 0.0)
    model = TorchModel(module=nn.Sequential(Mirror(), inner.module), space=unit_space(2), classes=2)
    view = View(model, Repair(layers=("0",)))
    x = np.random.default_rng(0).uniform(0.2, 0.8, (80, 2))
    y = model.predict(x).argmax(1)
    fell = judge(model, x, y, Standard()(view, x, y, LpBall(eps=0.1), rng_for(0)), LpBall(eps=0.1), model.space).success
    np.testing.assert_array_equal(fell, np.abs(x[:, 0] - x[:, 1]) / 2 < 0.1)


class Noisy(nn.Module):
    """Noise of a size on the margin of a linear net, drawn anew for each answer."""

    def __init__(self, inner, size):
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, x):
        return self.inner(x) + self.size * torch.randn(len(x), 2, dtype=x.dtype)


def test_of_random_answers_rows_fall_where_most_single_ones_are_wrong():
    inner = linear([4.0, -4.0], 0.0)
    model = TorchModel(module=Noisy(inner.module, 0.5), space=unit_space(2), classes=2)
    x = np.random.default_rng(0).uniform(0.2, 0.8, (120, 2))
    y, away = decide(inner.predict(x)), np.abs(x[:, 0] - x[:, 1]) / 2
    torch.manual_seed(0)  # single answers of the model are drawn from here
    found = Standard().propose(View(model, Repair(draws=4, caution=0.3)), x, y, LpBall(eps=0.1), rng_for(0))
    assert (found.stage[away < 0.09] != "").all()
    assert (found.stage[away > 0.15] == "").all(), "a few lucky draws are no success"
    wrong = (Asked(model, draws=401, seed=7).labels(found.x) != y).mean(0)
    most = ndtr(8 * (0.1 - away) / (0.5 * np.sqrt(2)))  # at the far side of the ball
    assert (most - wrong)[most > 0.6].max() < 0.12, "where most answers can be wrong, they are"
