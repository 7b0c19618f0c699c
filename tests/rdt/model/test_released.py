"""pytest tests/rdt/model/test_released.py"""

import argparse
import dataclasses
import json
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS
from rdt.model.released import inspect_released, load_released, save_released
from rdt.model.weights import CheckpointError, read_state


@pytest.fixture
def saved(config, make_policy, tmp_path):
    policy = make_policy(config)
    save_released(policy, tmp_path / "hub")
    return policy, tmp_path / "hub"


def assert_same(policy: RDTPolicy, other: RDTPolicy) -> None:
    assert policy.config == other.config
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_round_trip(saved, make_inputs, make_noise):
    policy, folder = saved
    loaded = load_released(folder)
    assert_same(policy, loaded)
    inputs, noise = make_inputs(policy.config), make_noise(policy.config)
    assert torch.equal(policy.predict_action(**inputs, noise=noise), loaded.predict_action(**inputs, noise=noise))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_folder_holds_the_published_files_and_nothing_else(saved):
    policy, folder = saved
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "pytorch_model.bin"]
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert list(state) == list(policy.state_dict())


def test_safetensors_is_read_first(saved):
    policy, folder = saved
    state = {key: tensor + 1 for key, tensor in policy.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    assert torch.equal(load_released(folder).model.x_pos_embed, policy.model.x_pos_embed + 1)


def test_loaded_policy_does_not_follow_its_file(saved):
    policy, folder = saved
    file = folder / "model.safetensors"
    save_file(policy.state_dict(), file)
    loaded = load_released(folder)
    with file.open("rb+") as opened:  # written over in place, as `cp` does
        opened.write(bytes(file.stat().st_size))
    assert_same(policy, loaded)


def test_saving_over_a_safetensors_folder_replaces_it(saved):
    policy, folder = saved
    save_file({key: tensor + 1 for key, tensor in policy.state_dict().items()}, folder / "model.safetensors")
    save_released(policy, folder)
    assert_same(policy, load_released(folder))


def test_deepspeed_file_below_the_config(saved):
    policy, folder = saved
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model").mkdir()
    file = folder / "pytorch_model" / "mp_rank_00_model_states.pt"
    torch.save({"module": policy.state_dict(), "global_steps": 7, "param_shapes": [{"a": torch.Size([3])}]}, file)
    assert_same(policy, load_released(file))
    assert_same(policy, load_released(folder))


@pytest.mark.parametrize(
    ("weight_format", "files"),
    [
        ("bin", ["config.json", "pytorch_model.bin"]),
        ("safetensors", ["config.json", "model.safetensors"]),
        ("deepspeed", ["config.json", "pytorch_model/mp_rank_00_model_states.pt"]),
    ],
)
def test_every_format_is_written_and_read(config, make_policy, tmp_path, weight_format, files):
    """Also over the files of the others: what was written last is what is read."""
    for other in ("bin", "safetensors", "deepspeed"):
        folder = tmp_path / other
        save_released(make_other(make_policy(config)), folder, other)
        save_released(make_policy(config), folder, weight_format)
        assert_same(make_policy(config), load_released(folder))
    alone = tmp_path / weight_format
    assert sorted(str(p.relative_to(alone)) for p in alone.rglob("*") if p.is_file()) == files


def test_unknown_format(config, make_policy, tmp_path):
    with pytest.raises(ValueError, match=r"unknown format 'onnx': use one of \['bin', 'deepspeed', 'safetensors'\]"):
        save_released(make_policy(config), tmp_path, "onnx")


@pytest.fixture
def run(config, make_policy, tmp_path):
    """A run of the published trainer: two checkpoints, each with a moving average, and one that broke off."""
    for step in (500, 2000):
        folder = tmp_path / f"checkpoint-{step}"
        policy = make_policy(config)
        with torch.no_grad():
            policy.model.x_pos_embed.fill_(step)
        save_released(policy, folder)
        (folder / "ema").mkdir()
        average = {key: tensor + 1 for key, tensor in policy.state_dict().items()}
        save_file(average, folder / "ema" / "model.safetensors")
    (tmp_path / "checkpoint-3000" / "pytorch_model").mkdir(parents=True)
    return tmp_path


def test_the_newest_checkpoint_of_a_run(run):
    said = []
    assert (load_released(run, report=said.append).model.x_pos_embed == 2000).all()
    assert said == [f"{run} holds checkpoints of steps 500, 2000: taking checkpoint-2000"]
    assert (load_released(run / "checkpoint-500", report=said.append).model.x_pos_embed == 500).all()
    assert len(said) == 1


def test_moving_average(run):
    assert (load_released(run, ema=True, report=str).model.x_pos_embed == 2001).all()
    assert (load_released(run / "checkpoint-500" / "ema").model.x_pos_embed == 501).all()
    assert inspect_released(run, report=str).ema == run / "checkpoint-2000" / "ema"
    assert inspect_released(run, ema=True, report=str).ema is None


def test_no_moving_average(saved):
    _, folder = saved
    with pytest.raises(CheckpointError, match="no moving average"):
        load_released(folder, ema=True)
    with pytest.raises(CheckpointError, match="is no folder"):
        load_released(folder / "pytorch_model.bin", ema=True)


def test_resized_on_loading(config, make_policy, tmp_path):
    config = dataclasses.replace(config, img_cond_len=12, img_pos_embed_config=(("image", (1, 3, -4)),))
    policy, said = make_policy(config), []
    save_released(policy, tmp_path)
    loaded = load_released(
        tmp_path,
        pred_horizon=8,
        image_history=2,
        cameras=("left_wrist", "external"),
        max_lang_cond_len=20,
        report=said.append,
    )
    assert (loaded.config.pred_horizon, loaded.config.img_cond_len, loaded.config.max_lang_cond_len) == (8, 16, 20)
    assert torch.equal(loaded.model.img_cond_pos_embed[:, 8:12], policy.model.img_cond_pos_embed[:, 8:])
    assert said[0].startswith("model.x_pos_embed: 9 -> 11 rows\n")
    save_released(loaded, tmp_path / "other")
    assert_same(loaded, load_released(tmp_path / "other"))


@pytest.mark.parametrize("weight_format", ["bin", "safetensors", "deepspeed"])
def test_inspection_reads_shapes_only(config, make_policy, tmp_path, weight_format):
    policy = make_policy(config)
    policy.model.to(torch.bfloat16)
    save_released(policy, tmp_path, weight_format)
    summary = inspect_released(tmp_path)
    assert summary.config == config
    assert summary.num_parameters == sum(p.numel() for p in policy.parameters())
    assert summary.dtypes == {torch.bfloat16: len(policy.model.state_dict()), torch.float32: 14}
    assert all(tensor.is_meta for tensor in read_state(summary.file, meta=True).values())
    text = str(summary)
    assert "4 blocks of width 32" in text and "bfloat16" in text and "'image', (1, 1, 4)" in text


def test_inspection_is_as_strict_as_loading(saved):
    _, folder = saved
    torch.save({"other": torch.zeros(1)}, folder / "pytorch_model.bin")
    for look in (load_released, inspect_released):
        with pytest.raises(CheckpointError, match=r"missing \(.*(?s:.*)unexpected \(1\)"):
            look(folder)


@pytest.mark.parametrize(
    "content", [b"short", b"a text, not weights\n", b"\x80\x04garbage", b"PK\x03\x04zip", b"\x89HDF"]
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_foreign_bytes(saved, name, content):
    _, folder = saved
    (folder / name).write_bytes(content)
    for look in (load_released, inspect_released):
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            look(folder)


def test_weights_without_a_config_are_matched_with_the_presets(tmp_path):
    policy = RDTPolicy(PRESETS["rdt_tiny"])
    torch.save({"module": policy.state_dict()}, tmp_path / "states.pt")
    assert_same(policy, load_released(tmp_path / "states.pt"))


def test_weights_without_a_config_or_preset(config, tmp_path):
    torch.save(RDTPolicy(config).state_dict(), tmp_path / "states.pt")
    with pytest.raises(CheckpointError, match=r"no config.json.*4 blocks of width 32"):
        load_released(tmp_path / "states.pt")


def test_dtype(saved):
    policy, folder = saved
    assert load_released(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    save_released(policy.to(torch.bfloat16), folder)
    assert load_released(folder).dtype == torch.bfloat16


def test_mixed_file_keeps_its_precision(saved):
    policy, folder = saved
    policy.model.to(torch.bfloat16)  # as the published constructor leaves it: adaptors stay float32
    save_released(policy, folder)
    loaded = load_released(folder)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.state_adaptor[0].weight, policy.state_adaptor[0].weight)


def test_head_dim_of_the_file_wins(config, make_policy, tmp_path):
    policy = make_policy(dataclasses.replace(config, num_heads=4))
    save_released(policy, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data["rdt"]["num_heads"] = 2
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert_same(policy, load_released(tmp_path))


def test_mismatch_lists_missing_unexpected_and_wrong_shapes(saved):
    policy, folder = saved
    state = policy.state_dict()
    del state["model.final_layer.norm_final.weight"]
    state["model.extra"] = torch.zeros(1)
    state["model.x_pos_embed"] = torch.zeros(1, 5, 32)
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        load_released(folder)
    assert str(caught.value).splitlines()[1:] == [
        "  missing (1):",
        "    model.final_layer.norm_final.weight",
        "  unexpected (1):",
        "    model.extra",
        "  wrong shape (1):",
        "    model.x_pos_embed: expected (1, 9, 32), found (1, 5, 32)",
    ]


def test_long_lists_are_cut(saved):
    policy, folder = saved
    state = {key: tensor for key, tensor in policy.state_dict().items() if ".blocks.3." not in key}
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing \(21\):(?s:.*)\.\.\. and 9 more"):
        load_released(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_truncated_file(saved, name):
    policy, folder = saved
    save_file(policy.state_dict(), folder / "model.safetensors")
    if name != "model.safetensors":
        (folder / "model.safetensors").unlink()
    whole = (folder / name).read_bytes()
    for kept in (0, 3, 100, len(whole) // 2, len(whole) - 10):
        (folder / name).write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match=rf"{name} \({kept} bytes\) is cut short or damaged"):
            load_released(folder)


def test_git_lfs_pointer(saved):
    _, folder = saved
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        load_released(folder)


def test_code_in_a_pickle_does_not_run(saved):
    _, folder = saved
    torch.save({"module": argparse.Namespace()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"a Python object of argparse\.Namespace"):
        load_released(folder)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model.x": torch.zeros(1, dtype=torch.int8)}])
def test_not_a_state_dict(saved, content):
    _, folder = saved
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_released(folder)


@pytest.mark.parametrize(
    "content", ["{", "[1, 2]", '{"rdt": 3}', '{"rdt": {"hidden_size": "x", "depth": 1, "num_heads": 1}}']
)
def test_broken_config(saved, content):
    _, folder = saved
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not the config of a policy: "):
        load_released(folder)


def test_failed_save_leaves_the_old_checkpoint(saved, monkeypatch):
    policy, folder = saved

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_released(make_other(policy), folder)
    monkeypatch.undo()
    assert_same(policy, load_released(folder))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "pytorch_model.bin"]


def make_other(policy):
    return RDTPolicy(dataclasses.replace(policy.config, depth=2))


def test_empty_folder_and_missing_path(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_released(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_released(tmp_path / "no" / "such")


def test_hub_id_without_huggingface_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"not installed.*put config.json and pytorch_model.bin") as caught:
        load_released("robotics-diffusion-transformer/rdt-1b")
    assert "https://huggingface.co/robotics-diffusion-transformer/rdt-1b/tree/main" in str(caught.value)


def fake_hub(monkeypatch, download):
    hub, utils = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.utils")
    hub.hf_hub_download = download
    utils.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    return utils.EntryNotFoundError


def test_hub_id_falls_back_to_the_pickle(saved, monkeypatch):
    policy, folder = saved
    asked = []

    def download(repo_id, filename):
        asked.append((repo_id, filename))
        if filename == "model.safetensors":
            raise not_found
        return str(folder / filename)

    not_found = fake_hub(monkeypatch, download)
    assert_same(policy, load_released("owner/name"))
    assert asked == [("owner/name", name) for name in ("config.json", "model.safetensors", "pytorch_model.bin")]


def test_hub_id_offline(monkeypatch):
    def download(repo_id, filename):
        raise ConnectionError("no route to host")

    fake_hub(monkeypatch, download)
    with pytest.raises(CheckpointError, match=r"could not be fetched: no route to host .*give that folder"):
        load_released("owner/name")
