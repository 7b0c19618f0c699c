"""Run: pytest tests/rdt/train/test_checkpoint.py"""

import pytest
import torch

from rdt.train.checkpoint import load_checkpoint, load_trainer_state, save_checkpoint


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


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
