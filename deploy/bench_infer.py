"""`rdt bench infer`: one inference at full size, the naive road against the engine, stage by stage.

Naive is what the published sampler does: eager, and the condition projected to keys and values at every step. Both
sample five steps from the same noise and tokens, and must agree. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Observation
from deploy.bench import LANGUAGE_TOKENS, SIGLIP_SO400M, Peak, device_name, measure, measure_peak, wake
from deploy.device import choose_device
from deploy.engine import InferenceEngine
from deploy.quantization import weight_bytes
from rdt.batch import Condition
from rdt.diffusion.guidance import Guidance
from rdt.diffusion.solver import clean_action, solver_step
from rdt.encoders.condition import ConditionConfig
from rdt.encoders.pretrained import save_random_siglip
from rdt.encoders.t5 import CachedT5
from rdt.model.cost import inference_cost
from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS, RDTConfig
from rdt.train.checkpoint import Checkpoint
from rdt.train.config import TrainConfig
from rdt.train.progress import peak_memory_gb
from rdt.visuomotor import VisuomotorPolicy

DRAWN = 4
"""Observations that the whole road is measured with, in turn; the engine remembers the pictures of one."""

PRESET_OF_SIZE = {"tiny": "rdt_tiny", "170m": "rdt_170m", "1b": "rdt_1b"}
INSTRUCTION = "hand the red cube over from right to left"


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns its figures by name, milliseconds unless the name says otherwise."""
    device = choose_device(args.device)
    dtype = _dtype(args.dtype, args.size, device)
    preset = PRESET_OF_SIZE[args.size]
    torch.manual_seed(0)
    figures: dict[str, Any] = {
        "preset": preset,
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "quantization": args.quantize,
        "compiled": args.compile,
    }
    for name, value in figures.items():
        print(f"{name:24s} {value}")
    peak = measure_peak(device, dtype)
    figures |= {"peak TFLOP/s": peak.flops / 1e12, "peak GB/s": peak.bandwidth / 1e9}
    print(f"{'this device reaches':24s} {peak.flops / 1e12:.2f} TFLOP/s, {peak.bandwidth / 1e9:.1f} GB/s\n")

    with_pictures = args.vision if args.vision is not None else args.size == "tiny" or device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(PRESETS[preset], device, dtype)
        condition, noise = example_tokens(policy.config, device)
        with torch.inference_mode():
            expected = naive_sample(policy, condition, noise)
            naive = measure(lambda: naive_sample(policy, condition, noise), device)
        figures["naive"] = naive.p50
        print(f"naive road, five steps       {naive}")

        started = time.perf_counter()
        engine = InferenceEngine(
            _checkpoint(args.size, policy, Path(folder)) if with_pictures else policy,
            device,
            dtype=dtype,
            compile_backend="inductor" if args.compile else None,
            quantization=args.quantize,
            guided=args.guided,
        )
        if device.type == "cpu":  # on a GPU the constructor did
            engine.warm_up(language_buckets=(LANGUAGE_TOKENS,))
        ready_s = time.perf_counter() - started
    first = measure(lambda: engine.sample(condition, noise), device, warm_up=False)
    error = float((engine.sample(condition, noise) - expected).norm() / expected.norm())
    figures |= {
        "engine": first.p50,
        "engine p99": first.p99,
        "naive / engine": naive.p50 / first.p50,
        "ready after [s]": ready_s,
        "first request": float(first.milliseconds[0]),
        "relative difference": error,
    }
    print(f"engine, features given       {first}")
    print(f"{'naive / engine':28s} {naive.p50 / first.p50:9.2f} x, results differ by {error:.1e} of their size")
    print(f"{'first request':28s} {first.milliseconds[0]:9.2f} ms, after {ready_s:.1f} s of warming up")
    if engine.gate_report:
        print(f"{'quality gate':28s} {engine.gate_report}")
        figures["gate: relative error"] = engine.gate_report.relative_error
    figures |= _print_stages(engine, condition, noise, peak)
    figures |= _print_memory(engine.policy, device)
    if args.guided:
        figures |= print_guided(engine, condition, noise)
    if with_pictures:
        figures |= _print_whole_road(engine)
    return figures


def naive_sample(policy: RDTPolicy, condition: Condition, noise: Tensor) -> Tensor:
    """The published loop: every step projects the condition again."""
    x, x0 = noise, torch.zeros_like(noise)
    for step in policy.solver_table:
        timesteps = torch.full((1,), step.timestep, device=x.device)
        encoded = policy.encode_condition(**vars(condition), key_values=False)
        x0_before, x0 = x0, clean_action(step, x, policy.denoise(x, timesteps, encoded).to(x.dtype))
        x = solver_step(step, x, x0, x0_before)
    return x * condition.action_mask


def print_guided(
    engine: InferenceEngine, condition: Condition, noise: Tensor, budget_s: float = 5.0
) -> dict[str, float]:
    """The denoising loop with a prefix, as real-time chunking has it, beside the loop without."""
    sampler, guidance = engine.sampler(1), Guidance(torch.zeros_like(noise), torch.ones_like(noise))
    with torch.no_grad():  # a backward pass may not keep what was made in inference mode
        sampler.project(condition)
        plain = measure(lambda: sampler.denoise(noise), engine.device, budget_s=budget_s)
        guided = measure(lambda: sampler.denoise(noise, guidance), engine.device, budget_s=budget_s)
    print(f"guided denoising loop        {guided}, {guided.p50 / plain.p50:.2f} times the plain one")
    return {"guided loop": guided.p50, "guided / plain loop": guided.p50 / plain.p50}


def _print_stages(engine: InferenceEngine, condition: Condition, noise: Tensor, peak: Peak) -> dict[str, float]:
    """Projection and one denoising step, each beside the least that this device allows."""
    policy, device = engine.policy, engine.device
    cost = inference_cost(policy.config, condition.lang_tokens.shape[1])
    sampler = engine.sampler(1)
    with torch.inference_mode():
        project = measure(lambda: sampler.project(condition), device, budget_s=5.0)
        denoise = measure(lambda: sampler.denoise(noise), device, budget_s=5.0)
    num_steps = policy.config.num_inference_timesteps
    size = policy.dtype.itemsize
    amounts = {  # operations, numbers that cross the memory
        "project": (cost.adaptor_flops + cost.project_flops, cost.project_params + cost.key_value_numbers),
        "denoise step": (cost.step_flops, cost.step_params + cost.key_value_numbers),
    }
    found = {"project": project.p50, "denoise step": denoise.p50 / num_steps}
    figures: dict[str, float] = {}
    print("\nstage            found      floor ms   (what this device needs for the arithmetic and the bytes)")
    for stage, (flops, numbers) in amounts.items():
        floor = peak.milliseconds(flops, size * numbers)
        print(
            f"{stage:14s} {found[stage]:8.2f}   {floor:8.2f}   {flops / 1e9:.1f} GFLOP, {size * numbers / 1e6:.0f} MB"
        )
        figures |= {stage: found[stage], f"{stage} floor": floor}
    return figures


def _print_memory(policy: RDTPolicy, device: torch.device) -> dict[str, float]:
    kind = "allocated" if device.type == "cuda" else "resident"
    figures = {"weights [GB]": weight_bytes(policy) / 1e9, f"peak {kind} [GB]": peak_memory_gb(device)}
    print("\n" + "   ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    return figures


def _print_whole_road(engine: InferenceEngine) -> dict[str, float]:
    """Observations to chunks: all pictures new, then a stream in which half of them were seen a request ago."""
    rng = np.random.default_rng(0)
    observations = [_observation(engine, rng) for _ in range(DRAWN)]  # before the clock runs
    unseen = itertools.cycle(observations)
    full = measure(lambda: engine.predict(next(unseen)), engine.device)
    print(f"\nobservation to chunk         {full}")
    figures = {"observation to chunk": full.p50, "observation to chunk p99": full.p99}
    if engine.image_history > 1:
        engine.forget_timings()
        followed = map(_following, [observations[-1], *observations[:-1]], observations)
        stream = itertools.cycle(list(followed))
        streamed = measure(lambda: engine.predict(next(stream)), engine.device)
        print(f"the same, streaming          {streamed}")
        figures |= {"streaming": streamed.p50, "streaming p99": streamed.p99}
    print("stage               p50        p99 ms   (of the latest line)")
    for stage, times in engine.timings().items():
        print(f"{stage:14s} {times['p50']:8.2f}   {times['p99']:8.2f}")
        figures |= {f"{stage} p50": times["p50"], f"{stage} p99": times["p99"]}
    return figures


def random_policy(config: RDTConfig, device: torch.device, dtype: torch.dtype) -> RDTPolicy:
    with torch.device(device):
        policy = RDTPolicy(config).to(dtype).eval()
    wake(policy)
    return policy


def example_tokens(config: RDTConfig, device: torch.device) -> tuple[Condition, Tensor]:
    """What the network reads of one observation, and the noise it starts from."""
    num_lang = min(LANGUAGE_TOKENS, config.max_lang_cond_len)
    condition = Condition(
        lang_tokens=torch.randn(1, num_lang, config.lang_token_dim, device=device),
        lang_attn_mask=torch.ones(1, num_lang, dtype=torch.bool, device=device),
        img_tokens=torch.randn(1, config.img_cond_len, config.img_token_dim, device=device),
        state_tokens=torch.randn(1, 1, config.state_token_dim, device=device),
        action_mask=torch.ones(1, 1, config.action_dim, device=device),
        ctrl_freqs=torch.full((1,), 25.0, device=device),
    )
    return condition, torch.randn(1, config.pred_horizon, config.action_dim, device=device)


def _checkpoint(size: str, policy: RDTPolicy, folder: Path) -> Checkpoint:
    """The policy with its encoders: SigLIP of the real size with random weights, instructions by embedding."""
    if size == "tiny":
        robot, condition = "sim_bimanual", ConditionConfig(cameras=("external",))
    else:
        save_random_siglip(folder, SIGLIP_SO400M)
        robot, condition = (
            "aloha_viperx",
            ConditionConfig(vision="siglip", vision_path=str(folder), text="t5", image_history=2),
        )
    model = VisuomotorPolicy(replace(policy.config, depth=1), condition)  # one block, to be replaced
    model.policy = policy
    if size != "tiny":
        width = policy.config.lang_token_dim
        assert isinstance(model.condition.text, CachedT5)
        model.condition.text.add({INSTRUCTION: torch.randn(LANGUAGE_TOKENS, width), "": torch.randn(1, width)})
    return Checkpoint(model, Embodiment.from_yaml(find_config("robots", robot)), TrainConfig())


def _observation(engine: InferenceEngine, rng: np.random.Generator) -> Observation:
    """Random pictures, of 640 x 480 for a published network."""
    size = (480, 640) if engine.image_history > 1 else (64, 64)
    shape = (engine.image_history, *size, 3)
    return replace(
        engine.example_observation(),
        images={role: rng.integers(0, 256, shape, dtype=np.uint8) for role in engine.cameras},
        instruction=INSTRUCTION,
    )


def _following(before: Observation, now: Observation) -> Observation:
    """`now` as the next one of a stream: its older frame of each camera is the newest one of `before`."""
    images = {role: np.stack([before.images[role][-1], frames[-1]]) for role, frames in now.images.items()}
    return replace(now, images=images)


def _dtype(name: str, size: str, device: torch.device) -> torch.dtype:
    """`auto` is what the engine would take."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and size != "tiny" else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
