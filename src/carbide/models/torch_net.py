"""Torch modules as models, and the recipe that trains them.

>>> import numpy as np
>>> from carbide.types import Space
>>> recipe = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 2, "classes": 2}, epochs=1)
>>> recipe.describe()["epochs"]
1
"""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from carbide.run import track
from carbide.types import WHITE_BOX, Access, Array, Dataset, InputError, Rng, Space

OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchModel:
    """A torch module in inference mode; ``outputs`` says whether it returns ``logits`` or ``probabilities`` ``(n, k)``."""

    module: nn.Module
    space: Space
    classes: int
    outputs: str = "logits"
    device: str = "cpu"
    threshold: float = 0.5
    batch: int = 1024
    access: ClassVar[Access] = WHITE_BOX

    def __post_init__(self) -> None:
        if self.outputs not in OUTPUTS:
            raise InputError(f"outputs is {self.outputs!r}; choose {' or '.join(OUTPUTS)}")
        self.module.to(self.device).eval()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the module's parameters (float32 if it has none)."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    def tensor(self, x: Array) -> Tensor:
        """Inputs as a tensor of the module's dtype on its device."""
        return torch.as_tensor(np.ascontiguousarray(x), dtype=self.dtype, device=self.device)

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(n, k)``, differentiable; log-probabilities where the module returns probabilities."""
        out = self.module(x)
        return out if self.outputs == "logits" else out.clamp_min(torch.finfo(out.dtype).tiny).log()

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        with torch.no_grad():
            parts = [self.logits(self.tensor(x[i : i + self.batch])).double().softmax(1) for i in range(0, len(x), self.batch)]
        return torch.cat(parts).cpu().numpy()

    def at(self, threshold: float) -> TorchModel:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the architecture's text and every parameter and buffer."""
        state = hashlib.sha256(f"{self.module!r}{self.outputs}{self.threshold}".encode())
        for name, tensor in self.module.state_dict().items():
            state.update(name.encode())
            state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
        return state.hexdigest()


class Perturb(Protocol):
    """What adversarial training does to a batch: a frozen dataclass that maps ``(module, x, y, generator)`` to inputs."""

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor: ...


def make_module(factory: Any, options: Mapping[str, Any]) -> nn.Module:
    """The module that a factory (a callable or ``"package.module:name"``) makes with these options.

    Raises:
        InputError: if the factory cannot be imported or does not make a torch module.
    """
    if isinstance(factory, str):
        module_name, _, name = factory.partition(":")
        try:
            made = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"factory {factory!r} cannot be imported ({error}); write it as package.module:function") from error
    else:
        made = factory
    module = made(**options)
    if not isinstance(module, nn.Module):
        raise InputError(f"factory {factory!r} made a {type(module).__name__}, not a torch.nn.Module; return the module")
    return module


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchRecipe:
    """Training of a torch classifier with cross-entropy, Adam and a one-cycle learning rate.

    ``perturb`` changes each batch before the step (adversarial training); ``smoothing`` is label smoothing. Everything
    is decided by the rng: two fits with the same state on the same machine give the same weights.
    """

    factory: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 20
    batch: int = 128
    rate: float = 3e-3
    decay: float = 5e-4
    smoothing: float = 0.0
    device: str = "cpu"
    perturb: Perturb | None = None

    def fit(self, dataset: Dataset, rng: Rng) -> TorchModel:
        """A model trained on the data set from fresh weights."""
        seed = int(rng.integers(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = make_module(self.factory, self.options).to(self.device)
        train(module, dataset, self, torch.Generator(device="cpu").manual_seed(seed))
        return TorchModel(module=module, space=dataset.space, classes=dataset.classes, device=self.device)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "device"}
        said["factory"] = self.factory if isinstance(self.factory, str) else f"{self.factory.__module__}:{self.factory.__qualname__}"
        said["options"] = dict(self.options)
        said["perturb"] = repr(self.perturb)
        return {"recipe": "torch", **said}


def train(module: nn.Module, dataset: Dataset, recipe: TorchRecipe, generator: torch.Generator) -> None:
    """Train the module in place as the recipe says; it ends in inference mode."""
    x = torch.as_tensor(dataset.x, dtype=torch.float32, device=recipe.device)
    y = torch.as_tensor(dataset.y, device=recipe.device)
    steps = max(1, -(-len(x) // recipe.batch))
    optimizer = torch.optim.Adam(module.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.epochs * steps)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
    for _ in track(range(recipe.epochs), label="training epochs"):
        order = torch.randperm(len(x), generator=generator).to(recipe.device)
        for rows in order.split(recipe.batch):
            batch = x[rows] if recipe.perturb is None else recipe.perturb(module, x[rows], y[rows], generator)
            module.train()
            optimizer.zero_grad(set_to_none=True)
            loss(module(batch), y[rows]).backward()
            optimizer.step()
            schedule.step()
    module.eval()


def clone(module: nn.Module) -> nn.Module:
    """An independent copy of a module."""
    return copy.deepcopy(module)
