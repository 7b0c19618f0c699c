"""Run: pytest tests/deploy/test_measures.py"""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode
from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore
from deploy import measures
from deploy.intervals import wilson_interval
from deploy.measures import closed_loop_success, open_loop_plots, plotted_episodes, success_figures
from deploy.rollout import Outcome, Trial
from rdt.model.presets import PRESETS
from rdt.train.config import load_config
from rdt.visuomotor import VisuomotorPolicy

TASKS = ("pick up the cup", "pick up the cup", "close the drawer")


@pytest.fixture(scope="module")
def robot() -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


@pytest.fixture
def config():
    config = load_config(find_config("train", "quickstart"))
    demonstrations = dataclasses.replace(config.demonstrations, environment="sim_transfer")
    return dataclasses.replace(config, evaluate_episodes=1, device="cpu", demonstrations=demonstrations)


@pytest.fixture
def model(config) -> VisuomotorPolicy:
    torch.manual_seed(0)
    network = dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2)
    return VisuomotorPolicy(network, config.condition, config.noise_slots)


@pytest.fixture(scope="module")
def store(robot, tmp_path_factory) -> EpisodeStore:
    rng = np.random.default_rng(0)
    with EpisodeStore.create(tmp_path_factory.mktemp("data") / "store", robot) as store:
        for number, sentence in enumerate(TASKS):
            states, mask = robot.to_unified(rng.uniform(0, 1, (40, robot.num_native)))
            store.add(
                Episode(
                    name=f"cup/{number}",
                    states=states,
                    state_mask=mask,
                    actions=states,
                    action_mask=mask,
                    images={"external": rng.integers(0, 256, (40, 30, 40, 3), dtype=np.uint8)},
                    instructions=(sentence,),
                    rate_hz=robot.rate_hz,
                )
            )
    return store


def test_a_picture_of_each_episode_and_the_model_as_it_was(store, robot, config, model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dtypes = {parameter.dtype for parameter in model.parameters()}
    assert open_loop_plots([store[0], store[2]], robot, config, tmp_path)(model, 200) == {}
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["cup_0_0000200.png", "cup_2_0000200.png"]
    for name in names:
        image = Image.open(io.BytesIO((tmp_path / "plots" / name).read_bytes()))
        assert image.height > 14 * 100  # a panel for each joint
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {parameter.dtype for parameter in model.parameters()} == dtypes
    assert all(parameter.requires_grad for parameter in model.policy.parameters())


def test_joints_are_drawn_in_rad_and_openings(monkeypatch, store, robot, config, model, tmp_path):
    """Of a robot that counts in degrees: what is drawn is what stands in the unified slots."""
    raw = robot.to_dict()
    for arm in raw["arms"].values():
        arm["joints"] = [{**joint, "unit": "deg"} for joint in arm["joints"]]
    drawn = []
    monkeypatch.setattr(measures, "action_panels", lambda *args: drawn.append(args) or b"")
    in_degrees = Embodiment.from_dict(raw)
    open_loop_plots([store[0]], in_degrees, config, tmp_path)(model, 1)
    ((names, demonstration, chunks, rate_hz),) = drawn
    assert list(names) == list(robot.native_names) and rate_hz == robot.rate_hz
    np.testing.assert_allclose(demonstration, store[0].actions[:, robot.slots], atol=1e-5)
    assert [chunk.start for chunk in chunks] == [0, 16, 32]


def test_episodes_of_different_tasks_come_first(store):
    assert [episode.name for episode in plotted_episodes([EpisodeSelection(store, (0, 1, 2))])] == ["cup/0", "cup/2"]
    assert [episode.name for episode in plotted_episodes([EpisodeSelection(store, (1, 0))])] == ["cup/1", "cup/0"]
    assert plotted_episodes([]) == []


def outcome(task: str, success: bool) -> Outcome:
    trial = Trial("sim_handover", task, "", "trained", 0)
    return Outcome(trial, (task,) if success else (), False, None, None, 0)


def test_success_has_its_interval_and_stands_by_task():
    outcomes = [outcome("a", True), outcome("a", True), outcome("b", False), outcome("b", True)]
    low, high = wilson_interval(3, 4)
    assert success_figures(outcomes) == {
        "success_rate": 0.75,
        "success_low": low,
        "success_high": high,
        "success/a": 1.0,
        "success/b": 0.5,
    }


def test_trials_run_beside_training_and_leave_nothing(robot, config, model, tmp_path, monkeypatch):
    pytest.importorskip("mujoco", reason="needs the extra `sim`")
    pytest.importorskip("gym_aloha", reason="needs the extra `sim`")
    monkeypatch.setenv("RDT_RENDERER", "raycast")
    figures = closed_loop_success(robot, config, {}, tmp_path)(model, 2)
    assert figures == {
        "success_rate": 0.0,
        "success_low": 0.0,
        "success_high": pytest.approx(wilson_interval(0, 1)[1]),
        "success/transfer_right_to_left": 0.0,
    }
    assert list(tmp_path.iterdir()) == []
