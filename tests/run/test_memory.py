"""Memory that runs out: half as many rows at once, the same answers; what never fits is said in a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from carbide.data.live import dataset_of
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.judge import audit
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.torch_net import TorchModel
from carbide.run import halving, rows_at_once
from carbide.types import Case, InputError, LpBall, Space, Splits, decide

SPACE = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))


class Small(nn.Module):
    """A linear net that has room for ``room`` rows, more with gradients off."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.linear, self.room, self.seen = nn.Linear(2, 3), room, []
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[3.0, -1.0], [-2.0, 2.0], [0.5, 0.5]]))
            self.linear.bias.copy_(torch.tensor([-0.5, 0.2, 0.3]))

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > (self.room if torch.is_grad_enabled() else 2 * self.room):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.linear(x)


def case_of(room: int) -> Case:
    x = np.random.default_rng(0).uniform(size=(300, 2))
    y = decide(TorchModel(module=Small(1000), space=SPACE, classes=3).predict(x))
    data = dataset_of(x, y, space=SPACE, classes=3)
    return Case(model=TorchModel(module=Small(room), space=SPACE, classes=3), data=Splits(train=data, validation=data, test=data), seed=0)


def test_an_audit_goes_on_with_half_the_batch():
    small, wide = (audit(case_of(room), LpBall(eps=0.1), {"pgd": PGD()}) for room in (100, 1000))
    assert not small.skipped
    assert (small.evidence["broken"] == wide.evidence["broken"]).mean() > 0.9  # other batches start from other noise
    assert 0 < wide.evidence["broken"].mean() < 1
    case = case_of(100)
    audit(case, LpBall(eps=0.1), {"pgd": PGD()})
    assert max(case.model.module.seen) > 100  # it was tried, and then left
    assert sorted(case.model.module.seen)[len(case.model.module.seen) // 2] <= 100
    assert rows_at_once(1024) == 1024


def test_bounds_take_fewer_rows_at_once_too():
    asked = []

    class Counted(IntervalBounds):
        def _batch(self, model, x, y, threat):
            asked.append(len(x))
            if len(x) > 40:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
            return super()._batch(model, x, y, threat)

    case = case_of(1000)
    x, y = case.data.test.x, case.data.test.y
    plain = TorchModel(module=Small(1000).linear, space=SPACE, classes=3)
    ask = lambda proof: proof(plain, x, y, LpBall(eps=0.05), np.random.default_rng(0)).holds  # noqa: E731
    np.testing.assert_array_equal(halving(lambda: ask(Counted(halvings=0))), ask(IntervalBounds(halvings=0)))
    assert max(asked) > 40 >= asked[-1]


def test_what_never_fits_is_one_sentence():
    model = TorchModel(module=Small(0), space=SPACE, classes=3)
    with pytest.raises(InputError, match="even with one row at a time"):
        model.predict(np.zeros((5, 2)))
    assert rows_at_once(7) == 7


def test_other_errors_are_not_swallowed():
    def work():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        halving(work)
