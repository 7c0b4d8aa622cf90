"""The design of halves, the recorded answers, and training that goes on where it was killed."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.privacy.shadows import Recorded, Shadows, design, train_shadows
from carbide.run import Run, Store, use
from carbide.types import InputError
from tests.privacy.worlds import Remembers, table


@given(st.lists(st.integers(0, 2), min_size=4, max_size=60), st.integers(1, 8), st.integers(0, 99))
def test_every_row_is_in_half_of_what_is_left(y, pairs, seed):
    members = design(np.array(y), 2 * pairs, np.random.default_rng(seed))
    assert (members.sum(0) == pairs).all()
    assert (members[::2] == ~members[1::2]).all()
    for label in set(y):
        inside = members[:, np.array(y) == label]
        assert (np.abs(inside.sum(1) - inside.shape[1] / 2) <= 0.5).all()
    shadows = Shadows(members=members, answers=np.zeros((*members.shape, 2)))
    for target in range(2 * pairs):
        assert (shadows.without(target).members.sum(0) == pairs - 1).all()


def test_halves_are_drawn_evenly():
    members = design(np.zeros(40, int), 4000, np.random.default_rng(0))
    together = (members[::2, 0] & members[::2, 1]).mean()
    assert together == pytest.approx(0.5 * 19 / 39, abs=0.035)


@pytest.mark.parametrize("count", [0, 1, 7, -2])
def test_odd_counts_are_refused(count):
    with pytest.raises(InputError, match=f"shadows is {count}"):
        design(np.zeros(4, int), count, np.random.default_rng(0))


def test_shapes_must_fit():
    with pytest.raises(InputError, match="members has shape"):
        Shadows(members=np.zeros((2, 3), bool), answers=np.zeros((2, 4, 2)))


def test_models_are_trained_on_their_half_and_on_nothing_else():
    pool = table(30)
    shadows = train_shadows(Remembers(gain=50.0, noise=0.0), pool, 6, 3)
    sure = np.take_along_axis(shadows.answers, np.broadcast_to(pool.y[:, None], (6, 30, 1)), 2)[..., 0] > 0.99
    np.testing.assert_array_equal(sure, shadows.members)


def test_same_seed_same_answers_by_one_worker_or_two_and_for_chosen_records():
    pool, recipe = table(40), Remembers(gain=1.0)
    alone = train_shadows(recipe, pool, 6, 0)
    with use(Run(workers=2)):
        together = train_shadows(recipe, pool, 6, 0)
    np.testing.assert_array_equal(alone.answers, together.answers)
    np.testing.assert_array_equal(alone.members, together.members)
    assert (train_shadows(recipe, pool, 6, 1).members != alone.members).any()
    chosen = np.array([7, 3, 21])
    part = train_shadows(Remembers(gain=50.0, noise=0.0), pool, 6, 0, records=chosen)
    np.testing.assert_array_equal(part.members, alone.members[:, chosen])
    assert part.answers.shape == (6, 3, 2)


@dataclass(frozen=True)
class Counted:
    """A recipe that counts its fits and stops at one of them."""

    fits: list
    stop: int

    def fit(self, dataset, rng):
        self.fits.append(1)
        if len(self.fits) == self.stop:
            raise KeyboardInterrupt
        return Remembers(gain=1.0).fit(dataset, rng)

    def describe(self):
        return {"recipe": "counted"}


def test_killed_training_goes_on(tmp_path):
    pool = table(20)
    whole = train_shadows(Counted([], -1), pool, 40, 0)
    killed, resumed = Counted([], 20), Counted([], -1)
    with use(Run(store=Store(tmp_path))):
        with pytest.raises(KeyboardInterrupt):
            train_shadows(killed, pool, 40, 0)
        found = train_shadows(resumed, pool, 40, 0)
    assert len(resumed.fits) == 40 - 16  # the first chunk of 16 was whole
    np.testing.assert_array_equal(found.answers, whole.answers)


def test_too_small_a_pool_is_refused():
    with pytest.raises(InputError, match="has 3 rows"):
        train_shadows(Remembers(gain=1.0), table(3), 4, 0)


def test_recorded_models_know_their_rows_only():
    records = table(10)
    answers = np.random.default_rng(0).dirichlet([1, 1], 10)
    model = Recorded(records=records, answers=answers)
    np.testing.assert_array_equal(model.predict(records.x), answers)
    order = np.array([4, 4, 0, 9])
    np.testing.assert_array_equal(model.predict(records.x[order].copy()), answers[order])
    assert model.predict(np.zeros((0, 3))).shape == (0, 2)
    assert (model.classes, model.space) == (2, records.space)
    assert model.at(0.3).threshold == 0.3
    assert model.at(0.3).digest() != model.digest()
    with pytest.raises(InputError, match="no answer for"):
        model.predict(records.x + 1)
