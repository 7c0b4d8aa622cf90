"""Wang et al. 2021, https://arxiv.org/abs/2103.06624: the inputs at which the bounds of branch and bound are least.

Where a certificate's search cannot close a part, it looks at the input that its bound fears most. Such inputs fool nets
whose gradients mislead, and they find what ordinary attacks miss near a certificate's edge. Rows that the search
certifies are left as they are.

>>> BoundSearch(nodes=50).search().nodes
50
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from carbide.evasion.prove.branch_and_bound import BranchAndBound
from carbide.registry import Method
from carbide.types import Access, Array, Case, LpBall, Rng, Threat


@dataclass(frozen=True, kw_only=True)
class BoundSearch(Method):
    """The witnesses of branch and bound within ``nodes`` parts a row; options as in the certificate of that name."""

    nodes: int = 200
    steps: int = 10
    inputs: int = 6
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS | Access.WEIGHTS
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 60

    def __post_init__(self) -> None:
        self.search()

    def search(self) -> BranchAndBound:
        """The search with these options.

        Raises:
            InputError: if one of them is refused.
        """
        return BranchAndBound(nodes=self.nodes, steps=self.steps, inputs=self.inputs)

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """As the certificate."""
        return self.search().refuses(case, threat)

    def quick(self) -> BoundSearch:
        """A tenth of the parts."""
        return BoundSearch(nodes=max(1, self.nodes // 10), steps=self.steps, inputs=self.inputs)

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """Inputs ``(n, *shape)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``; the row itself where it found none."""
        return self.search().verdicts(model, x, y, threat, rng).witness
