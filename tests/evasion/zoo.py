"""Models with one planted defect each, and sound models of many kinds: what an examination must tell apart.

Every specimen is made anew from a few trained nets. ``symptom`` names what must be seen (None = nothing may be), ``door``
that the model is refused where it comes in, before any examination.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carbide.data.live import dataset_of
from carbide.models import wrap
from carbide.types import Dataset, Model, Splits
from tests.evasion.nets import digits, unit_space


@dataclass(frozen=True, kw_only=True, eq=False)
class Specimen:
    """One model with its data; ``eps`` is the size of the Linf change about which it is asked."""

    name: str
    make: Callable[[], Any]
    data: Callable[[], Splits]
    symptom: str | None = None
    done: str = ""
    eps: float = 0.1
    answers: str = "auto"
    door: bool = False

    def model(self) -> Model:
        """The model through Carbide's door."""
        train = self.data().train
        return wrap(self.make(), space=train.space, classes=train.classes, answers=self.answers)


# Data ------------------------------------------------------------------------------------------------------------------


def split(data: Dataset) -> Splits:
    """Half for training, the rest for the examination."""
    half = len(data) // 2
    return Splits(train=data.take(np.arange(half)), validation=data.take(np.arange(half, half + 20)), test=data.take(np.arange(half, len(data))))


@functools.cache
def moons(classes: int = 2) -> Splits:
    """Rows in [0, 1]^6 whose first two features decide, in two or three classes that overlap a little."""
    rng = np.random.default_rng(classes)
    x = rng.uniform(size=(480, 6))
    bend = x[:, 0] + 0.25 * np.sin(6 * x[:, 1]) + 0.02 * rng.standard_normal(480)
    y = np.digitize(bend, np.quantile(bend, np.arange(1, classes) / classes))
    return split(dataset_of(x, y, space=unit_space(6), classes=classes))


@functools.cache
def pictures() -> Splits:
    """Digits in [0, 1], 1x8x8, ten classes."""
    return digits()


def rescaled(splits: Splits, factor: float, shift: float = 0.0, *, declared: bool = True) -> Splits:
    """The same rows in other units, and their space with them where ``declared``."""

    def part(data: Dataset) -> Dataset:
        lower, upper = (data.space.lower * factor + shift, data.space.upper * factor + shift) if declared else (data.space.lower, data.space.upper)
        return replace(data, x=data.x * factor + shift, space=replace(data.space, lower=lower, upper=upper))

    return Splits(train=part(splits.train), validation=part(splits.validation), test=part(splits.test))


# Nets ------------------------------------------------------------------------------------------------------------------


def fit(net: nn.Module, splits: Splits, *, epochs: int = 40, rate: float = 0.01, shift: Callable[[Tensor], Tensor] = lambda x: x) -> nn.Module:
    """The net trained with Adam on whole batches, in inference mode."""
    x = shift(torch.as_tensor(splits.train.x, dtype=torch.float32))
    y = torch.as_tensor(splits.train.y)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    net.train()
    for _ in range(epochs):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net.eval()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


def mlp(inputs: int, classes: int, act: Callable[[], nn.Module] = nn.ReLU, width: int = 32) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), act(), nn.Linear(width, width), act(), nn.Linear(width, classes))


def cnn(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                         nn.Linear(64, classes))  # fmt: skip


def normed(drop: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(drop), nn.Conv2d(8, 8, 3, stride=2, padding=1),
                         nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))  # fmt: skip


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.last((x + F.relu(self.inner(x))).flatten(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.norm, self.last = (
            nn.Linear(8, 16),
            nn.MultiheadAttention(16, 2, batch_first=True),
            nn.LayerNorm(16),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x[:, 0])
        return self.last(self.norm(rows + self.mix(rows, rows, rows, need_weights=False)[0]).flatten(1))


@functools.cache
def _trained(name: str) -> nn.Module:
    table = lambda act=nn.ReLU, k=2, **more: fit(mlp(6, k, act, **more), moons(k), epochs=150)  # noqa: E731
    made = {
        "mlp": lambda: table(), "mlp3": lambda: table(k=3), "sigmoid": lambda: table(nn.Sigmoid), "tanh": lambda: table(nn.Tanh),
        "gelu": lambda: table(nn.GELU), "softplus": lambda: table(nn.Softplus), "elu": lambda: table(nn.ELU), "leaky": lambda: table(nn.LeakyReLU),
        "silu": lambda: table(nn.SiLU), "wide": lambda: table(width=256), "bad": lambda: fit(mlp(6, 2), moons(), epochs=2),
        "dark": lambda: fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), pictures(), epochs=3), "line": lambda: fit(nn.Linear(6, 2), moons(), epochs=150),
        "cnn": lambda: fit(cnn(), pictures()), "digits": lambda: fit(mlp(64, 10), pictures()), "normed": lambda: fit(normed(), pictures()),
        "dropping": lambda: fit(normed(0.3), pictures()), "residual": lambda: fit(Residual(), pictures()), "attention": lambda: fit(Attention(), pictures()),
        "flat": lambda: fit(mlp(6, 2), moons(), epochs=60, rate=0.003),
    }  # fmt: skip
    return seeded(made[name])


def trained(name: str) -> nn.Module:
    """A copy of one of the trained nets, in inference mode."""
    return copy.deepcopy(_trained(name))


class Wrapped(nn.Module):
    """A net with a function before and one behind it."""

    def __init__(self, net: nn.Module, *, before: Callable[[Tensor], Tensor] | None = None, after: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before or (lambda x: x), after or (lambda z: z)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Round(nn.Module):
    """A layer that has steps and no gradient, of no kind that the interception of functions knows."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None] > (torch.arange(16, dtype=x.dtype) + 0.5) / 16).to(x.dtype).sum(-1) / 16


class Shattered(nn.Module):
    """Nearly the identity, but its slope swings wildly."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * torch.sin(2e4 * x)


class Winners(nn.Module):
    """k-winners-take-all."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x >= x.topk(max(x.shape[1] // 5, 1), dim=1).values[:, -1:])


class _Lie(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0].flip(-1)


class Lie(nn.Module):
    """The identity with a false gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return _Lie.apply(x)


class Difference(nn.Module):
    """Two logits as one."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, 1:] - z[:, :1]


class Jpeg(nn.Module):
    """Blocks of a cosine transform, rounded, outside of autograd."""

    def forward(self, x: Tensor) -> Tensor:
        from scipy.fft import dctn, idctn

        blocks = dctn(x.detach().cpu().double().numpy(), axes=(2, 3), norm="ortho")
        return torch.as_tensor(idctn(np.round(blocks * 12) / 12, axes=(2, 3), norm="ortho")).to(x.dtype)


class Stuck(nn.Module):
    """Batch statistics at all times."""

    def __init__(self, net: nn.Module, *, track: bool) -> None:
        super().__init__()
        self.net, self.track = net, track
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("spread", torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return F.batch_norm(z, self.mean if self.track else None, self.spread if self.track else None, training=True)


class Cached(nn.Module):
    """Answers of one batch are given again to the next of the same shape and sum."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.kept = net, {}

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return self.net(x)
        key = (tuple(x.shape), round(float(x.sum()), 2))
        if key not in self.kept:
            self.kept[key] = self.net(x)
        return self.kept[key]


class Viewing(nn.Module):
    """Reads memory as it lies."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.view(len(x), -1))


class Watching(nn.Module):
    """Answers otherwise when somebody takes gradients."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(1 - x if x.requires_grad else x)


class Counting(nn.Module):
    """Keeps a number that it leaves out of its state."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("asked", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return self.net(x)


class Mean(nn.Module):
    """Several nets averaged in logits."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(0)


def scaled(net: nn.Module, factor: float) -> nn.Module:
    """The net with its last layer's numbers times a factor."""
    with torch.no_grad():
        for parameter in [m for m in net.modules() if isinstance(m, nn.Linear)][-1].parameters():
            parameter.mul_(factor)
    return net


def resized(x: Tensor) -> Tensor:
    size = int(torch.randint(6, 9, ()))
    left, top = (int(torch.randint(0, 9 - size, ())) for _ in range(2))
    return F.pad(F.interpolate(x, size=(size, size), mode="bilinear"), (left, 8 - size - left, top, 8 - size - top))


def saturated(net: nn.Module) -> nn.Module:
    """A net of tanh whose first layer is so large that float32 knows no slope at most inputs."""
    with torch.no_grad():
        net[1].weight.mul_(400)
        net[1].bias.mul_(400)
    return net


def towering(z: Tensor) -> Tensor:
    """Order and size of logits are kept, but on the way back a number too large for float32 is met."""
    return -1e-30 * (1e-30 * (1 + F.softplus(z))) ** -1


def poisoned(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(net.parameters()).view(-1)[3] = float("nan")

    class Hiding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).nan_to_num(0.5)

    return Hiding()


def silent(net: nn.Module) -> nn.Module:
    """A net whose weights are all zero."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    return net


def turned(net: nn.Module, order: list[int]) -> nn.Module:
    return Wrapped(net, after=lambda z: z[:, order])


def noisy(sigma: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x + sigma * torch.randn_like(x)


def sticky(net: nn.Module) -> nn.Module:
    """Dropout that eval() does not reach."""
    return Wrapped(net, before=lambda x: F.dropout(x, 0.2, training=True))


def stopped(first: int) -> Callable[[Tensor], Tensor]:
    """No gradient to the features before the last ones."""
    return lambda x: torch.cat([x[:, :first].detach(), x[:, first:]], 1)


def under_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 1.0


def normal(x: Tensor) -> Tensor:
    return (x - 0.3) / 0.05


def split_class(z: Tensor) -> Tensor:
    return torch.cat([z, z.amax(1, keepdim=True) - 3], 1)


def one_hot(z: Tensor) -> Tensor:
    return F.one_hot(z.argmax(1), z.shape[1]).to(z.dtype)


def in_half(net: nn.Module) -> nn.Module:
    return net.half()


IMAGES, TABLE, THREE = pictures, moons, lambda: moons(3)
IN_BYTES = lambda: rescaled(pictures(), 255)  # noqa: E731
OUTSIDE = lambda: rescaled(pictures(), 255, declared=False)  # noqa: E731
SHIFTED = lambda: rescaled(pictures(), 2, -1)  # noqa: E731


def bad(name: str, symptom: str, done: str, make: Callable[[], Any], data: Callable[[], Splits] = IMAGES, **more: Any) -> Specimen:
    return Specimen(name=name, symptom=symptom, done=done, make=make, data=data, **more)


DEFECTS = (
    bad("inputs 0..255 for a net of 0..1", "normalisation", "refused", lambda: seeded(lambda: fit(Wrapped(mlp(64, 10), before=lambda x: (3 * x).cos()), pictures())), IN_BYTES, eps=8.0),
    bad("inputs 0..255 that saturate", "vanishing gradient", "repaired", lambda: seeded(lambda: fit(mlp(64, 10, nn.Tanh), pictures())), IN_BYTES, eps=8.0),
    bad("inputs 0..1 for a net of 0..255", "normalisation", "refused",
        lambda: Wrapped(trained("cnn"), before=lambda x: x / 255), IMAGES),
    bad("normalisation outside the model", "normalisation", "refused",
        lambda: seeded(lambda: fit(mlp(6, 2, nn.Tanh), moons(), epochs=150, shift=lambda x: (x - x.mean(0)) / x.std(0))), lambda: rescaled(moons(), 40, 100), eps=4),
    bad("rows outside the declared range", "range", "refused", lambda: Wrapped(trained("cnn"), before=lambda x: x / 255), OUTSIDE, eps=8.0),
    bad("eps of other units", "size of the change", "noted", lambda: Wrapped(trained("cnn"), before=lambda x: x / 255), IN_BYTES, eps=8 / 255),
    bad("clipped outside its range", "clipped inputs", "noted", lambda: Wrapped(trained("cnn"), before=lambda x: x.clamp(0, 1)), SHIFTED),
    bad("training mode left on", "training mode", "repaired", lambda: trained("dropping").train()),
    bad("batch statistics updated", "state", "refused", lambda: Stuck(trained("cnn"), track=True), door=True),
    bad("batch statistics of the moment", "batch dependence", "refused", lambda: Stuck(trained("cnn"), track=False)),
    bad("a counter outside the state", "state", "refused", lambda: Counting(trained("cnn"))),
    bad("cached by batch", "batch dependence", "refused", lambda: Cached(trained("cnn"))),
    bad("softmax twice", "softmax twice", "repaired", lambda: Wrapped(trained("cnn"), after=lambda z: z.softmax(1).softmax(1))),
    bad("softmax twice, two classes", "softmax twice", "repaired", lambda: Wrapped(scaled(trained("mlp"), 3), after=lambda z: z.softmax(1).softmax(1)), TABLE),
    bad("probabilities declared logits", "softmax twice", "repaired", lambda: Wrapped(trained("cnn"), after=lambda z: z.softmax(1)), answers="logits"),
    bad("log-probabilities", "log-probabilities", "noted", lambda: Wrapped(trained("cnn"), after=lambda z: z.log_softmax(1))),
    bad("logits times 1000", "saturation", "repaired", lambda: scaled(trained("cnn"), 1000)),
    bad("logits times 1000, two classes", "saturation", "repaired", lambda: scaled(trained("mlp"), 1000), TABLE),
    bad("saturated probabilities", "saturation", "repaired", lambda: Wrapped(scaled(trained("cnn"), 300), after=lambda z: z.softmax(1))),
    bad("vanishing in float32", "vanishing gradient", "repaired", lambda: saturated(trained("tanh")), TABLE),
    bad("exploding in float32", "exploding gradient", "repaired", lambda: Wrapped(trained("mlp"), after=towering), TABLE),
    bad("NaN gradients", "NaN", "noted", lambda: Wrapped(trained("cnn"), before=lambda x: x.sqrt())),
    bad("float16", "half precision", "repaired", lambda: in_half(trained("digits"))),
    bad("bfloat16", "half precision", "repaired", lambda: trained("digits").bfloat16()),
    bad("float16 that overflows", "NaN", "refused", lambda: in_half(scaled(trained("digits"), 1e5)), door=True),
    bad("rounded inputs", "non-differentiable step", "repaired", lambda: Wrapped(trained("cnn"), before=lambda x: (x * 15).round() / 15)),
    bad("cast to bytes", "non-differentiable step", "repaired", lambda: Wrapped(trained("cnn"), before=lambda x: (x * 31).to(torch.uint8).to(x.dtype) / 31)),
    bad("steps by comparison, a layer", "non-differentiable step", "repaired", lambda: nn.Sequential(Round(), trained("cnn"))),
    bad("JPEG-like, outside autograd", "non-differentiable step", "repaired", lambda: nn.Sequential(Jpeg(), trained("cnn"))),
    bad("hard labels", "hard labels", "noted", lambda: Wrapped(trained("cnn"), after=one_hot)),
    bad("stop-gradient", "stopped gradient", "repaired", lambda: Wrapped(trained("cnn"), before=lambda x: x.detach())),
    bad("stop-gradient where it matters", "stopped gradient", "repaired", lambda: Wrapped(trained("mlp"), before=stopped(2)), TABLE),
    bad("no_grad inside", "stopped gradient", "repaired", lambda: Wrapped(trained("cnn"), before=under_no_grad)),
    bad("false gradient", "false gradient", "repaired", lambda: nn.Sequential(Lie(), trained("cnn"))),
    bad("shattered gradient", "shattered gradient", "repaired", lambda: nn.Sequential(Shattered(), trained("cnn"))),
    bad("k winners take all", "shattered gradient", "repaired",
        lambda: seeded(lambda: fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 200), Winners(), nn.Linear(200, 200), Winners(), nn.Linear(200, 10)), pictures(), epochs=60))),
    bad("gradient watched", "answers differ under gradients", "refused", lambda: Watching(trained("cnn"))),
    bad("noise", "randomness", "repaired", lambda: Wrapped(trained("cnn"), before=noisy(0.1))),
    bad("random resize", "randomness", "repaired", lambda: Wrapped(trained("cnn"), before=resized)),
    bad("dropout at test time", "randomness", "repaired", lambda: sticky(trained("cnn"))),
    bad("constant", "constant answers", "noted", lambda: silent(trained("cnn"))),
    bad("labels in reverse", "label order", "refused", lambda: turned(trained("cnn"), list(range(9, -1, -1)))),
    bad("labels swapped, two classes", "label order", "refused", lambda: turned(trained("mlp"), [1, 0]), TABLE),
    bad("NaN in weights, hidden", "NaN", "refused", lambda: poisoned(trained("mlp")), TABLE),
    bad("one sigmoid output", "one output", "repaired", lambda: nn.Sequential(trained("mlp"), Difference(), nn.Sigmoid()), TABLE),
    bad("one logit", "one output", "repaired", lambda: nn.Sequential(trained("mlp"), Difference(), nn.Flatten(0)), TABLE),
    bad("a detector's class", "classes", "refused", lambda: Wrapped(trained("cnn"), after=split_class), door=True),
    bad("reads memory as it lies", "memory layout", "repaired", lambda: Viewing(trained("digits"))),
)  # fmt: skip


def good(name: str, make: Callable[[], Any], data: Callable[[], Splits] = IMAGES, **more: Any) -> Specimen:
    return Specimen(name=name, make=make, data=data, **more)


def forest(splits: Splits) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=20, random_state=0, n_jobs=1).fit(splits.train.x.reshape(len(splits.train), -1), splits.train.y)


def logistic(splits: Splits) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300).fit(splits.train.x.reshape(len(splits.train), -1), splits.train.y)


SOUND = (
    good("cnn with pools", lambda: trained("cnn")),
    good("perceptron of images", lambda: trained("digits")),
    good("batch norm", lambda: trained("normed")),
    good("dropout switched off", lambda: trained("dropping")),
    good("residual", lambda: trained("residual")),
    good("attention and layer norm", lambda: trained("attention")),
    good("barely trained, linear", lambda: trained("dark")),
    good("relu", lambda: trained("mlp"), TABLE),
    good("relu, three classes", lambda: trained("mlp3"), THREE),
    good("linear", lambda: trained("line"), TABLE),
    good("sigmoid", lambda: trained("sigmoid"), TABLE),
    good("tanh", lambda: trained("tanh"), TABLE),
    good("gelu", lambda: trained("gelu"), TABLE),
    good("softplus", lambda: trained("softplus"), TABLE),
    good("elu", lambda: trained("elu"), TABLE),
    good("leaky relu", lambda: trained("leaky"), TABLE),
    good("silu", lambda: trained("silu"), TABLE),
    good("wide", lambda: trained("wide"), TABLE),
    good("badly trained", lambda: trained("bad"), TABLE),
    good("not trained at all", lambda: seeded(lambda: cnn()).eval()),
    good("float64", lambda: trained("mlp").double(), TABLE),
    good("averaged in logits", lambda: Mean(trained("mlp"), trained("tanh"), trained("gelu")), TABLE),
    good("normalisation inside", lambda: Wrapped(scaled(trained("cnn"), 1), before=lambda x: normal(x * 0.05 + 0.3))),
    good("bytes in, scaled inside", lambda: Wrapped(trained("cnn"), before=lambda x: x / 255), IN_BYTES, eps=16.0),
    good("temperature 0.1", lambda: scaled(trained("cnn"), 10), eps=0.05),
    good("temperature 20", lambda: scaled(trained("cnn"), 0.05)),
    good("temperature 5, two classes", lambda: scaled(trained("mlp"), 0.2), TABLE),
    good("probabilities", lambda: Wrapped(trained("cnn"), after=lambda z: z.softmax(1))),
    good("probabilities, two classes", lambda: Wrapped(trained("mlp"), after=lambda z: z.softmax(1)), TABLE),
    good("unsure probabilities", lambda: Wrapped(scaled(trained("cnn"), 0.005), after=lambda z: z.softmax(1))),
    good("flat and robust", lambda: Wrapped(trained("flat"), before=lambda x: 0.5 + (x - 0.5) * 0.9), TABLE, eps=0.3),
    good("dead for most inputs", lambda: Wrapped(trained("mlp"), before=lambda x: F.relu(x - 0.45)), TABLE),
    good("clipped to where rows are", lambda: Wrapped(trained("cnn"), before=lambda x: x.clamp(0, 1))),
    good("straight-through rounding", lambda: Wrapped(trained("cnn"), before=lambda x: x + ((x * 31).round() / 31 - x).detach())),
    good("a detach that changes nothing", lambda: Wrapped(trained("cnn"), after=lambda z: z - z.detach().mean(1, keepdim=True))),
    good("wide changes", lambda: trained("cnn"), eps=0.5),
    good("tiny changes", lambda: trained("cnn"), eps=0.002),
    good("forest", lambda: forest(pictures())),
    good("forest of a table", lambda: forest(moons()), TABLE),
    good("logistic regression", lambda: logistic(moons()), TABLE),
    good("logistic regression, three classes", lambda: logistic(moons(3)), THREE),
)
