"""Run: pytest tests/deploy/test_engine.py"""

import dataclasses

import numpy as np
import pytest
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Observation
from deploy.engine import InferenceEngine
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.train.checkpoint import Checkpoint
from rdt.train.config import TrainConfig
from rdt.visuomotor import VisuomotorPolicy


@pytest.fixture
def robot() -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


@pytest.fixture
def make_engine(robot):
    def make(noise_slots: str = "all", seed: int = 0) -> InferenceEngine:
        torch.manual_seed(0)
        sizes = dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2, pred_horizon=5)
        model = VisuomotorPolicy(sizes, ConditionConfig(cameras=("external",)), noise_slots)
        with torch.no_grad():
            model.policy.model.final_layer.ffn_final.fc2.weight.normal_(std=0.1)  # 0 at first: it would say nothing
        return InferenceEngine(Checkpoint(model, robot, TrainConfig()), seed=seed)

    return make


def observation(robot: Embodiment, value: float = 0.2, stamp_ns: int = 7) -> Observation:
    state, mask = robot.to_unified(np.full(robot.num_native, value))
    return Observation(
        state=state,
        state_mask=mask,
        images={"external": np.full((1, 64, 64, 3), 90, np.uint8)},
        image_masks={"external": np.array([True])},
        instruction="from right to left",
        control_hz=robot.rate_hz,
        stamp_ns=stamp_ns,
    )


def test_a_chunk_is_stamped_for_its_first_action(make_engine, robot):
    chunk = make_engine().predict(observation(robot, stamp_ns=1_000))
    assert chunk.start_ns == 1_000 + 80_000_000  # action_offset_steps 1 at 12.5 Hz
    assert chunk.rate_hz == 12.5
    assert chunk.actions.shape == (5, 128)
    assert (chunk.actions[:, ~robot.mask] == 0).all()
    assert (chunk.actions[:, robot.mask] != 0).any()


def test_equal_keys_give_equal_chunks_in_any_batch(make_engine, robot):
    engine = make_engine()
    seen = [observation(robot, value) for value in (0.1, 0.2, 0.3)]
    together = engine.predict_batch(seen, [4, 5, 6])
    alone = engine.predict_batch([seen[1]], [5])[0]
    assert np.allclose(together[1].actions, alone.actions, atol=1e-5)
    other_noise = engine.predict_batch([seen[1]], [9])[0]
    assert not np.allclose(other_noise.actions, alone.actions, atol=1e-5)


@pytest.mark.parametrize("noise_slots", ["all", "live"])
def test_sample_equals_predict_action(make_engine, robot, noise_slots):
    engine = make_engine(noise_slots)
    condition = engine.model.condition(engine.model.observe([observation(robot)]))
    noise = torch.randn(1, 5, 128)
    expected = engine.policy.predict_action(**vars(condition), noise=noise)
    assert torch.equal(engine.sample(condition, noise), expected)
    assert torch.equal(InferenceEngine(engine.policy).sample(condition, noise), expected)
    assert engine.sample(condition).shape == expected.shape


def test_a_bare_policy_cannot_predict_and_says_why(make_engine, robot):
    with pytest.raises(ValueError, match="open a checkpoint"):
        InferenceEngine(make_engine().policy).predict(observation(robot))
