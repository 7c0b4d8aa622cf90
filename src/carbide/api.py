"""The verbs as Python functions: live models and arrays go in as they are, a ``Report`` comes back.

>>> from sklearn.datasets import load_iris
>>> from sklearn.linear_model import LogisticRegression
>>> x, y = load_iris(return_X_y=True)
>>> report = audit(LogisticRegression(max_iter=500).fit(x, y), (x, y), threats=[{"extraction": {"queries": 20}}], quiet=True)
>>> report.results.plain.sections[0].headline().metric
'fidelity'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carbide._audit import Ask
from carbide._harden import Budget
from carbide.pipeline import Job, Report, execute
from carbide.plan import Plan, make_ask, read_plan
from carbide.types import Dataset, InputError, Model, OperatingPoint, PriceTable, Recipe, Space, Splits, Threat, digest


def audit(model: Any, data: Any, *, threats: Sequence[Any], recipe: Any = None, **settings: Any) -> Report:
    """How far real attackers get against a model.

    Args:
        model: a fitted scikit-learn, XGBoost, LightGBM or CatBoost model, a torch module, a callable, or a model of Carbide.
        data: ``Splits``, ``(x, y)`` (cut 60/20/20 by the seed), ``{"train": (x, y), "test": (x, y)}``, a path or the name of a built-in case.
        threats: nouns such as ``LpBall(eps=0.1)`` or plan entries such as ``{"membership": {}}``.
        recipe: how the model is trained: an unfitted estimator, a plan's recipe mapping, or a ``Recipe``; poisoning and LiRA need it.
        settings: ``space``, ``false_positive_rate``, ``seed``, ``out`` (run folder), ``attack_rows`` (1,000), ``workers``, ``quiet``, ``gate``, ``title``,
            ``properties`` (claims such as ``Monotone(feature="debt")``, or plan entries; with them ``threats`` may be empty).

    Raises:
        InputError: if anything given is wrong.
    """
    return _do(("audit",), model, data, threats, recipe, settings)


def harden(recipe: Any, data: Any, *, threats: Sequence[Any], model: Any = None, accuracy_loss: float = 0.02, **settings: Any) -> Report:
    """A model that attackers get less far against, and what it cost: audit, train, audit again, prove.

    ``report.model`` is the hardened model, ``report.recipe`` trains it again. Arguments as in ``audit``; ``model`` is the
    one in use (None = the recipe trains it), ``accuracy_loss`` the share of clean performance that may be lost.
    """
    return _do(("audit", "harden", "prove"), model, data, threats, recipe, {**settings, "budget": Budget(accuracy_loss=accuracy_loss)})


def prove(model: Any, data: Any, *, threats: Sequence[Any], recipe: Any = None, **settings: Any) -> Report:
    """What no attacker of the stated kind can do, beside what attackers did. Arguments as in ``audit``."""
    return _do(("audit", "prove"), model, data, threats, recipe, settings)


def prove_property(net: str | Path, unsafe: Any, *, timeout: float = 60.0, seed: int = 0) -> Any:
    """Whether the net of an ONNX file can do what a VNN-LIB property forbids, as a ``PropertyReport``; see ``carbide._pairs``."""
    from carbide._pairs import prove_property as prove_one

    return prove_one(net, unsafe, timeout=timeout, seed=seed)


def prove_claims(model: Any, claims: Sequence[Any], **settings: Any) -> Any:
    """Whether a tree model keeps claims about every row there is, as a list of ``ClaimVerdict``; see ``carbide._claims``."""
    from carbide._claims import prove_claims as prove_all

    return prove_all(model, claims, **settings)


def load_model(source: Any, *, space: Space, classes: int, **options: Any) -> Model:
    """A model from a file, a plan's mapping or a live object; no code runs from a file. See ``carbide.models``."""
    from carbide.models import load_model as load

    return load(source, space=space, classes=classes, **options)


def load_data(source: Any, **options: Any) -> Splits:
    """Train, validation and test rows from a file, a folder or a built-in case. See ``carbide.data``."""
    from carbide.data import load_data as load

    return load(source, **options).splits


def run(plan: Any, *, out: str | Path | None = None, verbs: Sequence[str] = ("audit", "harden", "prove"), **settings: Any) -> Report:
    """Do the verbs on a plan (a path or a mapping), as the command line does."""
    return run_plan(Path(plan) if isinstance(plan, str) else plan, out=None if out is None else Path(out), verbs=verbs, **settings)


def run_plan(plan: Path | Mapping[str, Any], *, out: Path | None, verbs: Sequence[str], workers: int | None = None, quiet: bool | None = None,
             trust: bool = False) -> Report:  # fmt: skip
    """Do the verbs on a plan; ``out`` None = a folder under ``runs/`` named after the plan, the same one each time."""
    checked, base = read_plan(plan)
    resolved = checked.model_dump(mode="json", exclude_defaults=True) | {"seed": checked.seed}
    title = checked.title or (plan.stem if isinstance(plan, Path) else "run")
    folder = out if out is not None else Path("runs") / f"{title}-{digest(resolved)[:8]}"
    job = job_of(checked, base, title=title, resolved=resolved, trust=trust)
    return execute(job, out=folder, verbs=verbs, workers=workers, quiet=quiet)


def job_of(plan: Plan, base: Path, *, title: str, resolved: Mapping[str, Any], trust: bool = False) -> Job:
    """The job that a checked plan describes; its paths are read against ``base``.

    Raises:
        InputError: if a file that the plan names is missing or wrong.
    """
    from carbide.models import load_model as load
    from carbide.models import make_recipe

    splits, notes, prices = _plan_data(plan, base)
    space, classes = splits.train.space, splits.train.classes
    recipe = None if plan.recipe is None else make_recipe(_at(plan.recipe, base), space=space, classes=classes)
    model = None if plan.model is None else load(_at(plan.model, base), space=space, classes=classes, trust=trust)
    asks = tuple(make_ask(entry, space=space, base=base, prices=prices) for entry in plan.threats)
    properties = _stated(plan.properties, splits, prices, base)
    return Job(title=title, data=splits, asks=asks, model=model, recipe=recipe, point=plan.point(), budget=plan.budget(), gate=plan.gate, seed=plan.seed,
               rows=plan.attack_rows, plan=resolved, notes=notes, positives=plan.data.positives, properties=properties)  # fmt: skip


def _stated(properties: Sequence[Any], splits: Splits, prices: PriceTable | None, base: Path) -> tuple[Any, ...]:
    if not properties:
        return ()
    from carbide._claims import stated

    return stated(properties, space=splits.train.space, base=base, prices=prices, rows=splits.test.x)


def _plan_data(plan: Plan, base: Path) -> tuple[Splits, tuple[str, ...], PriceTable | None]:
    from carbide.data import load_data as load
    from carbide.data.cases import CASES, builtin_prices

    spec = plan.data
    source = spec.source or spec.train
    if not source:
        raise InputError("data names no source; add data: {source: FILE} or a built-in case: fraud, patients, images")
    if source in CASES:
        loaded = load(source, seed=plan.seed, rows=spec.rows)
        return loaded.splits, tuple(loaded.notes), builtin_prices(source)
    own = next((key for key in spec.options if key in type(spec).model_fields or key == "seed"), None)
    if own is not None:
        raise InputError(f"options names {own!r}, which is a key of {'the plan' if own == 'seed' else 'data'} itself; write it there")
    given = spec.model_dump(exclude_defaults=True, exclude={"source", "train", "options", "positives"}) | spec.options
    for key in ("test", "space"):
        if isinstance(given.get(key), str):
            given[key] = _path(given[key], base)
    loaded = load(_path(source, base), seed=plan.seed, **given)
    return loaded.splits, tuple(loaded.notes), None


def _path(text: str, base: Path) -> str:
    return text if Path(text).is_absolute() else str(base / text)


def _at(value: Any, base: Path) -> Any:
    """A plan's value with every text that names an existing file beside the plan made absolute."""
    if isinstance(value, str):
        return str(base / value) if value and not Path(value).is_absolute() and "://" not in value and _exists(base / value) else value
    if isinstance(value, Mapping):
        return {key: _at(item, base) for key, item in value.items()}
    return value


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _do(verbs: Sequence[str], model: Any, data: Any, threats: Sequence[Any], recipe: Any, settings: Mapping[str, Any]) -> Report:
    known = ("space", "false_positive_rate", "seed", "out", "workers", "quiet", "gate", "title", "budget", "attack_rows", "properties")
    for name in settings:
        if name not in known:
            raise InputError(f"setting {name!r} is not known; choose {', '.join(known)}")
    seed, out = _seed(settings.get("seed", 0)), settings.get("out")
    splits, prices = _live_data(data, settings.get("space"), seed)
    space, classes = splits.train.space, splits.train.classes
    rate = settings.get("false_positive_rate")
    properties = _stated(settings.get("properties") or (), splits, prices, Path.cwd())
    said = {"properties": [one.claim.words() for one in properties]} if properties else {}
    job = Job(title=str(settings.get("title", "audit")), data=splits, asks=tuple(_ask(t, space, prices) for t in threats),
              model=_live_model(model, space, classes), recipe=_live_recipe(recipe, space, classes),
              point=None if rate is None else OperatingPoint(false_positive_rate=rate), budget=settings.get("budget") or Budget(),
              gate=settings.get("gate") or {}, seed=seed, rows=_count(settings.get("attack_rows", 1000)),
              plan={"threats": [str(getattr(t, "words", lambda t=t: t)()) for t in threats], **said, "seed": seed}, properties=properties)  # fmt: skip
    return execute(job, out=None if out is None else Path(out), verbs=verbs, workers=settings.get("workers"), quiet=settings.get("quiet"))


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is {seed!r}; give a whole number >= 0")
    return int(seed)


def _count(rows: Any) -> int:
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"attack_rows is {rows!r}; give a whole number of test rows >= 1")
    return rows


def _live_model(model: Any, space: Space, classes: int) -> Model | None:
    from carbide.models import wrap

    return None if model is None else wrap(model, space=space, classes=classes)


def _live_recipe(recipe: Any, space: Space, classes: int) -> Recipe | None:
    if recipe is None or (hasattr(recipe, "describe") and hasattr(recipe, "fit")):
        return recipe
    from carbide.models import make_recipe

    return make_recipe(recipe, space=space, classes=classes)


def _ask(threat: Any, space: Space, prices: PriceTable | None) -> Ask:
    if isinstance(threat, Ask):
        return threat
    if isinstance(threat, Threat):
        return Ask(threat=threat)
    if isinstance(threat, Mapping):
        return make_ask(threat, space=space, base=Path.cwd(), prices=prices)
    raise InputError(f"threat {threat!r} is neither a threat such as LpBall(eps=0.1) nor a mapping such as {{'membership': {{}}}}")


def _live_data(data: Any, space: Space | None, seed: int) -> tuple[Splits, PriceTable | None]:
    from carbide.data.cases import CASES, builtin_prices

    if isinstance(data, Splits):
        return data, None
    if isinstance(data, str | Path):
        prices = builtin_prices(str(data)) if str(data) in CASES else None
        return load_data(data if str(data) in CASES else str(data), seed=seed), prices
    from carbide.data.live import splits_of

    return splits_of(data, space=space, seed=seed), None


def dataset(x: np.ndarray, y: np.ndarray, *, space: Space | None = None) -> Dataset:
    """Rows and labels as a data set; the space is inferred when it is not given."""
    from carbide.data.live import dataset_of

    return dataset_of(x, y, space=space)
