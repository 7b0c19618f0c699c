"""Random numbers of training as a pure function of (seed, sample, purpose).

A sample gets the same noise and timestep whichever rank, worker or restart draws it, so a resumed or resharded
run repeats the uninterrupted one.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_pipeline.randomness import sample_rng


class SampleGenerator:
    """Draws for named samples of one training stream."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def normal(
        self, sample_index: Int[Tensor, " batch"], shape: tuple[int, ...], purpose: str
    ) -> Float[Tensor, "batch ..."]:
        """Standard normal numbers, fp32 (batch, *shape), on the device of `sample_index`."""
        rows = [self._rng(i, purpose).standard_normal(shape, dtype=np.float32) for i in sample_index.tolist()]
        return torch.from_numpy(np.stack(rows)).to(sample_index.device)

    def integers(self, sample_index: Int[Tensor, " batch"], high: int, purpose: str) -> Int[Tensor, " batch"]:
        """Whole numbers uniform in [0, high), (batch,), on the device of `sample_index`."""
        draws = [int(self._rng(i, purpose).integers(high)) for i in sample_index.tolist()]
        return torch.tensor(draws, device=sample_index.device)

    def torch_generator(self, sample_index: Int[Tensor, " batch"], purpose: str) -> torch.Generator:
        """For many numbers at once: a generator on the batch's device, seeded by its first sample."""
        seed = int(self._rng(int(sample_index[0]), purpose).integers(2**63))
        return torch.Generator(sample_index.device).manual_seed(seed)

    def _rng(self, index: int, purpose: str) -> np.random.Generator:
        return sample_rng(self.seed, index, purpose)


def step_seed(seed: int, step: int) -> int:
    """For torch's own generators in one optimizer step, so that modules which draw from them resume exactly too."""
    return int(sample_rng(seed, step, "torch").integers(2**63))
