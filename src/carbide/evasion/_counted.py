"""A model that counts what is asked of it; everything else goes to the model itself."""

from __future__ import annotations

from typing import Any

from carbide.types import Array, Model


class Counted:
    """A model that answers as ``model`` does; ``queries`` is the number of rows it has been asked about."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.queries = 0

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)``."""
        self.queries += len(x)
        return self.model.predict(x)

    def logits(self, x: Any) -> Any:
        """Logits of a tensor, for models that have them."""
        self.queries += len(x)
        return self.model.logits(x)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
