"""pytest tests/rdt/model/test_released.py"""

import argparse
import dataclasses
import json
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from rdt.model import released
from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS
from rdt.model.released import CheckpointError, load_released, save_released


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


def test_broken_config(saved):
    _, folder = saved
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        load_released(folder)


def test_failed_save_leaves_the_old_checkpoint(saved, monkeypatch):
    policy, folder = saved

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(released.torch, "save", full_disk)
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
