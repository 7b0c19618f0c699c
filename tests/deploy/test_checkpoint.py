"""Run: pytest tests/deploy/test_checkpoint.py"""

import dataclasses

import pytest
import torch
import yaml
from safetensors.torch import save_file

from deploy.checkpoint import inspect
from deploy.cli import main
from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS
from rdt.model.released import load_released, save_released
from rdt.train.checkpoint import load_checkpoint


@pytest.fixture
def released(tmp_path):
    """Two frames of three cameras, as released, with a moving average."""
    torch.manual_seed(0)
    config = dataclasses.replace(
        PRESETS["rdt_tiny"],
        hidden_size=32,
        depth=2,
        img_cond_len=6 * 16,
        img_pos_embed_config=(("image", (2, 3, -16)),),
    )
    policy = RDTPolicy(config)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    folder = tmp_path / "released"
    save_released(policy, folder)
    (folder / "ema").mkdir()
    save_file({name: t + 1 for name, t in policy.state_dict().items()}, folder / "ema" / "model.safetensors")
    return policy, folder


@pytest.fixture
def train_config(tmp_path):
    """A training config of one camera and one frame."""
    file = tmp_path / "train.yaml"
    condition = {"vision": "spatial_softmax", "text": "hashed_bigrams", "cameras": ["external"], "image_history": 1}
    file.write_text(yaml.safe_dump({"preset": "rdt_tiny", "robot": "sim_bimanual", "condition": condition}))
    return file


def run(*argv) -> int:
    return main(["checkpoint", *map(str, argv)])


def test_inspect_released(released, capsys):
    _, folder = released
    assert run("inspect", folder) == 0
    text = capsys.readouterr().out
    assert "2 blocks of width 32" in text and str(folder / "ema") in text
    assert run("inspect", folder / "pytorch_model.bin") == 0
    assert run("inspect", folder.parent / "none") == 1


@pytest.mark.parametrize("weight_format", ["bin", "safetensors", "deepspeed"])
def test_formats(released, tmp_path, weight_format, capsys):
    policy, folder = released
    assert run("convert", folder, tmp_path / "new", "--format", weight_format) == 0
    assert "2 blocks of width 32" in capsys.readouterr().out
    loaded = load_released(tmp_path / "new")
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in policy.state_dict().items())


def test_type_and_average(released, tmp_path):
    policy, folder = released
    assert run("convert", folder, tmp_path / "new", "--ema", "--dtype", "bfloat16") == 0
    loaded = load_released(tmp_path / "new")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.model.x_pos_embed, (policy.model.x_pos_embed + 1).bfloat16())


def test_lengths(released, tmp_path, capsys):
    policy, folder = released
    options = ("--horizon", 20, "--frames", 1, "--cameras", "left_wrist,external")
    assert run("convert", folder, tmp_path / "new", *options) == 0
    assert "new     actions 16 to 19" in capsys.readouterr().out
    loaded, rows = load_released(tmp_path / "new"), policy.model.img_cond_pos_embed.view(2, 3, 16, 32)
    assert loaded.config.pred_horizon == 20
    assert torch.equal(loaded.model.img_cond_pos_embed.view(2, 16, 32), rows[1, [2, 0]])


def test_released_to_ours_and_back(released, train_config, tmp_path, capsys):
    policy, folder = released
    assert run("convert", folder, tmp_path / "ours", "--config", train_config, "--robot", "aloha_viperx") == 0
    ours = load_checkpoint(tmp_path / "ours")
    assert ours.robot.name == "aloha_viperx" and ours.config.robot == "aloha_viperx"
    assert torch.equal(ours.model.policy.model.img_cond_pos_embed, policy.model.img_cond_pos_embed[:, 48:64])
    assert "right_arm_joint_0_pos" in inspect(str(tmp_path / "ours"))

    assert run("convert", tmp_path / "ours", tmp_path / "back", "--format", "safetensors", "--frames", 2) == 0
    back = load_released(tmp_path / "back")
    assert torch.equal(back.model.img_cond_pos_embed[:, 16:], policy.model.img_cond_pos_embed[:, 48:64])


def test_a_network_of_ours_knows_its_cameras(released, train_config, tmp_path):
    policy, folder = released
    raw = yaml.safe_load(train_config.read_text())
    raw["condition"]["cameras"] = ["left_wrist", "external"]
    train_config.write_text(yaml.safe_dump(raw))
    assert run("convert", folder, tmp_path / "ours", "--config", train_config) == 0
    assert run("convert", tmp_path / "ours", tmp_path / "back", "--cameras", "external") == 0
    rows = policy.model.img_cond_pos_embed.view(2, 3, 16, 32)
    assert torch.equal(load_released(tmp_path / "back").model.img_cond_pos_embed[0], rows[1, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--robot", "aloha_viperx"], "add --config"),
        (["--config", "quickstart", "--frames", "1"], "condition.image_history"),
        (["--config", "quickstart", "--format", "safetensors"], "written as 'bin'"),
        (["--config", "quickstart"], "set condition.scaling to none"),
        (["--config", "quickstar"], "did you mean 'quickstart'"),
        (["--cameras", "external,external"], "different roles"),
    ],
)
def test_mistakes_leave_nothing(released, tmp_path, capsys, options, message):
    _, folder = released
    before = sorted(tmp_path.iterdir())
    assert run("convert", folder, tmp_path / "new", *options) == 1
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_destination_is_left_alone(released, capsys):
    _, folder = released
    assert run("convert", folder, folder) == 1
    assert "exists already" in capsys.readouterr().err
