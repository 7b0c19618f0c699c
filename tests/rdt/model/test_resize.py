"""pytest tests/rdt/model/test_resize.py"""

import dataclasses

import pytest
import torch

from rdt.model.policy import RDTPolicy
from rdt.model.position import sequence_table, sincos
from rdt.model.resize import IMG_TABLE, LANG_TABLE, X_TABLE, resize_positions

PATCHES, WIDTH = 3, 32
ROLES = ("external", "right_wrist", "left_wrist")
TABLES = (X_TABLE, LANG_TABLE, IMG_TABLE)


@pytest.fixture
def config(config):
    """Two frames of three cameras, as released."""
    return dataclasses.replace(
        config,
        img_cond_len=2 * 3 * PATCHES,
        img_pos_embed_config=(("image", (2, 3, -PATCHES)),),
        lang_pos_embed_config=(("lang", -16),),
    )


@pytest.fixture
def policy(config, make_policy):
    """Positions are random too, so that no row looks like another."""
    policy = make_policy(config)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "pos_embed" in name:
                parameter.normal_()
    return policy


def resized(policy: RDTPolicy, **lengths) -> RDTPolicy:
    state, config, _ = resize_positions(policy.state_dict(), policy.config, **lengths)
    result = RDTPolicy(config)
    result.load_state_dict(state)
    return result


def pictures(policy: RDTPolicy, num_cameras: int) -> torch.Tensor:
    """(frame, camera, patch, width)"""
    return policy.model.img_cond_pos_embed.detach().view(-1, num_cameras, PATCHES, WIDTH)


def test_the_same_lengths_are_the_identity(policy):
    same = resized(
        policy, pred_horizon=6, image_history=2, cameras=ROLES, checkpoint_cameras=ROLES, max_lang_cond_len=16
    )
    assert same.config == policy.config
    for name, tensor in policy.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor), name


def test_only_positions_change(policy):
    state, _, _ = resize_positions(
        policy.state_dict(), policy.config, pred_horizon=9, image_history=3, cameras=("external",), max_lang_cond_len=5
    )
    before = policy.state_dict()
    assert list(state) == list(before)
    assert all(torch.equal(state[name], before[name]) for name in before if name not in TABLES)
    assert [state[name].shape[1] for name in TABLES] == [12, 5, 3 * PATCHES]


@pytest.mark.parametrize("horizon", [1, 4, 20])
def test_action_k_stays_action_k_and_new_ones_are_sincos(policy, horizon):
    table = resized(policy, pred_horizon=horizon).model.x_pos_embed[0]
    kept = 3 + min(horizon, 6)
    assert torch.equal(table[:kept], policy.model.x_pos_embed[0, :kept])
    assert torch.equal(table[kept:], torch.from_numpy(sequence_table(WIDTH, horizon)).float()[kept:])


def test_one_frame_is_the_newest(policy):
    one = resized(policy, image_history=1)
    assert torch.equal(pictures(one, 3)[0], pictures(policy, 3)[1])
    assert one.config.img_pos_embed_config == (("image", (1, 3, -PATCHES)),)


def test_older_frames_number_downwards(policy):
    four = pictures(resized(policy, image_history=4), 3)
    assert torch.equal(four[2:], pictures(policy, 3))
    half = torch.from_numpy(sincos(WIDTH // 2, torch.tensor([-2, -1]).numpy())).float()
    for frame in range(2):
        assert torch.equal(four[frame, ..., : WIDTH // 2], half[frame].expand(3, PATCHES, -1))
    # the camera's half is that of a fresh network of the same grid
    fresh = torch.from_numpy(sincos(WIDTH // 2, torch.arange(3).numpy())).float()
    assert torch.equal(four[0, ..., WIDTH // 2 :], fresh[:, None].expand(3, PATCHES, -1))


def test_rows_move_with_their_camera(policy):
    order = ("left_wrist", "external", "right_wrist")
    moved = resized(policy, cameras=order)
    assert torch.equal(pictures(moved, 3), pictures(policy, 3)[:, [2, 0, 1]])
    back = resized(moved, cameras=ROLES)
    assert not torch.equal(pictures(back, 3), pictures(policy, 3))  # its own order was not told
    state, _, _ = resize_positions(moved.state_dict(), moved.config, cameras=ROLES, checkpoint_cameras=order)
    assert torch.equal(state[IMG_TABLE], policy.model.img_cond_pos_embed)


def test_an_unknown_camera_takes_the_next_number(policy):
    table = pictures(resized(policy, cameras=("chest", "external")), 2)
    assert torch.equal(table[:, 1], pictures(policy, 3)[:, 0])
    frame, camera = sincos(WIDTH // 2, torch.arange(2).numpy()), sincos(WIDTH // 2, torch.tensor([3]).numpy())
    expected = torch.cat([torch.from_numpy(frame), torch.from_numpy(camera).expand(2, -1)], dim=1).float()
    assert torch.equal(table[:, 0], expected[:, None].expand(-1, PATCHES, -1))


@pytest.mark.parametrize("layout", [(("lang", -16),), (("lang", 16),), None])
def test_language_length(config, policy, layout):
    policy.config = dataclasses.replace(config, lang_pos_embed_config=layout)
    longer = resized(policy, max_lang_cond_len=20)
    assert torch.equal(longer.model.lang_cond_pos_embed[:, :16], policy.model.lang_cond_pos_embed)
    fresh = RDTPolicy(longer.config).model.lang_cond_pos_embed
    assert torch.equal(longer.model.lang_cond_pos_embed[:, 16:], fresh[:, 16:])
    assert torch.equal(
        resized(longer, max_lang_cond_len=16).model.lang_cond_pos_embed, policy.model.lang_cond_pos_embed
    )


def test_one_camera_is_the_network_that_sees_no_other(policy, make_inputs, make_noise):
    """Its conditions are those of the whole network, cut to the tokens of one picture; the rest is the same."""
    one = resized(policy, image_history=1, cameras=("right_wrist",))
    inputs, noise = make_inputs(one.config), make_noise(one.config)
    rows = slice((3 + 1) * PATCHES, (3 + 2) * PATCHES)  # newest frame, second camera
    lang = policy.lang_adaptor(inputs["lang_tokens"]) + policy.model.lang_cond_pos_embed[:, :7]
    img = policy.img_adaptor(inputs["img_tokens"]) + policy.model.img_cond_pos_embed[:, rows]
    encoded = one.encode_condition(**inputs, key_values=False)
    assert torch.equal(encoded.per_block[0], lang) and torch.equal(encoded.per_block[1], img)
    expected = policy.denoise(noise, torch.tensor([500]), encoded)  # its other weights are the same
    assert torch.equal(one.denoise(noise, torch.tensor([500]), encoded), expected)


def test_a_longer_chunk_runs(policy, make_inputs, make_noise):
    longer = resized(policy, pred_horizon=11, image_history=3, cameras=("external", "chest"))
    actions = longer.predict_action(**make_inputs(longer.config), noise=make_noise(longer.config))
    assert actions.shape == (3, 11, 128) and actions.isfinite().all()


def test_types_stay(policy):
    state, _, _ = resize_positions(policy.bfloat16().state_dict(), policy.config, pred_horizon=9, image_history=3)
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_account_in_words(policy):
    _, _, account = resize_positions(
        policy.state_dict(), policy.config, pred_horizon=4, image_history=1, cameras=("external", "chest")
    )
    assert str(account).splitlines() == [
        "model.x_pos_embed: 9 -> 7 rows",
        "  kept    timestep, control frequency, state, actions 0 to 3",
        "  dropped actions 4 to 5",
        "model.img_cond_pos_embed: 18 -> 6 rows",
        "  kept    external of the newest frame",
        "  new     chest of the newest frame",
        "  dropped right_wrist + left_wrist of the newest frame, external + right_wrist + left_wrist of frame -1",
    ]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"pred_horizon": 0}, "pred_horizon must be at least 1, got 0"),
        ({"image_history": -1}, "image_history must be at least 1"),
        ({"cameras": ()}, "different roles, at least one"),
        ({"cameras": ("external", "external")}, "different roles"),
        ({"image_history": 1, "checkpoint_cameras": ("external",)}, "the checkpoint has 3 cameras"),
    ],
)
def test_impossible_lengths(policy, lengths, message):
    with pytest.raises(ValueError, match=message):
        resize_positions(policy.state_dict(), policy.config, **lengths)


@pytest.mark.parametrize("layout", [None, (("image", -18),), (("image", (6, -3)),)])
def test_a_checkpoint_without_a_grid_is_refused(policy, layout):
    config = dataclasses.replace(policy.config, img_pos_embed_config=layout)
    with pytest.raises(ValueError, match=r"does not say which rows are which frame and camera.*config.json"):
        resize_positions(policy.state_dict(), config, image_history=1)
