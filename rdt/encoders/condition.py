"""The one road from observations to what the network reads, for the trainer and for the real-time engine.

    Observation --collate--> ObservationBatch --forward--> Condition        (pixels, ids -> tokens; state scaled)
    actions     --scale_actions--> network space --unscale_actions--> ActionChunk

Scaling of the unified vector lives only here, with its inverse beside it. RDT's own rule is `none`: SI units,
grippers in [0, 1]. `min_max` maps each slot's training range to [-1, 1], for small networks on few robots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.registry import load_attribute
from data_pipeline.schema.types import CAMERA_ROLES, Observation
from data_pipeline.transforms.dropout import Conditions
from data_pipeline.transforms.images import BACKGROUND, pad_square, resize
from rdt.batch import Condition, ObservationBatch
from rdt.encoders.text import TEXT_ENCODERS
from rdt.encoders.vision import VISION_ENCODERS

Kind = Literal["state", "action"]

MIN_RANGE = 0.1
"""Narrowest slot range in unified units that `min_max` uses: a joint that stood still is not blown up."""


@dataclass(frozen=True)
class ConditionConfig:
    """Which encoders read the world, and how the unified vector is scaled."""

    vision: str = "spatial_softmax"  # a name in VISION_ENCODERS
    text: str = "hashed_bigrams"  # a name in TEXT_ENCODERS
    cameras: tuple[str, ...] = CAMERA_ROLES  # order in which their tokens stand
    image_history: int = 1  # frames per camera
    scaling: Literal["none", "min_max"] = "none"


class Scaling(nn.Module):
    """Slot-wise affine map to the network's space, `(x - center) / half_range`; the identity until fitted.

    State and action have ranges of their own. Slots outside the mask pass `scale` as they are, 0 where the robot
    has none, and are 0 after `unscale`.
    """

    def __init__(self) -> None:
        super().__init__()
        for kind in ("state", "action"):
            self.register_buffer(f"{kind}_center", torch.zeros(NUM_SLOTS))
            self.register_buffer(f"{kind}_half_range", torch.ones(NUM_SLOTS))

    def fit_min_max(self, kind: Kind, low: np.ndarray, high: np.ndarray, seen: np.ndarray) -> None:
        """Map [low, high] of each slot, all (128,), to [-1, 1]; slots that are not `seen` keep the identity."""
        center = np.where(seen, (high + low) / 2, 0.0)
        half_range = np.where(seen, np.maximum((high - low) / 2, MIN_RANGE / 2), 1.0)
        self.get_buffer(f"{kind}_center").copy_(torch.from_numpy(center))
        self.get_buffer(f"{kind}_half_range").copy_(torch.from_numpy(half_range))

    def scale(self, kind: Kind, values: Tensor, mask: Tensor) -> Tensor:
        """(..., 128) in unified units -> the network's space."""
        scaled = (values - self.get_buffer(f"{kind}_center")) / self.get_buffer(f"{kind}_half_range")
        return torch.where(mask.bool(), scaled, values)

    def unscale(self, kind: Kind, values: Tensor, mask: Tensor) -> Tensor:
        """The inverse of `scale` on the slots of the mask."""
        return (values * self.get_buffer(f"{kind}_half_range") + self.get_buffer(f"{kind}_center")) * mask


class ConditionEncoder(nn.Module):
    """Encoders and scaling as one module, so that they train, save and serve together."""

    def __init__(
        self,
        config: ConditionConfig,
        *,
        lang_token_dim: int,
        max_lang_tokens: int,
        img_token_dim: int,
        img_cond_len: int,
    ) -> None:
        """Build for a network that reads `img_cond_len` picture tokens and at most `max_lang_tokens` words."""
        super().__init__()
        num_images = len(config.cameras) * config.image_history
        if num_images == 0 or img_cond_len % num_images:
            raise ValueError(
                f"the network reads {img_cond_len} image tokens, which {config.image_history} frames of cameras "
                f"{list(config.cameras)} cannot share evenly: change `cameras` or `image_history`"
            )
        self.config = config
        self.num_images = num_images
        text_class = load_attribute("text encoder", config.text, TEXT_ENCODERS)
        vision_class = load_attribute("vision encoder", config.vision, VISION_ENCODERS)
        self.text = text_class(token_dim=lang_token_dim, max_tokens=max_lang_tokens)
        self.vision = vision_class(token_dim=img_token_dim, tokens_per_image=img_cond_len // num_images)
        self.scaling = Scaling()

    def collate(self, observations: Sequence[Observation | Conditions]) -> ObservationBatch:
        """What robots see, or what training leaves of it, -> CPU tensors; missing pictures become background."""
        size = self.vision.image_size
        images = np.full((len(observations), self.num_images, size, size, 3), BACKGROUND, dtype=np.uint8)
        image_mask = np.zeros((len(observations), self.num_images), dtype=bool)
        for row, observation in enumerate(observations):
            for column, (role, age) in enumerate(self._image_order()):
                frames = observation.images.get(role)
                if frames is None or age >= len(frames) or not observation.image_masks[role][-1 - age]:
                    continue
                images[row, column] = resize(pad_square(frames[-1 - age]), size, size)
                image_mask[row, column] = True
        sentences = list(dict.fromkeys(o.instruction for o in observations))
        text_ids, text_mask = self.text.tokenize(sentences)
        return ObservationBatch(
            images=torch.from_numpy(images),
            image_mask=torch.from_numpy(image_mask),
            text_ids=text_ids,
            text_mask=text_mask,
            text_index=torch.tensor([sentences.index(o.instruction) for o in observations]),
            state=torch.from_numpy(np.stack([o.state for o in observations])),
            slot_mask=torch.from_numpy(np.stack([o.state_mask for o in observations]).astype(np.float32)),
            state_present=torch.from_numpy(np.stack([_present(o) for o in observations])),
            control_hz=torch.tensor([o.control_hz for o in observations], dtype=torch.float32),
        )

    def forward(self, batch: ObservationBatch) -> Condition:
        """Tokens and scaled vectors on the batch's device."""
        pixels = batch.images.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        img_tokens = self.vision(pixels).view(len(batch.images), -1, self.vision.token_dim)
        state = self.scaling.scale("state", batch.state, batch.state_present)
        return Condition(
            lang_tokens=self.text(batch.text_ids, batch.text_mask),
            lang_attn_mask=batch.text_mask,
            lang_index=batch.text_index,
            img_tokens=img_tokens,
            state_tokens=state[:, None],
            action_mask=batch.slot_mask[:, None],
            ctrl_freqs=batch.control_hz,
        )

    def scale_actions(
        self, actions: Float[Tensor, "batch horizon slot"], mask: Float[Tensor, "#batch 1 slot"]
    ) -> Float[Tensor, "batch horizon slot"]:
        """Unified units -> the network's space."""
        return self.scaling.scale("action", actions, mask)

    def unscale_actions(
        self, actions: Float[Tensor, "batch horizon slot"], mask: Float[Tensor, "#batch 1 slot"]
    ) -> Float[Tensor, "batch horizon slot"]:
        """The network's space -> unified units."""
        return self.scaling.unscale("action", actions, mask)

    def _image_order(self) -> list[tuple[str, int]]:
        """(camera role, age in frames) of each picture: oldest frame first, cameras in order within a frame."""
        ages = range(self.config.image_history - 1, -1, -1)
        return [(role, age) for age in ages for role in self.config.cameras]


def _present(observation: Observation | Conditions) -> np.ndarray:
    """Slots that hold a state, whatever training hides of the mask, bool (128,)."""
    return observation.state_mask if isinstance(observation, Observation) else observation.state_present
