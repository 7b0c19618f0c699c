"""Run: pytest tests/deploy/test_rollouts.py"""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs the extra `sim`")

from data_pipeline.annotation.outcome import episode_success
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.storage import EpisodeStore
from deploy.rollout import episode_name
from deploy.rollouts import RolloutConfig, planned, record_rollouts
from rdt.encoders.condition import ConditionConfig
from rdt.train.checkpoint import save_checkpoint
from rdt.train.config import TrainConfig
from rdt.train.start import network_config
from rdt.visuomotor import VisuomotorPolicy
from robot_drivers.sim.expert import EPISODE_TICKS, TICKS_PER_ACTION

CONFIG = RolloutConfig("sim_transfer", scenes=1, per_scene=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    config = TrainConfig(preset="rdt_tiny", condition=ConditionConfig(cameras=("external",)), noise_slots="live")
    model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
    folder = tmp_path_factory.mktemp("policy") / "checkpoint"
    save_checkpoint(folder, model, robot, config)
    return folder


@pytest.fixture(scope="module")
def recorded(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("rollouts") / "store"
    return record_rollouts(checkpoint, CONFIG, out, "cpu", workers=1), out


def test_rollouts_are_episodes_that_say_how_they_ended(recorded):
    report, out = recorded
    store = EpisodeStore.open(out)
    assert store.episode_lengths == (EPISODE_TICKS // TICKS_PER_ACTION,) * 2
    np.testing.assert_array_equal(episode_success(store), [0.0, 0.0])  # of an untrained policy
    assert report["tasks"]["transfer_right_to_left"]["rollouts"] == 2
    assert store.native(0)["reward"].shape == (100,)
    episode = store[0]
    assert list(episode.images) == ["external"] and episode.action_offset_steps == 1


def test_tries_of_a_scene_begin_alike_and_go_on_with_other_noise(recorded):
    store = EpisodeStore.open(recorded[1])
    first, second = store[0], store[1]
    np.testing.assert_array_equal(first.states[0], second.states[0])
    np.testing.assert_array_equal(first.images["external"][0], second.images["external"][0])
    assert store.entry(0).source["scene"] == store.entry(1).source["scene"]


def test_what_is_there_is_not_recorded_again(recorded, checkpoint):
    report, out = recorded
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert record_rollouts(checkpoint, CONFIG, out, "cpu", workers=1) == report
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


def test_rollouts_of_other_settings_are_refused(recorded, checkpoint):
    with pytest.raises(ValueError, match=r"rollouts of other settings \(rollouts.seed: 0 -> 1\)"):
        record_rollouts(checkpoint, dataclasses.replace(CONFIG, seed=1), recorded[1], "cpu")
    assert json.loads(recorded[1].with_name("store.report.json").read_text())["rollouts"]["seed"] == 0


def test_scenes_are_their_own_and_tries_of_one_stand_together(tmp_path):
    trials = planned(RolloutConfig("sim_handover", scenes=3, per_scene=2, seed=4), tmp_path)
    assert len({episode_name(trial) for trial in trials}) == len(trials) == 12
    assert [trial.attempt for trial in trials] == [0, 1] * 6
    assert all(trial.seed >= 1_000_000_000 + 20_004 * 100_000 for trial in trials)
    assert max(trial.seed for trial in trials) < 2**32


def test_a_policy_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match="nobody is no checkpoint of this stack"):
        record_rollouts(tmp_path / "nobody", CONFIG, tmp_path / "store", "cpu")
    assert not list(tmp_path.iterdir())


def test_settings_that_are_none_are_refused():
    with pytest.raises(ValueError, match="at least one scene"):
        RolloutConfig(scenes=0)
