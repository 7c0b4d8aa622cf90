"""What models that were trained with differential privacy have in common: what they state, how they are stored, and their hash.

>>> from carbide.privacy.logistic import PrivateLogistic
>>> [f.name for f in fields(PrivateModel)], issubclass(PrivateLogistic, PrivateModel)
(['privacy', 'space', 'classes', 'threshold'], True)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from carbide.stats.accounting import PrivacyStatement
from carbide.types import BLACK_BOX, Access, Space, digest


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateModel:
    """A model and what its training promises; ``plain`` names the fields of a subclass that are small dataclasses of plain values."""

    plain: ClassVar[dict[str, type]] = {}
    privacy: PrivacyStatement
    space: Space
    classes: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        """Labels and scores."""
        return BLACK_BOX

    def at(self, threshold: float) -> Self:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of everything that decides its answers."""
        return digest(*(getattr(self, name) for name in self._learned()), self.space, self.threshold)

    def to_state(self) -> dict[str, Any]:
        """Plain values and arrays."""
        own = {name: asdict(getattr(self, name)) if name in self.plain else getattr(self, name) for name in self._learned()}
        return {**own, "privacy": self.privacy.to_state(), "space": self.space, "classes": self.classes, "threshold": self.threshold}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The model that ``to_state`` was taken from."""
        return cls(
            **{**state, **{name: made(**state[name]) for name, made in cls.plain.items()}, "privacy": PrivacyStatement.from_state(state["privacy"])}
        )

    def _learned(self) -> list[str]:
        """The fields of the subclass, in their order."""
        common = {f.name for f in fields(PrivateModel)}
        return [f.name for f in fields(self) if f.name not in common]
