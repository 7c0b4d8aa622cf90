"""Shannon 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x: what an answer can take so few values of can tell no more than their logarithm.

A query answered in one of A ways tells at most log2 A bits, whatever is asked and however the next question depends on the
last answer: n queries have at most A**n transcripts. Rounding and labels make A small; full floats make it useless.

>>> bits_of(10, 2)  # ten classes, probabilities in steps of 0.01
41.96
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from carbide.extraction.policy_model import FLOATS
from carbide.registry import Method
from carbide.types import Array, Certificate, Model, Queries, Rng


def bits_of(classes: int, decimals: int) -> float:
    """Bits of one answer of probabilities that sum to one in steps of ``10**-decimals``, to two places."""
    return round(math.log2(math.comb(10**decimals + classes - 1, classes - 1)), 2)


@dataclass(frozen=True, kw_only=True)
class AnswerBits(Method):
    """Bounds the bits about the model that its answers let out, by counting the answers it can give.

    Claim: for every thief, every prior over models and every adaptive choice of at most n queries, the mutual information
    between the model and the transcript is at most ``n * log2 A`` bits, where A is the number of answers one query can get.
    """

    threats = (Queries,)

    def __call__(self, model: Model, x: Array, y: Array, threat: Queries, rng: Rng) -> Certificate:
        """The bits of one answer, the same for each row; it holds where answers are rounded or labels, not for full floats."""
        count = model.classes if threat.answers == "labels" else getattr(model, "answer_count", None)
        bits = math.log2(FLOATS) * model.classes if count is None else math.log2(count)
        total = bits * threat.n
        words = "labels" if count == model.classes else f"one of {count:,} rounded answers" if count and count < 10**15 else \
            "rounded answers" if count else "full-precision floats, which limit nothing"  # fmt: skip
        return Certificate(claim=f"{threat.n:,} queries let out at most {total:,.0f} bits about the model ({bits:.2f} a query: {words})",
                           holds=np.full(len(x), count is not None), bound=np.full(len(x), bits), failure_probability=0.0, unit="bits a query",
                           method="answer_bits", threat=threat.words(), assumptions=(
                               "the answer is all that a query lets out: no timing, no error texts, no other interface",
                               "one thief asks at most n queries; several thieves who pool answers count together",
                               "it bounds what the answers tell, not what a thief knows beforehand or how well a simple copy agrees",
                           ))  # fmt: skip
