"""Run: pytest tests/rdt/train/test_start.py"""

import dataclasses

import numpy as np
import pytest
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.model.released import save_released
from rdt.train.checkpoint import save_checkpoint
from rdt.train.start import check_statistics, load_start, network_config, open_start
from rdt.visuomotor import VisuomotorPolicy


@pytest.fixture
def small(make_model, monkeypatch):
    """The preset of the tiny models."""
    monkeypatch.setitem(PRESETS, "small", make_model().policy.config)


@pytest.fixture
def config(train_config, small, tmp_path):
    return dataclasses.replace(train_config, preset="small", start_from=str(tmp_path / "start"))


@pytest.fixture
def ours(make_model, robot, config, store, tmp_path):
    """A checkpoint of this stack that was trained on the store."""
    model = make_model(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    statistics = {}
    for kind in ("state", "action"):
        stats = store.stats(kind)
        statistics[kind] = stats.to_dict()
        model.condition.scaling.fit_min_max(kind, stats.min, stats.max, stats.count > 0)
    save_checkpoint(tmp_path / "start", model, robot, dataclasses.replace(config, start_from=None), statistics)
    return model


def changed(config, **condition):
    return dataclasses.replace(config, condition=dataclasses.replace(config.condition, **condition))


def started(config, robot):
    said = []
    return load_start(open_start(config, robot, said.append), config, said.append), "\n".join(said)


def test_all_weights_and_the_scaling_are_those_of_the_start(ours, config, robot):
    model, said = started(config, robot)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert said == ""
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_refitted_scaling_is_left_to_the_new_data(ours, config, robot):
    model, _ = started(dataclasses.replace(config, start_scaling="refit"), robot)
    assert torch.equal(model.condition.scaling.state_half_range, torch.ones(128))
    assert torch.equal(model.condition.text.table.weight, ours.condition.text.table.weight)


def test_other_lengths_and_cameras_are_resized_and_told(ours, config, robot, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", dataclasses.replace(PRESETS["small"], pred_horizon=6))
    model, said = started(changed(config, cameras=("left_wrist", "external"), image_history=2), robot)
    assert model.policy.config == network_config(changed(config, cameras=("left_wrist", "external"), image_history=2))
    assert "kept    timestep, control frequency, state, actions 0 to 3" in said
    assert "new     actions 4 to 5" in said
    rows = model.policy.model.img_cond_pos_embed.view(2, 2, 4, 32)  # (frame, camera, token, hidden)
    assert torch.equal(rows[1, 1], ours.policy.model.img_cond_pos_embed[0])


def test_a_released_network_starts_with_fresh_encoders(make_model, config, robot, tmp_path):
    policy = make_model(3).policy.to(torch.bfloat16)
    save_released(policy, tmp_path / "start")
    config = changed(config, scaling="none")
    model, said = started(config, robot)
    assert "released checkpoint" in said
    assert model.policy.dtype == torch.float32
    assert torch.equal(model.policy.model.blocks[0].ffn.fc1.weight, policy.model.blocks[0].ffn.fc1.weight.float())
    file, _ = started(dataclasses.replace(config, start_from=str(tmp_path / "start" / "pytorch_model.bin")), robot)
    assert torch.equal(file.policy.model.x_pos_embed, model.policy.model.x_pos_embed)
    with pytest.raises(ValueError, match=r"reads SI units.*set condition\.scaling to none"):
        open_start(changed(config, scaling="min_max"), robot)


def test_other_sizes_are_refused_by_name(ours, config, robot):
    with pytest.raises(ValueError, match=r"hidden_size 32 -> 128.*choose the preset"):
        open_start(dataclasses.replace(config, preset="rdt_tiny"), robot)


def test_another_number_of_tokens_from_a_picture_is_refused(ours, config, robot, monkeypatch):
    wider = dataclasses.replace(PRESETS["small"], img_cond_len=9, img_pos_embed_config=(("image", (1, 1, 9)),))
    monkeypatch.setitem(PRESETS, "small", wider)
    with pytest.raises(ValueError, match=r"reads 4 tokens of a picture, this run 9"):
        open_start(config, robot)


@pytest.mark.parametrize(("name", "value"), [("scaling", "none"), ("text", "t5"), ("vision", "siglip")])
def test_another_condition_is_refused(ours, config, robot, name, value):
    with pytest.raises(ValueError, match=rf"condition\.{name} .*the config says '{value}'"):
        open_start(changed(config, **{name: value}), robot)


def test_another_robot_is_told(ours, config):
    said = []
    open_start(config, Embodiment.from_yaml(find_config("robots", "agilex_cobot_magic")), said.append)
    assert "is for robot 'sim_bimanual', this run for 'agilex_cobot_magic'" in said[0]


def test_a_missing_start_is_named(config, robot):
    with pytest.raises(ValueError, match="does not exist"):
        open_start(config, robot)


def test_data_in_other_units_are_refused_where_the_scaling_is_kept(ours, config, robot, store):
    start, stats = open_start(config, robot), store.stats("state")
    check_statistics(start, config, "state", stats)
    degrees = dataclasses.replace(stats, min=np.rad2deg(stats.min), max=np.rad2deg(stats.max))
    with pytest.raises(ValueError, match=r"right_arm_joint_0_pos.*rad against.*start_scaling: refit"):
        check_statistics(start, config, "state", degrees)
    said = []
    check_statistics(start, dataclasses.replace(config, start_scaling="refit"), "state", degrees, said.append)
    assert "do not match those of" in said[0]


def test_slots_that_the_start_never_saw_are_refused(ours, config, robot, store):
    stats = store.stats("action")
    more = dataclasses.replace(stats, count=np.where(np.arange(128) == 100, 5, stats.count))
    with pytest.raises(ValueError, match="base_vel_x: not in its data"):
        check_statistics(open_start(config, robot), config, "action", more)


def test_a_preset_reads_as_many_pictures_as_the_condition_has(train_config):
    one = changed(dataclasses.replace(train_config, preset="rdt_1b"), cameras=("external",), image_history=1)
    assert network_config(one).img_cond_len == 729
    published = changed(one, cameras=ConditionConfig().cameras, image_history=2)
    assert network_config(published) == PRESETS["rdt_1b"]
    with torch.device("meta"):
        tiny = dataclasses.replace(train_config, preset="rdt_tiny")
        two = changed(tiny, image_history=2)
        assert VisuomotorPolicy(network_config(two), two.condition).condition.num_images == 2
