"""Synthetic but realistic runs for tests of the report: every number follows from drawn arrays, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from carbide.report.gate import judge_gate, parse_gate
from carbide.results import HARDENED, PLAIN, Cost, DataFacts, Latency, Measure, Option, Phase, Results, Timings
from carbide.stats.intervals import clopper_pearson
from carbide.types import (
    Backdoor,
    Bracket,
    Certificate,
    FeatureBudget,
    Figure,
    Finding,
    Flips,
    LpBall,
    Membership,
    PriceTable,
    Queries,
    Section,
    Series,
    Skip,
    Symptom,
    Threat,
    rng_for,
)

BUDGET = FeatureBudget(money=50.0, prices=PriceTable(prices={}))
BALL = LpBall(eps=0.15)
SEEN = Symptom(name="half precision", value="the model computes in float16, whose steps are as large as small changes", done="repaired",
               mend="attacks compute in float64")  # fmt: skip
VERSIONS = {"carbide": "0.1.0", "python": "3.11.7", "numpy": "2.4.0"}


def finding(
    metric: str,
    value: float,
    n: int,
    threat: Threat,
    *,
    method: str,
    access: str = "labels, scores",
    good: int = 1,
    headline: bool = False,
    note: str = "",
    seed: int = 0,
) -> Finding:
    """A finding whose interval is exact for a rate over n rows."""
    low, high = clopper_pearson(round(value * n), n)
    return Finding(
        metric=metric,
        value=value,
        low=low,
        high=high,
        n=n,
        method=method,
        threat=threat.words(),
        access=access,
        seed=seed,
        good=good,
        headline=headline,
        note=note,
    )


def clean(accuracy: float, worst: float, n: int, *, recall: float | None = None, fpr: float | None = None, positives: int = 0) -> dict[str, Measure]:
    """Clean performance with exact intervals."""

    def rate(metric: str, value: float, rows: int, good: int = 1) -> Measure:
        low, high = clopper_pearson(round(value * rows), rows)
        return Measure(metric=metric, value=value, low=low, high=high, n=rows, good=good)

    found = {"accuracy": rate("accuracy", accuracy, n), "worst_class": Measure(metric="worst_class", value=worst, n=n)}
    if recall is not None and fpr is not None:
        found |= {"recall": rate("recall", recall, positives), "false_positive_rate": rate("false_positive_rate", fpr, n - positives, -1)}
    return found


# Fraud -------------------------------------------------------------------------------------------------------------


def _profit(robust: float, rng: np.random.Generator) -> tuple[Figure, Figure]:
    money = np.array([0.0, 5, 10, 20, 30, 50, 75, 100, 150, 200])
    recall = np.clip(0.78 - (0.78 - robust) * (1 - np.exp(-money / 18)) / (1 - np.exp(-50 / 18)), 0, 1)
    low, high = np.array([clopper_pearson(round(r * 412), 412) for r in recall]).T
    profit = money * 0 + (1 - recall) * 310 - np.minimum(money, 22) * (1 - recall) + rng.normal(0, 1, len(money))
    return (
        Figure(
            kind="steps",
            title="Robust recall against the attacker's money",
            x_label="money a row ($)",
            y_label="robust recall",
            series=(Series(name="cheapest evasion (exact)", x=money, y=recall, low=low, high=high),),
        ),
        Figure(
            kind="lines",
            title="Attacker's profit",
            x_label="money a row ($)",
            y_label="profit a fraud ($)",
            series=(Series(name="profit", x=money, y=profit),),
            note="gain less the price of the changes, averaged over all frauds",
        ),
    )


def _fraud_evasion(phase: str, robust: float, proven: float, n: int = 412) -> Section:
    rng = rng_for(0, "report", "fraud", phase)
    broken = np.arange(n) >= round(robust * n)
    holds = np.arange(n) < round(proven * n)
    price = np.where(broken, rng.uniform(0, 50, n), rng.uniform(50, 400, n))
    exact = round(robust * n) / n
    return Section(
        threat=BUDGET.words(),
        room="evasion",
        findings=(
            finding("robust recall", exact, n, BUDGET, method="tree_search", access="structure", headline=True),
            finding("robust recall", round((exact + 0.08) * n) / n, n, BUDGET, method="greedy_prices", note="a lower bound on the damage"),
            finding("robust recall", round((exact + 0.15) * n) / n, n, BUDGET, method="decision_walk", access="labels"),
        ),
        certificates=(
            Certificate(
                claim="no change worth at most $50 passes this fraud",
                holds=holds,
                bound=np.where(holds, 50.0, price),
                failure_probability=0.0,
                assumptions=("the attacker pays the price table", "the model is the stored file"),
                method="tree_search",
                threat=BUDGET.words(),
                unit="$",
                metric="robust recall",
            ),
        ),
        figures=_profit(robust, rng),
        evidence={"broken": broken, "price": price},
        skipped=(
            Skip(method="pgd", threat=BUDGET.words(), reason="it needs gradients, and the model gives only labels, scores, structure, weights"),
        ),
    )


def _extraction(phase: str, top: float) -> Section:
    threat = Queries(n=10000)
    queries = np.array([100.0, 300, 1000, 3000, 10000])
    curve = 0.6 + (top - 0.6) * (np.log10(queries) - 2) / 2
    series = tuple(
        Series(name=answers, x=queries, y=np.clip(curve + shift, 0, 1)) for answers, shift in (("probabilities", 0.0), ("labels only", -0.04))
    )
    return Section(
        threat=threat.words(),
        room="extraction",
        findings=(
            finding("fidelity", top, 2000, threat, method="knockoff", good=-1, headline=True),
            finding("thief accuracy", top - 0.02, 2000, threat, method="knockoff", good=-1),
        ),
        figures=(Figure(kind="lines", title="Fidelity against queries", x_label="queries (log)", y_label="fidelity", series=series),),
    )


def _brackets(section: Section) -> tuple[Bracket, ...]:
    head = section.headline()
    assert head is not None
    return tuple(
        Bracket(
            metric=head.metric,
            certified=c.value if head.good > 0 else float(c.bound.max()),
            attacked=head.value,
            n=head.n,
            finding=head,
            certificate=c.method,
            assumptions=c.assumptions,
        )
        for c in section.certificates
        if c.metric == head.metric
    )


def fraud() -> Results:
    """The card issuer: hardened with success, extraction still open."""
    before = (_fraud_evasion(PLAIN, 0.29, 0.29), _extraction(PLAIN, 0.95))
    after = (_fraud_evasion(HARDENED, 0.76, 0.72), _extraction(HARDENED, 0.94))
    options = [
        Option(
            name="as it is",
            method="as it is",
            clean=Measure(metric="recall", value=0.79, n=401),
            danger=Measure(metric="robust recall", value=0.28, low=0.24, high=0.33, n=401),
            kind="baseline",
            threat=BUDGET.words(),
        ),
        Option(
            name="drop_mutable_features",
            method="drop_mutable_features",
            clean=Measure(metric="recall", value=0.70, n=401),
            danger=Measure(metric="robust recall", value=0.70, low=0.65, high=0.74, n=401),
            kind="baseline",
            threat=BUDGET.words(),
        ),
    ]
    for rounds, recall, robust in ((1, 0.785, 0.41), (2, 0.782, 0.58), (4, 0.775, 0.74), (8, 0.755, 0.77)):
        options.append(
            Option(
                name="manipulated_rows",
                method="manipulated_rows",
                clean=Measure(metric="recall", value=recall, n=401),
                danger=Measure(metric="robust recall", value=robust, low=robust - 0.045, high=robust + 0.04, n=401),
                settings={"rounds": rounds, "weight": 0.5},
                chosen=rounds == 4,
                threat=BUDGET.words(),
            )
        )
    results = Results(
        title="fraud",
        plan={
            "title": "fraud",
            "data": {"source": "fraud"},
            "threats": [{"evasion": {"money": 50}}, {"extraction": {"queries": 10000}}],
            "operating_point": {"false_positive_rate": 0.01},
            "harden": {"accuracy_loss": 0.03, "latency_factor": 1.5},
            "gate": {"certified_robust_recall": ">= 0.6", "fidelity": "<= 0.9"},
            "seed": 0,
        },
        seed=0,
        versions=VERSIONS,
        data=DataFacts(
            name="fraud",
            rows={"train": 60000, "validation": 20000, "test": 40000},
            classes=("genuine", "fraud"),
            features=22,
            positives="frauds",
            notes=("cut by time: tested on the last 60 days",),
        ),
        phases=(
            Phase(
                name=PLAIN,
                model="xgboost",
                sections=before,
                performance=clean(0.9872, 0.78, 40000, recall=0.7791, fpr=0.0098, positives=412),
                cost=Cost(size_bytes=412_000),
                brackets=_brackets(before[0]),
                threshold=0.118,
            ),
            Phase(
                name=HARDENED,
                model="manipulated rows around xgboost",
                sections=after,
                performance=clean(0.9869, 0.767, 40000, recall=0.767, fpr=0.0101, positives=412),
                cost=Cost(size_bytes=433_000),
                brackets=_brackets(after[0]),
                threshold=0.131,
            ),
        ),
        options=tuple(options),
        not_tested=(
            "poisoning: no threat of this kind was asked about",
            "privacy: no threat of this kind was asked about",
            "evasion: changes of another kind than the stated one (fields outside the price table)",
            "extraction: thieves with more queries or better natural data than the pool, and copies of the weight file",
        ),
        next_steps=("carbide verify RUN", "carbide gate RUN", "carbide guard serve RUN"),
    )
    return replace(results, gate=judge_gate(parse_gate(results.plan["gate"]), results))


# Patients ----------------------------------------------------------------------------------------------------------


def _membership(phase: str, auc: float, tpr: float) -> Section:
    threat = Membership()
    fpr = np.concatenate([[0.0], np.geomspace(1e-3, 1, 40)])
    curve = np.clip(fpr ** (1 / auc - 0.95), 0, 1) if auc > 0.55 else np.clip(fpr ** (1.02 * (1 - auc) / auc), 0, 1)
    curve = curve * (1 - np.exp(-fpr * 400)) + fpr * np.exp(-fpr * 400)
    roc = Figure(
        kind="roc",
        title="Members against outsiders",
        x_label="false-positive rate",
        y_label="true-positive rate",
        series=(
            Series(name="LiRA", x=fpr, y=curve, low=curve * 0.8, high=np.minimum(1, curve * 1.2)),
            Series(name="chance", x=np.array([1e-3, 1.0]), y=np.array([1e-3, 1.0])),
        ),
    )
    bars = Figure(
        kind="bars",
        title="Leakage by attack",
        x_label="",
        y_label="membership AUC",
        series=(
            Series(
                name="AUC",
                x=np.array(["LiRA", "loss threshold", "label only"]),
                y=np.array([auc, auc - 0.08, 0.51]),
                low=np.array([auc - 0.03, auc - 0.11, 0.48]),
                high=np.array([auc + 0.03, auc - 0.05, 0.54]),
            ),
        ),
    )
    proofs = (
        ()
        if phase == PLAIN
        else (
            Certificate(
                claim="no attacker recognises more members than epsilon allows",
                holds=np.ones(569, bool),
                bound=np.full(569, 0.0272),
                failure_probability=0.0,
                assumptions=("one record is one person", "the noise is truly random"),
                method="epsilon_bound",
                threat=threat.words(),
                unit="TPR",
                metric="membership TPR at 1% FPR",
            ),
        )
    )
    return Section(
        threat=threat.words(),
        room="privacy",
        figures=(roc, bars),
        certificates=proofs,
        findings=(
            finding("membership TPR at 1% FPR", tpr, 569, threat, method="lira", good=-1, headline=True),
            finding("membership AUC", auc, 569, threat, method="lira", good=-1, note="64 shadow models"),
            finding("membership AUC", auc - 0.08, 569, threat, method="loss_threshold", good=-1),
        ),
    )


def patients() -> Results:
    """The hospital: leakage cut; poisoning was asked but failed half-way, so it is not measured after hardening."""
    flips = Flips(fraction=0.05)
    poisoned = Section(
        threat=flips.words(),
        room="poisoning",
        findings=(finding("accuracy after poisoning", 0.906, 171, flips, method="label_flips", access="nothing", headline=True),),
    )
    failed = Section(
        threat=flips.words(),
        room="poisoning",
        skipped=(Skip(method="label_flips", threat=flips.words(), reason="the recipe did not converge on the poisoned rows", status="failed"),),
    )
    before, after = (_membership(PLAIN, 0.74, 0.113), poisoned), (_membership(HARDENED, 0.53, 0.016), failed)
    chosen = {"epsilon": 1.0, "clip": 1.0}
    options = [
        Option(
            name="as it is",
            method="as it is",
            clean=Measure(metric="accuracy", value=0.956, n=114),
            kind="baseline",
            threat=Membership().words(),
            danger=Measure(metric="membership TPR at 1% FPR", value=0.12, low=0.08, high=0.17, n=114, good=-1),
        )
    ]
    for leaf, accuracy, tpr in ((5, 0.947, 0.06), (20, 0.939, 0.03), (60, 0.93, 0.02)):
        options.append(
            Option(
                name="leaf_size",
                method="leaf_size",
                clean=Measure(metric="accuracy", value=accuracy, n=114),
                settings={"leaf": leaf},
                danger=Measure(metric="membership TPR at 1% FPR", value=tpr, low=tpr * 0.7, high=tpr * 1.4, n=114, good=-1),
                threat=Membership().words(),
            )
        )
    options.append(
        Option(
            name="private_logistic",
            method="private_logistic",
            clean=Measure(metric="accuracy", value=0.947, n=114),
            settings=chosen,
            danger=Measure(metric="membership TPR at 1% FPR", value=0.015, low=0.009, high=0.03, n=114, good=-1),
            chosen=True,
            note="epsilon 1 at delta 1e-05",
            threat=Membership().words(),
        )
    )
    return Results(
        title="patients",
        plan={"title": "patients", "threats": [{"membership": {}}, {"poisoning": {"flips": 0.05}}], "harden": {"accuracy_loss": 0.02}},
        seed=3,
        versions=VERSIONS,
        data=DataFacts(name="breast cancer", rows={"train": 284, "validation": 114, "test": 171}, classes=("malignant", "benign"), features=30),
        phases=(
            Phase(
                name=PLAIN, model="random forest, 100 trees", sections=before, performance=clean(0.9591, 0.93, 171), cost=Cost(size_bytes=1_260_000)
            ),
            Phase(
                name=HARDENED,
                model="private logistic regression",
                sections=after,
                performance=clean(0.9532, 0.92, 171),
                cost=Cost(size_bytes=2_100),
                brackets=_brackets(after[0]),
            ),
        ),
        options=tuple(options),
        not_tested=(
            "evasion: no threat of this kind was asked about",
            "extraction: no threat of this kind was asked about",
            "poisoning, label_flips: failed, the recipe did not converge on the poisoned rows",
        ),
        warnings=("171 test rows are few: intervals are wide",),
        next_steps=("carbide verify RUN", "carbide gate RUN"),
    )


# Images ------------------------------------------------------------------------------------------------------------


def _gallery(strength: float) -> Figure:
    rng = rng_for(0, "report", "gallery")
    rows, columns = np.mgrid[0:8, 0:8]
    rings = [np.exp(-((np.hypot(rows - 3.5, columns - 3.5) - 1 - i % 3) ** 2)) * (1 - 0.4 * (columns > 3) * (i % 2)) for i in range(6)]
    images = np.stack(rings)[:, None]
    change = strength * np.sign(rng.normal(size=images.shape))
    captions = np.array([f"{i}" for i in range(6)])
    wrong = np.array([f"{i} → {(i * 3 + 2) % 10}" for i in range(6)])
    return Figure(
        kind="gallery",
        title="Clean and altered images",
        x_label="",
        y_label="",
        series=(Series(name="clean", x=captions, y=images), Series(name="altered", x=wrong, y=np.clip(images + change, 0, 1))),
    )


def _image_evasion(phase: str, robust: float, proven: float, n: int = 360) -> Section:
    eps = np.array([0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.2, 0.25])
    curve = 0.978 * np.exp(-np.log(0.978 / robust) * (eps / 0.15) ** 1.6)
    low, high = np.array([clopper_pearson(round(r * n), n) for r in curve]).T
    holds = np.arange(n) < round(proven * n)
    return Section(
        threat=BALL.words(),
        room="evasion",
        findings=(
            finding("robust accuracy", round(robust * n) / n, n, BALL, method="apgd", access="labels, scores, gradients, weights", headline=True),
            finding("robust accuracy", round((robust + 0.02) * n) / n, n, BALL, method="pgd", access="labels, scores, gradients, weights"),
            finding("robust accuracy", round((robust + 0.1) * n) / n, n, BALL, method="decision_walk", access="labels", note="1000 queries a row"),
        ),
        certificates=(
            Certificate(
                claim="the answer cannot change within Linf 0.15",
                holds=holds,
                bound=np.where(holds, 0.15, 0.02),
                failure_probability=0.0,
                assumptions=("floating-point rounding is not modelled",),
                method="interval_bounds",
                threat=BALL.words(),
                unit="Linf",
                metric="robust accuracy",
            ),
        ),
        figures=(
            Figure(
                kind="lines",
                title="Robust accuracy against eps",
                x_label="eps (Linf)",
                y_label="robust accuracy",
                series=(Series(name="apgd", x=eps, y=curve, low=low, high=high), Series(name="pgd", x=eps, y=np.minimum(0.978, curve + 0.02))),
            ),
            _gallery(0.15),
        ),
    )


def images(*, hardened: bool = True) -> Results:
    """The digit reader; ``hardened=False`` gives a run that only audits."""
    trigger = Backdoor(fraction=0.01)
    backdoor = Section(
        threat=trigger.words(),
        room="poisoning",
        findings=(finding("attack success rate", 0.93, 324, trigger, method="patch_backdoor", access="nothing", good=-1, headline=True),),
    )
    plain = Phase(
        name=PLAIN,
        model="CNN, 38,000 weights",
        sections=(_image_evasion(PLAIN, 0.18, 0.0), backdoor),
        performance=clean(0.978, 0.944, 360),
        cost=Cost(size_bytes=154_000),
    )
    after = _image_evasion(HARDENED, 0.66, 0.31)
    plain = replace(plain, sections=(replace(plain.sections[0], examination=(SEEN,)), backdoor))
    safe = replace(
        backdoor, findings=(finding("attack success rate", 0.06, 324, trigger, method="patch_backdoor", access="nothing", good=-1, headline=True),)
    )
    hard = Phase(
        name=HARDENED,
        model="adversarial training around CNN",
        sections=(after, safe),
        performance=clean(0.969, 0.917, 360),
        cost=Cost(size_bytes=154_000),
        brackets=_brackets(after),
    )
    option = Option(
        name="adversarial_training",
        method="adversarial_training",
        clean=Measure(metric="accuracy", value=0.97, n=359),
        chosen=True,
        danger=Measure(metric="robust accuracy", value=0.67, low=0.62, high=0.72, n=359),
        settings={"eps": 0.15, "epochs": 20},
        threat=BALL.words(),
    )
    return Results(
        title="images",
        plan={"title": "images", "threats": [{"evasion": {"norm": "linf", "eps": 0.15}}]},
        seed=0,
        versions=VERSIONS,
        data=DataFacts(name="digits", rows={"train": 1078, "validation": 359, "test": 360}, classes=tuple("0123456789"), features=64),
        phases=(plain, hard) if hardened else (plain,),
        options=(option,) if hardened else (),
        not_tested=(
            "privacy: no threat of this kind was asked about",
            "extraction: no threat of this kind was asked about",
            "evasion: rotation, blur, patches",
        ),
        next_steps=("carbide harden PLAN", "carbide verify RUN"),
    )


def timings(*, hardened: bool = True) -> Timings:
    """Plausible seconds."""
    both = {PLAIN: Latency(p50=0.21, p99=0.34)} | ({HARDENED: Latency(p50=0.24, p99=0.41)} if hardened else {})
    return Timings(
        steps={"train plain": 1.8, "audit tree_search": 6.2, "train manipulated_rows": 41.0},
        latency=both,
        training={PLAIN: 1.8} | ({HARDENED: 9.7} if hardened else {}),
        machine="x86_64, 2 cores, Python 3.11.7",
    )
