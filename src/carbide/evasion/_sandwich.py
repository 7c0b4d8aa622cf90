"""Every row is broken, certified or open: what attacks and certificates of one threat say together.

A broken row has a witness that the judge scored with the untouched model. A certified row is held by at least one
deterministic certificate. The others are open: nobody knows. Certificates that may fail, or that speak of another model
(a smoothed one), stand apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from carbide.evasion.judge import judge
from carbide.stats.intervals import clopper_pearson
from carbide.types import Array, Certificate, Figure, Finding, Section, Series, Threat, UnsoundError

METRICS = ("robust accuracy", "robust recall")
ALL = "all certificates"
FOUND, SHOWN = "proof.broken", "proof.witness"  # what the searches of certificates broke besides, and by which inputs
CLOSE = 1e-6  # a witness is inside a certified radius when it is closer than this share of it allows


class Fates(NamedTuple):
    """Per row ``(n,)`` bool: exactly one of the three holds."""

    broken: Array
    certified: Array
    open: Array


def about_rows(section: Section) -> tuple[Certificate, ...]:
    """The deterministic certificates that speak of the model and the rows that were attacked."""
    n = len(section.evidence.get("broken", ()))
    return tuple(c for c in section.certificates if c.failure_probability == 0 and c.metric in METRICS and len(c.holds) == n > 0 and c.method != ALL)


def fates(section: Section) -> Fates:
    """What became of each row of a section that has evidence of rows.

    Raises:
        UnsoundError: if a row is broken within a certificate that holds for it, at the threat's size or at a smaller radius.
    """
    found = about_rows(section)
    for certificate in found:
        check(certificate, section)
    broken = _broken(section)
    certified = np.any([np.zeros(len(broken), bool), *(c.holds for c in found)], axis=0)
    return Fates(broken, certified, ~broken & ~certified)


def check(certificate: Certificate, section: Section) -> None:
    """A deterministic certificate against the witnesses.

    Raises:
        UnsoundError: if a witness lies within what it certifies.
    """
    broken, cost = _broken(section), np.asarray(section.evidence.get("cost", np.full(len(certificate.holds), np.inf)), float)
    bound = np.nan_to_num(np.asarray(certificate.bound, float), nan=0.0)
    clash = np.flatnonzero(broken & (np.asarray(certificate.holds, bool) | (cost < (1 - CLOSE) * bound)))
    if len(clash):
        raise UnsoundError(f"certificate {certificate.method} holds for {len(clash)} rows that an attack broke (first: row {clash[0]}, by a change of "
                           f"{cost[clash[0]]:.6g} within a bound of {bound[clash[0]]:.6g}); one of the two is wrong: keep the run folder and report it")  # fmt: skip


def _broken(section: Section) -> Array:
    """The rows with a witness; those that an exact search left undecided count as broken in the headline, not here."""
    broken = np.asarray(section.evidence["broken"], bool)
    found = np.asarray(section.evidence.get(FOUND, np.zeros(len(broken))), bool)
    return (broken & ~np.asarray(section.evidence.get("unknown", np.zeros(len(broken))), bool)) | found


def broken_rows(section: Section, n: int) -> Array:
    """The rows ``(n,)`` with a witness, none where nothing was attacked."""
    return _broken(section) if len(section.evidence.get("broken", ())) == n else np.zeros(n, bool)


def with_witnesses(section: Section, model: Any, rows: Array, broken: Array, witness: Array, threat: Threat) -> Section:
    """The section with what the search of a certificate broke among ``rows`` ``(m,)``, as the judge sees it; the headline stays the attacks'."""
    e = section.evidence
    hit = np.flatnonzero(broken & ~_broken(section)[rows])
    if not len(hit):
        return section
    outcome = judge(model, e["x"][rows[hit]], e["y"][rows[hit]], witness[hit], threat, model.space)
    found, shown = np.array(e.get(FOUND, np.zeros(len(e["y"])))).astype(bool), np.array(e.get(SHOWN, e["x"]), np.float64)
    assert outcome.witness is not None
    found[rows[hit]], shown[rows[hit]] = outcome.success, outcome.witness
    return replace(section, evidence={**e, FOUND: found, SHOWN: shown})


def sandwich(section: Section) -> Section:
    """The section with the share of open rows, its picture, and where several certificates speak, what they say together.

    Raises:
        UnsoundError: as ``fates``.
    """
    found = about_rows(section)
    if not found:
        return section
    rows, names = fates(section), ", ".join(c.method for c in found)
    headline = section.headline()
    n, left = len(rows.open), int(rows.open.sum())
    low, high = clopper_pearson(left, n)
    more = int(np.sum(section.evidence.get(FOUND, 0)))
    searched = f", {more} of them by the search of a certificate and not by the attacks" if more else ""
    told = Finding(metric="open rows", value=left / n, low=low, high=high, n=n, method=ALL, threat=section.threat, access="weights",
                   seed=headline.seed if headline is not None else 0, good=-1,
                   note=f"{int(rows.broken.sum())} broken with a witness{searched}, {int(rows.certified.sum())} certified by {names}; nobody knows about the others")  # fmt: skip
    together = (_together(found),) if len(found) > 1 else ()
    return replace(section, findings=(*section.findings, told), figures=(*section.figures, _picture(section, rows, names)),
                   certificates=(*section.certificates, *together))  # fmt: skip


def _together(found: tuple[Certificate, ...]) -> Certificate:
    """The union of deterministic certificates: a row holds where one of them holds, with the largest bound."""
    first = found[0]
    same = all(c.unit == first.unit for c in found)
    bound = np.max([np.nan_to_num(c.bound, nan=0.0) for c in found], axis=0) if same else np.full(len(first.holds), np.nan)
    return replace(first, claim=f"one of {', '.join(c.method for c in found)} proves the row: {first.claim}", method=ALL, bound=bound,
                   holds=np.any([c.holds for c in found], axis=0), assumptions=tuple(dict.fromkeys(a for c in found for a in c.assumptions)))  # fmt: skip


def _picture(section: Section, rows: Fates, names: str) -> Figure:
    counts = np.array([part.sum() for part in rows])
    n = len(rows.open)
    bands = [clopper_pearson(int(k), n) for k in counts]
    apart = [f"{c.method} says of another model or with a failure probability that {int(c.holds.sum())} of {len(c.holds)} hold"
             for c in section.certificates if c.failure_probability > 0]  # fmt: skip
    note = "; ".join([f"broken: an input within the threat is misread; certified: {names} prove that none is; open: nobody knows", *apart])
    series = Series(name="rows", x=np.array(["broken", "certified", "open"]), y=counts / n, low=np.array([b.low for b in bands]),
                    high=np.array([b.high for b in bands]))  # fmt: skip
    return Figure(kind="bars", title="Every row: broken, certified or open", x_label="", y_label="share of all rows", series=(series,), note=note)
