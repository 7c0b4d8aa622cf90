"""A model that counts what is asked of it; everything else goes to the model itself."""

from __future__ import annotations

from typing import Any

from carbide.types import Array, Model


class Counted:
    """A model that answers as ``model`` does; ``queries`` is the number of rows it has been asked about."""

    def __init__(self, model: Model, total: Counted | None = None) -> None:
        self.model = model
        self.queries = 0
        self._total = total

    def count(self, rows: int) -> None:
        """Note that so many rows were asked about."""
        self.queries += rows
        if self._total is not None:
            self._total.count(rows)

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)``."""
        self.count(len(x))
        return self.model.predict(x)

    def logits(self, x: Any) -> Any:
        """Logits of a tensor, for models that have them."""
        self.count(len(x))
        return self.model.logits(x)  # type: ignore[attr-defined]

    @property
    def own(self) -> Counted | None:
        """The model with its own gradient, where this one's is measured from many answers; what it is asked is counted here, too."""
        own = getattr(self.model, "own", None)
        return None if own is None else Counted(own, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
