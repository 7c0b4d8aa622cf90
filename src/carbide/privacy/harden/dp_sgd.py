"""Abadi et al. 2016, https://arxiv.org/abs/1607.00133: DP-SGD, training on noisy sums of gradients cut row by row, here of torch nets.

No row moves a step by more than the clip, and the noise hides moves of that size: what any attacker, whatever he knows, can tell about a
row's presence is bounded by the account that goes with the model.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import Membership
>>> plain = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 4, "classes": 2}, epochs=10, batch=64)
>>> hardened = DPSGD(epsilon=2.0)(plain, Membership())
>>> hardened.privacy.words(), hardened.inner.batch, hardened.inner.epochs
('(2, 1e-05)-differentially private under adding or removing one record', 512, 20)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from carbide.privacy.statement import SEEN
from carbide.registry import Method
from carbide.stats.accounting import check_promise
from carbide.types import Case, InputError, Membership, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class DPSGD(Method):
    """Trains the recipe's net with an accounted (epsilon, delta); the account is for adding or removing one row.

    Private training gains from large batches and more epochs: ``widen`` times the recipe's batch, ``stretch`` times its epochs. ``clip`` is
    the length to which each row's gradient is cut, ``rate`` that of SGD with momentum in units of it; the recipe's rate and weight
    decay are not used. ``ema`` > 0 keeps the running mean of the weights, which costs no privacy.
    """

    threats = (Membership,)
    trains: ClassVar[bool] = True
    default: ClassVar[bool] = False
    epsilon: float = 3.0
    delta: float = 1e-5
    clip: float = 1.0
    rate: float = 1.0
    widen: float = 8.0
    stretch: float = 2.0
    ema: float = 0.0
    way: str = "auto"
    batch_norm: str = "replace"
    secret_noise: bool = False

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta, clip=self.clip, rate=self.rate, widen=self.widen, stretch=self.stretch)
        if not 0 <= self.ema < 1:
            raise InputError(f"ema is {self.ema}; give the decay of the weights' running mean in [0, 1), e.g. 0.99")
        for name, known in (("way", ("auto", "book-keeping", "vmap")), ("batch_norm", ("replace", "refuse"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose {', '.join(known)}")

    def __call__(self, recipe: Recipe, threat: Threat) -> Recipe:
        """The private recipe.

        Raises:
            InputError: if the recipe trains no torch net, or does something with rows that is not accounted.
        """
        if not _trains_nets(recipe):
            raise InputError(f"recipe {type(recipe).__name__} trains no torch net; give recipe: {{torch: ...}}, or harden with private_logistic")
        from carbide.privacy.dp_sgd import PrivateTorchRecipe

        inner: Any = recipe
        changed = replace(inner, batch=max(1, round(self.widen * inner.batch)), epochs=max(1, round(self.stretch * inner.epochs)),
                          ema=self.ema)  # fmt: skip
        return PrivateTorchRecipe(inner=changed, epsilon=self.epsilon, delta=self.delta, clip=self.clip, rate=self.rate, way=self.way,
                                  batch_norm=self.batch_norm, secret_noise=self.secret_noise)  # fmt: skip

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The recipe must train a torch net on features of declared bounds, and delta must be below one over the number of rows."""
        if not _trains_nets(case.recipe):
            return "the recipe trains no torch net; private_logistic trains tables"
        if self.delta * len(case.data.train) >= 1:
            return f"delta {self.delta:g} is not below one over the {len(case.data.train)} training rows; give a smaller delta"
        return SEEN if case.data.train.space.from_rows else None

    def strengths(self) -> tuple[Method, ...]:
        """Four times the epsilon, then the epsilon asked for."""
        return (replace(self, epsilon=4 * self.epsilon), self)


def _trains_nets(recipe: Any) -> bool:
    return all(hasattr(recipe, name) for name in ("perturb", "objective", "batch", "epochs"))
