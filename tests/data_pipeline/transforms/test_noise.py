"""pytest tests/data_pipeline/transforms/test_noise.py"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.transforms.noise import add_state_noise

MASK = np.arange(NUM_SLOTS) % 3 != 0
STATE = np.where(MASK, np.linspace(-2, 2, NUM_SLOTS), 0).astype(np.float32)
STD = np.where(np.arange(NUM_SLOTS) % 5 == 1, 0, np.linspace(0.1, 4, NUM_SLOTS))  # masked slots have one too


@pytest.mark.parametrize(("snr_db", "share"), [(40, 1 / 100), (20, 1 / 10), (0, 1)])
def test_noise_has_the_share_of_each_slots_deviation(snr_db, share):
    rng = np.random.default_rng(0)
    noise = np.array([add_state_noise(STATE, MASK, STD, snr_db, rng) for _ in range(4000)]) - STATE
    moving = MASK & (STD > 0)
    np.testing.assert_allclose(noise[:, moving].std(axis=0), share * STD[moving], rtol=0.06)
    assert (np.abs(noise[:, moving].mean(axis=0)) < 5 * share * STD[moving] / 4000**0.5).all()
    assert np.abs(np.corrcoef(noise[:, moving].T) - np.eye(moving.sum())).max() < 0.09


def test_masked_and_still_slots_stay_exact():
    noisy = add_state_noise(STATE, MASK, STD, 0, np.random.default_rng(0))
    exact = ~MASK | (STD == 0)
    np.testing.assert_array_equal(noisy[exact], STATE[exact])
    assert (noisy[~exact] != STATE[~exact]).all()
    assert noisy.dtype == np.float32 and noisy is not STATE


def test_a_slots_noise_does_not_depend_on_the_mask():
    noisy, whole = (add_state_noise(STATE, m, STD, 20, np.random.default_rng(1)) for m in (MASK, MASK | True))
    np.testing.assert_array_equal(noisy[MASK], whole[MASK])


def test_an_infinite_ratio_is_no_noise():
    np.testing.assert_array_equal(add_state_noise(STATE, MASK, STD, np.inf, np.random.default_rng(0)), STATE)
