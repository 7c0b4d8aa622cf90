"""Cut gradients against each row's own gradient by autograd, and the other parts of a private step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest
from torch import nn

from carbide.models import per_sample
from carbide.models.nets import small_cnn, small_mlp
from carbide.models.per_sample import (
    clipped_sum,
    cross_entropies,
    group_normed,
    noisy_gradients_,
    poisson_rows,
    refuse_mixing,
    trainable,
    unknown_layers,
    way_for,
)
from carbide.types import InputError

ROWS, CLASSES = 9, 5


class Tokens(nn.Module):
    """Embeddings, a layer on every place, and the mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, padding_idx=0)
        self.mix = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES, bias=False)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.mix(self.embed(x)))).mean(1))


class Twice(nn.Module):
    """A layer that is used twice in a pass, one that is never used, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.idle, self.frozen, self.head = nn.Linear(6, 6), nn.Linear(3, 3), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.head(self.frozen(torch.relu(self.inner(torch.relu(self.inner(x))))))


class Own(nn.Module):
    """A parameter outside the layers that book-keeping knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(6)), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(x * self.scale)


class Borrowed(nn.Module):
    """A layer whose weight is used outside the layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x)) @ self.inner.weight)


NETS = {
    "mlp": (lambda: small_mlp(inputs=6, classes=CLASSES), (6,)),
    "cnn": (lambda: small_cnn(shape=(2, 8, 8), classes=CLASSES, width=4), (2, 8, 8)),
    "strange convolutions": (lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, padding_mode="reflect"), nn.GroupNorm(3, 6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 12, 3, groups=2, dilation=2, padding="same"), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, CLASSES)), (2, 8, 8)),
    "many channels, few places": (lambda: nn.Sequential(
        nn.Conv2d(2, 24, 3, stride=2, bias=False), nn.Conv2d(24, 40, 2, stride=(1, 2), padding=(1, 0)), nn.Flatten(), nn.LazyLinear(CLASSES)), (2, 8, 8)),
    "convolution of a sequence": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, padding=1, stride=2), nn.Flatten(), nn.LazyLinear(CLASSES)), (4, 9)),
    "convolution of a short sequence": (lambda: nn.Sequential(nn.Conv1d(4, 40, 3, padding=1), nn.Flatten(), nn.LazyLinear(CLASSES)), (4, 3)),
    "linear on places": (lambda: nn.Sequential(nn.Linear(5, 30), nn.LayerNorm((3, 30)), nn.ReLU(), nn.Flatten(), nn.Linear(90, CLASSES)), (3, 5)),
    "used twice": (Twice, (6,)),
}  # fmt: skip


def net_and_rows(name):
    torch.manual_seed(1)
    if name == "tokens":
        return Tokens(), torch.randint(7, (ROWS, 11)), torch.randint(CLASSES, (ROWS,))
    make, shape = NETS[name]
    x = torch.randn(ROWS, *shape)
    module = make()
    module(x)  # lazy layers
    return module, x, torch.randint(CLASSES, (ROWS,))


def each(module, x, y, repeats=1):
    """Each person's gradient by autograd, a list of tensors a person."""
    found = []
    for i in range(0, len(x), repeats):
        loss = cross_entropies(module(x[i : i + repeats]), y[i : i + repeats]).mean()
        grads = torch.autograd.grad(loss, trainable(module), allow_unused=True)
        found.append([torch.zeros_like(p) if g is None else g for g, p in zip(grads, trainable(module), strict=True)])
    return found


def lengths(grads):
    return torch.stack([torch.sqrt(sum((g**2).sum() for g in row)) for row in grads])


def cut(grads, clip):
    norms = lengths(grads)
    return [sum(min(1.0, clip / float(n)) * row[i] for n, row in zip(norms, grads, strict=True)) for i in range(len(grads[0]))]


@pytest.mark.parametrize("way", ["book-keeping", "vmap"])
@pytest.mark.parametrize("name", [*NETS, "tokens"])
def test_cut_gradients_are_those_of_single_rows(name, way):
    module, x, y = net_and_rows(name)
    grads = each(module, x, y)
    clip = float(lengths(grads).median())  # some are cut, some are not
    found = clipped_sum(module, x, y, clip=clip, way=way)
    torch.testing.assert_close(found.norms, lengths(grads), rtol=1e-5, atol=1e-6)
    for mine, truth in zip(found.gradients, cut(grads, clip), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-5)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("way", ["book-keeping", "vmap"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "many channels, few places", "linear on places", "tokens"])
def test_augmented_copies_count_as_one_person(name, way):
    module, x, y = net_and_rows(name)
    grads = each(module, x, y, repeats=3)
    clip = float(lengths(grads).median())
    found = clipped_sum(module, x, y, clip=clip, way=way, repeats=3)
    torch.testing.assert_close(found.norms, lengths(grads), rtol=1e-5, atol=1e-6)
    for mine, truth in zip(found.gradients, cut(grads, clip), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-4, 1e3), st.integers(0, 99), st.floats(0.01, 100))
def test_no_row_moves_the_sum_by_more_than_the_clip(clip, seed, size):
    torch.manual_seed(seed)
    module, x, y = small_mlp(inputs=4, classes=3), size * torch.randn(6, 4), torch.randint(3, (6,))
    for way in ("book-keeping", "vmap"):
        whole = clipped_sum(module, x, y, clip=clip, way=way).gradients
        for i in range(6):
            alone = clipped_sum(module, x[i : i + 1], y[i : i + 1], clip=clip, way=way).gradients
            assert float(lengths([alone])[0]) <= clip
            rest = clipped_sum(module, x[torch.arange(6) != i], y[torch.arange(6) != i], clip=clip, way=way).gradients
            assert float(lengths([[a - b for a, b in zip(whole, rest, strict=True)]])[0]) <= clip * (1 + 1e-4)


@pytest.mark.parametrize("way", ["book-keeping", "vmap"])
def test_a_broken_row_counts_as_none(way):
    module, x, y = net_and_rows("mlp")
    x[3] = math.inf
    found = clipped_sum(module, x, y, clip=0.5, way=way)
    others = [i for i in range(ROWS) if i != 3]
    expected = clipped_sum(module, x[others], y[others], clip=0.5, way=way)
    assert math.isinf(found.norms[3])
    torch.testing.assert_close(found.norms[others], expected.norms)
    for mine, truth in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(mine, truth)


def test_own_parameters_and_borrowed_weights_go_by_vmap():
    x, y = torch.randn(ROWS, 6), torch.arange(ROWS) % CLASSES
    assert unknown_layers(Own()) == ["Own"]
    with pytest.raises(InputError, match="book-keeping does not know Own"):
        clipped_sum(Own(), x, y, clip=1.0, way="book-keeping")
    for module in (Own(), Borrowed()):
        assert way_for(module, x, y) == "vmap"
        grads = each(module, x, y)
        for mine, truth in zip(clipped_sum(module, x, y, clip=0.3, way="vmap").gradients, cut(grads, 0.3), strict=True):
            torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-5)
    assert way_for(small_mlp(inputs=6, classes=CLASSES), x, y) == "book-keeping"
    shared = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES))
    shared[1].weight = shared[0].weight
    assert way_for(shared, x, y) == "vmap"


def test_auto_sees_by_itself_that_a_weight_is_used_outside_its_layer():
    torch.manual_seed(2)
    module, x, y = Borrowed(), torch.randn(ROWS, 6), torch.arange(ROWS) % CLASSES
    truth = torch.autograd.grad(cross_entropies(module(x), y).sum(), trainable(module))
    for mine, true in zip(clipped_sum(module, x, y, clip=1e6).gradients, truth, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)
    noisy_gradients_(module, x, y, clip=1e6, noise=0.0, expected=1.0, generator=torch.Generator().manual_seed(0))
    for parameter, true in zip(trainable(module), truth, strict=True):
        torch.testing.assert_close(parameter.grad, true, rtol=1e-4, atol=1e-5)
    broken = x.clone()
    broken[:8] = torch.nan  # one sound row is enough to see it
    for mine, true in zip(clipped_sum(Borrowed(), broken, y, clip=0.3).gradients, trainable(module), strict=True):
        assert mine.shape == true.shape
        assert torch.isfinite(mine).all()


def test_auto_looks_once_at_a_module_again_when_its_parameters_change_and_leaves_no_trace(monkeypatch):
    looks = []
    monkeypatch.setattr(per_sample, "way_for", lambda module, *rest: looks.append(module) or way_for(module, *rest))
    module, x, y = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, CLASSES)), torch.randn(ROWS, 6), torch.arange(ROWS) % CLASSES
    module[1].eval()
    state = torch.random.get_rng_state()
    for _ in range(3):
        clipped_sum(module, x, y, clip=1.0)
    assert len(looks) == 1
    assert [layer.training for layer in module] == [True, False, True]
    assert torch.equal(torch.random.get_rng_state(), state)
    module[0] = nn.Linear(6, 6)
    clipped_sum(module, x, y, clip=1.0)
    assert len(looks) == 2


class Centred(nn.Module):
    """Takes the mean over the batch away, hidden from autograd."""

    def forward(self, x):
        return x - x.detach().mean(0)


class Sized(nn.Module):
    """Divides by the number of rows."""

    def forward(self, x):
        return x / len(x)


@pytest.mark.parametrize("layer", [Centred(), Sized(), nn.Softmax(dim=0)])
def test_layers_that_mix_rows_are_refused(layer):
    with pytest.raises(InputError, match="when other rows of the batch change"):
        refuse_mixing(nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3)), torch.rand(6, 4), torch.zeros(6, dtype=torch.long))


def test_statistics_are_refused_and_batch_norm_is_replaced():
    module, x = nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.Flatten(), nn.Linear(192, 3)), torch.rand(6, 1, 6, 6)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(InputError, match=r"keeps 1.running_mean"):
        refuse_mixing(module, x, torch.zeros(6, dtype=torch.long))
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert group_normed(module)
    assert (type(module[1]), module[1].num_groups) == (nn.GroupNorm, 12)
    refuse_mixing(module, x, torch.zeros(6, dtype=torch.long))
    assert not group_normed(module)


def test_dropout_and_plain_layers_pass():
    modules, x = (nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)), small_mlp(inputs=4, classes=3)), torch.rand(6, 4)
    state = torch.random.get_rng_state()
    for module in modules:
        refuse_mixing(module, x, torch.zeros(6, dtype=torch.long))
    assert torch.equal(state, torch.random.get_rng_state())


def test_rows_are_drawn_independently_at_their_rate():
    generator = torch.Generator().manual_seed(3)
    drawn = np.zeros((4000, 30), bool)
    for step in drawn:
        step[poisson_rows(30, 0.07, generator).numpy()] = True
    assert binomtest(int(drawn.sum()), drawn.size, 0.07).pvalue > 1e-3
    sizes = drawn.sum(1)
    assert sizes.var() == pytest.approx(30 * 0.07 * 0.93, rel=0.1)  # of a fixed batch size it would be 0
    assert (sizes == 0).any()
    together = (drawn[:, :-1] & drawn[:, 1:]).sum()
    assert binomtest(int(together), 4000 * 29, 0.07**2).pvalue > 1e-3
    assert len(poisson_rows(30, 1.0, generator)) == 30


def test_noise_is_gaussian_once_on_the_sum_and_the_normaliser_is_fixed():
    module = small_mlp(inputs=50, classes=3)
    x, y = torch.randn(40, 50), torch.randint(3, (40,))
    exact = clipped_sum(module, x, y, clip=0.7).gradients
    generator = torch.Generator().manual_seed(5)
    for rows, chunk in ((40, 512), (40, 7), (0, 512), (3, 512)):  # however many rows, and in however many pieces
        noisy_gradients_(module, x[:rows], y[:rows], clip=0.7, noise=1.5, expected=20.0, generator=generator, chunk=chunk)
        sums = clipped_sum(module, x[:rows], y[:rows], clip=0.7).gradients
        rest = torch.cat([(p.grad - s / 20.0).flatten() for p, s in zip(trainable(module), sums, strict=True)])
        assert kstest(rest.numpy(), "norm", args=(0.0, 1.5 * 0.7 / 20.0)).pvalue > 1e-3
    assert torch.equal(exact[0], clipped_sum(module, x, y, clip=0.7).gradients[0])


def test_the_same_generator_gives_the_same_gradients_and_noise_differs_by_step():
    module, x, y = net_and_rows("cnn")
    found = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(9)
        steps = []
        for _ in range(2):
            noisy_gradients_(module, x, y, clip=1.0, noise=1.0, expected=9.0, generator=generator)
            steps.append(torch.cat([p.grad.flatten() for p in trainable(module)]).clone())
        found.append(steps)
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][0], found[0][1], atol=0.01)


@pytest.mark.parametrize(
    ("options", "words"), [({"clip": 0}, "clip is 0"), ({"clip": math.nan}, "clip is nan"), ({"clip": 1.0, "way": "magic"}, "way is 'magic'")]
)
def test_wrong_options_are_refused(options, words):
    module, x, y = net_and_rows("mlp")
    with pytest.raises(InputError, match=words):
        clipped_sum(module, x, y, **options)


def test_opacus_cuts_the_same():
    opacus = pytest.importorskip("opacus")
    module, x, y = net_and_rows("cnn")
    mine = clipped_sum(module, x, y, clip=0.5).gradients
    wrapped = opacus.GradSampleModule(module, loss_reduction="sum")
    optimizer = opacus.optimizers.DPOptimizer(torch.optim.SGD(wrapped.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=1,
                                              loss_reduction="sum")  # fmt: skip
    cross_entropies(wrapped(x), y).sum().backward()
    optimizer.pre_step()
    for parameter, truth in zip(wrapped.parameters(), mine, strict=True):
        torch.testing.assert_close(parameter.grad, truth, rtol=1e-4, atol=1e-5)
