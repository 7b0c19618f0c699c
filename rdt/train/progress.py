"""How fast a run goes and when it will end: the figures of the progress line, which are in the log too.

    samples_per_s     of all ranks together
    waiting_share     of the time of training, spent waiting for the next batch
    mfu               operations of the network and of the encoders that run in the step, against the device's peak
    peak_memory_gb    allocated on this rank's GPU since the start; of a CPU run, the largest size of the process
    remaining_s       to the last step at the pace so far, with everything that comes between steps

Throughput, waiting and MFU are those since the last row; validation and saving are no time of training.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rdt.batch import Batch
from rdt.encoders.vision import VisionEncoder
from rdt.model.cost import training_flops
from rdt.visuomotor import VisuomotorPolicy

PEAK_TFLOPS = {
    "A10": 125,
    "A10G": 70,
    "A100": 312,
    "A30": 165,
    "A40": 150,
    "A800": 312,
    "B200": 2250,
    "GH200": 989,
    "H100": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H20": 148,
    "H200": 989,
    "H800": 989,
    "L4": 121,
    "L40": 181,
    "L40S": 362,
    "RTX 3090": 71,
    "RTX 4090": 165,
    "RTX 6000 Ada": 364,
    "RTX A6000": 155,
}
"""bfloat16 products a second on dense matrices by the makers' data sheets, 1e12; by words of the device's name."""


class Pace:
    """Counts what training does between two rows of the log."""

    def __init__(
        self,
        device: torch.device,
        cost: StepCost | None,
        step: int,
        num_steps: int,
        train_seconds: float = 0.0,
        num_ranks: int = 1,
    ) -> None:
        """From `step` on, of so many. `train_seconds` is what the run has trained before.

        `cost` and the device are this rank's, and so are the batches that it counts; None where MFU has no meaning.
        """
        self._cost = cost
        self._device = device
        self._num_ranks = num_ranks
        self._first_step, self._num_steps = step, num_steps
        self._started: float | None = None  # when the second step began: the first one warms up
        self._batches = 0
        self._seconds = train_seconds
        self._forget()

    def count(self, batch: Batch, waiting_seconds: float) -> None:
        """A batch was trained on, after so much waiting for it; the batch as the loader gave it, on the CPU."""
        self._samples += len(batch.sample_index)
        self._waiting += waiting_seconds
        self._batches += 1
        if self._batches == 2:
            self._started = time.perf_counter() - waiting_seconds
        if self._cost:
            self._flops += self._cost(batch)

    def figures(self, step: int, train_seconds: float) -> dict[str, float]:
        """The figures since the last call, `train_seconds` being the run's time of training so far."""
        seconds = max(train_seconds - self._seconds, 1e-9)
        figures = {
            "samples_per_s": self._samples * self._num_ranks / seconds,
            "waiting_share": min(self._waiting / seconds, 1.0),
            "peak_memory_gb": peak_memory_gb(self._device),
            "remaining_s": self._seconds_a_step(step, seconds) * (self._num_steps - step),
        }
        if self._cost:
            figures["mfu"] = self._flops / seconds / self._cost.peak
        self._seconds = train_seconds
        self._forget()
        return {name: float(f"{value:.4g}") for name, value in figures.items()}

    def _seconds_a_step(self, step: int, seconds: float) -> float:
        if self._started is None:
            return seconds
        return (time.perf_counter() - self._started) / (step - self._first_step - 1)

    def _forget(self) -> None:
        self._samples, self._waiting, self._flops = 0, 0.0, 0.0


def step_cost(model: VisuomotorPolicy) -> StepCost | None:
    """What a step costs on the model's device; None where its peak is not known."""
    peak = peak_flops(model.device)
    return StepCost(model, peak) if peak else None


class StepCost:
    """Operations of a training step on a batch: the network's, and those of pictures that are encoded in the step."""

    def __init__(self, model: VisuomotorPolicy, peak: float) -> None:
        """`peak` is what the device can do, in operations per second."""
        self.peak = peak
        self._config = model.policy.config
        self._frozen_vision = model.condition.vision.frozen
        cached = model.condition.feature_cache is not None
        self._picture = 0.0 if cached else picture_flops(model.condition.vision, model.device)
        sizes = [(p.numel(), p.requires_grad) for p in model.policy.parameters()]
        self._trained = sum(size for size, trains in sizes if trains) / sum(size for size, _ in sizes)

    def __call__(self, batch: Batch) -> float:
        seen = batch.observation
        lengths = seen.text_mask.sum(dim=1)
        return training_flops(
            self._config,
            num_samples=len(batch.sample_index),
            lang_tokens=int(lengths.sum()),
            attended_lang_tokens=int(lengths[seen.text_index].sum()),
            trained=self._trained,
        ) + self._vision(seen.image_mask)

    def _vision(self, mask: torch.Tensor) -> float:
        """A frozen encoder looks at the pictures that are there, forward alone; one that trains looks at all."""
        return self._picture * (int(mask.sum()) if self._frozen_vision else 3 * mask.numel())


def picture_flops(vision: VisionEncoder, device: torch.device) -> float:
    """Operations of one picture through an encoder, counted while one goes through it."""
    picture = torch.zeros(1, 3, vision.image_size, vision.image_size, device=device)
    # attention as plain products: not every PyTorch counts its fused kernels
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        vision(picture)
    return float(counted.get_total_flops())


def peak_flops(device: torch.device) -> float | None:
    """Of a GPU that is in the table; None for another one, and for a CPU, of which no data sheet says it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [part for part in PEAK_TFLOPS if re.search(rf"\b{part}\b", name)]
    return 1e12 * PEAK_TFLOPS[max(known, key=len)] if known else None


def peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")  # getrusage begins with the size of the process that started this one
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def progress_text(loss: float, figures: dict[str, float]) -> str:
    """The end of the progress line."""
    end = time.localtime(time.time() + figures["remaining_s"])
    parts = [
        f"loss {loss:.4f}",
        f"{figures['samples_per_s']:.0f} samples/s",
        f"waiting {figures['waiting_share']:.0%}",
        *([f"MFU {figures['mfu']:.0%}"] if "mfu" in figures else []),
        f"{figures['peak_memory_gb']:.1f} GB",
        time.strftime("end %H:%M" if figures["remaining_s"] < 72_000 else "end %d %b %H:%M", end),
    ]
    return ", ".join(parts)
