import numpy as np
import pytest

from carbide.evasion.audit.fmn import FMN
from carbide.evasion.audit.sigma_zero import SigmaZero
from carbide.evasion.audit.standard import Standard
from carbide.evasion.judge import judge
from carbide.types import InputError, LpBall, rng_for
from tests.evasion.nets import digits, digits_net, linear, unit_space
from tests.evasion.test_fmn import distances, fewest


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_fewest_features_of_a_linear_model_are_found(scale):
    rng = np.random.default_rng(4)
    w = rng.normal(size=5)
    x = rng.uniform(size=(12, 5))
    model = linear(w, -float(np.median(x @ w)), space=unit_space(5), scale=scale)
    y = (x @ w > np.median(x @ w)).astype(np.int64)
    truth = np.array([fewest(model, row, label) for row, label in zip(x, y, strict=True)])
    found, z = distances(model, SigmaZero(), x, y, 0)
    assert (found >= truth).all()
    assert (found == truth).mean() >= 0.75
    assert ((z == x).sum(1) == 5 - np.where(np.isfinite(found), found, 0)).all(), "features that have not moved keep every digit"


def test_on_a_net_changes_are_sparse_and_no_worse_than_fmns():
    model = digits_net()
    x, y = digits().test.x[:50], digits().test.y[:50]
    ours, theirs = (distances(model, attack, x, y, 0)[0] for attack in (SigmaZero(), FMN()))
    assert np.median(ours) <= np.median(theirs)
    assert np.median(ours) <= 6


def test_features_of_any_width_are_measured_in_it():
    space = unit_space(3)
    wide = linear([2.0, 1.0, 0.1], -1.5, space=space)
    x = np.array([[0.9, 0.3, 0.5]])
    far = np.array([[1000.0, 1.0, 1.0]])
    stretched = linear(np.array([2.0, 1.0, 0.1]) / far[0], -1.5, space=type(space).table(["a", "b", "c"], lower=np.zeros(3), upper=far[0]))
    small, _ = distances(wide, SigmaZero(), x, np.array([1]), 0)
    large, _ = distances(stretched, SigmaZero(), x * far, np.array([1]), 0)
    assert small[0] == large[0] == 1


def test_the_standard_ensemble_counts_features_with_it():
    model, threat = digits_net(), LpBall(p=0, eps=5)
    x, y = digits().test.x[:40], digits().test.y[:40]
    found = Standard().propose(model, x, y, threat, rng_for(0))
    outcome = judge(model, x, y, found.x, threat, model.space)
    assert outcome.success.mean() > 0.3
    assert outcome.cost[outcome.success].max() <= 5
    assert "sigma_zero" in found.stage.tolist()


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="steps is 0"):
        SigmaZero(steps=0)
    assert SigmaZero().quick().steps < SigmaZero().steps
    assert "l0" in (SigmaZero().refuses(None, LpBall(p=1, eps=1.0)) or "")
