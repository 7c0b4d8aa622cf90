"""What judges share that play each method once: who refused, the worst figure first, and a method's own evidence.

>>> from carbide.types import Membership
>>> tried({"a": None, "b": None}, Membership(), lambda name, method: len(name))
({'a': 1, 'b': 1}, [])
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from carbide.types import Array, Finding, InputError, Section, Skip, Threat

T = TypeVar("T")


def tried(methods: Mapping[str, Any], threat: Threat, play: Callable[[str, Any], T]) -> tuple[dict[str, T], list[Skip]]:
    """``play(name, method)`` for every method by its name; those that refuse in words are listed with what they say."""
    found: dict[str, T] = {}
    skipped: list[Skip] = []
    for name, method in methods.items():
        try:
            found[name] = play(name, method)
        except InputError as error:
            skipped.append(Skip(method=name, threat=threat.words(), reason=str(error), status="failed"))
    return found, skipped


def headed(findings: Iterable[Finding], metrics: Collection[str]) -> tuple[Finding, ...]:
    """The findings with the largest of those metrics first, which is the headline, and the others in their order."""
    order = sorted(findings, key=lambda f: -f.value if f.metric in metrics else np.inf)
    return (replace(order[0], headline=True), *order[1:]) if order else ()


def named(name: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """A method's arrays as evidence, each under its own and the method's name."""
    return {f"{name}_{key}": value for key, value in arrays.items()}


def evidence_of(section: Section, method: str) -> dict[str, Array]:
    """The method's arrays in the section's evidence: the inverse of ``named``."""
    return {key.removeprefix(f"{method}_"): value for key, value in section.evidence.items() if key.startswith(f"{method}_")}
