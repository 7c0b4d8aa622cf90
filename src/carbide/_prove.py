"""The verb prove: certificates for each threat, and the brackets they make with what the attacks found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from carbide import registry
from carbide._audit import Ask, choose
from carbide.evasion._sandwich import broken_rows, sandwich, with_witnesses
from carbide.registry import Method
from carbide.run import halving, remember
from carbide.types import Bracket, Case, Certificate, InputError, LpBall, Section, Skip, UnsoundError, digest, rng_for

CHECKED = 32  # broken rows that a certificate is asked about though they are broken


def prove_case(case: Case, asks: Sequence[Ask], sections: Sequence[Section]) -> tuple[Section, ...]:
    """The sections with their certificates added.

    Raises:
        UnsoundError: if an attack succeeded on a row inside a deterministic certificate.
    """
    return tuple(_prove_one(case, ask, section) for ask, section in zip(asks, sections, strict=True))


def _prove_one(case: Case, ask: Ask, section: Section) -> Section:
    methods, skipped = choose(case, ask, "prove", ask.certify)
    found: dict[str, Certificate] = {}
    for name in sorted(methods, key=lambda name: (len(methods[name].after), name)):  # what others build upon goes first
        before = [found[other] for other in methods[name].after if other in found]
        try:
            found[name], section = _certified(case, ask, section, name, methods[name], before)
        except InputError as error:
            skipped.append(Skip(method=name, threat=ask.words(), reason=str(error)))
    ordered = [found[name] for name in methods if name in found]
    proven = replace(section, certificates=(*section.certificates, *ordered), skipped=(*section.skipped, *skipped))
    if section.room == "evasion":
        return sandwich(proven)
    for certificate in ordered:
        _must_agree(certificate, proven)
    return proven


def _certified(case: Case, ask: Ask, section: Section, name: str, method: Method, before: Sequence[Certificate]) -> tuple[Certificate, Section]:
    """The certificate of one method, and the section with the witnesses that its search found.

    Rows that an attack broke or that one of ``before`` holds are known, and it is not asked about them. A few of the broken rows
    are asked about all the same: a certificate that holds for one of them is wrong and stops the run.
    """
    x, y = _rows(case, section)
    rng = rng_for(case.seed, ask.threat.room, "prove", name)
    recipe_form = registry.method(ask.threat.room, "prove", name).form == "recipe"
    subject = case.recipe if recipe_form else case.model
    rows = np.arange(len(x))
    if before:
        holds, broken = np.any([c.holds for c in before], axis=0), broken_rows(section, len(x))
        checked = rng_for(case.seed, "checked", name).permutation(np.flatnonzero(broken & ~holds))[:CHECKED]
        rows = np.sort(np.concatenate([np.flatnonzero(~holds & ~broken), checked]))
    key = (subject, case.data.train if recipe_form else None, x[rows], y[rows], ask.threat, method, case.seed)

    def prove() -> Any:
        if recipe_form:
            return method(subject, case.data.train, x, y, ask.threat, rng)
        if hasattr(method, "searched"):
            certificate, found = method.searched(subject, x[rows], y[rows], ask.threat, rng)  # type: ignore[attr-defined]
            return {"certificate": certificate, "broken": found.broken, "witness": found.witness}
        return method(subject, x[rows], y[rows], ask.threat, rng)

    found = remember(f"prove {name}", key, lambda: halving(prove))
    certificate = found["certificate"] if isinstance(found, dict) else found
    aimed = isinstance(ask.threat, LpBall) and ask.threat.target is not None  # a search's witnesses may show any other class
    if isinstance(found, dict) and "broken" in section.evidence and not aimed:
        section = with_witnesses(section, case.model, rows, found["broken"], found["witness"], ask.threat)
    return _with_known(certificate, rows, before) if before else certificate, section


def _with_known(certificate: Certificate, rows: np.ndarray, before: Sequence[Certificate]) -> Certificate:
    """A certificate of some rows with what those before it hold of all rows."""
    holds, bound = np.any([c.holds for c in before], axis=0), np.max([np.nan_to_num(c.bound, nan=0.0) for c in before], axis=0)
    holds[rows] |= certificate.holds
    bound[rows] = np.maximum(bound[rows], certificate.bound)
    assumptions = tuple(dict.fromkeys(words for c in (certificate, *before) for words in c.assumptions))
    return replace(certificate, holds=holds, bound=bound, assumptions=assumptions, metric=before[0].metric)


def _rows(case: Case, section: Section) -> tuple[np.ndarray, np.ndarray]:
    if "x" in section.evidence and "y" in section.evidence:
        return section.evidence["x"], section.evidence["y"]
    test = case.data.test
    if len(test) > case.rows:
        test = test.take(np.sort(rng_for(case.seed, "certified rows").permutation(len(test))[: case.rows]))
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
