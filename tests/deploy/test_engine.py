"""Run: pytest tests/deploy/test_engine.py"""

import dataclasses

import numpy as np
import pytest
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Observation
from deploy.engine import InferenceEngine
from rdt.batch import Condition
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


def test_predict_is_the_batch_of_one(make_engine, robot):
    seen = observation(robot)
    alone, together = make_engine().predict(seen), make_engine().predict_batch([seen], [1])[0]
    assert np.allclose(alone.actions, together.actions, atol=1e-6)


def test_announced_sizes_give_the_same_actions(make_engine, robot):
    """Fixed shapes: language padded to a bucket and masked, keys and values in buffers."""
    plain, static = make_engine(), make_engine()
    static.warm_up(batch_sizes=(1, 2), language_buckets=(3, 16))
    seen = [observation(robot, value) for value in (0.1, 0.2)]
    for batch in (seen, seen[:1]):
        expected = plain.predict_batch(batch, [5, 6][: len(batch)])
        found = static.predict_batch(batch, [5, 6][: len(batch)])
        for one, other in zip(found, expected, strict=True):
            assert np.allclose(one.actions, other.actions, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 9, 16])
def test_language_of_any_length_is_padded_or_runs_eagerly(make_engine, num_tokens):
    engine = InferenceEngine(make_engine().policy)
    engine.warm_up(language_buckets=(3, 9))
    config = engine.policy.config
    condition = Condition(
        lang_tokens=torch.randn(1, num_tokens, config.lang_token_dim),
        lang_attn_mask=torch.ones(1, num_tokens, dtype=torch.bool),
        img_tokens=torch.randn(1, config.img_cond_len, config.img_token_dim),
        state_tokens=torch.randn(1, 1, 128),
        action_mask=torch.ones(1, 1, 128),
        ctrl_freqs=torch.tensor([25.0]),
    )
    noise = torch.randn(1, 5, 128)
    expected = engine.policy.predict_action(**vars(condition), noise=noise)
    first = engine.sample(condition, noise)
    assert torch.allclose(first, expected, atol=1e-5)
    engine.sample(condition, torch.zeros_like(noise))
    assert torch.allclose(first, expected, atol=1e-5)  # a later call leaves results alone


def test_warm_up_changes_no_later_chunk(make_engine, robot):
    cold, warm = make_engine(), make_engine()
    warm.warm_up()
    assert np.allclose(cold.predict(observation(robot)).actions, warm.predict(observation(robot)).actions, atol=1e-6)


def test_stage_times_are_those_of_the_requests(make_engine, robot):
    engine = make_engine()
    assert engine.timings() == {}
    engine.warm_up()
    assert engine.timings() == {}
    engine.predict(observation(robot))
    times = engine.timings()
    assert list(times) == ["decode", "encode", "project", "denoise", "copy", "total"]
    assert all(0 <= stage["p50"] <= stage["p99"] for stage in times.values())
    assert times["total"]["p50"] == pytest.approx(sum(times[s]["p50"] for s in list(times)[:-1]))


def test_a_policy_compiled_block_by_block_is_the_same(make_engine, robot):
    checkpoint = make_engine()._checkpoint
    expected = InferenceEngine(checkpoint).predict(observation(robot))
    compiled = InferenceEngine(checkpoint, compile_backend="aot_eager").predict(observation(robot))
    assert np.allclose(compiled.actions, expected.actions, atol=1e-4)


def test_graphs_on_a_cpu_are_refused(make_engine):
    with pytest.raises(ValueError, match="CUDA graphs were asked for on device 'cpu'"):
        InferenceEngine(make_engine().policy, capture=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_equal_the_eager_road(make_engine, robot, dtype):
    checkpoint = make_engine()._checkpoint
    seen = [observation(robot, value) for value in (0.1, 0.3, 0.2)]
    eager = InferenceEngine(checkpoint, "cuda", dtype=dtype, capture=False)
    expected = [eager.predict(one).actions for one in seen]
    captured = InferenceEngine(checkpoint, "cuda", dtype=dtype)
    found = [captured.predict(one).actions for one in seen]
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert np.allclose(found, expected, atol=tolerance)


def test_tokens_that_do_not_fit_are_refused_before_a_buffer_is_touched(make_engine, robot):
    engine = make_engine()
    engine.warm_up()
    condition = engine.model.condition(engine.model.observe([observation(robot)]))
    narrow = dataclasses.replace(condition, img_tokens=condition.img_tokens[..., :-1])
    with pytest.raises(ValueError, match="img_tokens must have the shape"):
        engine.sample(narrow)
    with pytest.raises(ValueError, match="noise must have the shape"):
        engine.sample(condition, torch.zeros(1, 4, 128))
