"""The embedded simulator as a Gymnasium environment, and an RDT checkpoint driven through Tianshou's collectors.

Run: pytest tests/deploy/test_gym_env.py
"""

import dataclasses
import warnings
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco", reason="needs the extra `sim`")
pytest.importorskip("gym_aloha", reason="needs the extra `sim`")

from gymnasium.utils.env_checker import check_env

from data_pipeline.annotation.outcome import episode_success
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.storage import EpisodeStore
from deploy.engine import InferenceEngine
from deploy.gym_env import SimEnv, SimEnvConfig, engine_chunks
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.train.checkpoint import Checkpoint
from rdt.train.config import TrainConfig
from rdt.visuomotor import VisuomotorPolicy


@pytest.fixture
def robot() -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


@pytest.fixture
def env():
    made = SimEnv(SimEnvConfig(max_steps=6))
    yield made
    made.close()


def test_gymnasium_finds_nothing_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its advice, too
        warnings.filterwarnings("ignore", message=".*observation space (minimum|maximum) value is -?infinity.*")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")  # actions are in rad
        warnings.filterwarnings("ignore", message=".*not within the observation space.*image.*")
        env = SimEnv(SimEnvConfig(max_steps=3), render_mode="rgb_array")
        check_env(env, skip_render_check=True)
        env.reset(seed=0)
        assert env.render().shape == (240, 320, 3)
        env.close()


def test_a_seed_is_a_scene(env):
    first, info = env.reset(seed=7)
    again, _ = env.reset(seed=7)
    other, drawn = env.reset()
    assert info["scene"] == 7 and drawn["scene"] != 7
    assert (first["external"] == again["external"]).all() and (first["state"] == again["state"]).all()
    assert (first["external"] != other["external"]).any()


def test_time_cuts_an_episode_and_the_arms_follow_their_targets(env):
    observation, _ = env.reset(seed=0)
    target = observation["state"].copy()
    target[0] += 0.2
    for step in range(6):
        observation, reward, terminated, truncated, info = env.step(target)
        assert (terminated, truncated, reward) == (False, step == 5, 0.0)
    assert abs(observation["state"][0] - target[0]) < 0.05
    assert np.allclose(info["sent"], target, atol=1e-5)


def test_limits_have_the_last_word(env):
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.full(14, 100.0))
    assert info["fault"] or (np.abs(info["sent"]) < 3.2).all()


def test_the_scripted_expert_succeeds_and_each_stage_is_paid_once():
    from robot_drivers.sim.expert import plan
    from robot_drivers.sim.tasks import draw_positions

    env = SimEnv(SimEnvConfig(environment="sim_handover", task="transfer_right_to_left", reward="progress"))
    env.reset(seed=3)
    targets = plan("transfer_right_to_left", draw_positions("centred_box", 3))
    paid = []
    for tick in range(4, len(targets), 4):
        _, reward, terminated, truncated, info = env.step(targets[tick])
        paid.append(reward)
        if terminated or truncated:
            break
    env.close()
    assert terminated and info["success"] and not truncated
    assert sum(paid) == pytest.approx(2.0)  # four quarters and the success
    assert paid[-1] >= 1 and max(paid[:-1]) < 1


def test_earlier_frames_are_black_until_they_are_there():
    env = SimEnv(SimEnvConfig(history=2, max_steps=2, image_size=(16, 16)))
    observation, _ = env.reset(seed=0)
    assert observation["external"].shape == (2, 16, 16, 3)
    assert not observation["external"][0].any() and observation["external"][1].any()
    following, *_ = env.step(observation["state"])
    assert (following["external"][0] == observation["external"][1]).all()
    env.close()


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="transfer_right_to_left"):
        SimEnv(SimEnvConfig(task="transfer_right"))
    with pytest.raises(ValueError, match="under control eef"):
        SimEnv(SimEnvConfig(robot="sim_bimanual_eef"))
    with pytest.raises(ValueError, match="progress"):
        SimEnv(SimEnvConfig(reward="progres"))


def tiny_engine(robot: Embodiment) -> InferenceEngine:
    torch.manual_seed(0)
    sizes = dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2, pred_horizon=5)
    model = VisuomotorPolicy(sizes, ConditionConfig(cameras=("external",)), "all")
    with torch.no_grad():
        model.policy.model.final_layer.ffn_final.fc2.weight.normal_(std=0.1)  # 0 at first: it would say nothing
    return InferenceEngine(Checkpoint(model, robot, TrainConfig()))


def test_a_checkpoint_acts_through_a_collector_and_its_episodes_come_back(robot, tmp_path):
    pytest.importorskip("tianshou", reason="needs the extra `rl`")
    from tianshou.data import Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv

    from deploy.gym_episodes import buffer_of_store, keep_episodes
    from rdt.alignment.chunk_policy import ChunkPolicy, finished_episodes

    config = SimEnvConfig(max_steps=7)
    envs = DummyVectorEnv([partial(SimEnv, config)] * 2)
    predict = engine_chunks(tiny_engine(robot), "from right to left")
    policy = ChunkPolicy(predict, 4, envs.action_space[0])
    buffer = VectorReplayBuffer(40, 2)
    collector = Collector[CollectStats](policy, envs, buffer)
    envs.seed([5, 6])
    collector.reset()
    stats = collector.collect(n_episode=3)
    envs.close()
    episodes = finished_episodes(buffer)
    assert stats.n_collected_episodes == len(episodes) == 3

    with EpisodeStore.create(tmp_path / "store", robot) as store:
        names = keep_episodes(store, episodes, "transfer_right_to_left", "from right to left")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.names == tuple(names) and len(set(names)) == 3
    assert episode_success(store).tolist() == [0, 0, 0]

    back = buffer_of_store(store)
    first, rows = back[np.arange(6)], episodes[0]
    assert len(back) == 3 * 6  # no step behind the last one of an episode that was cut
    assert np.allclose(first.obs.state, rows.obs.state[:6], atol=1e-5)
    assert np.allclose(first.act, rows.info.sent[:6], atol=1e-5)
    assert np.allclose(first.obs_next.state, rows.obs_next.state[:6], atol=1e-5)
    assert np.abs(first.obs.external.astype(int) - rows.obs.external[:6]).mean() < 4  # JPEG
    assert first.truncated.tolist() == [False] * 5 + [True] and not first.terminated.any()
