"""`rdt bench`: speed on this machine, as ratios to a baseline measured in the same run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from data_pipeline.atomic import write_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Observation
from deploy.device import choose_device
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.visuomotor import VisuomotorPolicy

PRESET = "rdt_tiny"
WARM_UP = 10
REPEATS = 100


def command(args: argparse.Namespace) -> None:
    figures = bench_infer(choose_device(args.device))
    for name, value in figures.items():
        print(f"{name:36s} {value:.3f}" if isinstance(value, float) else f"{name:36s} {value}")
    if args.json:
        write_json(args.json, figures)


def bench_infer(device: torch.device) -> dict[str, str | int | float]:
    """One observation to one chunk, against re-encoding the condition at every denoising step."""
    torch.manual_seed(0)
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    model = VisuomotorPolicy(PRESETS[PRESET], ConditionConfig(cameras=("external",))).to(device).eval()
    observation = _example_observation(robot, model.condition.vision.image_size)
    policy = model.policy
    noise = torch.randn(1, model.horizon, policy.config.action_dim, device=device)

    def whole() -> None:
        model.sample_actions(model.observe([observation]), noise)

    with torch.inference_mode():
        condition = model.condition(model.observe([observation]))

    def denoise_cached() -> None:
        policy.predict_action(**vars(condition), noise=noise)

    @torch.inference_mode()
    def denoise_plain() -> None:
        timesteps = torch.zeros(1, dtype=torch.long, device=device)
        for _ in range(policy.config.num_inference_timesteps):
            policy(noise, timesteps, **vars(condition))

    plain = _milliseconds(denoise_plain, device)
    cached = _milliseconds(denoise_cached, device)
    total = _milliseconds(whole, device)
    return {
        "preset": PRESET,
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "observation to chunk p50 [ms]": float(np.percentile(total, 50)),
        "observation to chunk p99 [ms]": float(np.percentile(total, 99)),
        "denoising p50 [ms]": float(np.percentile(cached, 50)),
        "plain denoising p50 [ms]": float(np.percentile(plain, 50)),
        "plain / cached conditions": float(np.percentile(plain, 50) / np.percentile(cached, 50)),
    }


def _milliseconds(call: Callable[[], None], device: torch.device) -> np.ndarray:
    """Wall time of `REPEATS` calls after `WARM_UP` that are not counted."""
    times = []
    for _ in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - started))
    return np.array(times[WARM_UP:])


def _example_observation(robot: Embodiment, image_size: int) -> Observation:
    rng = np.random.default_rng(0)
    state, mask = robot.to_unified(rng.uniform(0, 1, robot.num_native))
    return Observation(
        state=state,
        state_mask=mask,
        images={"external": rng.integers(0, 256, (1, image_size, image_size, 3), dtype=np.uint8)},
        image_masks={"external": np.array([True])},
        instruction="hand the red cube over from right to left",
        control_hz=robot.rate_hz,
        stamp_ns=0,
    )
