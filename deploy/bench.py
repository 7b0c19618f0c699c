"""`rdt bench`: figures of this machine, beside a baseline or the truth, measured in the same run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from data_pipeline.atomic import write_json
from data_pipeline.schema.registry import load_attribute
from rdt.model.policy import RDTPolicy

BENCHES = {
    "infer": "deploy.bench_infer:bench",
    "data": "deploy.bench_data:bench",
    "train": "deploy.bench_train:bench",
    "loop": "deploy.bench_loop:bench",
    "guidance": "deploy.bench_guidance:bench",
    "cca": "deploy.bench_cca:bench",
    "nca": "deploy.bench_nca:bench",
    "eeg": "deploy.bench_eeg:bench",
    "imitation": "deploy.bench_imitation:bench",
    "offline": "deploy.bench_offline:bench",
}
"""Word after `rdt bench` -> function of the parsed arguments that prints its table and returns the figures."""

MIN_REPEATS, MAX_REPEATS = 3, 100
LANGUAGE_TOKENS = 32  # of an ordinary instruction
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


def command(args: argparse.Namespace) -> None:
    figures = load_attribute("benchmark", args.bench_command, BENCHES)(args)
    if args.json:
        write_json(args.json, figures)


@dataclass(frozen=True)
class Timing:
    """Wall milliseconds of repeated calls, the device waited for; warm-up calls are not counted."""

    milliseconds: np.ndarray

    @property
    def p50(self) -> float:
        return float(np.percentile(self.milliseconds, 50))

    @property
    def p99(self) -> float:
        return float(np.percentile(self.milliseconds, 99))

    def __str__(self) -> str:
        return f"p50 {self.p50:9.2f}   p99 {self.p99:9.2f} ms   ({len(self.milliseconds)} calls)"


def measure(
    call: Callable[[], object], device: torch.device, budget_s: float = 10.0, *, warm_up: bool = True
) -> Timing:
    """Repeat `call` for about `budget_s` seconds, at least 3 and at most 100 times.

    With `warm_up`, one call before, or several where they are short, is not counted.
    """
    if warm_up:
        first = _once(call, device)
        for _ in range(5 if 100 * first < 1e3 * budget_s else 0):
            _once(call, device)
    milliseconds: list[float] = []
    until = time.perf_counter() + budget_s
    while len(milliseconds) < MIN_REPEATS or (time.perf_counter() < until and len(milliseconds) < MAX_REPEATS):
        milliseconds.append(_once(call, device))
    return Timing(np.array(milliseconds))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Peak:
    """What this device reaches in one large operation of each kind; floors are stated against it."""

    flops: float  # operations a second of a matrix product
    bandwidth: float  # bytes a second of a copy, read and written both counted

    def milliseconds(self, flops: float, num_bytes: float) -> float:
        """Least time for so much arithmetic and memory traffic, whichever takes longer."""
        return 1e3 * max(flops / self.flops, num_bytes / self.bandwidth)


@torch.inference_mode()
def measure_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The best of a few large matrix products and copies."""
    size = 8192 if device.type == "cuda" else 1024  # short enough to meet no other process
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = measure(lambda: a @ b, device, budget_s=1.0).milliseconds.min()
    copy = measure(lambda: target.copy_(source), device, budget_s=1.0).milliseconds.min()
    return Peak(flops=2e3 * size**3 / product, bandwidth=2e3 * source.numel() / copy)


@torch.no_grad()
def wake(policy: RDTPolicy) -> None:
    """Give the last layer of a fresh network weights: it starts with zeros, and all results would be equal."""
    policy.model.final_layer.ffn_final.fc2.weight.normal_(std=0.02)


def _once(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - started)
