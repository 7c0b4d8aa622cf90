"""The judge of poisoning: trains on clean and on poisoned rows with the same random stream and measures what the poison did.

A method proposes a poisoned training set; nothing that it says about itself counts. Its rows, values and trigger are
checked against the threat, the recipe is fitted on the clean and on the poisoned set, and the test rows decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from carbide.models.operating import calibrated
from carbide.poisoning._checks import budget, changed_rows, objection, trigger_objection
from carbide.registry import Method
from carbide.run import remember
from carbide.stats.intervals import Count, clopper_pearson, counted
from carbide.types import Array, Backdoor, Case, Dataset, Figure, Finding, Flips, InputError, Model, Section, Series, Skip, Threat, decide, rng_for

ASR, ACCURACY, RECALL = "attack success rate", "accuracy after poisoning", "recall after poisoning"
ACCESS = "training data"
KEPT = 4_000_000  # numbers of test inputs that the evidence may hold
SHOWN = 8  # images in the gallery


def audit(case: Case, threat: Threat, methods: Mapping[str, Method]) -> Section:
    """What each method's poison does to the case's recipe, with the worst of them as the headline.

    ``Flips``: accuracy on the test rows after training on the flipped labels. ``Backdoor``: the share of the test rows
    of other classes that get the target class once the trigger is on, beside the same share under the clean model.
    At an operating point each model is calibrated on the clean validation rows; the headline for ``Flips`` is then the
    recall, because the accuracy, counted at one half, hardly shows what happens to a rare class.

    Raises:
        InputError: if the case has no recipe, or the threat names no whole row or no class of the data.
    """
    threat = _checked(case, threat)
    assert case.recipe is not None
    inputs = (case.recipe, case.data.train, case.seed)
    clean = case.model if case.trained else remember("poisoning clean model", inputs, lambda: _fit(case, case.data.train))
    clean = calibrated(clean, case.data.validation, case.operating_point)
    results: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        key = (*inputs, case.data.validation, case.data.test, case.operating_point, threat, method)
        results[name] = remember(f"poisoning {name}", key, lambda name=name, method=method: _judge(case, threat, name, method, clean))
    good = {name: result for name, result in results.items() if "refused" not in result}
    skipped = [Skip(method=n, threat=threat.words(), reason=r["refused"], status="failed") for n, r in results.items() if "refused" in r]
    if not good:
        skipped.append(Skip(method="all", threat=threat.words(), reason="no poison stood up to the judge, so nothing is known", status="unknown"))
    evidence = _evidence(case, threat, clean, results)
    findings, figures = _findings(case, threat, good, evidence), _figures(case, threat, good, evidence)
    return Section(threat=threat.words(), room="poisoning", findings=findings, figures=figures, evidence=evidence, skipped=tuple(skipped))


def verify(section: Section, model: Model | None, case: Case | None, threat: Threat) -> list[tuple[str, float, float]]:
    """``(metric and method, reported, recomputed)`` of every finding, from the stored predictions and the case's own labels.

    The poisoned models are not kept, so ``model`` cannot be used to score anything again.
    """
    y = section.evidence["y"] if case is None else case.data.test.y
    found = []
    for finding in section.findings:
        hits = _hits(finding.metric, finding.method, section.evidence, y, threat)
        found.append((f"{finding.metric} ({finding.method})", finding.value, float(hits.mean())))
    return found


def recount(section: Section, finding: Finding) -> Count:
    """A finding from the stored predictions."""
    assert section.noun is not None
    return counted(_hits(finding.metric, finding.method, section.evidence, section.evidence["y"], section.noun))


def _checked(case: Case, threat: Threat) -> Flips | Backdoor:
    if not isinstance(threat, Flips | Backdoor):
        raise InputError(f"threat {type(threat).__name__} is not poisoning; give flips or a backdoor")
    if case.recipe is None:
        raise InputError("poisoning needs to train models, and the case has no recipe; add one under recipe:")
    n = len(case.data.train)
    if threat.fraction > 0 and budget(threat, n) == 0:
        raise InputError(f"a fraction of {threat.fraction:g} of {n} training rows is not one row; give at least {1 / n:.2g}")
    if isinstance(threat, Backdoor):
        if not 0 <= threat.target < case.data.train.classes:
            raise InputError(f"target is {threat.target}; the classes are 0..{case.data.train.classes - 1}")
        if (case.data.test.y == threat.target).all():
            raise InputError(f"target is {threat.target}, and every test row has that class; give a class that some rows lack")
    return threat


def _fit(case: Case, train: Dataset) -> Model:
    """Every model of this room is trained from the random stream of the model under test, so that only the poison makes a difference."""
    assert case.recipe is not None
    return case.recipe.fit(train, rng_for(case.seed, "train"))


def _judge(case: Case, threat: Flips | Backdoor, name: str, method: Method, clean: Model) -> dict[str, Any]:
    """One method's poison, checked, trained on and measured: arrays by name, or ``refused`` with the reason."""
    train, test = case.data.train, case.data.test
    try:
        poison = method(train.with_(x=train.x.copy(), y=train.y.copy()), threat, rng_for(case.seed, "poisoning", name))
    except InputError as error:
        return {"refused": str(error)}
    reason = objection(poison, train, threat)
    before = test.x[test.y != threat.target] if isinstance(threat, Backdoor) else test.x[:0]
    after = before
    if reason is None and isinstance(threat, Backdoor):
        after = poison.trigger(before.copy())
        reason = trigger_objection(before, after, train, threat)
    if reason is not None:
        return {"refused": f"cheat: {reason}"}
    try:
        model = calibrated(_fit(case, poison.dataset), case.data.validation, case.operating_point)
    except InputError as error:
        return {"refused": f"training on the poisoned rows failed: {error}"}
    probabilities = model.predict(test.x)
    result: dict[str, Any] = {"rows": int(changed_rows(poison, train).sum()), "predicted": decide(probabilities),
                              "decided": decide(probabilities, model.threshold)}  # fmt: skip
    if isinstance(threat, Backdoor):
        result |= {"triggered": decide(model.predict(after), model.threshold), "clean_triggered": decide(clean.predict(after), clean.threshold),
                   "examples": after[:SHOWN]}  # fmt: skip
    return result


def _evidence(case: Case, threat: Flips | Backdoor, clean: Model, results: Mapping[str, dict[str, Any]]) -> dict[str, Array]:
    """Predictions under keys ``method.kind``; a refused method has success 0 on every row."""
    test = case.data.test
    probabilities = clean.predict(test.x)
    evidence: dict[str, Array] = {"y": test.y, "clean.predicted": decide(probabilities), "clean.decided": decide(probabilities, clean.threshold)}
    if test.x.size <= KEPT:
        evidence["x"] = test.x
    for name, result in results.items():
        if "refused" in result:
            evidence[f"{name}.success"] = np.zeros(int((test.y != threat.target).sum()) if isinstance(threat, Backdoor) else len(test), bool)
            continue
        kinds = ("predicted", "decided", "triggered", "clean_triggered")
        evidence |= {f"{name}.{kind}": result[kind] for kind in kinds if kind in result}
    wrong = [result["predicted"] != test.y for result in results.values() if "predicted" in result]
    if isinstance(threat, Flips) and wrong:
        evidence["broken"] = np.any(wrong, axis=0)
    return evidence


def _hits(metric: str, method: str, evidence: Mapping[str, Array], y: Array, threat: Threat) -> Array:
    """The rows ``(m,)`` bool whose mean is the metric; method ``clean`` is the model trained without poison."""
    if metric == ASR:
        assert isinstance(threat, Backdoor)
        return evidence[f"{method}.triggered"] == threat.target
    if metric == RECALL:
        return evidence[f"{method}.decided"][y == 1] == 1
    return evidence[f"{method}.predicted"] == y


def _findings(case: Case, threat: Flips | Backdoor, results: Mapping[str, dict[str, Any]], evidence: Mapping[str, Array]) -> tuple[Finding, ...]:
    y = evidence["y"]
    metrics = _metrics(case, threat)
    main = metrics[0]
    values = {name: float(_hits(main, name, evidence, y, threat).mean()) for name in results}
    worst = (max if main == ASR else min)(values, key=lambda name: values[name], default=None)
    found = []
    for name in sorted(results, key=lambda name: name != worst):
        for metric in metrics:
            hits = _hits(metric, name, evidence, y, threat)
            low, high = clopper_pearson(int(hits.sum()), len(hits))
            found.append(
                Finding(
                    metric=metric,
                    value=float(hits.mean()),
                    low=low,
                    high=high,
                    n=len(hits),
                    method=name,
                    threat=threat.words(),
                    access=ACCESS,
                    seed=case.seed,
                    good=-1 if metric == ASR else 1,
                    headline=name == worst and metric == main,
                    note=_note(case, threat, metric, name, results[name], evidence),
                )
            )
    return tuple(found)


def _metrics(case: Case, threat: Threat) -> tuple[str, ...]:
    """What is reported about each method, the headline's metric first."""
    recall = (RECALL,) if case.operating_point is not None and (case.data.test.y == 1).any() else ()
    return (ASR, ACCURACY, *recall) if isinstance(threat, Backdoor) else (*recall, ACCURACY)


def _note(case: Case, threat: Flips | Backdoor, metric: str, name: str, result: Mapping[str, Any], evidence: Mapping[str, Array]) -> str:
    """The baseline beside the number, how many rows were poisoned, and what the interval covers."""
    y, n = evidence["y"], len(case.data.train)
    if metric == ASR:
        beside = f"{float((evidence[f'{name}.clean_triggered'] == threat.target).mean()):.4f} with the same trigger and no poison"  # type: ignore[union-attr]
    else:
        beside = f"{float(_hits(metric, 'clean', evidence, y, threat).mean()):.4f} without the poison"
    where = ""
    if case.operating_point is not None:
        rate = f"a false-positive rate of {case.operating_point.false_positive_rate:g} on clean validation rows"
        where = "decided at one half; " if metric == ACCURACY else f"decided at {rate}; "
    return f"{beside}; {result['rows']} of {n} training rows poisoned; {where}one training each, so the interval covers the test rows only"


def _figures(case: Case, threat: Flips | Backdoor, results: Mapping[str, dict[str, Any]], evidence: Mapping[str, Array]) -> tuple[Figure, ...]:
    if not results:
        return ()
    y, names = evidence["y"], list(results)
    x = np.array(names)
    if isinstance(threat, Flips):
        clean = np.full(len(names), float((evidence["clean.predicted"] == y).mean()))
        after = np.array([float((evidence[f"{n}.predicted"] == y).mean()) for n in names])
        series = (Series(name="without the poison", x=x, y=clean), Series(name="with the poison", x=x, y=after))
        return (Figure(kind="bars", title="Accuracy after label flips", x_label="attack", y_label="accuracy", series=series, note=threat.words()),)
    rates = {kind: np.array([float((evidence[f"{n}.{kind}"] == threat.target).mean()) for n in names]) for kind in ("clean_triggered", "triggered")}
    series = (Series(name="without the poison", x=x, y=rates["clean_triggered"]), Series(name="with the poison", x=x, y=rates["triggered"]))
    bars = Figure(kind="bars", title="Attack success rate of the backdoor", x_label="attack", y_label="attack success rate", series=series,
                  note=f"share of the test rows of other classes that get class {threat.target} once the trigger is on")  # fmt: skip
    return (bars, *(_gallery(case, threat, name, results[name]) for name in names if case.data.test.space.is_image))


def _gallery(case: Case, threat: Backdoor, name: str, result: Mapping[str, Any]) -> Figure:
    test = case.data.test
    rows = np.flatnonzero(test.y != threat.target)[:SHOWN]
    said = [_caption(test, int(c)) for c in result["triggered"][: len(rows)]]
    series = (Series(name="clean", x=np.array([_caption(test, int(c)) for c in test.y[rows]]), y=np.asarray(test.x[rows], float)),
              Series(name="with the trigger", x=np.array(said), y=np.asarray(result["examples"], float)))  # fmt: skip
    return Figure(kind="gallery", title=f"Trigger of {name}", x_label="", y_label="", series=series,
                  note="captions: the true class, and what the poisoned model says with the trigger")  # fmt: skip


def _caption(data: Dataset, label: int) -> str:
    return data.class_names[label] if data.class_names else str(label)
