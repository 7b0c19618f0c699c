"""Boundary objects of the mind: torch tensors with their shapes, and nothing that knows files or networks.

ObservationBatch   what was seen, as collated by the loader or by the engine; still pixels and words
Condition          what the network reads: tokens and scaled vectors, made by `encoders/condition.py` alone
Batch              an ObservationBatch and the actions that should follow it
TransitionBatch    features of an observation, what was done then, and how it ended: for critics
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor

T = TypeVar("T")


def to_device(batch: T, device: torch.device | str) -> T:
    """The same dataclass with every tensor moved to `device`, nested dataclasses included."""
    # from pinned memory the copy needs no waiting: what comes after it on the device does
    return each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))


def each_tensor(batch: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same dataclass with every tensor changed, nested dataclasses included."""
    changed = {}
    for f in fields(batch):  # type: ignore[arg-type]
        value = getattr(batch, f.name)
        if isinstance(value, Tensor):
            value = change(value)
        elif is_dataclass(value):
            value = each_tensor(value, change)
        changed[f.name] = value
    return type(batch)(**changed)


@dataclass(frozen=True)
class ObservationBatch:
    """Observations side by side; `image` runs over frames (oldest first), then cameras in the config's order."""

    images: UInt8[Tensor, "batch image height width 3"]  # RGB
    image_mask: Bool[Tensor, "batch image"]
    text: Num[
        Tensor, "instruction token *dim"
    ]  # each distinct instruction once: ids, or the features of a frozen encoder
    text_mask: Bool[Tensor, "instruction token"]
    text_index: Int[Tensor, " batch"]  # which of them each observation has
    state: Float[Tensor, "batch slot"]  # unscaled unified units
    slot_mask: Float[Tensor, "batch slot"]  # 1 where the robot has the slot, 0 elsewhere or when dropped
    state_present: Bool[Tensor, "batch slot"]  # where `state` holds a value, dropped or not; the network is not told
    control_hz: Float[Tensor, " batch"]  # 0 when dropped


@dataclass(frozen=True)
class Condition:
    """All that the network is told, under the names of the published interface (spec rdt.md section 14)."""

    lang_tokens: Float[Tensor, "instruction token lang_dim"]
    lang_attn_mask: Bool[Tensor, "instruction token"]
    img_tokens: Float[Tensor, "batch patch img_dim"]
    state_tokens: Float[Tensor, "batch 1 slot"]  # scaled
    action_mask: Float[Tensor, "batch 1 slot"]
    ctrl_freqs: Float[Tensor, " batch"]
    lang_index: Int[Tensor, " batch"] | None = None  # row of language that each sample reads; None: its own


@dataclass(frozen=True)
class Batch:
    """One training batch. `sample_index` names each sample of the stream; all its random numbers follow from it."""

    observation: ObservationBatch
    actions: Float[Tensor, "batch horizon slot"]  # unscaled unified units
    action_mask: Float[Tensor, "batch slot"]  # 1 where the robot has the slot, whatever the observation hides
    action_valid: Bool[Tensor, "batch horizon"]  # False where an action repeats another step's for want of its own
    store: Int[Tensor, " batch"]  # number of the store in the stream
    sample_index: Int[Tensor, " batch"]
    label: Float[Tensor, " batch"] | None = None  # of the sample's episode, what alignment asks for: success, 0 or 1
    state_norm: Float[Tensor, "batch slot"] | None = None  # root mean square over the episode; of held-out batches
    num_substituted: int = 0  # samples that could not be read, with others in their stead


@dataclass(frozen=True)
class TransitionBatch:
    """Steps of episodes that a policy has run, with frozen features in the observations' place."""

    features: Float[Tensor, "batch feature"]
    chunk: Float[Tensor, "batch horizon slot"]  # what was done from then on, in the network's scaled space
    label: Float[Tensor, " batch"]  # how the episode ended: 1 in success, else 0
    sample_index: Int[Tensor, " batch"]
    num_substituted: int = 0


def micro_batches(batch: Batch, size: int) -> list[Batch]:
    """The batch in pieces of at most `size` samples, in order; 0: in one piece."""
    count = len(batch.sample_index)
    if not size or size >= count:
        return [batch]
    return [_rows(batch, slice(start, start + size)) for start in range(0, count, size)]


def _rows(batch: Batch, rows: slice) -> Batch:
    """Some samples; the instructions stay together, as they are looked up by number."""
    seen = {f.name: getattr(batch.observation, f.name) for f in fields(batch.observation)}
    seen = {name: value[rows] for name, value in seen.items() if name not in ("text", "text_mask")}
    own = {f.name: getattr(batch, f.name) for f in fields(batch)}
    own = {name: value[rows] for name, value in own.items() if isinstance(value, Tensor)}
    return replace(batch, observation=replace(batch.observation, **seen), **own)
