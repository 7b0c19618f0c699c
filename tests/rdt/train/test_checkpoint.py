"""Run: pytest tests/rdt/train/test_checkpoint.py"""

import dataclasses
import os
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_pipeline.schema.types import Observation
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.model.released import load_released
from rdt.train.checkpoint import keep_earlier, load_checkpoint, load_trainer_state, save_checkpoint
from rdt.train.ema import averaged
from rdt.visuomotor import VisuomotorPolicy
from tests.published import SIGLIP_TOKENS, T5_WIDTH, make_siglip, make_t5


@pytest.fixture
def saved(make_model, robot, train_config, tmp_path):
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.condition.scaling.state_center.fill_(0.25)
    save_checkpoint(tmp_path / "ck", model, robot, train_config, {"num_steps": 3}, {"step": 5, "x": torch.ones(2)})
    return model, tmp_path / "ck"


def test_a_checkpoint_carries_everything(saved, robot, train_config):
    model, folder = saved
    loaded = load_checkpoint(folder)
    assert loaded.robot == robot
    assert loaded.config == train_config
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    state = load_trainer_state(folder)
    assert state["step"] == 5
    assert torch.equal(state["x"], torch.ones(2))


def test_saving_again_replaces_the_old_one_whole(saved, robot, train_config):
    model, folder = saved
    (folder / "stray").write_text("old")
    save_checkpoint(folder, model, robot, train_config, {}, {"step": 6})
    assert load_trainer_state(folder)["step"] == 6
    assert not (folder / "stray").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["ck"]


def test_a_failed_save_leaves_the_old_one(saved, robot, train_config):
    model, folder = saved
    with pytest.raises(TypeError):
        save_checkpoint(folder, model, robot, train_config, {"bad": object()}, {"step": 6})
    assert load_trainer_state(folder)["step"] == 5


@pytest.mark.parametrize("name", ["config.json", "condition.safetensors", "run.yaml", "robot.yaml"])
def test_a_missing_file_is_named(saved, name):
    _, folder = saved
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        load_checkpoint(folder)


def test_a_damaged_file_is_named(saved):
    _, folder = saved
    (folder / "condition.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"condition\.safetensors"):
        load_checkpoint(folder)


FILES = (
    "config.json",
    "pytorch_model.bin",
    "condition.safetensors",
    "instructions.safetensors",
    "run.yaml",
    "robot.yaml",
    "trainer.pt",
    "checksums.json",
)


def flip_a_byte(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut_short(file) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_is_named(saved_whole, tmp_path, name, damage):
    shutil.copytree(saved_whole, tmp_path / "ck")
    damage(tmp_path / "ck" / name)
    opened = load_trainer_state if name == "trainer.pt" else load_checkpoint
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is damaged.*earlier checkpoint"):
        opened(tmp_path / "ck")
    if name in ("config.json", "pytorch_model.bin", "checksums.json"):
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is damaged"):
            load_released(tmp_path / "ck")


def test_listed_files_that_are_gone_are_named(saved_whole, tmp_path):
    shutil.copytree(saved_whole, tmp_path / "ck")
    for name, opened in (("instructions.safetensors", load_checkpoint), ("trainer.pt", load_trainer_state)):
        (tmp_path / "ck" / name).unlink()
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is missing, expected \d+ bytes"):
            opened(tmp_path / "ck")


def test_a_checkpoint_from_before_checksums_opens(saved_whole, tmp_path):
    shutil.copytree(saved_whole, tmp_path / "ck")
    (tmp_path / "ck" / "checksums.json").unlink()
    load_checkpoint(tmp_path / "ck")
    assert load_trainer_state(tmp_path / "ck")["step"] == 1


def test_kept_checkpoints_are_whole_and_verified(saved_whole, tmp_path):
    for step in (1, 2, 3):
        keep_earlier(saved_whole, tmp_path / "kept", step, 2)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["step_00000002", "step_00000003"]
    kept = tmp_path / "kept" / "step_00000003"
    assert set(FILES) < {path.name for path in kept.iterdir()}
    load_checkpoint(kept)
    assert load_trainer_state(kept)["step"] == 1


def test_checkpoints_of_later_steps_push_none_of_this_runs_out(saved_whole, tmp_path):
    for step in (800, 900, 100, 200, 300):
        keep_earlier(saved_whole, tmp_path / "kept", step, 2)
    kept = sorted(int(path.name.removeprefix("step_")) for path in (tmp_path / "kept").iterdir())
    assert kept == [200, 300, 800, 900]


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*nowhere: name the folder of a checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a checkpoint of this stack: it lacks config"):
        load_checkpoint(tmp_path)


@pytest.fixture
def published(tmp_path, train_config):
    return make_published(tmp_path, train_config)


@pytest.fixture(scope="module")
def saved_whole(tmp_path_factory, robot, train_config):
    """A checkpoint with every file that there can be."""
    folder = tmp_path_factory.mktemp("whole")
    model, config = make_published(folder, train_config)
    model.condition.text.prepare(["", "pick up the cup"])
    save_checkpoint(folder / "ck", model, robot, config, {"num_steps": 3}, {"step": 1})
    return folder / "ck"


def make_published(tmp_path, train_config):
    """A policy that looks through a tiny SigLIP and reads a tiny T5, and its config."""
    config = ConditionConfig(
        vision="siglip",
        vision_path=str(make_siglip(tmp_path / "siglip")),
        text="t5",
        text_path=str(make_t5(tmp_path / "t5")),
        text_cache=str(tmp_path / "cache"),
        cameras=("external",),
    )
    sizes = dataclasses.replace(
        PRESETS["rdt_tiny"],
        hidden_size=32,
        depth=2,
        num_heads=2,
        pred_horizon=4,
        lang_token_dim=T5_WIDTH,
        img_token_dim=32,
        img_cond_len=SIGLIP_TOKENS,
        max_lang_cond_len=32,
        lang_pos_embed_config=(("lang", -32),),
    )
    torch.manual_seed(0)
    model = VisuomotorPolicy(sizes, config)
    with torch.no_grad():
        model.policy.model.final_layer.ffn_final.fc2.weight.normal_()  # 0 at first: it would say nothing
    return model, dataclasses.replace(train_config, condition=config)


def observation(robot, instruction: str) -> Observation:
    state, mask = robot.to_unified(np.full(robot.num_native, 0.2))
    picture = np.random.default_rng(0).integers(0, 256, (1, 40, 30, 3), dtype=np.uint8)
    return Observation(
        state=state,
        state_mask=mask,
        images={"external": picture},
        image_masks={"external": np.array([True])},
        instruction=instruction,
        control_hz=robot.rate_hz,
        stamp_ns=0,
    )


def test_a_policy_with_published_encoders_serves_without_t5(published, robot, tmp_path):
    model, config = published
    model.condition.text.prepare(["", "pick up the cup"])
    noise = torch.randn(1, 4, 128)
    expected = model.sample_actions(model.observe([observation(robot, "pick up the cup")]), noise)
    save_checkpoint(tmp_path / "ck", model, robot, config, {}, {"step": 1})
    assert all(name.split(".")[0] in ("scaling", "vision_signature") for name in _tensors(tmp_path / "ck"))
    shutil.rmtree(tmp_path / "t5")
    shutil.rmtree(tmp_path / "cache")
    loaded = load_checkpoint(tmp_path / "ck").model
    actions = loaded.sample_actions(loaded.observe([observation(robot, "pick up the cup")]), noise)
    assert torch.equal(actions, expected)
    assert actions.any()
    with pytest.raises(ValueError, match="no embedding of the instruction 'press it'"):
        loaded.observe([observation(robot, "press it")])


def test_an_average_of_a_policy_with_published_encoders_is_saved_alike(published, robot, tmp_path):
    model, config = published
    average = averaged(model, 0.9)
    model.sample_actions(model.observe([observation(robot, "pick up the cup")]), torch.randn(1, 4, 128))
    average.update_parameters(model)
    save_checkpoint(tmp_path / "ck", average.module, robot, config, {}, {"step": 1})
    loaded = load_checkpoint(tmp_path / "ck").model
    assert set(loaded.condition.text.embeddings) == {"pick up the cup"}
    assert torch.equal(loaded.condition.vision_signature, model.condition.vision_signature)
    assert loaded.condition.vision_signature.any()


def _tensors(folder) -> set[str]:
    return set(load_file(folder / "condition.safetensors"))
