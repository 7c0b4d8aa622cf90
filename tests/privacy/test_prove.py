"""The bound that differential privacy implies: its value, who may claim it, and that attacks stay below it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.loss_threshold import LossThreshold
from carbide.privacy.judge import audit
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.privacy.prove.dp_bound import DpBound
from carbide.stats.accounting import gdp_mu, gdp_tpr
from carbide.types import Case, InputError, Membership, Splits
from tests.privacy.worlds import Remembers, case, table

T = Membership()
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def private():
    parts = Splits(train=table(100, seed=1), validation=table(20, seed=2), test=table(100, seed=3))
    recipe = PrivateLogisticRecipe(epsilon=1.0, delta=1e-5)
    return Case(model=recipe.fit(parts.train, np.random.default_rng(0)), data=parts, recipe=recipe)


def test_the_bound_is_that_of_the_account(private):
    test = private.data.test
    certificate = DpBound()(private.model, test.x, test.y, T, RNG)
    expected = gdp_tpr(0.01, gdp_mu(1.0, 1e-5))
    assert certificate.holds.all()
    assert len(certificate.holds) == len(test)
    np.testing.assert_allclose(certificate.bound, expected)
    assert certificate.metric == "membership TPR at 1% FPR"
    assert certificate.assumptions == private.recipe.privacy.assumptions
    assert f"{expected:.3g}" in certificate.claim
    assert "replacing one record" in certificate.claim
    assert DpBound(fpr=0.001)(private.model, test.x, test.y, T, RNG).metric == "membership TPR at 0.1% FPR"


def test_attacks_stay_below_the_bound(private):
    section = audit(private, T, {"lira": Lira(shadows=24), "loss_threshold": LossThreshold()})
    bound = DpBound()(private.model, private.data.test.x, private.data.test.y, T, RNG).bound[0]
    rates = [f for f in section.findings if f.metric == "membership TPR at 1% FPR"]
    assert len(rates) == 2
    assert all(f.low <= bound for f in rates)
    assert any(s.name == "no attack can do better" for s in section.figures[0].series)


@dataclass(frozen=True)
class Wrapper:
    """What a policy does to answers: it wraps the model."""

    inner: object

    @property
    def space(self):
        return self.inner.space


@dataclass(frozen=True)
class Cleaned:
    """A recipe that looks at all rows before the private training."""

    inner: object


def test_only_what_is_accounted_may_claim(private):
    method = DpBound()
    assert method.refuses(private, T) is None
    assert method.refuses(replace(private, recipe=None), T) is None
    assert method.refuses(replace(private, model=Wrapper(private.model)), T) is None
    assert "before the private training" in method.refuses(replace(private, recipe=Cleaned(private.recipe)), T)
    assert "states no differential privacy" in method.refuses(case(Remembers(gain=1.0), n=10), T)
    with pytest.raises(InputError, match="states no differential privacy"):
        method(case(Remembers(gain=1.0), n=10).model, np.zeros((1, 3)), np.zeros(1), T, RNG)
    with pytest.raises(InputError, match="fpr is 0"):
        DpBound(fpr=0)
