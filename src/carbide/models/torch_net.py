"""Torch modules as models, and the recipe that trains them.

>>> import numpy as np
>>> from carbide.types import Space
>>> recipe = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 2, "classes": 2}, epochs=1)
>>> recipe.describe()["epochs"]
1
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carbide.models._answers import detect, probe_rows
from carbide.models._files import one_line
from carbide.models._fingerprint import fingerprint
from carbide.models.callables import resolve
from carbide.models.packing import allow_factory, check_allowed
from carbide.models.threads import one_if_small
from carbide.models.training import PRECISIONS, SCHEDULES, Objective, Perturb, Watch, train
from carbide.run import halving, rows_at_once
from carbide.stats.accounting import PrivacyStatement
from carbide.types import WHITE_BOX, Access, Array, Dataset, InputError, Rng, Space, rng_for

OUTPUTS = ("logits", "probabilities", "one logit", "one probability")
LIVE = "live:"  # begins the factory of a module that was given as it is: a copy of it stands in for a function that makes it
_templates: dict[str, nn.Module] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchModel:
    """A torch module in inference mode; ``outputs`` says whether it returns ``logits`` or ``probabilities`` ``(n, k)``.

    For two classes it may also return ``one logit`` or ``one probability`` a row, ``(n, 1)`` or ``(n,)``, of the second class.
    ``mended`` says what the door put right; ``privacy`` what differential privacy its training promises, if any.

    ``factory`` (``"package.module:function"``) and ``options`` say how an untrained copy is made; a model without them can
    be stored and read back only where the same live module is given again.
    """

    module: nn.Module
    space: Space
    classes: int
    outputs: str = "logits"
    device: str = "cpu"
    threshold: float = 0.5
    batch: int = 1024
    factory: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    mended: tuple[str, ...] = ()
    privacy: PrivacyStatement | None = None

    def __post_init__(self) -> None:
        if self.outputs not in OUTPUTS:
            raise InputError(f"outputs is {self.outputs!r}; choose {' or '.join(OUTPUTS)}")
        self.module.to(self.device).eval()

    @property
    def access(self) -> Access:
        """Everything: answers, gradients and weights."""
        return WHITE_BOX

    @property
    def apart(self) -> bool:
        """Whether copies in other processes answer alike and in the same time: on a processor."""
        return torch.device(self.device).type == "cpu"

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
        if self.outputs == "logits":
            return out
        if self.outputs.startswith("one "):
            second = out.reshape(len(out))
            first = torch.zeros_like(second) if self.outputs == "one logit" else 1 - second
            out = torch.stack([first, second], 1)
        return out if self.outputs == "one logit" else out.clamp_min(torch.finfo(out.dtype).tiny).log()

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))

        def answer() -> Array:
            size = rows_at_once(self.batch)
            with torch.no_grad():
                parts = [self.logits(self.tensor(x[i : i + size])).double().softmax(1).cpu() for i in range(0, len(x), size)]
            return torch.cat(parts).numpy()

        return halving(answer)

    def working(self) -> contextlib.AbstractContextManager[None]:
        """Inside, torch takes as many threads as the net is worth, see ``carbide.models.threads``."""
        return one_if_small(self.module, self.tensor(probe_rows(self.space, rng_for(0, "probe"))[:2]))

    def at(self, threshold: float) -> TorchModel:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the architecture's text, the code of its own classes and every parameter and buffer."""
        state = hashlib.sha256(f"{_text(self.module)}{self.outputs}{self.threshold}{_code(self.module)}".encode())
        for name, tensor in self.module.state_dict().items():
            state.update(name.encode())
            state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
        return state.hexdigest()

    def to_state(self) -> dict[str, Any]:
        """The weights as safetensors bytes and how the module is made."""
        return {"weights": weights_bytes(self.module), "factory": self.factory or keep_template(self.module), "options": dict(self.options),
                "space": self.space, "classes": self.classes, "outputs": self.outputs, "device": self.device, "threshold": self.threshold,
                "batch": self.batch, "mended": list(self.mended), **({} if self.privacy is None else {"privacy": self.privacy.to_state()})}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TorchModel:
        """The model of ``to_state``; only factories of Carbide or named by the user in this process are called."""
        factory, options = state["factory"], state["options"]
        if factory.startswith(LIVE):
            if factory not in _templates:
                raise InputError("a stored torch model was made from a live module that this process does not have; give the same module again, "
                                 "or a factory")  # fmt: skip
            module, factory = copy.deepcopy(_templates[factory]), ""
        else:
            check_allowed(factory)
            module = make_module(factory, options)
        load_weights(module, state["weights"], name="a stored model")
        device = state["device"] if not state["device"].startswith("cuda") or torch.cuda.is_available() else "cpu"
        kept = {k: v for k, v in state.items() if k not in ("weights", "device", "factory", "mended", "privacy")}
        privacy = PrivacyStatement.from_state(state["privacy"]) if state.get("privacy") else None
        return cls(module=module, **kept, device=device, factory=factory, mended=tuple(state.get("mended", ())), privacy=privacy)


def weights_bytes(module: nn.Module) -> bytes:
    """The module's parameters and buffers as the bytes of a safetensors file.

    Raises:
        InputError: if the module keeps something else in its state.
    """
    from safetensors.torch import save

    tensors = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{type(module).__name__} keeps a {type(tensor).__name__} named {name} in its state; keep tensors only")
        tensors[name] = tensor.detach().cpu().clone().contiguous()
    return save(tensors)


def load_weights(module: nn.Module, blob: bytes, *, name: str) -> None:
    """Put the tensors of a safetensors file into a module in place.

    Raises:
        InputError: if the file is broken or its tensors are not the module's.
    """
    from safetensors.torch import load

    try:
        tensors = load(blob)
    except Exception as error:  # safetensors and torch raise their own kinds on broken bytes
        raise InputError(f"{name} is no whole safetensors file ({one_line(error)}); save the weights again") from error
    put_tensors(module, tensors, name=name)


def put_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Put named tensors into a module in place.

    Raises:
        InputError: if a name or a shape differs from the module's, or a value is NaN.
    """
    own = module.state_dict()
    missing, extra = [key for key in own if key not in tensors], [key for key in tensors if key not in own]
    if missing or extra:
        raise InputError(
            f"{name} lacks {missing[:3]} and has {extra[:3]} besides what {type(module).__name__} holds; give the factory and options it "
            f"was saved from"
        )
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            raise InputError(
                f"{name} holds {key} of shape {tuple(tensor.shape)}, but the module's has {tuple(own[key].shape)}; give the options it was saved from"
            )
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise InputError(f"{name} holds NaN in {key}; train the model again or give an earlier file")
    module.load_state_dict(dict(tensors))


def keep_template(module: nn.Module) -> str:
    """Keep a copy of a live module, from which stored models of this process are made again; the name it is kept under."""
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)]
    key = LIVE + hashlib.sha256(f"{type(module).__module__}{_text(module)}{shapes}{_code(module)}".encode()).hexdigest()[:32]
    if key not in _templates:
        _templates[key] = copy.deepcopy(module).cpu()
    return key


def _text(module: nn.Module) -> str:
    """The module's printed form without memory addresses."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module))


def _code(module: nn.Module) -> list[str]:
    """What the classes of a module that are not torch's do, as text: an edited ``forward`` is another model, though it prints the same."""
    found = {}
    for kind in {type(part) for part in module.modules()}:
        code = getattr(kind.forward, "__code__", None)
        if code is not None and not kind.__module__.startswith("torch."):
            plain = [c for c in code.co_consts if isinstance(c, bool | int | float | str | type(None))]
            found[f"{kind.__module__}.{kind.__qualname__}"] = f"{code.co_code.hex()}{code.co_names}{plain}"
    return sorted(f"{name}:{said}" for name, said in found.items())


def probe_outputs(model: TorchModel, answers: str) -> TorchModel:
    """The model with ``outputs`` as declared (``auto`` = found out), after a few rows went through it.

    Raises:
        InputError: if the module fails on rows of the space, answers another shape or NaN, or its rows do not sum to one
            where probabilities are declared.
    """
    x = probe_rows(model.space, rng_for(0, "probe"))
    name = type(model.module).__name__
    before = {key: tensor.clone() for key, tensor in model.module.state_dict().items() if isinstance(tensor, Tensor)}
    try:
        with torch.no_grad():
            out = model.module(model.tensor(x))
    except Exception as error:  # a foreign module may fail with anything
        raise InputError(
            f"{name} fails on rows of shape {x.shape[1:]} ({type(error).__name__}: {one_line(error)}); give the data and space it was trained with"
        ) from error
    one = isinstance(out, Tensor) and model.classes == 2 and out.is_floating_point() and tuple(out.shape) in ((len(x),), (len(x), 1))
    if not one and (not isinstance(out, Tensor) or out.shape != (len(x), model.classes)):
        said = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        more = "" if not isinstance(out, Tensor) or out.shape != (len(x), model.classes + 1) else " (a detector's column must be left out)"
        raise InputError(f"{name} answers {said} for {len(x)} rows and {model.classes} classes; return logits of shape (n, {model.classes}){more}")
    now = {key: tensor for key, tensor in model.module.state_dict().items() if key in before}
    if any(not torch.equal(tensor.nan_to_num(), before[key].nan_to_num()) for key, tensor in now.items()):
        raise InputError(f"{name} changes its buffers while it answers in inference mode; make eval() freeze them")
    found = detect(out, classes=model.classes, name=name)
    if one:
        return _one_output(model, out, answers)
    if answers == "probabilities" and found != "probabilities":
        total = float(out[0].sum())
        raise InputError(
            f"{name} returns logits where probabilities are declared (its first row sums to {total:.4g}, not 1); declare logits or apply softmax"
        )
    return replace(model, outputs=found if answers == "auto" else answers)


def _one_output(model: TorchModel, out: Tensor, answers: str) -> TorchModel:
    """The model whose one number a row is the second class's; a number in [0, 1] on every row is read as a probability."""
    inside = bool(((out >= 0) & (out <= 1)).all())
    if answers == "probabilities" and not inside:
        raise InputError(f"{type(model.module).__name__} returns {float(out.flatten()[0]):.4g} where a probability is declared; declare logits or apply "
                         "a sigmoid")  # fmt: skip
    probability = answers == "probabilities" or (answers == "auto" and inside)
    return replace(model, outputs="one probability" if probability else "one logit", mended=(*model.mended, "one output"))


def make_module(factory: Any, options: Mapping[str, Any]) -> nn.Module:
    """The module that a factory (a callable or ``"package.module:name"``) makes with these options.

    Raises:
        InputError: if the factory cannot be imported or does not make a torch module.
    """
    made = resolve(factory) if isinstance(factory, str) else factory
    try:
        module = made(**options)
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise InputError(
            f"factory {_address(factory) or factory!r} failed with options {dict(options)} ({one_line(error)}); give the options it takes"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"factory {factory!r} made a {type(module).__name__}, not a torch.nn.Module; return the module")
    return module


def _address(factory: Any) -> str:
    """``"package.module:function"`` of a factory, empty where nothing can be found there again."""
    if isinstance(factory, str):
        return factory
    home, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "")
    if not home or home == "__main__" or not name or "<" in name:
        return ""
    return allow_factory(f"{home}:{name}")


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchRecipe:
    """Training of a torch classifier with cross-entropy, Adam and a learning rate that follows ``schedule``.

    ``perturb`` changes each batch before the step (adversarial training); ``smoothing`` is label smoothing; ``objective``
    takes the place of the cross-entropy (certified training), and then ``smoothing`` is not used. ``ema`` > 0 keeps the
    running mean of the weights with that decay; ``awp`` > 0 takes gradients at weights that were moved up the loss by that
    share of their norm; ``watch`` chooses weights on rows held out of the training rows; ``start`` is a safetensors file of
    weights from which training starts (empty = fresh ones). ``precision`` ``bfloat16`` takes the products of layers in half the
    bits while training (weights, sums of gradients and the trained model stay in float32): faster where the processor has
    such instructions (AVX512-BF16, AMX, CUDA), slower elsewhere. Everything is decided by the rng: two fits with the same state
    on the same machine give the same weights.
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
    objective: Objective | None = None
    schedule: str = "one-cycle"
    ema: float = 0.0
    awp: float = 0.0
    watch: Watch | None = None
    start: bytes = field(default=b"", repr=False)
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}; choose {' or '.join(PRECISIONS)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}; choose {', '.join(SCHEDULES)}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema is {self.ema}; give the decay of the weights' running mean in [0, 1), e.g. 0.995, 0 = none")
        if not (math.isfinite(self.awp) and self.awp >= 0):
            raise InputError(f"awp is {self.awp}; give a share of the weights' norm >= 0, e.g. 0.01")
        if isinstance(self.factory, str):
            allow_factory(self.factory)

    def fit(self, dataset: Dataset, rng: Rng) -> TorchModel:
        """A model trained on the data set, from fresh weights or from ``start``.

        Raises:
            InputError: if ``start`` does not fit the module.
        """
        seed = int(rng.integers(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the modules are made on the CPU; torch.manual_seed also queues calls for absent devices
            module = make_module(self.factory, self.options).to(self.device)
        if self.start:
            load_weights(module, self.start, name="the weights to start from")
        with one_if_small(module, torch.as_tensor(dataset.x[:2], dtype=torch.float32, device=self.device)):
            train(module, dataset, self, torch.Generator(device="cpu").manual_seed(seed))
        return TorchModel(
            module=module, space=dataset.space, classes=dataset.classes, device=self.device, factory=_address(self.factory), options=self.options
        )

    def many(self) -> bool:
        """Whether ``fit_many`` trains this recipe's nets at once: small perceptrons without extras, see ``carbide.models.stacked``."""
        from carbide.models.stacked import layers_of

        return layers_of(self) is not None

    def fit_many(self, dataset: Dataset, parts: Sequence[Array], rngs: Sequence[Rng]) -> list[TorchModel]:
        """A model for each of ``parts`` (indices of rows) with its rng: those of ``fit`` up to rounding, at once where ``many()`` is true."""
        if not self.many():
            return [self.fit(dataset.take(part), rng) for part, rng in zip(parts, rngs, strict=True)]
        from carbide.models.stacked import fit_many

        return fit_many(self, dataset, parts, rngs)

    def ask_many(self, dataset: Dataset, parts: Sequence[Array], rngs: Sequence[Rng], x: Array) -> list[Array]:
        """The probabilities ``(n, k)`` that the models of ``fit_many`` give rows ``x``; ``many()`` must be true."""
        from carbide.models.stacked import ask_many

        return ask_many(self, dataset, parts, rngs, x)

    def starting_from(self, model: Any) -> TorchRecipe:
        """The same recipe, starting from a torch model's weights.

        Raises:
            InputError: if the model is no torch model.
        """
        if not isinstance(getattr(model, "module", None), nn.Module):
            raise InputError(f"the model is a {type(model).__name__}, which has no weights to start from; choose start: scratch")
        return replace(self, start=weights_bytes(model.module))

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "device"}
        said["factory"] = (
            _address(self.factory) or f"{getattr(self.factory, '__qualname__', type(self.factory).__name__)}#{fingerprint(self.factory)[:16]}"
        )
        said["options"] = dict(self.options)
        said["perturb"] = repr(self.perturb)
        said["objective"] = repr(self.objective)
        said["watch"] = repr(self.watch)
        said["start"] = hashlib.sha256(self.start).hexdigest() if self.start else "fresh weights"
        return {"recipe": "torch", **said}


def with_module(model: Any, module: nn.Module) -> TorchModel:
    """A torch model (or another library's, read as a net) with a module in the place of its own."""
    if isinstance(model, TorchModel):
        return replace(model, module=module)
    return TorchModel(module=module, space=model.space, classes=model.classes, outputs=model.outputs, device=model.device, threshold=model.threshold)


def clone(module: nn.Module) -> nn.Module:
    """An independent copy of a module."""
    return copy.deepcopy(module)
