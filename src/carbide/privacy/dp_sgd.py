"""Abadi et al. 2016, https://arxiv.org/abs/1607.00133: torch nets trained on noisy sums of cut gradients, and the account of it.

Every step draws each row with the same probability, cuts each drawn row's gradient to ``clip``, adds Gaussian noise to the sum and divides
by the batch size that was expected. The noise is the least with which all steps together are (epsilon, delta)-differentially private.

>>> from carbide.models.torch_net import TorchRecipe
>>> inner = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 4, "classes": 2}, epochs=10, batch=50)
>>> recipe = PrivateTorchRecipe(inner=inner, epsilon=2.0, delta=1e-5)
>>> steps = recipe.steps(rows=1000)
>>> round(steps.noise, 3), steps.rate, steps.count
(1.672, 0.05, 200)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from carbide.models._answers import probe_rows
from carbide.models.per_sample import WAYS, group_normed, noisy_gradients_, poisson_rows, refuse_mixing, trainable, way_for
from carbide.models.torch_net import TorchModel, TorchRecipe, _address, load_weights, make_module
from carbide.models.training import Average, _put, by_channel, rate_schedule
from carbide.privacy.statement import refuse_seen
from carbide.run import current, track
from carbide.stats.accounting import ADD_OR_REMOVE, PrivacyStatement, check_promise, check_rows
from carbide.stats.rdp import Steps
from carbide.stats.spending import Spending, noise_multiplier
from carbide.types import Dataset, InputError, Rng, rng_for

PROBED = 6  # made-up rows on which a net is tried before training
BATCH_NORMS = ("replace", "refuse")
ASSUMPTIONS = (
    "the number of rows, the bounds of the space and the classes are public",
    "the settings of the training were fixed beforehand; choosing among trained models by validation rows is not accounted for these rows",
    "each person has one row, and no step before this training looked at several rows together (cleaning, resampling, selecting features)",
    "what is published is the trained model; which rows were drawn in which step stays secret",
    "noise in single-precision numbers counts as exact Gaussian noise",
)
SEEDED = "the seed that rows and noise were drawn from stays secret, or secret_noise is set (a published seed lets everybody subtract the noise)"
STARTED = "the weights that training started from were not trained on these rows"


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateTorchRecipe:
    """Trains the net of ``inner`` with (``epsilon``, ``delta``)-differential privacy under adding or removing one row.

    ``inner`` gives the net, epochs, batch (expected), the schedule of the rate, label smoothing and the running mean of the weights. Steps are
    those of SGD with ``momentum``: ``rate`` times the noisy mean of gradients in units of ``clip``, the length to which each row's gradient
    is cut, so that another clip needs no other rate. ``way`` is how gradients are cut: book-keeping, vmap, or auto.
    ``batch_norm``: layers that mix rows are replaced by group normalisation or refused. ``secret_noise`` draws rows and noise from
    the operating system: nobody can repeat the training.
    """

    inner: TorchRecipe
    epsilon: float = 3.0
    delta: float = 1e-5
    clip: float = 1.0
    rate: float = 1.0
    momentum: float = 0.9
    way: str = "auto"
    batch_norm: str = "replace"
    secret_noise: bool = False

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta, clip=self.clip, rate=self.rate)
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum}; give a share in [0, 1)")
        if self.way not in WAYS:
            raise InputError(f"way is {self.way!r}; choose {', '.join(WAYS)}")
        if self.batch_norm not in BATCH_NORMS:
            raise InputError(f"batch_norm is {self.batch_norm!r}; choose {' or '.join(BATCH_NORMS)}")
        for name in ("perturb", "objective", "watch", "awp"):
            if getattr(self.inner, name):
                raise InputError(f"the recipe sets {name}, which looks at training rows in a way that is not accounted; leave it out")
        if self.inner.precision != "float32":
            raise InputError(f"precision is {self.inner.precision!r}; private training needs float32")

    @functools.cached_property
    def privacy(self) -> PrivacyStatement:
        """What every model that this recipe trains promises at least, whatever the rows; a trained model's own bounds attacks more tightly."""
        return PrivacyStatement(epsilon=self.epsilon, delta=self.delta, adjacency=ADD_OR_REMOVE, assumptions=self._assumptions)

    @property
    def _assumptions(self) -> tuple[str, ...]:
        return (*ASSUMPTIONS, *(() if self.secret_noise else (SEEDED,)), *((STARTED,) if self.inner.start else ()))

    def steps(self, *, rows: int) -> Steps:
        """The steps of a training on so many rows, with the least noise that keeps the promise.

        Raises:
            InputError: if delta is not below one over the number of rows.
        """
        check_rows(self.delta, rows)
        rate = min(1.0, self.inner.batch / rows)
        count = max(1, round(self.inner.epochs / rate))
        return Steps(noise=noise_multiplier(epsilon=self.epsilon, delta=self.delta, rate=rate, count=count), rate=rate, count=count)

    def fit(self, dataset: Dataset, rng: Rng) -> TorchModel:
        """A model trained on the data set; rows and noise are drawn from the rng, once for each step.

        Raises:
            InputError: if delta is not below one over the number of rows, bounds were read off the rows, or the net has layers that mix rows.
        """
        refuse_seen(dataset.space)
        steps, seed = self.steps(rows=len(dataset)), int(rng.integers(2**31))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
        if self.secret_noise:
            generator.seed()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module, replaced = self._module()
        if self.inner.start:
            load_weights(module, self.inner.start, name="the weights to start from")
        way = self._tried(module, dataset)
        with torch.random.fork_rng(devices=[]):  # dropout draws from here
            torch.default_generator.manual_seed(seed + 1)
            _train(module, dataset, self, steps, way, generator)
        factory, options = _address(self.inner.factory), dict(self.inner.options)
        if replaced and factory:
            factory, options = "carbide.models.nets:without_batch_norm", {"factory": factory, "options": options}
        return TorchModel(module=module, space=dataset.space, classes=dataset.classes, device=self.inner.device, factory=factory, options=options,
                          privacy=_statement(steps, self.epsilon, self.delta, self._assumptions))  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        own = {name: getattr(self, name) for name in ("epsilon", "delta", "clip", "rate", "momentum", "way", "batch_norm", "secret_noise")}
        return {"recipe": "private torch", **own, "inner": self.inner.describe()}

    def _module(self) -> tuple[nn.Module, bool]:
        """The net to train, and whether batch norm was replaced in it."""
        module = make_module(self.inner.factory, self.inner.options)
        if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
            return module.to(self.inner.device), False
        if self.batch_norm == "refuse":
            raise InputError(f"{type(module).__name__} has batch normalisation, which mixes rows, so that no row's influence can be bounded; "
                             "use GroupNorm, or set batch_norm: replace")  # fmt: skip
        group_normed(module)
        current().progress.say("private training: batch norm mixes rows, so group norm stands in its place")
        return module.to(self.inner.device), True

    def _tried(self, module: nn.Module, dataset: Dataset) -> str:
        """The way of clipping that is right for the net, found on made-up rows: the training rows are not looked at for it."""
        rows = probe_rows(dataset.space, rng_for(0, "private training"), PROBED)
        x = torch.as_tensor(rows, dtype=torch.float32, device=self.inner.device)
        y = torch.arange(len(x), device=self.inner.device) % dataset.classes
        refuse_mixing(module, x, y)
        return way_for(module, x, y) if self.way == "auto" else self.way


@functools.lru_cache(maxsize=256)
def _statement(steps: Steps, epsilon: float, delta: float, assumptions: tuple[str, ...]) -> PrivacyStatement:
    return Spending([steps]).statement(delta, epsilon=epsilon, assumptions=assumptions)


def _losses(smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)


def _train(module: nn.Module, dataset: Dataset, recipe: PrivateTorchRecipe, steps: Steps, way: str, generator: torch.Generator) -> None:
    """Take the steps; the module ends in inference mode."""
    inner = recipe.inner
    x = torch.as_tensor(dataset.x, dtype=torch.float32, device=inner.device)
    y = torch.as_tensor(dataset.y, device=inner.device)
    if by_channel(module, x[:2]):
        x = x.contiguous(memory_format=torch.channels_last)
    rate = recipe.rate / recipe.clip
    optimizer = torch.optim.SGD(trainable(module), lr=rate, momentum=recipe.momentum)
    schedule = rate_schedule(optimizer, inner.schedule, rate, steps.count)
    average = Average(module, inner.ema) if inner.ema else None
    loss, expected = _losses(inner.smoothing), steps.rate * len(x)
    module.train()
    for _ in track(range(steps.count), label="private training steps"):
        rows = poisson_rows(len(x), steps.rate, generator).to(x.device)
        noisy_gradients_(module, x[rows], y[rows], clip=recipe.clip, noise=steps.noise, expected=expected, generator=generator, loss=loss, way=way)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update()
    if average is not None:
        _put(average.live, average.mean)
    module.eval()
