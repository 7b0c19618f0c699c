"""Samples -> batches, as a pure function of the step.

Batch `step` holds the samples `step * batch_size` ... of the stream; what is hidden or shifted in each follows
from (seed, sample). The next batch is made in a thread while the present one is trained on.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from data_pipeline.randomness import sample_rng
from data_pipeline.schema.types import ActionChunk, Observation
from data_pipeline.stream import SampleStream
from data_pipeline.transforms.dropout import Conditions, DropoutRates, draw_dropout, drop_conditions
from data_pipeline.transforms.images import random_shift
from rdt.batch import Batch
from rdt.encoders.condition import ConditionEncoder


class BatchLoader:
    """`loader(step)` is the batch of that step; steps in order cost no waiting."""

    def __init__(
        self,
        stream: SampleStream,
        encoder: ConditionEncoder,
        batch_size: int,
        *,
        seed: int,
        dropout: DropoutRates | None = None,
        random_shift_px: int = 0,
        mean_state: np.ndarray | None = None,
    ) -> None:
        """`mean_state` (128,) stands for a dropped state; without `dropout` nothing is hidden."""
        if dropout is not None and mean_state is None:
            raise ValueError("dropout needs mean_state, which stands for a dropped state")
        self._stream = stream
        self._encoder = encoder
        self._batch_size = batch_size
        self._seed = seed
        self._dropout = dropout
        self._random_shift_px = random_shift_px
        self._mean_state = mean_state
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, on the CPU."""
        ahead, self._ahead = self._ahead, None
        batch = ahead[1].result() if ahead and ahead[0] == step else self._make(step)
        self._ahead = (step + 1, self._thread.submit(self._make, step + 1))
        return batch

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _make(self, step: int) -> Batch:
        indices = range(step * self._batch_size, (step + 1) * self._batch_size)
        drawn = [self._draw(index) for index in indices]
        chunks = [chunk for _, chunk in drawn]
        return Batch(
            observation=self._encoder.collate([conditions for conditions, _ in drawn]),
            actions=torch.from_numpy(np.stack([chunk.actions for chunk in chunks])),
            action_mask=torch.from_numpy(np.stack([chunk.mask for chunk in chunks]).astype(np.float32)),
            sample_index=torch.tensor(indices),
        )

    def _draw(self, index: int) -> tuple[Observation | Conditions, ActionChunk]:
        sample = self._stream[index]
        observation = sample.observation
        if self._random_shift_px:
            rng = sample_rng(self._seed, index, "random shift")
            shifted = {
                role: random_shift(frames, self._random_shift_px, rng) for role, frames in observation.images.items()
            }
            observation = replace(observation, images=shifted)
        if self._dropout is None or self._mean_state is None:
            return observation, sample.action_chunk
        rng = sample_rng(self._seed, index, "dropout")
        dropped = draw_dropout(rng, self._dropout, self._stream.image_history)
        return drop_conditions(observation, dropped, self._mean_state), sample.action_chunk
