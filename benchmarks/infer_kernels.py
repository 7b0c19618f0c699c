#!/usr/bin/env python3
"""What a denoising step and the projection spend their time on, by kernel; on a CPU, by operator.

    .venv/bin/python benchmarks/infer_kernels.py [--size 1b] [--device cuda] [--compile] [--top 20]

Of the engine's own graphs, with random weights; times are means of ten calls. Tracing adds to the wall time, not to the
kernels'.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from deploy.bench import LANGUAGE_TOKENS
from deploy.bench_infer import PRESET_OF_SIZE, example_tokens, random_policy
from deploy.device import choose_device
from deploy.engine import InferenceEngine
from rdt.model.presets import PRESETS

CALLS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=PRESET_OF_SIZE, default="1b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="put the blocks through torch.compile")
    parser.add_argument("--top", type=int, default=20, help="rows of each table")
    args = parser.parse_args()
    device = choose_device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    policy = random_policy(PRESETS[PRESET_OF_SIZE[args.size]], device, dtype)
    condition, noise = example_tokens(policy.config, device)
    engine = InferenceEngine(policy, device, dtype=dtype, compile_backend="inductor" if args.compile else None)
    if device.type == "cpu":
        engine.warm_up(language_buckets=(LANGUAGE_TOKENS,))
    sampler = engine.sampler(1)
    with torch.no_grad():
        print_table("projection", lambda: sampler.project(condition), 1, device, args.top)
        steps = policy.config.num_inference_timesteps
        print_table("one denoising step", lambda: sampler.denoise(noise), steps, device, args.top)


def print_table(name: str, call: Callable[[], object], units: int, device: torch.device, top: int) -> None:
    """The kernels of `call`, which does `units` of the thing that is named."""
    call()
    kind = "cuda" if device.type == "cuda" else "cpu"
    activity = ProfilerActivity.CUDA if kind == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as traced:
        for _ in range(CALLS):
            call()
        if kind == "cuda":
            torch.cuda.synchronize(device)
    time_us: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in traced.events():
        time_us[event.name] += event.device_time if kind == "cuda" else event.self_cpu_time_total
        launches[event.name] += 1
    each = CALLS * units
    print(f"\n{name}: {sum(time_us.values()) / each / 1e3:.3f} ms in {sum(launches.values()) / each:.0f} kernels")
    print("us in all   launches   us each   kernel")
    for kernel, spent in time_us.most_common(top):
        print(f"{spent / each:9.1f} {launches[kernel] / each:10.1f} {spent / launches[kernel]:9.2f}   {kernel[:120]}")


if __name__ == "__main__":
    main()
