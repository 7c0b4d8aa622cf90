import numpy as np
import pytest

from carbide.evasion.audit.bound_search import BoundSearch
from carbide.evasion.judge import judge
from carbide.types import InputError, LpBall, decide, rng_for
from tests.evasion.exact import robust
from tests.evasion.nets import tiny


def test_it_breaks_every_row_that_can_be_broken_and_leaves_the_others():
    model, threat = tiny(5, inputs=3, width=10), LpBall(eps=0.1)
    x = np.random.default_rng(1).uniform(size=(25, 3))
    y = decide(model.predict(x))
    z = BoundSearch(inputs=0)(model, x, y, threat, rng_for(0))
    outcome = judge(model, x, y, z, threat, model.space)
    truth = robust(model, x, y, 0.1) < 0
    np.testing.assert_array_equal(outcome.success, truth)
    np.testing.assert_array_equal(z[~truth], x[~truth])
    assert truth.sum() > 2


def test_its_quick_form_spends_a_tenth_and_wrong_options_are_refused():
    assert BoundSearch(nodes=100).quick().nodes == 10
    with pytest.raises(InputError, match="nodes is 0"):
        BoundSearch(nodes=0)
