"""Verdicts about properties of small nets against mixed-integer programs, planted counterexamples, and solvers that are wrong."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import helper

import carbide.evasion._branching as branching
import carbide.evasion._property as engine
from carbide.evasion._linear_bounds import LinearBounds
from carbide.evasion._property import decide
from carbide.evasion._violation import Search
from carbide.models._reading import Reading
from carbide.models.onnx_function import OnnxFunction
from carbide.space.vnnlib import Property, Region
from carbide.types import InputError, UnsoundError, rng_for
from tests.evasion.exact import least
from tests.evasion.onnx_nets import check, file_of, graph_of, perceptron, run


def function_of(net, **how) -> OnnxFunction:
    return OnnxFunction(blob=check(file_of(net, **how)))


def forbidden(net, seed, *, regions=1, rows=1, radius=0.3, room=0.0) -> Property:
    """Regions of random boxes and inequalities; the most that random inputs of each miss it by, plus ``room`` of its size, is about what is missed."""
    rng, made = np.random.default_rng(seed), []
    d, k = net[0].in_features, net[-1].out_features
    for number in range(regions):
        middle = rng.uniform(-1, 1, d) if number < 2 else made[0].lower + radius  # the third shares the first one's box
        lower, upper = middle - radius, middle + radius
        matrix = rng.normal(size=(1 + (rows - 1 + number) % 3, k))
        seen = net(torch.as_tensor(rng.uniform(lower, upper, (500, d)), dtype=torch.float32)).double().numpy() @ matrix.T
        bound = seen.mean(0)
        made.append(Region(lower=lower, upper=upper, matrix=matrix, bound=bound + (seen - bound).max(1).min() - room * seen.std()))
    return Property(inputs=d, outputs=k, regions=tuple(made))


def missed_by(net, unsafe: Property) -> float:
    """By how much the nearest input misses the property (below 0: there is a counterexample)."""
    return min(least(net, r.matrix, r.lower, r.upper, shift=r.bound) for r in unsafe.regions)


@pytest.mark.parametrize("cut", ["inputs", "signs"])
@pytest.mark.parametrize("part", range(4))
def test_verdicts_are_those_of_a_mixed_integer_program(cut, part, monkeypatch):
    if cut == "signs":
        monkeypatch.setattr(engine, "INPUTS", 0)
    monkeypatch.setattr(Search, "run", lambda self, rng: None)  # what the attack finds alone is tried elsewhere
    words = []
    for seed in range(10 * part, 10 * part + 10):
        net = perceptron(seed, [(2, 6, 6, 2), (3, 7, 3), (4, 6, 5, 3), (2, 5, 5, 5, 2), (6, 8, 4)][seed % 5])
        unsafe = forbidden(net, seed, regions=1 + seed % 3, rows=1 + seed % 2, room=(-0.1, 0.05, 0.15, 0.4)[seed % 4])
        truth, function = missed_by(net, unsafe), function_of(net)
        if abs(truth) < 1e-4:  # a tie within rounding says nothing
            continue
        found = decide(function, unsafe, timeout=30.0, rng=rng_for(seed))
        assert found.word == ("sat" if truth < 0 else "unsat"), (seed, truth, found)
        words.append(found.word)
        if found.word == "sat":
            assert unsafe.met(found.witness[None], run(function.blob, found.witness[None])).all()
    assert len(words) >= 8
    assert min(words.count("sat"), words.count("unsat")) >= 2


def test_larger_nets_as_aircraft_nets_are_decided_and_agree(monkeypatch):
    for seed, widths in enumerate([(5, 50, 50, 5), (5, 50, 50, 50, 5)]):
        net = perceptron(seed, widths, size=1.2)
        unsafe = forbidden(net, seed, rows=4, radius=0.05, room=0.3)
        first = decide(function_of(net), unsafe, timeout=60.0, rng=rng_for(0))
        monkeypatch.setattr(engine, "INPUTS", 0)
        second = decide(function_of(net, batch="n"), unsafe, timeout=60.0, rng=rng_for(0))
        monkeypatch.undo()
        truth = missed_by(net, unsafe)
        assert first.word == second.word == ("sat" if truth < 0 else "unsat")
        assert first.assumptions or first.word == "sat"


@pytest.mark.parametrize("seed", range(20))
def test_planted_counterexamples_are_found(seed):
    """Outputs near those of a hidden input, at least so near in every direction at once."""
    net = perceptron(seed, (5, 50, 50, 5))
    function, rng = function_of(net), np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (1, 5))
    y, spread = function(x)[0], function(rng.uniform(-1, 1, (400, 5))).std(0)
    matrix = np.concatenate([np.eye(5), -np.eye(5)])
    near = Region(lower=np.full(5, -1.0), upper=np.full(5, 1.0), matrix=matrix, bound=np.concatenate([y + 0.2 * spread, 0.2 * spread - y]))
    empty = Region(lower=near.lower, upper=near.upper, matrix=np.eye(5)[:1], bound=np.array([-1e3]))
    found = decide(function, Property(inputs=5, outputs=5, regions=(empty, near)), timeout=30.0, rng=rng_for(seed))
    assert found.word == "sat"
    answers = run(function.blob, found.witness[None])
    assert near.met(found.witness[None], answers).all()
    np.testing.assert_array_equal(answers[0], found.outputs)


def test_a_witness_is_in_the_box_to_the_last_digit_where_single_precision_cannot_write_it():
    net = perceptron(0, (3, 6, 2))
    lower = np.array([0.1, -0.7, 1 / 3])  # none of them is a number of single precision
    unsafe = Property(inputs=3, outputs=2, regions=(Region(lower=lower, upper=lower, matrix=np.eye(2)[:1], bound=np.array([1e3])),))
    found = decide(function_of(net), unsafe, timeout=5.0, rng=rng_for(0))
    assert found.word == "sat"
    np.testing.assert_array_equal(found.witness, lower)
    assert unsafe.met(found.witness[None], found.outputs[None]).all()


def test_what_is_missed_by_less_than_rounding_is_not_proven_and_what_is_met_by_a_hair_is_found():
    function = function_of(perceptron(3, (2, 4, 1)))
    x = np.array([[0.25, -0.5]])  # one input, so that the answer is known to the last digit
    y = function(x)[0]
    for bound, word in ((y, "sat"), (np.nextafter(y, -np.inf), "not proven"), (y - 1e-2, "unsat")):
        unsafe = Property(inputs=2, outputs=1, regions=(Region(lower=x[0], upper=x[0], matrix=np.eye(1), bound=bound),))
        found = decide(function, unsafe, timeout=3.0, rng=rng_for(0))
        assert found.word == word or (word == "not proven" and found.word in ("unknown", "timeout")), (bound, found)


def test_bounds_that_are_wrong_are_caught(monkeypatch):
    net = perceptron(1, (3, 8, 8, 2))
    unsafe = forbidden(net, 1, room=1.0)
    assert 0 < missed_by(net, unsafe) < 5
    assert decide(function_of(net), unsafe, timeout=5.0, rng=rng_for(0)).word == "unsat"
    real = LinearBounds.lower
    monkeypatch.setattr(LinearBounds, "lower", lambda self, *a, **k: real(self, *a, **k) + 5.0)
    with pytest.raises(UnsoundError, match="excludes outputs that an input of the box was seen to give"):
        decide(function_of(net), unsafe, timeout=5.0, rng=rng_for(0))


def test_parts_that_are_closed_wrongly_are_caught(monkeypatch):
    net = perceptron(2, (2, 12, 12, 2), size=2.0)
    unsafe = forbidden(net, 2, radius=0.8, room=-0.1)
    assert missed_by(net, unsafe) < 0
    monkeypatch.setattr(Search, "run", lambda self, rng: None)
    real = branching._bounded
    monkeypatch.setattr(branching, "_bounded", lambda *a: (real(*a)[0] + 100.0, real(*a)[1]))
    with pytest.raises(UnsoundError, match="a part that its bound had closed"):
        decide(function_of(net), unsafe, timeout=5.0, rng=rng_for(0))


def test_a_reading_that_answers_otherwise_than_the_file_proves_nothing():
    net, other = perceptron(1, (3, 8, 2)), perceptron(2, (3, 8, 2))
    right = function_of(net)
    wrong = OnnxFunction(blob=right.blob)
    wrong.__dict__["session"] = function_of(other).session
    far = Property(inputs=3, outputs=2, regions=(Region(lower=-np.ones(3), upper=np.ones(3), matrix=np.eye(2)[:1], bound=np.array([-50.0])),))
    assert decide(right, far, timeout=5.0, rng=rng_for(0)).word == "unsat"
    found = decide(wrong, far, timeout=5.0, rng=rng_for(0))
    assert (found.word, "differs from its own logits" in found.note) == ("unknown", True)


def test_the_time_is_kept_and_open_is_said():
    net = perceptron(0, (12, 60, 60, 60, 3), size=1.8)
    unsafe = forbidden(net, 0, radius=1.0, room=4.0)
    start = time.monotonic()
    found = decide(function_of(net), unsafe, timeout=1.0, rng=rng_for(0))
    assert found.word == "timeout"
    assert time.monotonic() - start < 4.0
    late = decide(function_of(net), unsafe, timeout=1e-9, rng=rng_for(0))
    assert late.word == "timeout"


def test_smooth_nets_are_cut_by_inputs_and_what_has_no_bounds_is_still_attacked():
    net = perceptron(4, (2, 10, 10, 2), size=2.0)
    smooth = function_of(net, between="Tanh")
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 200)] * 2), -1).reshape(-1, 2)
    top = smooth(grid)[:, 0].max()

    def above(function, limit):
        region = Region(lower=-np.ones(2), upper=np.ones(2), matrix=-np.eye(2)[:1], bound=np.array([-limit]))
        return decide(function, Property(inputs=2, outputs=2, regions=(region,)), timeout=20.0, rng=rng_for(0))

    assert above(smooth, top - 0.01).word == "sat"
    found = above(smooth, top + 0.05)
    assert (found.word, found.how) == ("unsat", "cuts of the input")
    soft = function_of(net, last="Softmax")  # not left out: the property speaks of probabilities
    np.testing.assert_allclose(soft(grid).sum(1), 1.0, atol=1e-6)
    assert above(soft, 0.5).word == "sat"
    assert "softmax" in above(soft, 1.5).note
    strange = OnnxFunction(
        blob=graph_of([helper.make_node("Flatten", ["x"], ["h"]), helper.make_node("Sin", ["h"], ["out"])], {}, row=(2,), outputs=2)
    )
    assert above(strange, 0.5).word == "sat"
    assert "operator Sin" in above(strange, 1.5).note


def test_properties_that_nothing_or_everything_satisfies():
    function = function_of(perceptron(0, (2, 4, 2)))
    none = Property(inputs=2, outputs=2, regions=())
    assert decide(function, none, timeout=5.0, rng=rng_for(0)).word == "unsat"
    every = Property(inputs=2, outputs=2, regions=(Region(lower=np.zeros(2), upper=np.ones(2), matrix=np.zeros((0, 2)), bound=np.zeros(0)),))
    assert decide(function, every, timeout=5.0, rng=rng_for(0)).word == "sat"
    with pytest.raises(InputError, match="maps 2 numbers to 2, the property speaks of 3 inputs"):
        decide(function, Property(inputs=3, outputs=2, regions=()), timeout=5.0, rng=rng_for(0))


def test_the_seed_decides():
    net = perceptron(5, (4, 20, 20, 3))
    unsafe = forbidden(net, 5, radius=0.5, room=0.05)
    a, b = (decide(function_of(net), unsafe, timeout=30.0, rng=rng_for(0)) for _ in range(2))
    assert (a.word, a.parts) == (b.word, b.parts)
    np.testing.assert_array_equal(a.witness, b.witness)


def test_a_function_need_not_be_a_file():
    net = torch.nn.Linear(2, 1).requires_grad_(False)

    class Plain(SimpleNamespace):
        def __call__(self, x):
            return net(torch.as_tensor(x, dtype=torch.float32)).double().numpy()

    plain = Plain(inputs=2, outputs=1, row=(2,), dtype=np.float32, reading=lambda lower, upper: Reading(module=net, rows=1))
    region = Region(lower=np.zeros(2), upper=np.ones(2), matrix=np.eye(1), bound=np.array([-10.0]))
    found = decide(plain, Property(inputs=2, outputs=1, regions=(region,)), timeout=5.0, rng=rng_for(0))
    assert (found.word, found.how, found.parts) == ("unsat", "linear bounds", 0)
