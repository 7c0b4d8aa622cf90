"""From a job to a run folder: train, audit, harden, audit again, prove, report; every step is stored and found again.

>>> sorted(VERBS)
['audit', 'harden', 'prove']
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

import carbide
from carbide._audit import Ask, audit_case
from carbide._harden import Budget, Hardened, fit, harden_case
from carbide._prove import brackets_of, prove_case
from carbide._visible import visible
from carbide.data.telling import telling_features
from carbide.models.latency import latency
from carbide.models.operating import calibrated
from carbide.registry import ROOMS
from carbide.results import HARDENED, PLAIN, Cost, DataFacts, Measure, Phase, PropertyLine, Results, Timings
from carbide.run import Progress, Run, Store, cores, hands, use, write_whole
from carbide.run.store import decode, encode
from carbide.stats.intervals import clopper_pearson
from carbide.stats.performance import performance
from carbide.types import Case, Corruption, Distortion, InputError, LpBall, Model, OperatingPoint, Patch, Recipe, Section, Splits, Threat, decide

if TYPE_CHECKING:
    from carbide._claims import Stated

VERBS = ("audit", "harden", "prove")
PROPERTIES, PERFORMANCE = "properties", "performance"  # how the evidence of properties and of performance is called
FINISHED = ("results.json", "report.html", "hardened/card.md")  # what only a run that has ended may leave behind
PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "torch", "xgboost-cpu", "xgboost", "lightgbm", "catboost", "onnxruntime")
BLIND = {
    "evasion": "changes of another kind than the stated one (for images: rotation, blur, patches; for tables: fields outside the price table)",
    "poisoning": "poison of another kind or a larger share than the stated one, and attackers who also control the training code",
    "privacy": "attackers who see more than answers (weights, training logs) or who reconstruct whole records",
    "extraction": "thieves with more queries or better natural data than the pool, and copies of the weight file",
}

IMAGE_CHANGES: Mapping[type[Threat], str] = {
    LpBall: "a little of every pixel",
    Patch: "patches",
    Distortion: "rotation, light and blur",
    Corruption: "common corruptions",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is to be done: data, threats or properties, and a model, a recipe or both."""

    title: str
    data: Splits
    asks: tuple[Ask, ...]
    model: Model | None = None
    recipe: Recipe | None = None
    point: OperatingPoint | None = None
    budget: Budget = field(default_factory=Budget)
    gate: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    rows: int = 1000
    plan: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    positives: str = ""
    properties: tuple[Stated, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a verb returns: ``results`` (repeatable), ``timings``, the ``model`` and ``recipe`` to use, the ``plain`` model, the run's folder."""

    results: Results
    timings: Timings
    model: Model
    plain: Model
    recipe: Recipe | None = None
    folder: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether every line of the gate holds (True without a gate)."""
        return all(line.passed for line in self.results.gate)

    def save(self, folder: str | Path) -> Path:
        """Write plan, results, evidence, models and report.html to a folder and return the path of the page."""
        write_run(self, Path(folder))
        return Path(folder) / "report.html"

    def __str__(self) -> str:
        from carbide.report.words import summary

        return visible("\n".join(summary(self.results)))

    def _repr_html_(self) -> str:
        from carbide.report.html import render_html

        return render_html(self.results, self.timings)


def execute(job: Job, *, out: Path | None = None, verbs: Sequence[str] = ("audit",), workers: int | None = None, quiet: bool | None = None) -> Report:
    """Do the verbs on a job; with ``out`` everything is stored there and a killed run goes on where it was.

    Raises:
        InputError: if the job is wrong: nothing to audit, nothing to train with, a door that refuses.
    """
    from carbide.models import pack, unpack

    if job.model is None and job.recipe is None:
        raise InputError("neither a model nor a recipe is given; add model: (a file) or recipe: (how to train one)")
    if "harden" in verbs and not job.asks:
        raise InputError("no threat is named, so there is nothing to harden against; add threats, or decide properties alone with carbide prove")
    if out is not None:
        make_folder(out)
        retire(out)
    store = Store(out, pack=pack, unpack=unpack, version=carbide.__version__)
    run = Run(workers=workers or hands(), progress=Progress(quiet=quiet), store=store)
    with use(run):
        report = _execute(job, verbs, run)
    if out is not None:
        report = replace(report, folder=out)
        write_run(report, out)
    return report


def make_folder(folder: Path) -> None:
    """Make the folder of a run where it is not there.

    Raises:
        InputError: if it cannot be made or written.
    """
    try:
        (folder / "steps").mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise InputError(f"cannot write {folder} (a file is in its way); choose another folder with --out") from error
        raise InputError(f"cannot write {folder} ({getattr(error, 'strerror', None) or error}); choose another folder with --out") from error


def _execute(job: Job, verbs: Sequence[str], run: Run) -> Report:
    case = _case(job, run)
    with getattr(case.model, "working", contextlib.nullcontext)():
        return _of_case(case, job, verbs, run)


def _of_case(case: Case, job: Job, verbs: Sequence[str], run: Run) -> Report:
    say = run.progress.say
    say(f"{job.title}: audit")
    phases = [_phase(PLAIN, case, job, verbs)]
    hardened: Hardened | None = None
    final = case
    if "harden" in verbs:
        say(f"{job.title}: harden")
        hardened = harden_case(case, job.asks, job.budget)
        final = replace(case, recipe=hardened.recipe, model=hardened.model, trained=hardened.trained, data=hardened.data)
        say(f"{job.title}: audit again, on rows that hardening never saw")
        phases.append(_phase(HARDENED, final, job, verbs))
    timings = _timings(run, case, final, hardened)
    results = _results(job, phases, hardened, timings, final.model)
    return Report(results=results, timings=timings, model=final.model, plain=case.model, recipe=final.recipe)


def _case(job: Job, run: Run) -> Case:
    from carbide.models.checks import check_model

    draft = Case(
        model=job.model,  # type: ignore[arg-type]
        data=job.data.taught() if job.model is None else job.data,
        recipe=job.recipe,
        operating_point=job.point,
        seed=job.seed,
        rows=job.rows,
    )
    if job.model is not None:
        model = calibrated(job.model, job.data.validation, job.point)
    else:
        assert job.recipe is not None
        run.progress.say(f"{job.title}: train")
        model = fit(job.recipe, draft, PLAIN)
    check_model(model, job.data.test)
    return replace(draft, model=model, trained=job.model is None)


def _phase(name: str, case: Case, job: Job, verbs: Sequence[str]) -> Phase:
    before = case.model.digest()
    sections = audit_case(case, job.asks) if job.asks or not job.properties else ()
    if case.model.digest() != before:
        raise InputError("the model changed while it was audited; put it in inference mode and freeze its buffers")
    if "prove" in verbs:
        sections = prove_case(case, job.asks, sections)
    brackets = tuple(bracket for section in sections for bracket in brackets_of(section))
    threshold = case.model.threshold if case.model.classes == 2 else float("nan")
    answers = {"y": case.data.test.y, "decided": decide(case.model.predict(case.data.test.x), case.model.threshold), "classes": case.model.classes,
               "threshold": float(threshold)}  # fmt: skip
    return Phase(name=name, model=_words(case), sections=sections, performance=performance_of(answers), cost=Cost(size_bytes=_size(case.model)),
                 brackets=brackets, threshold=threshold, properties=_properties(case, job), answers=answers)  # fmt: skip


def _properties(case: Case, job: Job) -> tuple[PropertyLine, ...]:
    if not job.properties:
        return ()
    from carbide._claims import decide_stated

    return decide_stated(job.properties, case.model, rows=job.data.test.x, seed=job.seed, must=not job.asks)


def performance_of(answers: Mapping[str, Any]) -> dict[str, Measure]:
    """The performance that a model's answers on clean rows give: labels ``y`` ``(n,)``, the class ``decided`` for each, how many ``classes`` there are."""
    y, classes = answers["y"], int(answers["classes"])
    result = performance(y, np.eye(classes)[answers["decided"]])
    rows = {"accuracy": (result.accuracy, len(y), 1)}
    if classes == 2:
        rows |= {"recall": (result.recall, int((y == 1).sum()), 1), "false_positive_rate": (result.false_positive_rate, int((y == 0).sum()), -1)}
    found = {}
    for metric, (value, n, good) in rows.items():
        low, high = clopper_pearson(round(value * n), n)
        found[metric] = Measure(metric=metric, value=value, low=low, high=high, n=n, good=good)
    return found | {"worst_class": Measure(metric="worst_class", value=result.worst_class, n=len(y))}


def _words(case: Case) -> str:
    said = case.recipe.describe() if case.recipe is not None else {}
    names = []
    while said:
        names.append(str(said.get("estimator") or said.get("factory") or said.get("wrapper") or said.get("recipe")).rpartition(":")[2])
        inner = said.get("inner")
        said = inner if isinstance(inner, Mapping) else {}
    return " around ".join(dict.fromkeys(names)) or type(case.model).__name__


def _size(model: Model) -> int:
    from carbide.models import pack

    try:
        return len(encode(model, pack=pack))
    except (TypeError, InputError):
        return 0  # a live callable or an endpoint: nothing that Carbide could weigh


def _timings(run: Run, case: Case, final: Case, hardened: Hardened | None) -> Timings:
    times = {PLAIN: latency(case.model, case.data.test.x)}
    if hardened is not None:
        times[HARDENED] = latency(final.model, case.data.test.x)
    logged = run.store.timings()
    steps: dict[str, float] = {}
    for line in logged:
        steps[line["step"]] = steps.get(line["step"], 0.0) + line["seconds"]
    training = {PLAIN: steps.get(f"train {PLAIN}", 0.0)}
    if hardened is not None:
        training[HARDENED] = max((line["seconds"] for line in logged if line["file"] == hardened.training), default=training[PLAIN])
    return Timings(
        steps=steps, latency=times, training=training, machine=f"{platform.machine()}, {cores()} cores, Python {platform.python_version()}"
    )


def _results(job: Job, phases: Sequence[Phase], hardened: Hardened | None, timings: Timings, model: Model) -> Results:
    from carbide.report.gate import judge_gate, parse_gate
    from carbide.report.properties import worse

    parts = {"train": len(job.data.train), "validation": len(job.data.validation), "test": len(job.data.test)}
    data = DataFacts(name=job.data.test.name, rows=parts, classes=job.data.test.class_names, features=int(np.prod(job.data.test.space.shape)), notes=job.notes,
                     positives=job.positives)  # fmt: skip
    warnings = [
        f"column {name!r} tells the label of every row; leave it out if it is the label under another name" for name in telling_features(job.data)
    ]
    warnings += [*_threshold(job), *_symptoms(phases), *_worse(phases)]
    if hardened is not None:
        if not hardened.changed:
            warnings.append(f"no defence within an accuracy loss of {job.budget.accuracy_loss:.1%} was safer than the plain model; allow more loss or other "
                            f"defences{_dearer(hardened)}")  # fmt: skip
        warnings += [f"defence {s.method} was not tried: {s.reason}" for s in hardened.skipped]
    results = Results(title=job.title, plan=job.plan, seed=job.seed, versions=versions(), data=data, phases=tuple(phases),
                      options=hardened.options if hardened else (), not_tested=_not_tested(job, phases, model), warnings=tuple(warnings),
                      next_steps=_next_steps(hardened is not None, bool(job.asks)))  # fmt: skip
    results = replace(results, warnings=(*results.warnings, *worse(results)))
    return replace(results, gate=judge_gate(parse_gate(job.gate), results)) if job.gate else results


def _dearer(hardened: Hardened) -> str:
    """What the safest point of a front beyond the budget would cost, where there is one."""
    points = [o for o in hardened.options if o.lost is not None and not o.chosen]
    plain = next((o for o in hardened.options if o.lost is not None and o.chosen), None)
    if plain is None or not points:
        return ""
    least = min(points, key=lambda o: (o.danger.value, o.clean.metric))
    if least.lost is None or least.danger.value >= plain.danger.value:
        return ""
    return (f"; the least that was told, {least.danger.metric} {least.danger.value:.1%} instead of {plain.danger.value:.1%}, is that of {least.method} "
            f"and costs {100 * least.lost.value:.1f} points of {least.clean.metric}")  # fmt: skip


def _symptoms(phases: Sequence[Phase]) -> list[str]:
    """What the examination of each model saw, once."""
    seen = [f"the {phase.name} model: {symptom.name} ({symptom.done}): {symptom.words()}"
            for phase in phases for section in phase.sections for symptom in section.examination]  # fmt: skip
    return list(dict.fromkeys(seen))


def _threshold(job: Job) -> list[str]:
    """What an operating point is worth that a given model has on rows that it was trained on, or may have been."""
    seen = job.data.saw("validation")
    if job.model is None or job.point is None or not (job.data.seen is None or seen.any()):
        return []
    rows = (
        f"{int(seen.sum())} of the {len(seen)} validation rows were"
        if seen.any()
        else "whether validation rows were is unknown, because Carbide cut the data"
    )
    return [f"the given model's threshold comes from validation rows, as if none was trained on, but {rows}; expect more false positives on new rows, and read "
            "the rate on test rows"]  # fmt: skip


def _worse(phases: Sequence[Phase]) -> list[str]:
    if len(phases) < 2:
        return []
    found = []
    for before, after in zip(phases[0].sections, phases[1].sections, strict=True):
        a, b = before.headline(), after.headline()
        if a is not None and b is not None and a.good * (b.value - a.value) < 0 and (b.high < a.low or b.low > a.high):
            found.append(f"hardening made {a.metric} worse for {before.threat}: {a.value:.3f} before, {b.value:.3f} after")
    return found


def _blind_evasion(job: Job) -> str:
    """The same of changed inputs; where whole images were changed, the kinds that were not asked about."""
    asked = {type(ask.threat) for ask in job.asks}
    if not asked & IMAGE_CHANGES.keys() - {LpBall}:
        return BLIND["evasion"]
    left = [words for kind, words in IMAGE_CHANGES.items() if kind not in asked]
    such = f" (such as {', '.join(left)})" if left else ""
    return f"changes of another kind or size than the stated ones{such}"


def _not_tested(job: Job, phases: Sequence[Phase], model: Model) -> tuple[str, ...]:
    asked = {ask.threat.room for ask in job.asks}
    lines = [f"{room}: no threat of this kind was asked about" for room in ROOMS if room not in asked]
    lines += [f"{room}: {_blind_evasion(job) if room == 'evasion' else BLIND[room]}" for room in ROOMS if room in asked]
    if "evasion" in asked:
        lines += [f"evasion: {note}" for note in getattr(model, "notes", ())]
    for section in phases[-1].sections:
        lines += [f"{section.room}, {skip.method}: {skip.status}, {skip.reason}" for skip in section.skipped]
    return tuple(dict.fromkeys(lines))


def _next_steps(hardened: bool, threatened: bool) -> tuple[str, ...]:
    if hardened:
        return ("carbide verify RUN", "carbide gate RUN", "carbide guard serve RUN")
    if not threatened:
        return ("carbide verify RUN", "carbide gate RUN")
    return ("carbide harden PLAN", "carbide verify RUN")


def versions() -> dict[str, str]:
    """The versions of Carbide, Python and the packages that decide the numbers."""
    found = {"carbide": carbide.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def retire(folder: Path) -> None:
    """Put the results of an earlier run in the folder aside, so that nobody takes them for those of a run that has not ended.

    Raises:
        InputError: if the folder cannot be written.
    """
    for file in (folder / name for name in FINISHED):
        try:
            if file.is_file():
                file.replace(_previous(file))
        except OSError as error:
            raise InputError(f"cannot write {folder} ({error.strerror or error}); choose another folder with --out") from error


def _previous(file: Path) -> Path:
    return file.with_name(f"{file.stem}.previous{file.suffix}")


def write_run(report: Report, folder: Path) -> None:
    """Write a run folder: plan.yaml, results.json, timings.json, evidence/, the models and report.html, each whole."""
    from carbide.models import forget_model
    from carbide.report.html import write_html
    from carbide.report.results_json import write_results, write_timings

    retire(folder)
    results = report.results
    evidence = dict(_evidence(results))
    for name, value in evidence.items():
        write_whole(folder / "evidence" / name, encode(value))
    for pattern in ("plain-*.npz", "hardened-*.npz", f"{PROPERTIES}-*.npz", f"{PERFORMANCE}-*.npz"):
        for file in (folder / "evidence").glob(pattern):
            if file.name not in evidence:  # of a run that asked for more
                file.unlink()
    write_whole(folder / "plan.yaml", yaml.safe_dump(dict(results.plan), sort_keys=False).encode())
    _save_models(report, folder)
    write_timings(report.timings, folder / "timings.json")
    write_results(results, folder / "results.json")
    write_html(results, report.timings, folder / "report.html")
    for name in FINISHED:
        _previous(folder / name).unlink(missing_ok=True)
    if results.hardened is None:
        forget_model(folder / "hardened")


def _evidence(results: Results) -> Iterator[tuple[str, Any]]:
    """The files of evidence by name, and what each holds."""
    for phase in results.phases:
        for number, section in enumerate(phase.sections):
            yield f"{phase.name}-{number}-{section.room}.npz", section
        if phase.properties:
            yield f"{PROPERTIES}-{phase.name}.npz", {line.name: dict(line.evidence) for line in phase.properties}
        if phase.answers:
            yield f"{PERFORMANCE}-{phase.name}.npz", dict(phase.answers)


def _save_models(report: Report, folder: Path) -> None:
    from carbide.models import forget_model, pack, save_model
    from carbide.report.card import model_card

    for name in ("plain", "hardened"):
        forget_model(folder / name)  # of a run that had another model, or one more
    try:
        pack(report.plain)
    except (TypeError, InputError):
        return  # a live callable or an endpoint: there is nothing to save, and verify re-checks without it
    save_model(report.plain, folder / "plain")
    if report.results.hardened is not None:
        save_model(report.model, folder / "hardened")
        write_whole(folder / "hardened" / "card.md", model_card(report.results).encode())


def read_sections(folder: Path) -> dict[str, list[Section]]:
    """The sections of a run's phases from its evidence, by phase name.

    Raises:
        InputError: if the folder holds no evidence.
    """
    every = list((folder / "evidence").glob("*.npz"))
    files = [f for f in every if not f.name.startswith((PROPERTIES, PERFORMANCE))]
    files = sorted(files, key=lambda f: (f.name.split("-")[0], int(f.name.split("-")[1])))
    if not every:
        raise InputError(f"{folder} holds no evidence; name the folder of a finished run")
    found: dict[str, list[Section]] = {}
    for file in files:
        section = _read_evidence(file)
        if not isinstance(section, Section):
            raise InputError(f"evidence {file} holds a {type(section).__name__}, not a section; run the plan again into this folder")
        found.setdefault(file.name.split("-")[0], []).append(section)
    return found


def read_properties(folder: Path, phase: str) -> dict[str, Any]:
    """The evidence of a phase's properties, by name.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    return _read_dict(folder / "evidence" / f"{PROPERTIES}-{phase}.npz", f"the {phase} model's properties")


def read_answers(folder: Path, phase: str) -> dict[str, Any]:
    """What a phase's model answered on clean rows, as ``performance_of`` takes it.

    Raises:
        InputError: if it is not there, or cannot be read.
    """
    return _read_dict(folder / "evidence" / f"{PERFORMANCE}-{phase}.npz", f"the {phase} model's performance")


def _read_dict(file: Path, what: str) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file.parent.parent} has no evidence of {what}; run the plan again into this folder")
    found = _read_evidence(file)
    if not isinstance(found, dict):
        raise InputError(f"evidence {file} holds a {type(found).__name__}, which is not about {what}; run the plan again into this folder")
    return found


def _read_evidence(file: Path) -> Any:
    try:
        return decode(file.read_bytes())
    except Exception as error:
        raise InputError(f"evidence {file} cannot be read ({error}); run the plan again into this folder") from error
