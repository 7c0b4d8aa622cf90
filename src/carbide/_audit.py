"""The verb audit: every applicable attack of every named threat against one model, judged by the threat's room.

>>> Ask(threat=Flips(fraction=0.1)).words()
'labels of 10.00% of the training rows changed'
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from carbide import registry
from carbide.registry import Method
from carbide.run import remember
from carbide.types import Case, Flips, InputError, Section, Skip, Symptom, Threat

__all__ = ["Ask", "Flips", "attacks", "audit_case", "judge_of"]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One threat that the user asks about; ``methods`` maps attack names to options (None = every default attack).

    ``certify`` and ``defend`` say the same for certificates and defences.
    """

    threat: Threat
    methods: Mapping[str, Mapping[str, Any]] | None = None
    certify: Mapping[str, Mapping[str, Any]] | None = None
    defend: Mapping[str, Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def words(self) -> str:
        """The threat in words."""
        return self.threat.words()


def judge_of(threat: Threat) -> Any:
    """The judge module of a threat's room."""
    return importlib.import_module(f"carbide.{threat.room}.judge")


def choose(case: Case, ask: Ask, verb: str, named: Mapping[str, Mapping[str, Any]] | None) -> tuple[dict[str, Method], list[Skip]]:
    """The methods of one room and verb that run on a case, and the others with the reason.

    Raises:
        InputError: if the user names a method that does not exist, is not installed or takes no such option.
    """
    chosen: dict[str, Method] = {}
    skipped: list[Skip] = []
    entries = {entry.name: entry for entry in registry.methods(room=ask.threat.room, verb=verb)}
    for name in named or {}:
        registry.method(ask.threat.room, verb, name)
    for name, entry in entries.items():
        if named is not None and name not in named:
            continue
        if entry.cls is None and named is None:
            skipped.append(Skip(method=name, threat=ask.words(), reason=f"it needs the {entry.missing} extra", status="not installed"))
            continue
        method = entry.make(dict((named or {}).get(name, {})))
        if named is None and not (entry.speaks(ask.threat) and method.unasked(case, ask.threat)):
            continue
        reason = registry.refusal(method, case, ask.threat)
        if reason is None:
            chosen[name] = method
        else:
            skipped.append(Skip(method=name, threat=ask.words(), reason=reason))
    return chosen, skipped


def attacks(case: Case, ask: Ask) -> tuple[dict[str, Method], list[Skip]]:
    """The attacks that run on a case for one threat, and the others with the reason."""
    return choose(case, ask, "audit", ask.methods)


def audit_case(case: Case, asks: Sequence[Ask], *, quick: bool = False) -> tuple[Section, ...]:
    """One section a threat, in the order asked; ``quick`` takes each attack's cheaper variant of a model that was examined before.

    Raises:
        InputError: if no threat is asked about, or the examination of the model refuses it.
    """
    if not asks:
        raise InputError("no threat is named; name at least one, e.g. threats: [{evasion: {norm: linf, eps: 0.1}}]")
    seen = () if quick else _examined(case)
    return tuple(_with(_audit_one(case, ask, quick), seen) for ask in asks)


def _examined(case: Case) -> tuple[Symptom, ...]:
    """What the examination sees in the model's answers, before any threat is tried."""
    from carbide.models.examination import examine, refuse

    train, test = case.data.train, case.data.test
    found = tuple(remember("examination", (case.model, train.x, test.x, test.y), lambda: list(examine(case.model, train, test))))
    refuse(found)
    return found


def _with(section: Section, seen: Sequence[Symptom]) -> Section:
    """The section with these symptoms before its own; what the room says of the same symptom counts."""
    own = {symptom.name for symptom in section.examination}
    return replace(section, examination=(*(s for s in seen if s.name not in own), *section.examination))


def _audit_one(case: Case, ask: Ask, quick: bool) -> Section:
    methods, skipped = attacks(case, ask)
    if quick:
        methods = {name: method.quick() for name, method in methods.items()}
    if not methods:
        skipped.append(Skip(method="all", threat=ask.words(), reason="no attack could run, so what attacks can do is not known", status="unknown"))
        return Section(threat=ask.words(), room=ask.threat.room, skipped=tuple(skipped), noun=ask.threat)
    section = judge_of(ask.threat).audit(case, ask.threat, methods)
    return replace(section, skipped=(*skipped, *section.skipped), noun=ask.threat)
