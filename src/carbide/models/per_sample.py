"""Bu et al. 2022, https://arxiv.org/abs/2210.00038: each row's gradient cut to a length and added up, in one backward pass.

``clipped_sum`` goes once back to the outputs of the layers, reads each row's gradient length off their inputs and gradients, and adds up
the cut gradients without a second pass (book-keeping). Where a net has other layers with parameters, it takes each row's gradient by
``torch.func`` (vmap). The other functions are what private training needs besides: they drop into any loop.

>>> net, rng = nn.Linear(3, 2), torch.Generator().manual_seed(0)
>>> x, y = torch.randn(8, 3, generator=rng), torch.zeros(8, dtype=torch.long)
>>> found = clipped_sum(net, x, y, clip=0.1)
>>> [tuple(g.shape) for g in found.gradients], bool((found.norms > 0).all())
([(2, 3), (2,)], True)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from carbide.models._per_sample_rules import Piece, added, kept, length, rule_of
from carbide.types import InputError

WAYS = ("auto", "book-keeping", "vmap")
LOOKED_AT = 4  # rows on which auto sees which way is right
_FOUND: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], str]] = WeakKeyDictionary()  # the way that was right, and for which parameters
ROUNDING = 1e-6  # relative: a gradient is cut to this much less, so that rounding leaves it within the clip


class Clipped(NamedTuple):
    """The sum of the cut gradients, a tensor for each trainable parameter in the module's order, and the lengths ``(n,)`` before the cut.

    Rows whose gradient is not finite count as zero, and their length is inf.
    """

    gradients: list[Tensor]
    norms: Tensor


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """The loss of each row, ``(n,)``."""
    return F.cross_entropy(logits, y, reduction="none")


def trainable(module: nn.Module) -> list[Tensor]:
    """The parameters that are trained, in the module's order."""
    return [p for p in module.parameters() if p.requires_grad]


def clipped_sum(module: nn.Module, x: Tensor, y: Tensor, *, clip: float, **options: Any) -> Clipped:
    """The sum over rows of ``min(1, clip / length) gradient``; the module's ``.grad`` are left alone.

    ``options`` are those of ``add_clipped_``.
    """
    totals = [torch.zeros_like(p, requires_grad=False, memory_format=torch.contiguous_format) for p in trainable(module)]
    return Clipped(totals, add_clipped_(totals, module, x, y, clip=clip, **options))


def add_clipped_(
    totals: Sequence[Tensor], module: nn.Module, x: Tensor, y: Tensor, *, clip: float, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropies,
    way: str = "auto", scale: float = 1.0, repeats: int = 1,
) -> Tensor:  # fmt: skip
    """Add ``scale`` times the sum of the cut gradients to ``totals``, one contiguous tensor a trainable parameter; the rows' lengths ``(n,)``.

    ``x`` is ``(n * repeats, *shape)`` and ``y`` ``(n * repeats,)``: ``repeats`` neighbouring rows, say augmented copies, belong to one person,
    and the mean of their gradients is cut (De et al. 2022, https://arxiv.org/abs/2204.13650). ``loss`` gives each row's loss. No layer may
    mix rows (see ``refuse_mixing``). ``way`` is book-keeping, vmap or auto: book-keeping wherever it knows all layers and gave autograd's
    gradient on the first rows that the module was seen with (see ``way_for``), else vmap.

    Raises:
        InputError: if the clip is not positive, the way not known, the module has layers that the way does not know, or no way is right.
    """
    if not clip > 0:
        raise InputError(f"clip is {clip}; give a length > 0")
    if way not in WAYS:
        raise InputError(f"way is {way!r}; choose {', '.join(WAYS)}")
    if len(x) == 0:
        return x.new_zeros(0, dtype=totals[0].dtype)
    with torch.enable_grad():
        way = _right_way(module, x, y, loss) if way == "auto" else way
        if way == "book-keeping" and (unknown := unknown_layers(module)):
            raise InputError(f"book-keeping does not know {', '.join(unknown)}; choose way: vmap")
        pieces = (_book if way == "book-keeping" else _vmapped)(module, x, y, loss, repeats)
    with torch.no_grad():
        norms = length(pieces)
        if not bool(torch.isfinite(norms.sum())) and not bool((sound := torch.isfinite(norms)).all()):
            keep = sound.repeat_interleave(repeats)  # otherwise one broken row would show in every weight
            lengths = torch.full_like(norms, torch.inf)
            lengths[sound] = add_clipped_(totals, module, x[keep], y[keep], clip=clip, loss=loss, way=way, scale=scale, repeats=repeats)
            return lengths
        weights = scale * clip / (norms * (1 + ROUNDING)).clamp_min(clip)
        for piece, total in zip(pieces, totals, strict=True):
            piece.add_(total, weights)
    return norms


def _right_way(module: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> str:
    """``way_for`` on the first sound rows, asked once for a module and its trained parameters; vmap, which knows every use, where none are sound."""
    key = tuple(id(p) for p in trainable(module))
    if (found := _FOUND.get(module)) is not None and found[0] == key:
        return found[1]
    if unknown_layers(module):
        return "vmap"
    rows = torch.isfinite(x).flatten(1).all(1).nonzero()[:LOOKED_AT, 0]
    with _still(module):
        slopes = _autograd(module, x[rows], y[rows], loss) if len(rows) else [x.new_full((), torch.nan)]
    if not all(bool(torch.isfinite(slope).all()) for slope in slopes if slope is not None):
        return "vmap"
    way = way_for(module, x[rows], y[rows], loss)
    _FOUND[module] = (key, way)
    return way


def unknown_layers(module: nn.Module) -> list[str]:
    """The layers with trained parameters that book-keeping does not know, by their class and name; two layers that share one count too."""
    found, owners = [], defaultdict(list)
    for name, layer in module.named_modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        for parameter in own:
            owners[id(parameter)].append(name)
        if own and rule_of(layer) is None:
            found.append(f"{type(layer).__name__} {name}".rstrip())
    return found + [f"the weights shared by {' and '.join(names)}" for names in owners.values() if len(names) > 1]


def _book(module: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor], repeats: int) -> list[Piece]:
    """One piece a parameter, from one backward pass to the outputs of the layers that have some."""
    calls: list[tuple[nn.Module, Tensor, int, Any]] = []

    def note(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        calls.append((layer, args[0].detach(), args[0]._version, get_gradient_edge(out)))

    layers = [layer for layer in module.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        total = loss(module(x), y).sum() / repeats
    finally:
        for hook in hooks:
            hook.remove()
    slopes = torch.autograd.grad(total, [edge for *_, edge in calls], allow_unused=True)
    pieces: dict[int, list[Piece]] = defaultdict(list)
    with torch.no_grad():
        for (layer, a, version, _), g in zip(calls, slopes, strict=True):
            if a._version != version:
                raise InputError(f"the input of {type(layer).__name__} is changed in place after it was used; choose way: vmap")
            if g is not None:
                rule: Any = rule_of(layer)
                for name, piece in rule(layer, a, g, len(x) // repeats).items():
                    pieces[id(getattr(layer, name))].append(piece)
        return [_one(pieces[id(p)], p, len(x) // repeats) for p in trainable(module)]


def _one(pieces: list[Piece], parameter: Tensor, rows: int) -> Piece:
    if not pieces:  # it was not used
        return Piece(parameter.new_zeros(rows), lambda total, weights: total)
    return pieces[0] if len(pieces) == 1 else added(pieces, parameter)


def _vmapped(module: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor], repeats: int) -> list[Piece]:
    """One piece a parameter, each row's gradient made by ``torch.func``."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    others = {name: t for name, t in (*module.named_parameters(), *module.named_buffers()) if name not in trained}

    def one(parameters: dict[str, Tensor], rows: Tensor, labels: Tensor) -> Tensor:
        return loss(torch.func.functional_call(module, (parameters, others), (rows,)), labels).mean()

    held = {name: p.detach() for name, p in trained.items()}
    x, y = (t.reshape(len(x) // repeats, repeats, *t.shape[1:]) for t in (x, y))
    try:
        each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0), randomness="different")(held, x, y)
    except RuntimeError as error:
        raise InputError(f"{type(module).__name__} has an operation that torch.func cannot take row by row ({str(error).splitlines()[0]}); "
                         "leave it out of the net that is trained privately") from error  # fmt: skip
    return [kept(each[name]) for name in trained]


def poisson_rows(n: int, rate: float, generator: torch.Generator) -> Tensor:
    """The indices of the rows of one step: each of ``n`` is drawn with probability ``rate``, independently; there may be none."""
    return torch.nonzero(torch.rand(n, dtype=torch.float64, generator=generator) < rate)[:, 0]


def noisy_gradients_(
    module: nn.Module, x: Tensor, y: Tensor, *, clip: float, noise: float, expected: float, generator: torch.Generator, chunk: int = 512, **options: Any
) -> Tensor:  # fmt: skip
    """Set every trained parameter's ``.grad``, in place where there is one, to ``(sum of cut gradients + noise * clip * N(0, 1)) / expected``; return the rows' lengths.

    ``expected`` is the batch size expected before it was drawn: dividing by the drawn one would depend on the rows. At most ``chunk``
    people's rows are taken at once; the noise is drawn once for all of them. Further ``options`` are those of ``clipped_sum``.
    """
    parameters, size = trainable(module), chunk * options.get("repeats", 1)
    key = int(torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator, device=generator.device))
    totals = [_drawn(p, noise * clip / expected, generator, key, i) for i, p in enumerate(parameters)]
    parts = range(0, max(1, len(x)), size)
    norms = [add_clipped_(totals, module, x[i : i + size], y[i : i + size], clip=clip, scale=1 / expected, **options) for i in parts]
    for parameter, total in zip(parameters, totals, strict=True):
        parameter.grad = total
    return torch.cat(norms)


def _drawn(parameter: Tensor, deviation: float, generator: torch.Generator, key: int, stream: int) -> Tensor:
    """Noise of a parameter's shape, in the memory of its gradient where that can be used again: getting new memory takes time.

    A generator of the processor gives the ``key`` alone for numbers in single precision, which ``fill_normal`` makes much faster.
    """
    place = parameter.grad
    if place is None or not place.is_contiguous() or place.shape != parameter.shape or place.requires_grad:
        place = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    if generator.device.type != "cpu":
        return place.normal_(0.0, deviation, generator=generator)
    made = place if place.device.type == "cpu" else torch.empty(parameter.shape, dtype=parameter.dtype)
    if made.dtype != torch.float32:
        made.normal_(0.0, deviation, generator=generator)
    else:
        from carbide.models._noise import fill_normal  # compiled code, which most that import this module do not need

        fill_normal(made.detach().view(-1).numpy(), key=key, stream=stream, deviation=deviation)
    return made if made is place else place.copy_(made)


def refuse_mixing(module: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropies) -> None:
    """See on some rows ``(n >= 2)``, of which the first is changed and left out, that the module keeps rows apart while it trains.

    Raises:
        InputError: if a row's answer depends on the other rows or on their number, or if the module's buffers change in training.
    """
    training, before = module.training, {name: b.clone() for name, b in module.named_buffers()}
    module.train()
    try:
        with torch.no_grad():
            answers = _same_draws(module, x)
            moved = _same_draws(module, torch.cat([x.roll(1, -1)[:1] * 3 + 1, x[1:]]) if x.is_floating_point() else torch.cat([x[1:2], x[1:]]))
            quiet = torch.equal(answers, _same_draws(module, x, seed=1))
            fewer = _same_draws(module, x[1:]) if quiet else answers[1:]
            changed = [name for name, b in module.named_buffers() if not torch.equal(b, before[name])]
            for name, buffer in module.named_buffers():
                buffer.copy_(before[name])
    finally:
        module.train(training)
    if changed:
        raise InputError(f"{type(module).__name__} keeps {changed[0]}, which training changes without noise; leave out layers that keep statistics")
    for other in (moved[1:], fewer):
        if not torch.allclose(answers[1:], other, rtol=1e-3, atol=1e-4 * float(answers.abs().max().clamp_min(1e-3))):
            raise InputError(f"{type(module).__name__} answers a row otherwise when other rows of the batch change, so one person's row moves all gradients; "
                             "use layers that keep rows apart (GroupNorm or LayerNorm instead of BatchNorm)")  # fmt: skip


def _same_draws(module: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """The answers, with the same draws (dropout) every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return module(x)


def way_for(module: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropies) -> str:
    """The way of ``clipped_sum`` that is right for the module, seen on some rows: uncut, its sum must be the gradient that autograd gives.

    Book-keeping sees what layers do with their parameters; a net that uses a layer's weight elsewhere too goes by vmap.

    Raises:
        InputError: if neither way gives autograd's gradient.
    """
    with _still(module):
        truth = _autograd(module, x, y, loss)
        for way in ("book-keeping", "vmap"):
            torch.default_generator.manual_seed(0)
            if (way == "vmap" or not unknown_layers(module)) and _agrees(clipped_sum(module, x, y, clip=1e12, loss=loss, way=way).gradients, truth):
                return way
    raise InputError(f"no way of clipping gives the gradients of {type(module).__name__}; use plain layers")


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """The module without dropout, each layer's mode and the random numbers as they were afterwards."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for layer, training in modes:
            layer.training = training


def _autograd(module: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Sequence[Tensor | None]:
    """The gradient of the summed loss."""
    torch.default_generator.manual_seed(0)
    return torch.autograd.grad(loss(module(x), y).sum(), trainable(module), allow_unused=True)


def _agrees(found: Sequence[Tensor], truth: Sequence[Tensor | None]) -> bool:
    most = max((float(t.abs().max()) for t in truth if t is not None), default=0.0)
    return all(
        torch.allclose(f, torch.zeros_like(f) if t is None else t, rtol=1e-2, atol=1e-3 * most + 1e-7) for f, t in zip(found, truth, strict=True)
    )


def group_normed(module: nn.Module) -> bool:
    """Put a ``GroupNorm`` in the place of every ``BatchNorm``, in place; whether there was one."""
    found = False
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                groups = next(g for g in range(min(32, layer.num_features), 0, -1) if layer.num_features % g == 0)
                setattr(parent, name, nn.GroupNorm(groups, layer.num_features, eps=layer.eps, affine=layer.affine))
                found = True
    return found
