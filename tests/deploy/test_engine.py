"""Run: pytest tests/deploy/test_engine.py"""

import dataclasses

import numpy as np
import pytest
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.engine import InferenceEngine
from deploy.prefix import Prefix
from rdt.batch import Condition
from rdt.diffusion.guidance import Guidance, prefix_weights
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
    condition = captured.model.condition(captured.model.observe(seen[:1]))
    assert captured.sample(condition).device == captured.device  # "cuda" and "cuda:0" are one


def test_tokens_that_do_not_fit_are_refused_before_a_buffer_is_touched(make_engine, robot):
    engine = make_engine()
    engine.warm_up()
    condition = engine.model.condition(engine.model.observe([observation(robot)]))
    narrow = dataclasses.replace(condition, img_tokens=condition.img_tokens[..., :-1])
    with pytest.raises(ValueError, match="img_tokens must have the shape"):
        engine.sample(narrow)
    with pytest.raises(ValueError, match="noise must have the shape"):
        engine.sample(condition, torch.zeros(1, 4, 128))


def prefix_for(seen: Observation, robot: Embodiment, delay: int = 2, execute: int = 1, late_ns: int = 0) -> Prefix:
    """A plan at joint values 0.3 on the time grid of the chunk that `seen` asks for, or `late_ns` off it."""
    actions, mask = robot.to_unified(np.full((5, robot.num_native), 0.3), "action")
    start_ns = seen.stamp_ns + (1 - execute) * 80_000_000 + late_ns  # action_offset_steps 1 at 12.5 Hz
    return Prefix(
        ActionChunk(start_ns, robot.rate_hz, actions, mask), delay, seen.stamp_ns + (1 - execute) * 80_000_000
    )


def test_without_a_prefix_nothing_is_different(make_engine, robot):
    seen, guided = observation(robot), make_engine()
    guided.warm_up()
    guided.predict(seen, prefix_for(seen, robot))
    plain = make_engine()
    plain.predict(seen)
    assert np.allclose(plain.predict(seen).actions, guided.predict(seen).actions, atol=1e-6)
    assert np.array_equal(
        make_engine().predict_batch([seen], [3])[0].actions, make_engine().predict_batch([seen], [3], [None])[0].actions
    )


def test_a_prefix_is_scaled_and_guides_the_denoising_loop(make_engine, robot):
    """`predict` with a prefix is `RDTPolicy.sample` with the prefix in the network's space and the paper's weights."""
    engine, seen = make_engine(), observation(robot)
    scaling = engine.model.condition.scaling
    scaling.fit_min_max("action", np.full(128, -1.0), np.full(128, 3.0), robot.mask)
    found = engine.predict(seen, prefix_for(seen, robot)).actions

    condition = engine.model.condition(engine.model.observe([seen]))
    target = torch.zeros(1, 5, 128)
    target[:, :, robot.mask] = (0.3 - 1.0) / 2.0
    noise = engine.draw_noise([1])
    with torch.no_grad():
        encoded = engine.policy.encode_condition(**vars(condition))
        guidance = Guidance(target, prefix_weights(5, 2, 1)[None, :, None])
        scaled = engine.policy.sample(encoded, noise, guidance)
        plain = engine.policy.sample(encoded, noise)
    expected = engine.model.condition.unscale_actions(scaled, condition.action_mask)[0]
    assert np.allclose(found, expected, atol=1e-5)
    assert (scaled - plain).abs().max() > 0.01


@pytest.mark.parametrize("late_ns", [0, 30_000_000])
def test_a_prefix_of_another_time_grid_is_resampled(make_engine, robot, late_ns):
    """The plan stands still, so its time grid cannot matter, only what it covers: one row less."""
    seen = observation(robot)
    on_grid = prefix_for(seen, robot, delay=1, execute=2)
    off_grid = prefix_for(seen, robot, delay=1, execute=2, late_ns=-late_ns)
    one, other = (make_engine().predict(seen, prefix).actions for prefix in (on_grid, off_grid))
    assert np.allclose(one, other, atol=1e-6) == (late_ns == 0)


def test_prefixes_of_a_batch_are_each_their_own(make_engine, robot):
    engine, seen = make_engine(), [observation(robot, value) for value in (0.1, 0.2, 0.3)]
    prefixes = [None, prefix_for(seen[1], robot), prefix_for(seen[2], robot, delay=1, execute=3)]
    together = engine.predict_batch(seen, [4, 5, 6], prefixes)
    for i in range(3):
        alone = engine.predict_batch(seen[i : i + 1], [4 + i], prefixes[i : i + 1])[0]
        assert np.allclose(together[i].actions, alone.actions, atol=1e-5)


@pytest.mark.parametrize("jacobian", ["network", "identity"])
def test_announced_guidance_gives_the_same_actions(make_engine, robot, jacobian):
    """Forward and backward pass over static buffers, beside the eager road."""
    checkpoint = make_engine()._checkpoint
    plain = InferenceEngine(checkpoint, jacobian=jacobian)
    static = InferenceEngine(checkpoint, guided=True, jacobian=jacobian)
    static.warm_up(batch_sizes=(1,), language_buckets=(3, 16))
    assert static.sampler(1).guided == jacobian
    for value in (0.1, 0.2, 0.3):
        seen = observation(robot, value)
        for prefix in (prefix_for(seen, robot), None):
            assert np.allclose(static.predict(seen, prefix).actions, plain.predict(seen, prefix).actions, atol=1e-6)
    assert all(not p.requires_grad for p in static.policy.parameters())
    guidance = Guidance(torch.zeros(1, 5, 128), torch.ones(1, 5, 1), jacobian=jacobian)
    assert static.sampler(1).serves(3, guidance) and not static.sampler(1).serves(3, guidance._replace(limit=9.0))


def test_an_unknown_jacobian_names_the_known_ones(make_engine):
    with pytest.raises(ValueError, match="did you mean 'identity'"):
        InferenceEngine(make_engine().policy, jacobian="identiy")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_guided_graph_equals_the_eager_road(make_engine, robot, dtype):
    checkpoint = make_engine()._checkpoint
    seen = [observation(robot, value) for value in (0.1, 0.3, 0.2)]
    eager = InferenceEngine(checkpoint, "cuda", dtype=dtype, capture=False)
    expected = [eager.predict(one, prefix_for(one, robot)).actions for one in seen]
    captured = InferenceEngine(checkpoint, "cuda", dtype=dtype, guided=True)
    found = [captured.predict(one, prefix_for(one, robot)).actions for one in seen]
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    assert np.allclose(found, expected, atol=tolerance)
    for _ in range(20):  # a graph that wrote into memory it does not own would drift
        assert np.allclose(
            captured.predict_batch(seen[:1], [1], [prefix_for(seen[0], robot)])[0].actions, expected[0], atol=tolerance
        )


def test_a_prefix_without_announcement_leaves_a_model_in_training_as_it_was(make_engine, robot):
    engine, seen = make_engine(), observation(robot)
    engine.predict(seen, prefix_for(seen, robot))
    assert all(p.requires_grad and p.grad is None for p in engine.policy.parameters())
