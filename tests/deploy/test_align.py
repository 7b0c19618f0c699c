"""`rdt align` on a tiny policy and a few rollouts that are made here.

Run: pytest tests/deploy/test_align.py
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, shipped_configs
from data_pipeline.schema.types import Episode, Observation
from data_pipeline.storage import EpisodeStore
from deploy.align import align, load_align
from deploy.align_config import AlignConfig
from deploy.cli import main
from deploy.engine import InferenceEngine
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.train.checkpoint import load_checkpoint, save_checkpoint
from rdt.train.config import TrainConfig
from rdt.visuomotor import VisuomotorPolicy

NUM_STEPS, HORIZON = 12, 4


@pytest.fixture(scope="module")
def robot() -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


@pytest.fixture(scope="module")
def store(robot, tmp_path_factory):
    """Success is how far the first joint moves."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rollouts") / "store"
    store = EpisodeStore.create(path, robot)
    with store:
        for number in range(8):
            success = number % 2 == 0
            native = rng.uniform(0, 0.1, robot.num_native) + np.zeros((NUM_STEPS, 1))
            native[:, 0] += np.linspace(0, 1.0 if success else -1.0, NUM_STEPS)
            states, mask = robot.to_unified(native)
            actions, _ = robot.to_unified(native, kind="action")
            episode = Episode(
                name=f"episode_{number}",
                states=states,
                state_mask=mask,
                actions=actions,
                action_mask=mask,
                images={"external": rng.integers(0, 256, (NUM_STEPS, 64, 64, 3), dtype=np.uint8)},
                instructions=(("from right to left", "from left to right")[number % 2],),
                rate_hz=robot.rate_hz,
                action_offset_steps=1,
            )
            store.add(episode, source={"success": success})
    return path


@pytest.fixture
def start(robot, tmp_path):
    torch.manual_seed(0)
    sizes = dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2, pred_horizon=HORIZON)
    condition = ConditionConfig(cameras=("external",))
    model = VisuomotorPolicy(sizes, condition, "live")
    with torch.no_grad():
        model.policy.model.final_layer.ffn_final.fc2.weight.normal_(std=0.1)
    config = TrainConfig(preset="rdt_tiny", condition=condition, noise_slots="live", loggers=("jsonl",))
    save_checkpoint(tmp_path / "start", model, robot, config)
    return tmp_path / "start"


def run_of(method: str, start, store, out, **changes) -> AlignConfig:
    stage = {"steps": 4, "batch_size": 8}
    raw = {
        "method": method,
        "start_from": str(start),
        "stores": [str(store)],
        "out": str(out / method),
        "device": "cpu",
        "critic": {"out": str(out / "critic"), "num_actions": 2, "train": stage},
        "imitate": {"draws": 2, "train": stage},
        "policy": stage,
        "candidates": 3,
        "rollouts": {"per_scene": 2},
        **changes,
    }
    (out / "align.yaml").write_text(yaml.safe_dump(raw))
    return load_align(out / "align.yaml")


def observation(robot) -> Observation:
    state, mask = robot.to_unified(np.full(robot.num_native, 0.2))
    return Observation(
        state=state,
        state_mask=mask,
        images={"external": np.full((1, 64, 64, 3), 90, np.uint8)},
        image_masks={"external": np.array([True])},
        instruction="from right to left",
        control_hz=robot.rate_hz,
        stamp_ns=7,
    )


@pytest.mark.parametrize("method", ["sfbc", "cep", "eda", "nca", "cca", "srpo"])
def test_each_method_ends_in_a_checkpoint_that_acts(method, robot, start, store, tmp_path):
    config = run_of(method, start, store, tmp_path)
    align(config)
    engine = InferenceEngine(load_checkpoint(tmp_path / method / "checkpoint"))
    chunk = engine.predict(observation(robot))
    before = InferenceEngine(load_checkpoint(start)).predict(observation(robot))
    assert chunk.actions.shape == before.actions.shape and np.isfinite(chunk.actions).all()
    assert not np.allclose(chunk.actions, before.actions, atol=1e-5) or method == "sfbc"  # it may choose the first
    assert (chunk.actions[:, ~robot.mask] == 0).all()
    batch = engine.predict_batch([observation(robot)] * 2, [1, 1])
    assert np.allclose(batch[0].actions, batch[1].actions, atol=1e-6)


def test_an_aligned_checkpoint_is_small_and_without_a_trainers_state(start, store, tmp_path):
    align(run_of("sfbc", start, store, tmp_path))
    names = {path.name for path in (tmp_path / "sfbc" / "checkpoint").iterdir()}
    assert "head" in names and not {"trainer.pt", "trainer"} & names
    assert main(["checkpoint", "inspect", str(tmp_path / "sfbc" / "checkpoint")]) == 0


def test_a_head_that_a_disk_has_changed_does_not_act(start, store, tmp_path):
    align(run_of("sfbc", start, store, tmp_path))
    file = tmp_path / "sfbc" / "checkpoint" / "head" / "head.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"head\.safetensors is damaged: expected checksum"):
        InferenceEngine(load_checkpoint(tmp_path / "sfbc" / "checkpoint"))


def test_a_critic_is_learnt_once_and_serves_all(start, store, tmp_path):
    align(run_of("sfbc", start, store, tmp_path))
    head = tmp_path / "critic" / "state" / "head.safetensors"
    learnt = head.stat().st_mtime_ns
    align(run_of("eda", start, store, tmp_path))
    assert head.stat().st_mtime_ns == learnt


def test_a_stage_goes_on_from_its_state(start, store, tmp_path):
    long = run_of("nca", start, store, tmp_path, policy={"steps": 20, "batch_size": 8})
    align(dataclasses.replace(long, policy=dataclasses.replace(long.policy, steps=10)))
    align(long)
    rows = (tmp_path / "nca" / "policy" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in rows]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 16, 20]
    assert len({row["measured_ratio_of_success"] for row in rows}) == len(rows)  # it moves


def test_episodes_that_do_not_say_how_they_ended_are_named(robot, start, tmp_path):
    store = EpisodeStore.create(tmp_path / "silent", robot)
    states, mask = robot.to_unified(np.zeros((3, robot.num_native)))
    with store:
        store.add(
            Episode(
                name="silent",
                states=states,
                state_mask=mask,
                actions=states,
                action_mask=mask,
                images={"external": np.zeros((3, 64, 64, 3), np.uint8)},
                instructions=("a",),
                rate_hz=robot.rate_hz,
                action_offset_steps=1,
            )
        )
    with pytest.raises(ValueError, match=r"1 of 1 episodes do not say whether they succeeded \(silent\)"):
        align(run_of("nca", start, tmp_path / "silent", tmp_path))


def test_another_config_in_the_same_folder_is_refused(start, store, tmp_path, capsys):
    run_of("sfbc", start, store, tmp_path)
    assert main(["align", str(tmp_path / "align.yaml")]) == 0
    assert main(["align", str(tmp_path / "align.yaml"), "--candidates", "5"]) == 1
    assert "candidates: 3 -> 5" in capsys.readouterr().err


def test_a_start_that_is_none_is_named_and_stands_in_nobodys_way(start, store, tmp_path, capsys):
    run_of("sfbc", start, store, tmp_path)
    assert main(["align", str(tmp_path / "align.yaml"), "--start_from", "align_strat"]) == 1
    assert "unknown checkpoint folder or training config 'align_strat': did you mean 'align_start'?" in (
        capsys.readouterr().err
    )
    assert main(["align", str(tmp_path / "align.yaml")]) == 0


@pytest.mark.parametrize("name", sorted(shipped_configs("align")))
def test_shipped_configs_are_read(name):
    assert load_align(find_config("align", name)).method == name.split("_")[0]


def test_a_wrong_key_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "align.yaml").write_text("method: nca\ncandidate: 3\n")
    with pytest.raises(ValueError, match="candidates"):
        load_align(tmp_path / "align.yaml")
