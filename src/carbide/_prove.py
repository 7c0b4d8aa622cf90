"""The verb prove: certificates for each threat, and the brackets they make with what the attacks found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from carbide import registry
from carbide._audit import Ask, choose
from carbide.evasion._sandwich import sandwich
from carbide.run import halving, remember
from carbide.types import Bracket, Case, Certificate, InputError, Section, Skip, UnsoundError, digest, rng_for

ROWS = 1000  # rows of the test set that are certified when the audit did not choose them


def prove_case(case: Case, asks: Sequence[Ask], sections: Sequence[Section]) -> tuple[Section, ...]:
    """The sections with their certificates added.

    Raises:
        UnsoundError: if an attack succeeded on a row inside a deterministic certificate.
    """
    return tuple(_prove_one(case, ask, section) for ask, section in zip(asks, sections, strict=True))


def _prove_one(case: Case, ask: Ask, section: Section) -> Section:
    methods, skipped = choose(case, ask, "prove", ask.certify)
    found: list[Certificate] = []
    for name, method in methods.items():
        x, y = _rows(case, section)
        rng = rng_for(case.seed, ask.threat.room, "prove", name)
        recipe_form = registry.method(ask.threat.room, "prove", name).form == "recipe"
        subject = case.recipe if recipe_form else case.model
        key = (subject, case.data.train if recipe_form else None, x, y, ask.threat, method, case.seed)

        def prove(method=method, subject=subject, x=x, y=y, rng=rng, recipe_form=recipe_form) -> Certificate:
            return method(subject, case.data.train, x, y, ask.threat, rng) if recipe_form else method(subject, x, y, ask.threat, rng)

        try:
            certificate = remember(f"prove {name}", key, lambda prove=prove: halving(prove))
        except InputError as error:
            skipped.append(Skip(method=name, threat=ask.words(), reason=str(error)))
            continue
        found.append(certificate)
    proven = replace(section, certificates=(*section.certificates, *found), skipped=(*section.skipped, *skipped))
    if section.room == "evasion":
        return sandwich(proven)
    for certificate in found:
        _must_agree(certificate, proven)
    return proven


def _rows(case: Case, section: Section) -> tuple[np.ndarray, np.ndarray]:
    if "x" in section.evidence and "y" in section.evidence:
        return section.evidence["x"], section.evidence["y"]
    test = case.data.test
    if len(test) > ROWS:
        test = test.take(np.sort(rng_for(case.seed, "certified rows").permutation(len(test))[:ROWS]))
    return test.x, test.y


def _must_agree(certificate: Certificate, section: Section) -> None:
    broken = section.evidence.get("broken")
    if broken is None or certificate.failure_probability > 0 or not certificate.metric or len(broken) != len(certificate.holds):
        return
    headline = section.headline()
    if headline is None or headline.metric != certificate.metric:
        return
    clash = np.flatnonzero(np.asarray(broken, bool) & np.asarray(certificate.holds, bool))
    if len(clash):
        raise UnsoundError(f"certificate {certificate.method} holds for {len(clash)} rows that an attack broke (first: row {clash[0]}); "
                           "one of the two is wrong: keep the run folder and report it")  # fmt: skip


def brackets_of(section: Section) -> tuple[Bracket, ...]:
    """Certificate and attack on the same metric and rows, as ``[certified, attacked]``."""
    pairs = []
    for certificate in section.certificates:
        finding = next((f for f in section.findings if f.headline and f.metric == certificate.metric), None)
        if finding is None or (finding.good > 0 and len(certificate.holds) != finding.n):
            continue
        certified = certificate.value if finding.good > 0 else float(np.max(certificate.bound))
        note = () if certificate.failure_probability == 0 else (f"fails with probability at most {certificate.failure_probability:g}",)
        pairs.append(Bracket(metric=finding.metric, certified=certified, attacked=finding.value, n=finding.n, finding=finding,
                             certificate=certificate.method, assumptions=(*certificate.assumptions, *note)))  # fmt: skip
    return tuple(pairs)


def key_of(case: Case) -> str:
    """A hash of the case for the store."""
    return digest(case.model, case.data, case.seed)
