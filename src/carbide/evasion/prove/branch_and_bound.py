"""Wang et al. 2021, https://arxiv.org/abs/2103.06624: branch and bound, which decides what one pass of bounds leaves open.

A row that linear bounds do not certify is cut in parts (the sign of a neuron, or an input's range where there are few
inputs), each part is bounded again with what the cut says, and so on until the row is certified, an input is found that
fools the model, or the row has had its number of parts and stays open.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
>>> weights = {"0.weight": [[1.0], [-1.0]], "0.bias": [0.0, 0.0], "2.weight": [[1.0, 1.0], [-1.0, -1.0]], "2.bias": [0.1, -0.1]}
>>> _ = net.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})  # class 0 by 2 |x| + 0.2
>>> model = TorchModel(module=net, space=Space.table(["a"], lower=np.array([-1.0])), classes=2)
>>> bool(BranchAndBound()(model, np.array([[0.1]]), np.array([0]), LpBall(eps=0.5), np.random.default_rng(0)).holds[0])
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from carbide.evasion._branching import by_inputs, by_signs
from carbide.evasion._linear_bounds import Net, Region
from carbide.evasion._task import Fate, LabelTask
from carbide.evasion._tightening import right
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.judge import judge
from carbide.evasion.prove.crown import CROWN, FIXED, SURE
from carbide.evasion.prove.interval_bounds import of_logits
from carbide.registry import Method
from carbide.run import track
from carbide.types import Access, Array, Case, Certificate, InputError, LpBall, Rng, Threat


class Verdicts(NamedTuple):
    """Per row ``(n,)``: ``certified``, ``broken`` (by ``witness`` ``(n, *shape)``, else the row itself), the parts spent; neither = open."""

    certified: Array
    broken: Array
    witness: Array
    nodes: Array


@dataclass(frozen=True, kw_only=True)
class BranchAndBound(Method):
    """Complete verification of small ReLU nets: at most ``nodes`` parts a row, ``steps`` gradient steps a part.

    Statement: for each row that holds, every input within the threat's ball and the space's bounds gets the row's label.
    Where inputs have at most ``inputs`` features, half of the parts are cuts of the input; the others are cuts on the signs
    of neurons. For Linf balls around ReLU nets each row is decided in the end, up to rounding.
    """

    nodes: int = 200
    steps: int = 10
    inputs: int = 6
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS | Access.WEIGHTS
    default: ClassVar[bool] = False
    after: ClassVar[tuple[str, ...]] = ("interval_bounds", "crown")

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("steps", 0), ("inputs", 0)):
            if not getattr(self, name) >= least:
                raise InputError(f"branch_and_bound: {name} is {getattr(self, name)}; give a whole number >= {least}")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """As CROWN."""
        return CROWN().refuses(case, threat)

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Certificate:
        """The certificate for rows ``x`` ``(n, *shape)`` with labels ``y`` ``(n,)``; ``bound`` is the threat's eps where it holds.

        Raises:
            InputError: if the net has a layer that bounds do not know.
        """
        return self.searched(model, x, y, threat, rng)[0]

    def searched(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> tuple[Certificate, Verdicts]:
        """The certificate, and what the search found beside it; arguments and errors as in a call."""
        model = of_logits(model)
        quick = CROWN(halvings=0, alpha=self.steps)(model, x, y, threat, rng)
        found = self._decided(model, x, y, threat, rng, quick)
        said = [SURE, FIXED, *getattr(model, "assumptions", ())]
        if (left := int((~found.certified & ~found.broken).sum())) > 0:
            said.append(f"{left} rows are open: neither certified nor broken within {self.nodes} parts each")
        proof = Certificate(claim=quick.claim, holds=found.certified, bound=np.where(found.certified, np.maximum(quick.bound, threat.eps), 0.0),
                            failure_probability=0.0, method="branch_and_bound", threat=threat.words(), unit="input units", metric=quick.metric,
                            assumptions=tuple(said))  # fmt: skip
        return proof, found

    def verdicts(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Verdicts:
        """The fate of each row, with the witnesses that the search found (a row that is wrong as it is is its own)."""
        return self.searched(model, x, y, threat, rng)[1]

    def _decided(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng, quick: Certificate) -> Verdicts:
        certified, broken, witness, nodes = quick.holds.copy(), ~right(model, x, y), x.copy(), np.zeros(len(x), np.int64)
        open_ = np.flatnonzero(~certified & ~broken)
        if len(open_) and threat.p in (2, math.inf):  # what a quick attack breaks needs no search
            outcome = judge(model, x[open_], y[open_], PGD()(model, x[open_], y[open_], threat, rng), threat, model.space)
            broken[open_], witness[open_] = outcome.success, outcome.witness
        few = math.prod(x.shape[1:]) <= self.inputs
        for row in track(np.flatnonzero(~certified & ~broken), label="branch and bound"):
            one = slice(row, row + 1)
            net = Net(model.module, Region.of(model, x[one], threat.p, threat.eps), torch.finfo(model.dtype).eps)
            task = LabelTask(model=model, net=net, x=x[one], y=y[one], threat=threat, nodes=self.nodes, steps=self.steps)
            fate = by_inputs(replace(task, nodes=(self.nodes + 1) // 2)) if few else Fate(False, None, 0)
            if not fate.certified and fate.witness is None and fate.nodes < self.nodes:
                further = by_signs(replace(task, nodes=self.nodes - fate.nodes))
                fate = further._replace(nodes=fate.nodes + further.nodes)
            certified[row], nodes[row] = fate.certified, fate.nodes
            if fate.witness is not None:
                broken[row], witness[row] = True, fate.witness
        return Verdicts(certified, broken, witness, nodes)
