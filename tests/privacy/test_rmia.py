"""RMIA against a slow loop, the known likelihood ratio, and worlds in which there is nothing to find."""

import numpy as np
import pytest

from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.loss_threshold import LossThreshold
from carbide.privacy.audit.rmia import Rmia
from carbide.privacy.shadows import Shadows, design
from carbide.privacy.signals import confidence, grain
from carbide.stats.roc import auc
from carbide.types import InputError
from tests.privacy.test_attacks import from_logits, play, recorded
from tests.privacy.worlds import table

RNG = np.random.default_rng(0)


def slow(target, references, members, gamma, offline):
    """The paper's score, one pair of records at a time."""
    at_large = []
    for i in range(len(target)):
        inside, outside = references[members[:, i], i].mean(), references[~members[:, i], i].mean()
        at_large.append((inside + outside) / 2 if offline is None else ((1 + offline) * outside + (1 - offline)) / 2)
    n = len(target)
    return np.array([sum((target[i] / at_large[i]) / (target[j] / at_large[j]) >= gamma for j in range(n) if j != i) / (n - 1) for i in range(n)])


@pytest.mark.parametrize(("gamma", "offline"), [(1.0, None), (1.3, None), (1.0, 0.4), (2.0, 1.0)])
def test_scores_are_those_of_a_slow_loop(gamma, offline):
    rng = np.random.default_rng(3)
    records = table(25)
    members = design(records.y, 12, rng)
    shadows = Shadows(members=members, answers=from_logits(rng.normal(0, 1, (12, 25)) + 0.8 * members, records.y))
    left = shadows.without(4)
    found = Rmia(gamma=gamma, offline=offline)(recorded(records, shadows, 4), records, RNG, left)
    least = grain(left.answers)
    target, references = (np.maximum(confidence(a, records.y), least) for a in (shadows.answers[4], left.answers))
    np.testing.assert_allclose(found, slow(target, references, left.members, gamma, offline), atol=1e-12)
    assert found.std() > 0


def world(seed, models, rows=120, gain=1.0):
    """Records that are hard or easy for every model, and a little easier for models that hold them."""
    rng = np.random.default_rng(seed)
    records = table(rows)
    members = design(records.y, models, rng)
    logits = rng.normal(0, 1.5, rows) + gain * members + 0.5 * rng.standard_normal((models, rows))
    return records, Shadows(members=members, answers=from_logits(logits, records.y))


def test_records_are_told_apart_better_than_by_their_loss_and_nearly_as_well_as_can_be():
    records, shadows = world(0, 16)
    found, loss, lira = (auc(play(m, records, shadows), shadows.members) for m in (Rmia(), LossThreshold(), Lira(shadows=16)))
    assert found > loss + 0.1
    assert found > lira - 0.06


@pytest.mark.parametrize("method", [Rmia(), Rmia(gamma=1.5), Rmia(offline=0.5)])
def test_nothing_is_found_where_there_is_nothing(method):
    found = []
    for seed in range(60):
        records, shadows = world(seed, 8, rows=60, gain=0.0)
        found.append(auc(play(method, records, shadows), shadows.members))
    assert np.mean(found) == pytest.approx(0.5, abs=3.5 * np.std(found) / np.sqrt(len(found)))


def test_what_cannot_be_is_refused():
    for change, said in (({"shadows": 3}, "shadows is 3"), ({"gamma": 0.5}, "gamma is 0.5"), ({"offline": 2.0}, "offline is 2")):
        with pytest.raises(InputError, match=said):
            Rmia(**change)
    records, shadows = world(0, 8)
    with pytest.raises(InputError, match="add a recipe"):
        Rmia()(recorded(records, shadows, 0), records, RNG, None)
    lonely = Shadows(members=np.ones((2, 120), bool), answers=shadows.answers[:2])
    with pytest.raises(InputError, match="no reference on one side"):
        Rmia()(recorded(records, shadows, 0), records, RNG, lonely)
    assert Rmia().quick().shadows == 16
