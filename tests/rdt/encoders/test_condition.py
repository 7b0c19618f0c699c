"""Run: pytest tests/rdt/encoders/test_condition.py"""

import copy
import shutil

import numpy as np
import pytest
import torch

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import Observation
from data_pipeline.transforms.dropout import Dropped, drop_conditions
from data_pipeline.transforms.images import BACKGROUND
from rdt.encoders.condition import MIN_RANGE, ConditionConfig, ConditionEncoder, Scaling
from tests.published import SIGLIP_TOKENS, T5_WIDTH, make_siglip

SIZE = 64
FROZEN_SIZES = {"lang_token_dim": T5_WIDTH, "max_lang_tokens": 32, "img_token_dim": 32}


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


@pytest.fixture
def frozen(siglip, t5, tmp_path):
    """Two cameras seen twice by a tiny SigLIP, and words embedded by a tiny T5."""
    config = ConditionConfig(
        vision="siglip",
        vision_path=str(siglip),
        text="t5",
        text_path=str(t5),
        text_cache=str(tmp_path / "cache"),
        cameras=("external", "left_wrist"),
        image_history=2,
    )
    return ConditionEncoder(config, **FROZEN_SIZES, img_cond_len=4 * SIGLIP_TOKENS)


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


def test_raw_pictures_stand_in_the_same_order():
    encoder = make_encoder(cameras=("external", "left_wrist"), image_history=2)
    observation = make_observation(image_masks={"external": np.array([False, True])})
    pictures = encoder.collate_pictures(observation)
    assert [picture is None for picture in pictures] == [True, True, False, True]
    assert np.array_equal(pictures[2], observation.images["external"][1])


def test_a_batch_without_pixels_is_complete_with_features():
    encoder = make_encoder(cameras=("external", "left_wrist"), image_history=2)
    whole = encoder.collate([make_observation()])
    bare = encoder.collate([make_observation()], resize_pictures=False)
    assert bare.images.numel() == 0
    assert torch.equal(bare.image_mask, whole.image_mask)
    features = encoder.encode_images(whole.images[0])[None]
    for told, expected in zip(vars(encoder(bare, features)).values(), vars(encoder(whole)).values(), strict=True):
        assert torch.equal(told, expected)


def test_language_is_padded_as_asked(frozen):
    observation = make_observation()
    batch = frozen.collate([observation])
    longer = frozen.collate([observation], pad_text_to=20)
    assert batch.text.shape[1] < 20 == longer.text.shape[1] == longer.text_mask.shape[1]
    assert torch.equal(longer.text[longer.text_mask], batch.text[batch.text_mask])


def test_dark_pictures_are_brightened_where_the_config_says_so():
    images = {"external": np.full((1, SIZE, SIZE, 3), 20, dtype=np.uint8)}
    observation = make_observation(images=images, image_masks={"external": np.array([True])})
    for brighten, level in ((False, 20), (True, 35)):
        encoder = make_encoder(cameras=("external",), brighten_dark=brighten)
        assert (encoder.collate([observation]).images == level).all()
        assert (encoder.squares([images["external"][0]], torch.device("cpu"))[0] == level).all()


def test_the_two_roads_of_a_picture_meet(frozen):
    """What an engine does step by step is what `collate` and `forward` do."""
    observation = make_observation()
    whole = frozen(frozen.collate([observation]))
    pictures = frozen.collate_pictures(observation)
    background = frozen.background_features()
    features = torch.stack(
        [
            background if p is None else frozen.encode_images(frozen.squares([p], torch.device("cpu"))[0][None])[0]
            for p in pictures
        ]
    )
    told = frozen(frozen.collate([observation], resize_pictures=False), features[None])
    assert torch.allclose(told.img_tokens, whole.img_tokens, atol=1e-5)
    assert torch.equal(told.lang_tokens, whole.lang_tokens)


def test_missing_pictures_cost_a_frozen_encoder_nothing_and_change_nothing(frozen):
    some = make_observation(image_masks={"external": np.array([False, True])})
    batch = frozen.collate([some, make_observation(), make_observation(image_masks={"external": np.zeros(2, bool)})])
    assert batch.image_mask.sum() == 3
    everything = frozen.encode_images(batch.images.flatten(0, 1)).view(3, -1, 32)
    seen = []
    hook = frozen.vision.register_forward_pre_hook(lambda _, pixels: seen.append(len(pixels[0])))
    tokens = frozen(batch).img_tokens
    hook.remove()
    assert sorted(seen) == [1, 3]  # the background once, and what was there
    assert torch.allclose(tokens, everything, atol=1e-5)
    assert not tokens.requires_grad


def test_nothing_seen_is_the_background_alone(frozen):
    batch = frozen.collate([make_observation(image_masks={"external": np.zeros(2, bool)})])
    tokens = frozen(batch).img_tokens.view(4, SIGLIP_TOKENS, 32)
    assert torch.equal(tokens, frozen.background_features().expand(4, -1, -1))


def test_the_background_of_a_trained_encoder_learns():
    encoder = make_encoder(cameras=("external",))
    features = encoder.background_features()
    assert features.shape == (2, 8)
    assert features.requires_grad
    with torch.no_grad():
        encoder.vision.readout[-1].bias.add_(1)
    assert torch.allclose(encoder.background_features(), features + 1, atol=1e-5)


def test_features_asked_for_by_an_evaluation_serve_in_training(frozen):
    with torch.inference_mode():
        frozen(frozen.collate([make_observation()]))
    tokens = frozen(frozen.collate([make_observation()])).img_tokens
    adaptor = torch.nn.Linear(32, 1)
    adaptor(tokens).sum().backward()
    assert adaptor.weight.grad is not None


def test_frozen_encoders_have_nothing_to_train_or_to_save(frozen):
    frozen(frozen.collate([make_observation()]))
    frozen.train()
    assert list(frozen.parameters()) == []
    assert {name.split(".")[0] for name in frozen.state_dict()} == {"scaling", "vision_signature"}
    tower = frozen.vision._tower.on(torch.device("cpu"))
    assert not tower.training
    assert copy.deepcopy(frozen).vision._tower.on(torch.device("cpu")) is tower


def test_another_tower_than_in_training_is_found_out(frozen, siglip, t5, tmp_path):
    frozen.background_features()
    folder = shutil.copytree(siglip, tmp_path / "same")
    for name, refused in (("same", False), ("other", True)):
        if refused:
            folder = make_siglip(tmp_path / name, seed=1)
        config = ConditionConfig(
            vision="siglip",
            vision_path=str(folder),
            text="t5",
            text_path=str(t5),
            cameras=frozen.config.cameras,
            image_history=2,
        )
        served = ConditionEncoder(config, **FROZEN_SIZES, img_cond_len=4 * SIGLIP_TOKENS)
        served.load_state_dict(frozen.state_dict())
        if refused:
            with pytest.raises(ValueError, match="is not the one that this policy was trained with"):
                served.background_features()
        else:
            assert torch.equal(served.background_features(), frozen.background_features())


def test_a_tower_of_other_sizes_than_the_networks_is_refused(siglip):
    config = ConditionConfig(vision="siglip", vision_path=str(siglip), cameras=("external",))
    with pytest.raises(ValueError, match="makes 4 tokens of width 32 from a picture, the network reads 729 of width"):
        ConditionEncoder(config, lang_token_dim=8, max_lang_tokens=4, img_token_dim=1152, img_cond_len=729)


@pytest.mark.parametrize("option", ["vision_path", "text_path"])
def test_a_path_for_an_encoder_without_files_is_refused(option):
    with pytest.raises(ValueError, match=f"has no files: remove condition.{option}"):
        make_encoder(**{option: "google/something"})


def test_a_config_is_checked_without_reading_weights(siglip, t5):
    config = ConditionConfig(
        vision="siglip", vision_path=str(siglip), text="t5", text_path=str(t5), cameras=("external",)
    )
    with torch.device("meta"):
        encoder = ConditionEncoder(config, **FROZEN_SIZES, img_cond_len=SIGLIP_TOKENS)
    assert encoder.vision._tower._network is None


@pytest.mark.gpu
def test_the_background_follows_to_the_gpu_and_back(frozen):
    on_cpu = frozen.background_features()
    on_gpu = frozen.cuda().background_features()
    assert on_gpu.device.type == "cuda"
    assert on_gpu.dtype == torch.bfloat16
    assert torch.allclose(on_gpu.cpu().float(), on_cpu, atol=0.05)
    assert frozen.background_features() is on_gpu
    assert torch.equal(frozen.cpu().background_features().float(), frozen.background_features())
