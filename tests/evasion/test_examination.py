import copy
import functools
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import carbide.evasion.judge as judging
from carbide._audit import Ask, audit_case
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.boundary import Boundary
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.examination import Examination, examine
from carbide.evasion.examination.truth import NODES, compare
from carbide.evasion.examination.views import Passing, Repair, View, undone
from carbide.evasion.examination.votes import Asked
from carbide.evasion.judge import audit, verify
from carbide.models.callables import CallableModel
from carbide.models.examination import examine as examine_answers
from carbide.models.examination.answers import _paired
from carbide.models.torch_net import TorchModel
from carbide.run import Run, Store, use
from carbide.run.progress import Progress
from carbide.run.store import decode, encode
from carbide.types import Case, InputError, LpBall, Symptom, decide
from tests.evasion import zoo
from tests.evasion.nets import digits_net, unit_space

BALL = LpBall(eps=0.1)


def symptoms(specimen):
    """What the whole examination says of a specimen, the room's word before the door's."""
    splits, model = specimen.data(), specimen.model()
    found = list(examine_answers(model, splits.train, splits.test))
    if any(s.done == "refused" for s in found):
        return found
    own = examine(model, splits.test, LpBall(eps=specimen.eps)).symptoms
    return [*(s for s in found if s.name not in {o.name for o in own}), *own]


def case_of(net, splits, **more):
    train = splits.train
    model = TorchModel(module=net, space=train.space, classes=train.classes, **more)
    return Case(model=model, data=splits)


def headline(section):
    """The headline; all rows stand where every attack failed."""
    return next((f.value for f in section.findings if f.headline), 1.0)


def best(make):
    """The net of a specimen in the zoo, by name."""
    return next(s for s in (*zoo.DEFECTS, *zoo.SOUND) if s.name == make)


# The zoo ---------------------------------------------------------------------------------------------------------------

ALONE = {"clipped outside its range": {"normalisation"}, "NaN in weights, hidden": {"constant answers"}}  # what comes with them


def test_the_zoo_is_large_enough():
    assert len(zoo.DEFECTS) >= 25
    assert len(zoo.SOUND) >= 25
    assert len({s.name for s in (*zoo.DEFECTS, *zoo.SOUND)}) == len(zoo.DEFECTS) + len(zoo.SOUND)


@pytest.mark.parametrize("specimen", zoo.DEFECTS, ids=lambda s: s.name)
def test_a_planted_defect_is_named(specimen):
    if specimen.door:
        words = {"state": "changes its buffers", "NaN": "NaN or infinity", "classes": "a detector's column"}[specimen.symptom]
        with pytest.raises(InputError, match=words):
            specimen.model()
        return
    found = {s.name: s.done for s in symptoms(specimen)}
    assert found.get(specimen.symptom) == specimen.done
    assert set(found) - {specimen.symptom} <= ALONE.get(specimen.name, set())


@pytest.mark.parametrize("specimen", zoo.SOUND, ids=lambda s: s.name)
def test_a_sound_model_raises_no_alarm(specimen):
    assert symptoms(specimen) == []


# What it does for an audit ---------------------------------------------------------------------------------------------


@functools.cache
def fallen(name):
    """Robust accuracy under PGD of a specimen, examined, and of the same without the examination."""
    specimen = best(name)
    case = Case(model=specimen.model(), data=specimen.data())
    with pytest.MonkeyPatch.context() as patch:
        seen = headline(audit(case, BALL, {"pgd": PGD(steps=8)}))
        patch.setattr(judging, "examine", lambda *_: Examination())
        blind = headline(audit(case, BALL, {"pgd": PGD(steps=8)}))
    return seen, blind


@pytest.mark.parametrize(("name", "plain"), [
    ("rounded inputs", "cnn with pools"), ("steps by comparison, a layer", "cnn with pools"), ("JPEG-like, outside autograd", "cnn with pools"),
    ("stop-gradient where it matters", "relu"), ("no_grad inside", "cnn with pools"), ("false gradient", "cnn with pools"),
    ("shattered gradient", "cnn with pools"), ("logits times 1000, two classes", "relu"), ("saturated probabilities", "cnn with pools"),
])  # fmt: skip
def test_a_repaired_view_breaks_what_the_sound_model_loses(name, plain):
    seen, blind = fallen(name)
    true, _ = fallen(plain)
    assert seen <= true + 0.08
    assert blind >= seen + 0.08


def test_a_sound_model_is_attacked_and_judged_to_the_same_bytes(monkeypatch):
    case = Case(model=digits_net(), data=zoo.pictures())
    methods = {"pgd": PGD(steps=3), "apgd": APGD(steps=3, targets=0), "boundary": Boundary(queries=20)}
    seen = audit(case, BALL, methods)
    monkeypatch.setattr(judging, "examine", lambda *_: Examination())
    assert encode(seen) == encode(audit(case, BALL, methods))
    assert seen.examination == ()


def test_the_examination_moves_no_generator_and_changes_nothing():
    specimen = best("dropout at test time")
    model, splits = specimen.model(), specimen.data()
    before, x = model.digest(), splits.test.x.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (examine(model, splits.test, BALL) for _ in range(2))
    examine_answers(model, splits.train, splits.test)
    assert first.symptoms == again.symptoms
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert model.digest() == before
    assert np.array_equal(x, splits.test.x)
    assert all(p.grad is None for p in model.module.parameters())


def test_a_refused_model_is_not_attacked(monkeypatch):
    def never(*_):
        raise AssertionError("it was attacked")

    monkeypatch.setattr(judging, "audit", never)
    for name, words in (
        ("labels in reverse", "in the order"),
        ("cached by batch", "rows beside it"),
        ("batch statistics of the moment", "one row by itself"),
        ("inputs 0..1 for a net of 0..255", "times 255"),
    ):
        specimen = best(name)
        with pytest.raises(InputError, match=words):
            audit_case(Case(model=specimen.model(), data=specimen.data()), [Ask(threat=BALL, methods={"pgd": {}})])


def test_a_model_that_hides_from_gradients_is_refused_by_the_judge():
    with pytest.raises(InputError, match="while its gradient is taken"):
        audit(case_of(zoo.Watching(zoo.trained("cnn")), zoo.pictures()), BALL, {"pgd": PGD(steps=2)})


def test_a_section_says_what_was_seen_of_answers_and_of_gradients():
    net = zoo.Wrapped(zoo.trained("dropping").train(), before=lambda x: (x * 15).round() / 15)
    specimen = zoo.bad("both", "", "", lambda: net)
    (section,) = audit_case(Case(model=specimen.model(), data=specimen.data()), [Ask(threat=BALL, methods={"pgd": {"steps": 3}})])
    assert [(s.name, s.done) for s in section.examination] == [("training mode", "repaired"), ("non-differentiable step", "repaired")]
    assert decode(encode(section)).examination == section.examination


def test_a_stored_examination_is_found_again_and_gives_the_same_view(tmp_path):
    specimen = best("steps by comparison, a layer")
    model, data = specimen.model(), specimen.data().test
    runs = []
    for _ in range(2):
        with use(Run(workers=1, progress=Progress(quiet=True), store=Store(tmp_path))):
            runs.append(examine(model, data, BALL))
    assert runs[0].symptoms == runs[1].symptoms
    assert runs[0].repair == runs[1].repair
    assert runs[1].seen(model).repair.layers == ("0",)
    assert len(list((tmp_path / "steps").glob("examination-*"))) == 1


# Random models ---------------------------------------------------------------------------------------------------------


def test_most_answers_decide_and_the_page_says_how_far_single_draws_lie_apart():
    specimen = best("noise")
    case = Case(model=specimen.model(), data=specimen.data())
    section, again = (audit(case, BALL, {"pgd": PGD(steps=4)}) for _ in range(2))
    assert encode(section) == encode(again)
    assert "at random: each input was asked 11 times" in next(f.note for f in section.findings if f.headline)
    plain = audit(case_of(zoo.trained("cnn"), zoo.pictures()), BALL, {"pgd": PGD(steps=4)})
    assert headline(section) <= headline(plain) + 0.15
    ((_, said, found),) = verify(section, case.model, case, BALL)
    assert said == found


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_the_majority_of_the_draws_is_the_answer(classes, threshold):
    share = np.linspace(0.05, 0.95, 7)

    def coin(x):
        return np.where(np.random.random(len(x)) < x[:, 0], classes - 1, 0)  # noqa: NPY002

    model = CallableModel(function=coin, space=unit_space(1), classes=classes, answers="labels")
    object.__setattr__(model, "threshold", threshold)
    asked = Asked(model, draws=31)
    x = share[:, None]
    counts = (asked.labels(x) == classes - 1).sum(0)
    assert (decide(asked.predict(x), threshold) == np.where(counts > 15, classes - 1, 0)).all()
    assert counts[0] < counts[-1]


# Truth -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.Hardtanh]), st.sampled_from([0.0, 0.5]))
def test_honest_gradients_keep_their_promise_and_jumps_do_not(seed, act, jump):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 16), act(), nn.Linear(16, 1)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    size = float(net(torch.rand(64, 5, generator=generator, dtype=torch.float64)).detach().std())
    a, b = torch.rand(2, 40, 5, generator=generator, dtype=torch.float64)
    truth = compare(lambda x: net(x)[:, 0] + jump * 40 * size * (x[:, 0] * 3).round(), a, b, near=1e-4)
    assert truth.far_lies == (jump > 0)
    assert truth.broken == 0


def test_the_promise_is_the_integral():
    a, b = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0, dtype=torch.float64)
    truth = compare(lambda x: x[:, 0] ** 3, a, b, near=1e-4)
    assert float(truth.gained[0]) == 8
    assert float(truth.promised[0]) == pytest.approx(8 - (2 / NODES) ** 2 / 2, rel=1e-12)  # the midpoint rule misses h^2/24 * (f''(2) - f''(0))


# Views -----------------------------------------------------------------------------------------------------------------


def test_passing_keeps_values_and_lets_gradients_through():
    def foil(x):
        y = (x * 7).round() + x.detach() + x.data + x.sign() + (x * 9).to(torch.int64)
        with torch.no_grad():
            z = x * 2
        return (y + z + x.floor_() if False else y + z).sum()

    x = torch.rand(6, dtype=torch.float64)
    plain = x.clone().requires_grad_(True)
    value = foil(plain)
    seen = x.clone().requires_grad_(True)
    with Passing() as passing:
        same = foil(seen)
    assert float(value.detach()) == float(same.detach())
    assert torch.autograd.grad(value, plain)[0].tolist() == [0.0] * 6
    assert torch.autograd.grad(same, seen)[0].tolist() == [7 + 1 + 1 + 1 + 9 + 2.0] * 6
    assert passing.seen == {"round", "detach", "data", "sign", "to", "no_grad"}
    with torch.no_grad():
        assert not (seen * 2).requires_grad


@pytest.mark.parametrize(
    "repair", [Repair(passing=True), Repair(layers=("0",)), Repair(noise=0.05), Repair(estimate=0.05), Repair(double=True)], ids=str
)
def test_a_view_answers_as_the_model_does(repair):
    model = best("steps by comparison, a layer").model()
    x = model.tensor(zoo.pictures().test.x[:20])
    view = View(model, repair)
    out = view.logits(x.to(view.dtype).requires_grad_(True))
    assert torch.allclose(out.float(), model.logits(x), atol=1e-5)
    assert np.array_equal(view.predict(zoo.pictures().test.x[:20]), model.predict(zoo.pictures().test.x[:20]))
    assert view.digest() == model.digest()


@pytest.mark.parametrize("d", [3, 20, 64])
def test_a_measured_gradient_is_a_linear_models(d):
    w = torch.randn(d, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = nn.Linear(d, 4).double()
    with torch.no_grad():
        net.weight.copy_(w.T)
    view = View(TorchModel(module=net, space=unit_space(d), classes=4), Repair(estimate=0.1))
    x = torch.rand(5, d, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(view.logits(x)[:, 2].sum(), x)
    cosine = nn.functional.cosine_similarity(found, w[:, 2].expand(5, d))
    if d <= 32:  # as many directions as features: exact
        assert torch.allclose(found, w[:, 2].expand(5, d), atol=1e-6)
    assert float(cosine.min()) > 0.4


@settings(max_examples=30, deadline=None)
@example([0.0, 1.0], 0.9, 100.0)
@example([1.0, 0.0], 0.1, 100.0)
@given(st.lists(st.floats(-6, 6), min_size=2, max_size=6), st.floats(0.02, 0.98), st.floats(1, 1e4))
def test_scaled_logits_decide_alike_and_an_undone_softmax_is_the_old_one(z, threshold, scale):
    logits = torch.tensor([z], dtype=torch.float64)
    k = len(z)

    class Fixed(nn.Module):
        def forward(self, x):
            return logits.expand(len(x), k)

    model = TorchModel(module=Fixed(), space=unit_space(2), classes=k, threshold=threshold)
    seen = View(model, Repair(scale=scale)).logits(torch.zeros(1, 2))
    shares = [decide(p.softmax(1).numpy(), threshold) for p in (logits, seen)]
    near = k == 2 and abs(float(logits.softmax(1)[0, 1]) - threshold) < 1e-9
    tied = k > 2 and float((top := logits.topk(2).values[0])[0] - top[1]) < 1e-6
    assert near or tied or np.array_equal(*shares)
    twice = logits.softmax(1).softmax(1).log()
    assert torch.allclose(undone(twice).softmax(1), logits.softmax(1), atol=1e-9)


def test_a_view_leaves_the_models_module_alone():
    model = best("JPEG-like, outside autograd").model()
    before = {name: dict(part._forward_hooks) for name, part in model.module.named_modules()}
    view = View(model, Repair(layers=("0",), double=True, passing=True))
    assert {name: dict(part._forward_hooks) for name, part in model.module.named_modules()} == before
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert view.dtype == torch.float64
    assert asdict(view.repair)["layers"] == ("0",)


# One output, chance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "outputs"), [("one sigmoid output", "one probability"), ("one logit", "one logit")])
def test_one_number_a_row_is_the_second_class(name, outputs):
    model, plain = best(name).model(), best("relu").model()
    x = zoo.moons().test.x
    assert model.outputs == outputs
    assert np.allclose(model.predict(x), plain.predict(x), atol=1e-5)
    assert np.allclose(model.logits(model.tensor(x)).softmax(1).detach().numpy(), plain.predict(x), atol=1e-5)
    state = model.to_state()
    again = TorchModel.from_state(
        decode(encode({k: v for k, v in state.items() if k not in ("factory", "weights")})) | {k: state[k] for k in ("factory", "weights")}
    )
    assert again.mended == model.mended == ("one output",)
    assert np.array_equal(again.predict(x), model.predict(x))


def test_the_chance_of_a_mend_is_the_sign_tests():
    before, after = np.array([True] * 3 + [False] * 9), np.array([False] * 1 + [True] * 2 + [True] * 9)
    gain, luck = _paired(before, after)
    assert gain == pytest.approx(8 / 12)
    assert luck == pytest.approx((1 + 10) / 2**10)  # at least 9 of 10 heads
    assert _paired(after, before)[1] == 1.0


def test_a_symptom_says_what_was_done_or_is_refused():
    with pytest.raises(InputError, match="done is 'ignored'"):
        Symptom(name="a", value="b", done="ignored", mend="c")
    assert Symptom(name="a", value="seen", done="noted", mend="mended").words() == "seen; mended"


def test_copies_do_not_share_what_they_learn():
    net = zoo.trained("cnn")
    assert copy.deepcopy(net) is not net
    assert replace(Repair(), draws=3).needed
    assert not Repair().needed
