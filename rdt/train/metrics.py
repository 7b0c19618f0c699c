"""Does it learn? The sampling errors of the paper on held-out batches (spec rdt.md section 11), and where they lie.

    overall_avg_sample_mse, overall_avg_sample_l2err    the paper's, averaged as published: over a batch, then batches
    DATASET_sample_mse, DATASET_sample_l2err            the paper's, mean over the samples of one store
    valid_sample_mse, valid_sample_l2err                over all samples, without actions of other steps
    sample_mse/GROUP, sample_l2err/GROUP                of these, one kind of slots, say left_arm_joint_pos
    joint_error/JOINT                                   of these, mean absolute error in the robot's own units

An l2err is |predicted - recorded| / (state_norm + 1e-3), where state_norm is the root mean square of the state over the
episode. Deviations: errors are those of held-out episodes and of the weights that would be deployed, the moving average
where there is one, where the published code looks at training data and online weights; nothing is rounded.

A sample is reduced to sums by slot on its own, and the sums of all ranks are put in the order of the stream before they
are added up, so the figures do not depend on who measured which sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import LEFT_OFFSET, NUM_SLOTS, SLOT_BLOCKS
from rdt.batch import Batch, to_device
from rdt.random import SampleGenerator
from rdt.visuomotor import VisuomotorPolicy

NORM_FLOOR = 1e-3
"""Added to a state's norm, so that a slot at rest near 0 does not divide by nothing."""

SLOT_GROUPS = {
    name: block
    for name, block in SLOT_BLOCKS.items()
    if name.startswith(("left_", "right_")) or block.start >= 2 * LEFT_OFFSET
}
"""Slots of one kind on one side; the names without a side are aliases."""


@dataclass(frozen=True)
class SampleErrors:
    """What was measured of samples one by one: sums over the chunk, float64, 0 where the robot has no slot."""

    sample_index: np.ndarray  # int64 (sample,)
    batch: np.ndarray  # int64 (sample,), number of the batch that the sample belongs to
    store: np.ndarray  # int64 (sample,)
    mask: np.ndarray  # float64 (sample, 128)
    state_norm: np.ndarray  # float64 (sample, 128)
    num_actions: np.ndarray  # float64 (sample,), the horizon
    num_valid: np.ndarray  # float64 (sample,), actions of their own step
    square: np.ndarray  # float64 (sample, 128), squared errors of all actions
    absolute: np.ndarray  # float64 (sample, 128)
    valid_square: np.ndarray  # float64 (sample, 128), of the valid actions
    valid_absolute: np.ndarray  # float64 (sample, 128)

    @classmethod
    def joined(cls, parts: Sequence[SampleErrors]) -> SampleErrors:
        """All parts as one in the order of the stream, whoever measured them."""
        columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        order = np.argsort(columns["sample_index"], kind="stable")
        return cls(**{name: column[order] for name, column in columns.items()})

    def of(self, samples: Bool[np.ndarray, " sample"]) -> SampleErrors:
        """Some of the samples."""
        return SampleErrors(**{f.name: getattr(self, f.name)[samples] for f in fields(self)})


def sample_errors(predicted: Float[Tensor, "batch horizon slot"], batch: Batch, number: int = 0) -> SampleErrors:
    """How far each sample's predicted chunk is from the recorded one; both in unscaled unified units."""
    if batch.state_norm is None:
        raise ValueError("this batch comes without state_norm: make it with `BatchLoader(..., with_state_norm=True)`")
    mask = batch.action_mask.double()
    error = (predicted.double() - batch.actions.double()) * mask[:, None]
    valid = batch.action_valid.double()
    columns = {
        "sample_index": batch.sample_index,
        "batch": torch.full_like(batch.sample_index, number),
        "store": batch.store,
        "mask": mask,
        "state_norm": batch.state_norm.double(),
        "num_actions": torch.full_like(valid[:, 0], error.shape[1]),
        "num_valid": valid.sum(1),
        "square": error.square().sum(1),
        "absolute": error.abs().sum(1),
        "valid_square": (error.square() * valid[..., None]).sum(1),
        "valid_absolute": (error.abs() * valid[..., None]).sum(1),
    }
    return SampleErrors(**{name: column.cpu().numpy() for name, column in columns.items()})


@torch.inference_mode()
def measure(model: VisuomotorPolicy, batches: Sequence[Batch], generator: SampleGenerator) -> SampleErrors:
    """Errors of chunks sampled for every batch, from noise that follows from the sample; of all ranks together."""
    parts = []
    for number, batch in enumerate(batches):
        batch = to_device(batch, model.device)
        noise = generator.normal(batch.sample_index, tuple(batch.actions.shape[1:]), "sampling noise")
        parts.append(sample_errors(model.sample_actions(batch.observation, noise), batch, number))
    return gathered(SampleErrors.joined(parts))


def gathered(errors: SampleErrors) -> SampleErrors:
    """What all ranks measured, on each of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return errors
    parts: list[SampleErrors] = [errors] * dist.get_world_size()
    dist.all_gather_object(parts, errors)
    return SampleErrors.joined(parts)


def sampling_figures(errors: SampleErrors, stores: Sequence[str]) -> dict[str, float]:
    """The figures named above, but for the joints, of the stores with these names.

    What was not seen, a dataset without a sample or a slot group without a valid action, is left out.
    """
    per_batch = [errors.of(errors.batch == number) for number in np.unique(errors.batch)]
    figures = {
        "overall_avg_sample_mse": float(np.mean([_mse(part) for part in per_batch])),
        "overall_avg_sample_l2err": float(np.mean([_l2err(part) for part in per_batch])),
    }
    slots = errors.mask.sum(axis=1) * errors.num_actions
    mse = errors.square.sum(axis=1) / slots
    l2err = _relative(errors.absolute, errors).sum(axis=1) / slots
    for number, name in enumerate(stores):
        own = errors.store == number
        if own.any():
            figures[f"{name}_sample_mse"] = float(mse[own].mean())
            figures[f"{name}_sample_l2err"] = float(l2err[own].mean())
    count = errors.mask * errors.num_valid[:, None]
    relative = _relative(errors.valid_absolute, errors)
    groups = {
        "valid_sample_{}": range(NUM_SLOTS),
        **{f"sample_{{}}/{name}": block for name, block in SLOT_GROUPS.items()},
    }
    for name, block in groups.items():
        total = count[:, block].sum()
        if total:
            figures[name.format("mse")] = float(errors.valid_square[:, block].sum() / total)
            figures[name.format("l2err")] = float(relative[:, block].sum() / total)
    return figures


def joint_figures(errors: SampleErrors, robot: Embodiment) -> dict[str, float]:
    """`joint_error/JOINT` of samples of one robot: mean absolute error of each native entry, without padding."""
    count = errors.num_valid.sum()
    if not count:
        return {}
    unit = np.abs(robot.from_unified(np.ones(NUM_SLOTS)) - robot.from_unified(np.zeros(NUM_SLOTS)))  # of one slot unit
    mean = errors.valid_absolute.sum(axis=0)[robot.slots] / count * unit
    return {f"joint_error/{name}": float(error) for name, error in zip(robot.native_names, mean, strict=True)}


def _mse(errors: SampleErrors) -> float:
    return errors.square.sum() / (errors.mask * errors.num_actions[:, None]).sum()


def _l2err(errors: SampleErrors) -> float:
    return _relative(errors.absolute, errors).sum() / (errors.mask * errors.num_actions[:, None]).sum()


def _relative(absolute: np.ndarray, errors: SampleErrors) -> np.ndarray:
    """Absolute errors (sample, 128) against the size of the state."""
    return absolute / (errors.state_norm + NORM_FLOOR)
