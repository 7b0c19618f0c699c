"""Run: pytest tests/rdt/encoders/test_condition.py"""

import numpy as np
import pytest
import torch

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import Observation
from data_pipeline.transforms.dropout import Dropped, drop_conditions
from data_pipeline.transforms.images import BACKGROUND
from rdt.encoders.condition import MIN_RANGE, ConditionConfig, ConditionEncoder, Scaling

SIZE = 64


def make_encoder(**config) -> ConditionEncoder:
    config = ConditionConfig(**config)
    num_images = len(config.cameras) * config.image_history
    return ConditionEncoder(config, lang_token_dim=8, max_lang_tokens=6, img_token_dim=8, img_cond_len=2 * num_images)


def make_observation(**changes) -> Observation:
    rng = np.random.default_rng(0)
    mask = np.zeros(NUM_SLOTS, dtype=bool)
    mask[[0, 10, 50]] = True
    values = {
        "state": np.where(mask, rng.normal(size=NUM_SLOTS), 0).astype(np.float32),
        "state_mask": mask,
        "images": {"external": rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)},
        "image_masks": {"external": np.array([True, True])},
        "instruction": "from right to left",
        "control_hz": 12.5,
        "stamp_ns": 0,
    }
    return Observation(**{**values, **changes})


def test_images_stand_oldest_frame_first_then_by_camera():
    encoder = make_encoder(cameras=("external", "right_wrist"), image_history=2)
    rng = np.random.default_rng(1)
    images = {role: rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8) for role in ("right_wrist", "external")}
    masks = dict.fromkeys(images, np.array([True, True]))
    batch = encoder.collate([make_observation(images=images, image_masks=masks)])
    order = [("external", 0), ("right_wrist", 0), ("external", 1), ("right_wrist", 1)]
    for column, (role, frame) in enumerate(order):
        assert np.array_equal(batch.images[0, column].numpy(), images[role][frame])


@pytest.mark.parametrize("why", ["no such camera", "masked frame", "too few frames"])
def test_missing_pictures_are_background_and_masked(why):
    encoder = make_encoder(cameras=("external", "left_wrist"), image_history=2)
    observation = make_observation(image_masks={"external": np.array([False, True])})
    if why == "too few frames":
        images = {"external": observation.images["external"][:1]}
        observation = make_observation(images=images, image_masks={"external": np.array([True])})
    batch = encoder.collate([observation])
    column = {"no such camera": 1, "masked frame": 0, "too few frames": 0}[why]
    assert (batch.images[0, column] == BACKGROUND).all()
    assert not batch.image_mask[0, column]
    assert batch.image_mask[0, 2]  # the newest external frame is there


def test_pictures_of_other_sizes_are_padded_to_a_square_and_resized():
    wide = {"external": np.full((1, 96, 128, 3), 255, dtype=np.uint8)}
    encoder = make_encoder(cameras=("external",))
    batch = encoder.collate([make_observation(images=wide, image_masks={"external": np.array([True])})])
    picture = batch.images[0, 0].numpy()
    assert picture.shape == (SIZE, SIZE, 3)
    assert (picture[SIZE // 2] == 255).all()
    assert (picture[[0, -1]] == BACKGROUND).all()


def test_a_dropped_mask_leaves_the_state_scaled():
    encoder = make_encoder(cameras=("external",))
    encoder.scaling.state_center.fill_(0.5)
    observation = make_observation()
    nothing = {"state": False, "instruction": False, "control_hz": False, "images": {"external": np.zeros(2, bool)}}
    conditions = drop_conditions(observation, Dropped(state_mask=True, **nothing), np.zeros(NUM_SLOTS))
    told, hidden = encoder(encoder.collate([observation])), encoder(encoder.collate([conditions]))
    assert torch.equal(told.state_tokens, hidden.state_tokens)
    assert (hidden.action_mask == 0).all()


def test_cameras_that_do_not_share_the_tokens_evenly_are_refused():
    with pytest.raises(ValueError, match="cannot share evenly"):
        ConditionEncoder(ConditionConfig(), lang_token_dim=8, max_lang_tokens=4, img_token_dim=8, img_cond_len=4)


def test_an_unknown_encoder_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="spatial_softmax"):
        make_encoder(vision="spatial_softmaks")


def test_without_scaling_the_state_passes_unchanged():
    encoder = make_encoder(cameras=("external",))
    observation = make_observation()
    condition = encoder(encoder.collate([observation]))
    assert np.array_equal(condition.state_tokens[0, 0].numpy(), observation.state)
    assert condition.lang_tokens.shape == (1, 6, 8)
    assert condition.img_tokens.shape == (1, 2, 8)
    assert condition.action_mask[0, 0].nonzero().flatten().tolist() == [0, 10, 50]


def test_min_max_scaling_and_its_inverse():
    scaling = Scaling()
    low, high = np.full(NUM_SLOTS, -2.0), np.full(NUM_SLOTS, 4.0)
    scaling.fit_min_max("action", low, high, seen=np.ones(NUM_SLOTS, dtype=bool))
    mask = torch.zeros(1, 1, NUM_SLOTS)
    mask[..., :7] = 1
    values = torch.linspace(-2, 4, 5)[None, :, None] * mask
    scaled = scaling.scale("action", values, mask)
    assert scaled[0, 0, 0] == -1
    assert scaled[0, -1, 0] == 1
    assert (scaled[..., 7:] == 0).all()
    assert torch.allclose(scaling.unscale("action", scaled, mask), values, atol=1e-6)
    assert torch.equal(scaling.scale("state", values, mask), values)  # the other kind is untouched


def test_a_still_joint_is_not_blown_up_and_an_unseen_slot_keeps_the_identity():
    scaling = Scaling()
    seen = np.arange(NUM_SLOTS) < 5
    still = np.where(seen, 0.3, 0.0)
    scaling.fit_min_max("state", still, still, seen=seen)
    noisy = torch.full((1, NUM_SLOTS), 0.3 + MIN_RANGE / 4)
    scaled = scaling.scale("state", noisy, torch.ones(1, NUM_SLOTS))
    assert torch.allclose(scaled[0, :5], torch.full((5,), 0.5))
    assert torch.allclose(scaled[0, 5:], noisy[0, 5:])
