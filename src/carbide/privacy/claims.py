"""The judge of a claimed epsilon: what fresh trainings say about it, and whether they refute it.

An attack hands in neighbouring data sets and a score; the judge trains again, with a random side each time, and counts errors at thresholds
that were fixed before. The bracket is ``audited epsilon <= true epsilon <= accounted epsilon``; a claim that errors as few as these would
contradict once in a thousand times at most is refuted, and the run stops.

>>> from carbide.types import PrivacyClaim
>>> float(trade_off_of(PrivacyClaim(epsilon=0.0, delta=0.0))(np.array([0.25]))[0])
0.75
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.privacy._distinguishers import Distinguisher, Threshold
from carbide.privacy._sections import evidence_of, headed, named, tried
from carbide.privacy.pilot import STACK, Pilot, halves, train
from carbide.privacy.signals import logit, odds
from carbide.registry import Method
from carbide.run import remember
from carbide.stats.accounting import check_rows, gdp_epsilon
from carbide.stats.audits import TradeOff, all_of, dp_trade_off, epsilon_lower, gdp_trade_off, mu_lower, p_value
from carbide.stats.one_run import one_run_epsilon, one_run_mu, one_run_p_value, tail_bound
from carbide.types import Array, Case, Dataset, Finding, InputError, PrivacyClaim, Recipe, Section, Threat, UnsoundError, rng_for

AUDITED, ANY_NOISE, GAUSSIAN = "audited epsilon", "audited epsilon, any noise", "audited epsilon, if the noise is Gaussian"
DOUBT = 0.001  # at most so likely are the errors of an attack on a claim that is called refuted
CONFIDENCE = 0.95
TINY = 1e-300  # the floor of probabilities: the surest guesses are far out
QUESTIONS = ("claim", "mu", "epsilon")


@dataclass(frozen=True, kw_only=True, eq=False)
class OneRun:
    """What an attack of one training hands to the judge: the rows that stay, canaries, and how many of the surest guesses count (even)."""

    rest: Dataset
    canaries: Dataset
    guesses: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What one audit of a claim found.

    ``epsilon`` is the audited epsilon, ``any_noise`` and ``gaussian`` the two bounds it is one of (the second nan for delta 0);
    ``likely`` how likely the attack's errors are under the claim, at most; ``evidence`` what it is recomputed from.
    """

    claim: PrivacyClaim
    epsilon: float
    any_noise: float
    gaussian: float
    likely: float
    trainings: int
    how: str
    evidence: Mapping[str, Array]

    @property
    def refuted(self) -> bool:
        """Whether the claim is called refuted."""
        return self.likely < DOUBT

    def words(self) -> str:
        """The bracket on one line."""
        if self.refuted:
            return (f"the claim is refuted: {self.how} had so few errors in {self.trainings:,} training{'s' if self.trainings > 1 else ''} that under epsilon {self.claim.epsilon:.3g} at delta "
                    f"{self.claim.delta:g} they have a probability of at most {self.likely:.1g}; audited epsilon at least {self.epsilon:.3g}")  # fmt: skip
        return (f"audited {self.epsilon:.3g} <= true epsilon <= accounted {self.claim.epsilon:.3g} at delta {self.claim.delta:g} "
                f"({self.how}, {self.trainings:,} training{'s' if self.trainings > 1 else ''})")  # fmt: skip


def trade_off_of(claim: PrivacyClaim) -> TradeOff:
    """What the claim leaves to any attacker."""
    parts = [dp_trade_off(epsilon, delta) for epsilon, delta in ((claim.epsilon, claim.delta), *claim.pairs)]
    return all_of(parts if claim.mu is None else [*parts, gdp_trade_off(claim.mu)])


def too_loose(case: Case, claim: Threat) -> str | None:
    """Why a claim promises nothing to the training rows, in one sentence; None = it does."""
    assert isinstance(claim, PrivacyClaim)
    try:
        check_rows(claim.delta, len(case.data.train))
    except InputError as error:
        return str(error)
    return None


def examine(recipe: Recipe, dataset: Dataset, claim: PrivacyClaim, method: Any, seed: int = 0) -> Verdict:
    """What a method of ``privacy/audit`` that speaks ``PrivacyClaim`` finds about a training.

    Raises:
        InputError: if the method cannot run or a training fails.
    """
    aside, counted = method.budget(recipe, dataset)
    pilot = Pilot(recipe=recipe, seed=seed, left=aside)
    found = method(pilot, dataset, claim, rng_for(seed, "privacy", "claim", type(method).__name__))
    if isinstance(found, OneRun):
        return _of_one_run(recipe, claim, found, seed)
    sides = rng_for(seed, "privacy", "claim", "sides").permutation(halves(counted // 2 * 2))
    scores = [np.asarray(found.score(train(recipe, found.neighbours, sides[i : i + STACK], seed, f"judged {i}")), np.float64)
              for i in range(0, len(sides), STACK)]  # fmt: skip
    return _of_scores(claim, found, np.concatenate(scores), sides)


def audit(case: Case, threat: PrivacyClaim, methods: Mapping[str, Method]) -> Section:
    """The audited epsilon of every method; the largest is the headline.

    Raises:
        UnsoundError: if a claim is refuted.
    """

    def play(name: str, method: Method) -> Verdict:
        verdict = _remembered(case, threat, name, method)
        if verdict.refuted:
            raise UnsoundError(
                f"{name}: {verdict.words()}; the mechanism, its account or its noise is broken: check how gradients are cut, how the noise is "
                "drawn and scaled, how batches are drawn, and what the account was told"
            )
        return verdict

    played, skipped = tried(methods, threat, play)
    findings: list[Finding] = []
    evidence: dict[str, Array] = {}
    for name, verdict in played.items():
        findings += _findings(case, threat, name, methods[name], verdict)
        evidence |= named(name, verdict.evidence)
    return Section(
        threat=threat.words(), room="privacy", findings=headed(findings, (AUDITED,)), skipped=tuple(skipped), evidence=evidence, noun=threat
    )


def verify(section: Section, threat: PrivacyClaim) -> list[tuple[str, float, float]]:
    """Each finding as reported and as recomputed from the scores in the evidence."""
    found = []
    for finding in section.findings:
        bounds = _bounds(threat, evidence_of(section, finding.method))
        found.append((f"{finding.metric} ({finding.method})", finding.value, bounds[finding.metric]))
    return found


def _remembered(case: Case, threat: PrivacyClaim, name: str, method: Method) -> Verdict:
    if case.recipe is None:
        raise InputError("an audit of a claimed epsilon trains again and again, and there is no recipe; add one under recipe:")
    verdicts: list[Verdict] = []

    def compute() -> dict[str, Any]:
        verdicts.append(examine(case.recipe, case.data.train, threat, method, case.seed))  # type: ignore[arg-type]
        return {"evidence": dict(verdicts[0].evidence), "how": verdicts[0].how, "trainings": verdicts[0].trainings}

    stored = remember(f"claim {name}", (case.recipe, case.data.train, threat, method, case.seed), compute)
    return _verdict(threat, stored["how"], stored["trainings"], stored["evidence"])


def _findings(case: Case, threat: PrivacyClaim, name: str, method: Method, verdict: Verdict) -> list[Finding]:
    def finding(metric: str, value: float, note: str) -> Finding:
        return Finding(metric=metric, value=value, low=value, high=max(value, threat.epsilon), n=verdict.trainings, method=name, threat=threat.words(),
                       access="weights", seed=case.seed, confidence=CONFIDENCE, good=-1, note=note)  # fmt: skip

    found = [finding(AUDITED, verdict.epsilon, verdict.words())]
    if threat.mu is not None and not math.isnan(verdict.gaussian):
        found.append(finding(ANY_NOISE, verdict.any_noise, "from the two error rates alone"))
    elif not math.isnan(verdict.gaussian):
        found.append(finding(GAUSSIAN, verdict.gaussian, "what the same errors say about Gaussian noise; nothing is refuted by it"))
    return found


def _of_scores(claim: PrivacyClaim, found: Distinguisher, scores: Array, sides: Array) -> Verdict:
    if scores.shape != sides.shape or np.isnan(scores).any():
        raise InputError(
            f"the attack gave scores of shape {scores.shape} with {int(np.isnan(scores).sum())} NaN for {len(sides)} trainings; give one number each"
        )
    fixed = np.array([[found.thresholds[q].at, found.thresholds[q].weight] for q in QUESTIONS])
    evidence = {"outside": scores[~sides], "inside": scores[sides], "thresholds": fixed}
    return _verdict(claim, f"{found.neighbours.name}, {found.name}", len(sides), evidence)


def _of_one_run(recipe: Recipe, claim: PrivacyClaim, found: OneRun, seed: int) -> Verdict:
    """Coins for the canaries, one training, and the guesses: in where the answer leans most to the canary's label, out where least.

    Where one record is replaced by another, a canary whose coin falls on the other side stands there with another label.
    """
    canaries, rng = found.canaries, rng_for(seed, "privacy", "claim", "one run")
    heads = rng.random(len(canaries)) < 0.5
    planted = (
        canaries.with_(y=np.where(heads, canaries.y, (canaries.y + 1) % canaries.classes)) if claim.adjacency == "replace" else canaries.take(heads)
    )
    whole = found.rest.joined(planted)
    model = recipe.fit(whole.take(rng.permutation(len(whole))), rng)
    scores = logit(*odds(model.predict(canaries.x), canaries.y), TINY)
    if np.isnan(scores).any():
        raise InputError(
            f"the trained model answers NaN to {int(np.isnan(scores).sum())} of {len(scores)} canaries; make it answer with probabilities"
        )
    order, half = np.argsort(scores, kind="stable"), found.guesses // 2
    correct = int(heads[order[-half:]].sum() + (~heads[order[:half]]).sum())
    return _one_run_verdict(claim, np.array([correct, 2 * half, len(canaries)]))


def _one_run_verdict(claim: PrivacyClaim, one_run: Array) -> Verdict:
    correct, guesses, canaries = (int(value) for value in one_run)
    return _verdict(claim, f"{correct} of {guesses} guesses right, {canaries} canaries", 1, {"one_run": one_run})


def _verdict(claim: PrivacyClaim, how: str, trainings: int, evidence: Mapping[str, Array]) -> Verdict:
    bounds = _bounds(claim, evidence)
    return Verdict(claim=claim, epsilon=bounds[AUDITED], any_noise=bounds[ANY_NOISE], gaussian=bounds[GAUSSIAN], likely=_likely(claim, evidence),
                   trainings=trainings, how=how, evidence=evidence)  # fmt: skip


def _counts(evidence: Mapping[str, Array], question: str) -> Any:
    at, weight = evidence["thresholds"][QUESTIONS.index(question)]
    return Threshold(at=float(at), weight=float(weight)).counts(evidence["outside"], evidence["inside"])


def _bounds(claim: PrivacyClaim, evidence: Mapping[str, Array]) -> dict[str, float]:
    """Every bound at 95% by its metric; the audited epsilon is the Gaussian one only where the claim itself is Gaussian."""
    if "one_run" in evidence:
        correct, guesses, canaries = (int(value) for value in evidence["one_run"])
        mu = one_run_mu(correct, guesses, canaries, CONFIDENCE)
        any_noise = one_run_epsilon(correct, guesses, canaries, claim.delta, CONFIDENCE)
    else:
        mu = mu_lower(_counts(evidence, "mu"), CONFIDENCE)
        any_noise = epsilon_lower(_counts(evidence, "epsilon"), claim.delta, CONFIDENCE)
    gaussian = gdp_epsilon(mu, claim.delta) if claim.delta > 0 else math.nan
    return {AUDITED: any_noise if claim.mu is None or math.isnan(gaussian) else gaussian, ANY_NOISE: any_noise, GAUSSIAN: gaussian}


def _likely(claim: PrivacyClaim, evidence: Mapping[str, Array]) -> float:
    if "one_run" in evidence:
        correct, guesses, canaries = (int(value) for value in evidence["one_run"])
        by_pairs = (one_run_p_value(correct, guesses, canaries, e, d) for e, d in ((claim.epsilon, claim.delta), *claim.pairs))
        return min(tail_bound(correct, guesses, canaries, trade_off_of(claim)), *by_pairs)  # each bounds the probability of the same event
    return p_value(_counts(evidence, "claim"), trade_off_of(claim))
