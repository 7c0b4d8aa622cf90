"""The examination of a model before it is attacked: what would let an attack fail in silence, and the view that mends it.

Symptoms are named, measured and then repaired, refused or noted. A sound model passes without one and is attacked as it is.

>>> from carbide.types import LpBall, Space
>>> import numpy as np
>>> [s.name for s in budget(LpBall(eps=8 / 255), np.array([[0.0, 128.0], [255.0, 7.0]]))]
['size of the change']
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from carbide.evasion.examination.votes import Asked
from carbide.models.examination import answers_vary, refuse, spread_rows
from carbide.models.examination.calls import NEAR
from carbide.models.examination.seeds import seeded
from carbide.run import remember
from carbide.types import Access, Array, Dataset, LpBall, Model, Patch, Symptom, Threat, rng_for

__all__ = ["Examination", "budget", "examine"]

ROWS = 64
SEED = 20180201


@dataclass(frozen=True, kw_only=True, eq=False)
class Examination:
    """``symptoms``, how gradient attacks see the model (``repair``, empty = as it is), and whether it answers at ``random``."""

    symptoms: tuple[Symptom, ...] = ()
    repair: Mapping[str, Any] = field(default_factory=dict)
    random: bool = False

    def refuse(self) -> None:
        """Stop where a symptom is refused.

        Raises:
            InputError: with the symptom in one sentence.
        """
        refuse(self.symptoms)

    def judged(self, model: Model) -> Model:
        """The model that the judge asks: itself, or most of several answers where they are random."""
        return Asked(model) if self.random else model  # type: ignore[return-value]

    def seen(self, model: Model) -> Model:
        """The model that gradient attacks ask."""
        if not self.repair:
            return model
        from carbide.evasion.examination.views import Repair, View

        plain = model.model if isinstance(model, Asked) else model
        return View(plain, Repair(**{**self.repair, "layers": tuple(self.repair["layers"])}))  # type: ignore[return-value]


def examine(model: Model, data: Dataset, threat: Threat) -> Examination:
    """What is wrong with a model for attacks within a threat, from at most 64 rows of ``data``; remembered."""

    def compute() -> dict[str, Any]:
        with seeded(model, SEED):
            found = _examine(model, data.take(spread_rows(len(data), ROWS)), threat)
        return {"symptoms": list(found.symptoms), "repair": dict(found.repair), "random": found.random}

    found = remember("examination", (model, data.x, data.y, threat, "evasion"), compute)
    return Examination(symptoms=tuple(found["symptoms"]), repair=found["repair"], random=found["random"])


def _examine(model: Any, few: Dataset, threat: Threat) -> Examination:
    gap, moved = answers_vary(model, few.x)
    random = gap > NEAR
    symptoms = [_random(gap, moved, model, few.x)] if random else []
    if not isinstance(threat, LpBall | Patch):
        return Examination(symptoms=tuple(symptoms), random=random)
    symptoms += budget(threat, few.x) if isinstance(threat, LpBall) else []
    if Access.GRADIENTS not in model.access or getattr(model, "module", None) is None:
        return Examination(symptoms=tuple(symptoms), random=random)
    from carbide.evasion.examination.gradients import examine_gradients
    from carbide.evasion.examination.outputs import examine_outputs

    near = threat if isinstance(threat, LpBall) else LpBall(p=0, eps=1)  # few pixels may change much: gradients are looked at around the rows
    found, repair = examine_gradients(model, few.x, few.y, near, rng_for(0, "examination"), random=random)
    more, repair = examine_outputs(model, few.x, repair)
    made = {**asdict(repair), "layers": list(repair.layers)} if repair.needed else {}
    return Examination(symptoms=(*symptoms, *found, *more), repair=made, random=random)


def _random(gap: float, moved: float, model: Model, x: Array) -> Symptom:
    asked = Asked(model)
    fixed = np.array_equal(asked.labels(x), asked.labels(x))
    return Symptom(name="randomness", done="repaired",
                   value=f"the same rows get other answers when asked again (by up to {gap:.2g}; {moved:.0%} get another label)"
                   + ("" if fixed else ", and its draws cannot be seeded, so that figures do not repeat"),
                   mend="gradient attacks follow the mean of several draws, the judge takes what most draws answer")  # fmt: skip


def budget(threat: LpBall, x: Array) -> list[Symptom]:
    """A change that is lost in the inputs' range: eps was meant for inputs of another scale."""
    spread = float(np.ptp(x)) * (1.0 if math.isinf(threat.p) else math.sqrt(x[0].size))
    if threat.p == 0 or threat.eps == 0 or spread == 0 or threat.eps / spread > 5e-4:
        return []
    return [Symptom(name="size of the change", done="noted", value=f"eps {threat.eps:g} is {threat.eps / spread:.2%} of what inputs span "
                    f"({x.min():.4g} to {x.max():.4g})", mend="give eps in input units")]  # fmt: skip
