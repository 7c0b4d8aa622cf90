"""Many small perceptrons trained at once: their weights lie in one tensor, and a step of all of them is one batched product.

Each net sees the rows, the batches, the start and the rates that training it alone would have given it, so the nets are those of
``TorchRecipe.fit`` up to the rounding of sums. What a step of a small net costs is mostly calls, and those are shared.

>>> import numpy as np
>>> from carbide.models.torch_net import TorchRecipe
>>> recipe = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 3, "classes": 2})
>>> layers_of(recipe)
['Linear', 'ReLU', 'Linear']
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carbide.models.torch_net import TorchModel, TorchRecipe, _address, load_weights, make_module
from carbide.models.training import rate_schedule
from carbide.run import cores, track
from carbide.types import Array, Dataset, Rng

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.Identity)
ROWS = 4096  # of all nets together in one step: more do not stay in the cache


def layers_of(recipe: TorchRecipe) -> list[str] | None:
    """The layers of a recipe's net by name if its nets can be trained at once, else None.

    That is a plain ``Sequential`` of linear layers and element-wise activations, trained with the cross-entropy and without
    perturbed batches, pushed or averaged weights, rows held out, or half precision.
    """
    extras = (recipe.perturb, recipe.objective, recipe.watch, recipe.awp, recipe.ema)
    if any(extra for extra in extras) or recipe.precision != "float32":
        return None
    with torch.random.fork_rng(devices=[]):
        module = make_module(recipe.factory, recipe.options)
    known = type(module) is nn.Sequential and all(type(layer) in (nn.Linear, nn.Flatten, *ELEMENTWISE) for layer in module)
    whole = known and all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    return [type(layer).__name__ for layer in module] if whole else None  # type: ignore[attr-defined]


def fit_many(recipe: TorchRecipe, dataset: Dataset, parts: Sequence[Array], rngs: Sequence[Rng]) -> list[TorchModel]:
    """One model for each of ``parts``, the indices of the rows of the data set that it is trained on, with its own rng.

    ``layers_of(recipe)`` must not be None.

    Raises:
        InputError: if the recipe's ``start`` does not fit the module.
    """
    nets = [_start(recipe, int(rng.integers(2**31))) for rng in rngs]
    groups: dict[int, list[int]] = defaultdict(list)
    for number, part in enumerate(parts):
        groups[max(1, -(-len(part) // recipe.batch))].append(number)  # of as many steps an epoch
    stack = max(8, ROWS // max(1, min(recipe.batch, *(len(part) for part in parts))))
    stacks = [group[i : i + stack] for group in groups.values() for i in range(0, len(group), stack)]
    x = torch.as_tensor(dataset.x, dtype=torch.float32, device=recipe.device).reshape(len(dataset), -1)
    y = torch.as_tensor(dataset.y, device=recipe.device)

    def train(group: list[int]) -> None:
        _Stack(recipe, [nets[i] for i in group], x, y, [parts[i] for i in group]).train()

    with _a_thread_each(), ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in track(pool.map(train, stacks), label="stacks of nets", total=len(stacks)):
            pass
    address = _address(recipe.factory)
    return [TorchModel(module=module, space=dataset.space, classes=dataset.classes, device=recipe.device, factory=address, options=recipe.options)
            for module, _ in nets]  # fmt: skip


def ask_many(recipe: TorchRecipe, dataset: Dataset, parts: Sequence[Array], rngs: Sequence[Rng], x: Array) -> list[Array]:
    """The probabilities ``(n, k)`` that the models of ``fit_many`` give rows ``x`` ``(n, *shape)``."""
    models = fit_many(recipe, dataset, parts, rngs)
    with _a_thread_each():
        return [model.predict(x) for model in models]


@contextlib.contextmanager
def _a_thread_each() -> Iterator[None]:
    """Inside, products of one stack take one thread: they are too small to be shared, and stacks run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start(recipe: TorchRecipe, seed: int) -> tuple[Any, torch.Generator]:
    """A fresh net and the generator of its batches, as ``TorchRecipe.fit`` makes them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = make_module(recipe.factory, recipe.options).to(recipe.device)
    if recipe.start:
        load_weights(module, recipe.start, name="the weights to start from")
    return module, torch.Generator(device="cpu").manual_seed(seed)


class _Stack:
    """Nets that take the same number of steps, their weights in one tensor a layer."""

    def __init__(self, recipe: TorchRecipe, nets: Sequence[tuple[Any, torch.Generator]], x: Tensor, y: Tensor, parts: Sequence[Array]) -> None:
        self.recipe, self.modules, self.generators = recipe, [m for m, _ in nets], [g for _, g in nets]
        self.x, self.y, self.parts = x, y, [torch.as_tensor(np.asarray(p, np.int64)) for p in parts]
        self.weights = [self._stacked(i) if isinstance(layer, nn.Linear) else [] for i, layer in enumerate(self.modules[0])]
        parameters = [p for pair in self.weights for p in pair]
        self.optimizer = torch.optim.Adam(parameters, lr=recipe.rate, weight_decay=recipe.decay, fused=True)
        self.steps = max(1, -(-max(len(p) for p in parts) // recipe.batch))
        self.schedule = rate_schedule(self.optimizer, recipe.schedule, recipe.rate, recipe.epochs * self.steps)

    def _stacked(self, layer: int) -> list[Tensor]:
        """The weights ``(m, out, in)`` and, if there are any, biases ``(m, out)`` of one layer."""
        names = ["weight"] if self.modules[0][layer].bias is None else ["weight", "bias"]
        return [torch.stack([getattr(m[layer], name).detach() for m in self.modules]).requires_grad_(True) for name in names]

    def train(self) -> None:
        """Every epoch; the nets end with their weights, in inference mode."""
        batch = self.recipe.batch
        for _ in range(self.recipe.epochs):
            orders = [part[torch.randperm(len(part), generator=g)] for part, g in zip(self.parts, self.generators, strict=True)]
            order = nn.utils.rnn.pad_sequence(orders, batch_first=True, padding_value=-1).to(self.x.device)
            for step in range(self.steps):
                self._step(order[:, step * batch : (step + 1) * batch])
        with torch.no_grad():
            for layer, pair in enumerate(self.weights):
                for name, stacked in zip(("weight", "bias"), pair, strict=False):
                    for module, value in zip(self.modules, stacked, strict=True):
                        getattr(module[layer], name).copy_(value)
        for module in self.modules:
            module.eval()

    def _step(self, rows: Tensor) -> None:
        """One step of every net on its own rows ``(m, b)``, -1 where a net has none left."""
        there = rows >= 0
        rows = rows.clamp_min(0)
        logits = self._logits(self.x[rows])
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), self.y[rows].flatten(), reduction="none", label_smoothing=self.recipe.smoothing)
        losses = losses.reshape(there.shape) * there
        self.optimizer.zero_grad(set_to_none=True)
        (losses.sum(1) / there.sum(1).clamp_min(1)).sum().backward()
        self.optimizer.step()
        self.schedule.step()

    def _logits(self, x: Tensor) -> Tensor:
        """The answers ``(m, b, k)`` of each net to its own rows ``(m, b, d)``."""
        for layer, pair in zip(self.modules[0], self.weights, strict=True):
            if len(pair) == 2:
                x = torch.baddbmm(pair[1][:, None], x, pair[0].mT)
            elif pair:
                x = torch.bmm(x, pair[0].mT)
            elif not isinstance(layer, nn.Flatten):
                x = layer(x)
        return x
