"""Episodes that ended well or badly -> steps for a critic, with frozen features in the observations' place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.annotation.outcome import episode_success
from data_pipeline.sampling import make_sample
from data_pipeline.schema.types import Sample
from data_pipeline.selection import EpisodeSelection
from rdt.alignment.features import pooled_features
from rdt.batch import Condition, TransitionBatch
from rdt.random import step_seed
from rdt.visuomotor import VisuomotorPolicy

ENCODED_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Transitions:
    """Every step of some episodes, on the CPU."""

    features: Float[Tensor, "row feature"]
    chunk: Float[Tensor, "row step slot"]  # what was done from then on, or would be; scaled
    label: Float[Tensor, " row"]  # 1 where the episode succeeded, else 0

    def batches(self, batch_size: int, seed: int) -> Callable[[int], TransitionBatch]:
        """Rows drawn at random, a pure function of the step."""

        def batch(step: int) -> TransitionBatch:
            generator = torch.Generator().manual_seed(step_seed(seed, step))
            return self.rows(torch.randint(len(self.label), (batch_size,), generator=generator))

        return batch

    def all(self) -> TransitionBatch:
        return self.rows(torch.arange(len(self.label)))

    def rows(self, index: Tensor) -> TransitionBatch:
        return TransitionBatch(self.features[index], self.chunk[index], self.label[index], index)


@torch.no_grad()
def encode_transitions(
    model: VisuomotorPolicy,
    parts: Sequence[EpisodeSelection],
    num_actions: int,
    progress: Callable[[int], object] = lambda steps: None,
    chunk_of: Callable[[Condition], Tensor] | None = None,
) -> Transitions:
    """All steps of the parts, in order. `progress` hears of every few steps that are done.

    `chunk_of` makes chunks of observations, in the place of what was done: `num_actions` is then not asked.
    Raises `ValueError` for episodes that do not say how they ended.
    """
    features, chunks, labels = [], [], []
    success = [episode_success(part) for part in parts]
    for samples, ended in _batched(_steps(model, parts, success, num_actions)):
        condition = model.condition(model.observe([sample.observation for sample in samples]))
        features.append(pooled_features(condition).cpu())
        chunks.append((chunk_of(condition) if chunk_of else _done(model, samples)).cpu())
        labels.append(torch.tensor(ended))
        progress(len(samples))
    return Transitions(torch.cat(features), torch.cat(chunks), torch.cat(labels))


def _done(model: VisuomotorPolicy, samples: Sequence[Sample]) -> Float[Tensor, "row step slot"]:
    mask = torch.from_numpy(np.stack([sample.action_chunk.mask for sample in samples]))[:, None].float()
    actions = torch.from_numpy(np.stack([sample.action_chunk.actions for sample in samples]))
    mask = mask.to(model.device)
    return model.condition.scale_actions(actions.to(model.device), mask) * mask


def _steps(
    model: VisuomotorPolicy, parts: Sequence[EpisodeSelection], success: Sequence[np.ndarray], num_actions: int
) -> Iterator[tuple[Sample, float]]:
    config = model.condition.config
    for part, ended in zip(parts, success, strict=True):
        for number, episode in enumerate(part.decoded()):
            for step in range(episode.num_steps):
                sample = make_sample(
                    episode,
                    step,
                    horizon=num_actions,
                    image_history=config.image_history,
                    cameras=config.cameras,
                )
                yield sample, float(ended[number])


def _batched(steps: Iterator[tuple[Sample, float]]) -> Iterator[tuple[list[Sample], list[float]]]:
    samples: list[Sample] = []
    ended: list[float] = []
    for sample, label in steps:
        samples.append(sample)
        ended.append(label)
        if len(samples) == ENCODED_AT_ONCE:
            yield samples, ended
            samples, ended = [], []
    if samples:
        yield samples, ended
