import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import carbide.evasion._branching as branching
from carbide.evasion._intervals import Box
from carbide.evasion._linear_bounds import LinearBounds, Net, Region
from carbide.evasion._task import LabelTask
from carbide.evasion._tightening import rivals, tightened
from carbide.evasion.prove.branch_and_bound import BranchAndBound
from carbide.evasion.prove.crown import CROWN
from carbide.models.torch_net import TorchModel
from carbide.types import Case, InputError, LpBall, decide, rng_for
from tests.evasion.exact import robust
from tests.evasion.nets import digits, linear, tiny, unit_space


def rows_of(model, n, seed=1):
    x = np.random.default_rng(seed).uniform(size=(n, *model.space.shape))
    return x, decide(model.predict(x))


def task_of(model, x, y, eps, *, nodes, steps=10, p=math.inf):
    net = Net(model.module, Region.of(model, x, p, eps), torch.finfo(model.dtype).eps)
    return LabelTask(model=model, net=net, x=x, y=y, threat=LpBall(p=p, eps=eps), nodes=nodes, steps=steps)


@pytest.mark.parametrize(("seed", "inputs", "width", "eps"), [(10, 2, 6, 0.04), (5, 3, 10, 0.1), (7, 8, 10, 0.05)])
@pytest.mark.parametrize("cut", ["inputs", "signs"])
def test_every_row_is_decided_as_a_mixed_integer_program_decides_it(seed, inputs, width, eps, cut):
    model = tiny(seed, inputs=inputs, width=width)
    x, y = rows_of(model, 25)
    truth = robust(model, x, y, eps)
    found = BranchAndBound(nodes=600, inputs=9 if cut == "inputs" else 0).verdicts(model, x, y, LpBall(eps=eps), rng_for(0))
    clear = np.abs(truth) > 1e-5
    np.testing.assert_array_equal(found.certified[clear], truth[clear] > 0)
    np.testing.assert_array_equal(found.broken[clear], truth[clear] < 0)
    assert not (found.certified & (truth < 0)).any()
    assert not (found.broken & (truth > 0)).any()
    assert (truth < 0).sum() >= 2
    assert found.nodes.sum() > 0


def test_without_any_gradient_step_the_leaves_are_settled_by_their_programs(monkeypatch):
    model = tiny(5, inputs=3, width=8)
    x, y = rows_of(model, 14)
    truth, settled = robust(model, x, y, 0.12), []
    real = branching.settled
    monkeypatch.setattr(branching, "settled", lambda *args: settled.append(real(*args)) or settled[-1])
    monkeypatch.setattr(LabelTask, "broken_by", lambda self, region, a: None)  # no luck: only programs may break rows
    fates = [branching.by_signs(task_of(model, x[i : i + 1], y[i : i + 1], 0.12, nodes=5000, steps=0)) for i in range(len(x))]
    np.testing.assert_array_equal([f.certified for f in fates], truth > 0)
    np.testing.assert_array_equal([f.witness is not None for f in fates], truth < 0)
    assert sum(closed for closed, _ in settled) > 3
    assert sum(witness is not None for _, witness in settled) == (truth < 0).sum() > 0


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_of_each_part_holds_for_every_input_in_it(seed):
    """All sign patterns of four open neurons: together they hold every input, and each one's bound is below every gap in it."""
    model, eps = tiny(seed, inputs=2, width=6), 0.3
    x, y = rows_of(model, 1, seed)
    task = task_of(model, x, y, eps, nodes=1)
    gaps = rivals(task.label, 3)
    with torch.no_grad():
        root = LinearBounds(task.net, task.region)
        points = torch.rand(40_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 * eps - eps
        points = (torch.as_tensor(x) + points).clamp(0, 1)
        first, second = (torch.nn.Sequential(*list(model.module.double())[:k])(points) for k in (1, 3))
        seen = model.module(points) @ gaps[0].T
        model.module.float()
    nodes, values, tried = root.hinges(), (first, second), 0
    split = [(k, int(i)) for k in (0, 1) for i in torch.nonzero(root.unsure(nodes[k])[0]).flatten()[:2]]
    inside = torch.zeros(len(points), dtype=torch.bool)
    for pattern in itertools.product((1.0, -1.0), repeat=len(split)):
        signs = {node: torch.zeros(1, 6, dtype=torch.float64) for node in nodes}
        here = torch.ones(len(points), dtype=torch.bool)
        for (k, i), sign in zip(split, pattern, strict=True):
            signs[nodes[k]][0, i] = sign
            here &= sign * values[k][:, i] >= 0
        with torch.no_grad():
            bounds = LinearBounds(task.net, task.region, refine=False, known=branching._known(root, signs))
        inside |= here
        if not here.any():
            continue
        assert not bounds.empty.any()
        tight = tightened(bounds, gaps, steps=40, goal=math.inf, signs=signs)
        assert (seen[here] >= tight.low).all()
        tried += 1
        for node in nodes:
            box = bounds.boxes[task.net.steps[node].parents[0]]
            assert ((values[nodes.index(node)][here] >= box.lower - 1e-5) & (values[nodes.index(node)][here] <= box.upper + 1e-5)).all()
    assert inside.all()
    assert tried >= 2 or len(split) == 0


def test_a_box_and_its_halves_hold_the_same_inputs():
    generator = torch.Generator().manual_seed(0)
    lower = torch.rand(50, 1, 2, 2, dtype=torch.float64, generator=generator)
    box = Box(lower, lower + torch.rand(50, 1, 2, 2, dtype=torch.float64, generator=generator))
    slope = torch.randn(50, 1, 2, 2, dtype=torch.float64, generator=generator)
    halves, rows = branching._halved(box, slope, torch.arange(50) % 2 == 0)
    assert rows.tolist() == list(range(0, 50, 2))
    for _ in range(200):
        point = lower + torch.rand(lower.shape, dtype=torch.float64, generator=generator) * (box.upper - lower)
        held = ((point[rows].repeat(2, 1, 1, 1) >= halves.lower) & (point[rows].repeat(2, 1, 1, 1) <= halves.upper)).flatten(1).all(1)
        assert (held[:25] | held[25:]).all()
    volume = lambda b: (b.upper - b.lower).flatten(1).prod(1)  # noqa: E731
    torch.testing.assert_close(volume(halves)[:25] + volume(halves)[25:], volume(box)[rows])


def test_witnesses_are_inside_the_threat_and_fool_the_model():
    model, threat = tiny(5, inputs=3, width=10), LpBall(p=2, eps=0.15)
    x, y = rows_of(model, 30)
    found = BranchAndBound(nodes=60).verdicts(model, x, y, threat, rng_for(0))
    z = found.witness[found.broken]
    assert 2 < len(z) < 30
    assert (np.linalg.norm(z - x[found.broken], axis=1) <= 0.15 + 1e-9).all()
    assert (decide(model.predict(z)) != y[found.broken]).all()
    moves = np.random.default_rng(0).normal(size=(4000, 3))
    moves *= 0.15 / np.linalg.norm(moves, axis=1, keepdims=True)
    for row in np.flatnonzero(found.certified):
        assert (decide(model.predict((x[row] + moves).clip(0, 1))) == y[row]).all()
    assert not (found.certified & found.broken).any()


@pytest.mark.parametrize("inputs", [0, 6])
def test_the_number_of_parts_is_a_limit_that_results_repeat_under_and_more_decides_more(inputs):
    model, threat = tiny(8, inputs=5, width=24), LpBall(eps=0.2)
    x, y = rows_of(model, 12)
    found = [BranchAndBound(nodes=n, steps=2, inputs=inputs).verdicts(model, x, y, threat, rng_for(0)) for n in (1, 40, 40)]
    assert (found[0].nodes <= 1).all()
    assert (found[1].nodes <= 40).all()
    for a, b in zip(found[1], found[2], strict=True):
        np.testing.assert_array_equal(a, b)
    decided = [int((v.certified | v.broken).sum()) for v in found]
    assert decided[0] < decided[1]
    proof = BranchAndBound(nodes=1, steps=2, inputs=inputs)(model, x, y, threat, rng_for(0))
    assert any(f"{12 - decided[0]} rows are open" in line for line in proof.assumptions)
    np.testing.assert_array_equal(proof.holds, found[0].certified)
    np.testing.assert_array_equal(proof.bound, np.where(found[0].certified, 0.2, 0.0))


def test_it_proves_more_than_one_walk_and_the_smooth_is_cut_by_inputs():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Sigmoid(), nn.Linear(12, 2))
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(8)
        net[-1].bias.add_(-net(torch.rand(500, 2)).mean(0))
    model = TorchModel(module=net, space=unit_space(2), classes=2)
    x, y = rows_of(model, 30)
    threat = LpBall(eps=0.05)
    walked = CROWN(halvings=0)(model, x, y, threat, rng_for(0)).holds
    found = BranchAndBound(nodes=200).verdicts(model, x, y, threat, rng_for(0))
    grid = np.stack(np.meshgrid(*[np.linspace(-0.05, 0.05, 41)] * 2), -1).reshape(-1, 2)
    stands = np.array([(decide(model.predict((row + grid).clip(0, 1))) == label).all() for row, label in zip(x, y, strict=True)])
    assert (walked <= found.certified).all()
    assert found.certified.sum() > walked.sum()
    assert (found.certified <= stands).all()
    assert (found.broken <= ~stands).all()
    assert (found.certified | found.broken).mean() > 0.9


def test_what_it_cannot_do_is_refused():
    case = Case(model=linear([1.0], 0.0), data=digits())
    assert BranchAndBound().refuses(case, LpBall(eps=0.1)) is None
    assert "softmax" in (BranchAndBound().refuses(replace(case, model=replace(case.model, outputs="probabilities")), LpBall(eps=0.1)) or "")
    with pytest.raises(InputError, match="nodes is 0"):
        BranchAndBound(nodes=0)
