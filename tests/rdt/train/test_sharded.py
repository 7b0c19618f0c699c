"""One process and its shards; several are in test_parallel.py.

Run: pytest tests/rdt/train/test_sharded.py
"""

import os

import pytest
import torch

from data_pipeline.atomic import WriteError
from rdt.model.manifest import write_manifest
from rdt.train.parallel import ALONE
from rdt.train.sharded import has_shares, load_shards, read_plain, save_shards, shared_folder


def make_state(fill: float) -> dict:
    """Tensors of several types, shapes and depths, and all that is no tensor in a trainer's state."""
    return {
        "step": 5 if fill else 0,
        "row": {"loss": 0.1 + 0.2} if fill else None,
        "model": {"a.weight": torch.full((3, 2), fill), "a.half": torch.full((4,), fill, dtype=torch.bfloat16)},
        "optimizer": {
            "state": {
                "a.weight": {"step": torch.tensor(fill), "codes": torch.full((5,), int(fill), dtype=torch.uint8)}
            },
            "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": ["a.weight"], "fused": None}],
        },
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def saved(tmp_path):
    with shared_folder(tmp_path / "ck", ALONE) as temporary:
        write_manifest(temporary, save_shards(temporary, make_state(7.0), ALONE))
    return tmp_path / "ck"


def test_what_is_written_is_read_in_place(saved):
    mine = make_state(0.0)
    weight = mine["model"]["a.weight"]
    found, expected = load_shards(saved, mine), make_state(7.0)
    assert found["model"]["a.weight"] is weight
    assert torch.equal(weight, expected["model"]["a.weight"])
    assert torch.equal(found["model"]["a.half"], expected["model"]["a.half"])
    for name, value in expected["optimizer"]["state"]["a.weight"].items():
        assert torch.equal(found["optimizer"]["state"]["a.weight"][name], value)
    assert (found["step"], found["row"]) == (5, expected["row"])
    (group,) = found["optimizer"]["param_groups"]
    assert group == {"lr": 1e-4, "betas": [0.9, 0.999], "params": ["a.weight"], "fused": None}
    assert read_plain(saved)["step"] == 5
    assert not has_shares(found)


def test_nothing_in_it_is_a_pickle(saved):
    assert {path.suffix for path in (saved / "trainer").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", ["state.json", "shard-00001-model-00001-of-00001.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_named(saved, name, damage):
    file = saved / "trainer" / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "cut":
        os.truncate(file, len(content) - 1)
    else:
        file.unlink()
    with pytest.raises(ValueError, match=rf"{name} is (damaged|missing)"):
        load_shards(saved, make_state(0.0))


def test_the_state_of_another_run_is_refused(saved):
    other = make_state(0.0)
    other["model"]["b.weight"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"does not fit this run.*b\.weight"):
        load_shards(saved, other)
    other = make_state(0.0)
    other["model"]["a.weight"] = torch.zeros(9, 2)
    with pytest.raises(ValueError, match=r"does not fit this run"):
        load_shards(saved, other)


def test_a_failure_leaves_what_was_there(saved):
    before = sorted(path.name for path in saved.parent.rglob("*"))
    with (
        pytest.raises(WriteError, match=rf"cannot write {saved}: No space left"),
        shared_folder(saved, ALONE) as folder,
    ):
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")
    assert sorted(path.name for path in saved.parent.rglob("*")) == before
