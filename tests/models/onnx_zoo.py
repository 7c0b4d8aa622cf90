"""Small nets of many kinds and their ONNX files: what users export."""

from __future__ import annotations

import functools
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carbide.types import Space


class Residual(nn.Module):
    """Normalisation inside, two blocks with a shortcut, one of them through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 2, 1, 1), 0.4))
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.down, self.side = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 1, stride=2)
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first((x - self.mean) / 0.25)))
        x = F.relu(x + self.body(x))
        x = F.relu(self.down(x) + self.side(x))
        return self.last(torch.flatten(self.pool(x), 1))


class Pieces(nn.Module):
    """Slices, concatenation, transposition, means and shapes that are computed from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Conv2d(2, 3, 3, stride=2, padding=2, dilation=2)
        self.last = nn.Linear(6 + 54, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x[:, :1]), self.right(x[:, [1, 0]])], 1)
        means = both.mean((2, 3))
        turned = both.permute(0, 2, 3, 1).reshape(x.size(0), -1)
        a, b = turned.chunk(2, 1)
        return self.last(torch.cat([means, a.view(a.size(0), -1), b], 1))


class Row(nn.Module):
    """A table row as a signal of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(1, 4, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.leaky_relu(self.conv(x.unsqueeze(1)), 0.2), 3)
        return self.last(torch.cat([x.squeeze(2) * 2 - 1, torch.clamp(-x.squeeze(2), -0.5, 3.0)], 1))


class Curved(nn.Module):
    """What has gradients but no interval bounds: products of results, norms of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(F.gelu(self.first(x)))
        return self.last(F.silu(h) * torch.softmax(h, 1) + F.hardswish(h))


def _mlp(*end: nn.Module, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, outputs), *end)


def _cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, groups=2), nn.ReLU6(),
                         nn.AvgPool2d(2, 1, padding=1, count_include_pad=False), nn.Flatten(), nn.Linear(32, 3))  # fmt: skip


def _odd() -> nn.Module:
    return nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(2, 4, (3, 2), stride=(1, 2), bias=False), nn.ELU(), nn.MaxPool2d(3, 2, padding=1),
                         nn.Sigmoid(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3))  # fmt: skip


def _smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 6), nn.SELU(), nn.Linear(6, 6), nn.PReLU(), nn.Hardsigmoid(), nn.Linear(6, 2))


NETS: dict[str, Any] = {
    "mlp": _mlp, "softmax": lambda: _mlp(nn.Softmax(1)), "log softmax": lambda: _mlp(nn.LogSoftmax(1)),
    "sigmoid": lambda: _mlp(nn.Sigmoid(), outputs=1), "one logit": lambda: _mlp(outputs=1), "smooth": _smooth, "row": Row, "curved": Curved,
    "cnn": _cnn, "residual": Residual, "pieces": Pieces, "odd": _odd}  # fmt: skip
IMAGES = ("cnn", "residual", "pieces", "odd")
UNBOUNDED = ("curved",)


def space_of(name: str) -> Space:
    """The inputs of a net of the zoo."""
    return Space.image((2, 6, 6)) if name in IMAGES else Space.table(["a", "b", "c", "d"])


def classes_of(name: str) -> int:
    """Its number of classes."""
    return 2 if name in ("sigmoid", "one logit", "row", "smooth") else 3


@functools.cache
def net(name: str) -> nn.Module:
    """A net of the zoo with weights and batch statistics that are not the initial ones."""
    torch.manual_seed(sum(map(ord, name)))
    module = NETS[name]()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor, low, high in (
                    (layer.running_mean, -0.5, 0.5),
                    (layer.running_var, 0.2, 1.5),
                    (layer.weight, 0.5, 2.0),
                    (layer.bias, -0.5, 0.5),
                ):
                    assert tensor is not None
                    tensor.uniform_(low, high)
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = linear.register_forward_hook(lambda layer, given, out: seen.append(out))
    with torch.no_grad():  # classes alike, so that there are borders between them
        module.eval()(torch.rand(200, *space_of(name).shape) * (1 if name in IMAGES else 4) - (0 if name in IMAGES else 2))
        linear.bias -= seen[0].mean(0)
    handle.remove()
    return module.eval()


@functools.cache
def exported(name: str, *, opset: int = 17, fixed: int = 0, double: bool = False, whole: bool = False) -> bytes:
    """The ONNX file of a net of the zoo; ``fixed`` > 0 = for batches of this size alone, ``whole`` = no layers fused."""
    import copy

    module = copy.deepcopy(net(name))
    x = torch.zeros(fixed or 2, *space_of(name).shape)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.double() if double else module, (x.double() if double else x,), out, dynamo=False, opset_version=opset,
                          input_names=["x"], output_names=["out"], training=torch.onnx.TrainingMode.PRESERVE if whole else torch.onnx.TrainingMode.EVAL,
                          dynamic_axes=None if fixed else {"x": {0: "n"}})  # fmt: skip
    return out.getvalue()
