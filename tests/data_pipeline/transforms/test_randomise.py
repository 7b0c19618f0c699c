"""pytest tests/data_pipeline/transforms/test_randomise.py"""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.randomness import sample_rng
from data_pipeline.schema.types import Observation
from data_pipeline.transforms.augment import AugmentConfig, apply, draw_sample
from data_pipeline.transforms.dropout import DropoutRates
from data_pipeline.transforms.noise import add_state_noise
from data_pipeline.transforms.randomise import Randomisation

MEANS = np.stack([np.full(128, 0.25), np.full(128, 0.5)])
DEVIATION = np.linspace(0, 1, 128)


@pytest.fixture
def observation(pictures) -> Observation:
    mask = np.arange(128) < 20
    return Observation(
        state=np.where(mask, 0.1, 0).astype(np.float32),
        state_mask=mask,
        images={role: pictures(2, seed, height=40, width=60) for seed, role in enumerate(("external", "left_wrist"))},
        image_masks={"external": np.array([False, True]), "left_wrist": np.array([True, True])},
        instruction="pick up the cup",
        control_hz=25.0,
        stamp_ns=0,
    )


def shown(observation, index=5, store=0, **options):
    return Randomisation(3, 2, **options)(observation, index, store, lambda: DEVIATION)


def rates(**chances) -> DropoutRates:
    nothing = dict.fromkeys(("state", "state_mask", "image", "instruction", "control_hz"), 0.0)
    return DropoutRates(**{**nothing, **chances})


def test_by_default_nothing_is_done(observation):
    assert shown(observation) is observation


def test_a_dropped_state_is_its_own_stores_mean(observation):
    for store in (0, 1):
        told = shown(observation, store=store, dropout=rates(state=1.0), mean_states=MEANS, state_noise_snr_db=10.0)
        np.testing.assert_array_equal(told.state[:20], MEANS[store, :20])  # and no noise on it


def test_state_noise_is_that_of_the_sample(observation):
    noisy = shown(observation, state_noise_snr_db=20.0)
    rng = sample_rng(3, 5, "state noise")
    expected = add_state_noise(observation.state, observation.state_mask, DEVIATION, 20.0, rng)
    np.testing.assert_array_equal(noisy.state, expected)
    assert not np.array_equal(noisy.state, observation.state)
    assert not noisy.state[20:].any() and noisy.state[0] == observation.state[0]  # no deviation, no noise


def test_frames_that_are_seen_are_augmented_each_by_its_own_draw(observation):
    pytest.importorskip("cv2")
    config = AugmentConfig(probability=1.0)
    changed = shown(observation, augment=config)
    drawn = draw_sample(sample_rng(3, 5, "augment"), config, 2)
    for role, frames in observation.images.items():
        for number, seen in enumerate(observation.image_masks[role]):
            expected = apply(frames[number], drawn[role][number]) if seen else frames[number]
            np.testing.assert_array_equal(changed.images[role][number], expected)
    hidden = shown(observation, augment=config, dropout=rates(image=1.0), mean_states=MEANS)
    assert all(hidden.images[role] is frames for role, frames in observation.images.items())


def test_one_change_does_not_move_the_draws_of_another(observation):
    pytest.importorskip("cv2")
    alone = shown(observation, dropout=DropoutRates(0.5, 0.5, 0.5), mean_states=MEANS)
    all_of_it = shown(
        observation,
        dropout=DropoutRates(0.5, 0.5, 0.5),
        mean_states=MEANS,
        random_shift_px=4,
        state_noise_snr_db=40.0,
        augment=AugmentConfig(),
    )
    for role, mask in alone.image_masks.items():
        np.testing.assert_array_equal(mask, all_of_it.image_masks[role])
    np.testing.assert_allclose(alone.state, all_of_it.state, atol=0.05)
    np.testing.assert_array_equal(alone.state_mask, all_of_it.state_mask)


def test_dropout_without_means_is_refused():
    with pytest.raises(ValueError, match="needs mean_states"):
        Randomisation(3, 2, dropout=DropoutRates())
