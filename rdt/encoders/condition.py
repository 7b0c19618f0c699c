"""The one road from observations to what the network reads, for the trainer and for the real-time engine.

    Observation --collate--> ObservationBatch --forward--> Condition        (pixels, words -> tokens; state scaled)
    actions     --scale_actions--> network space --unscale_actions--> ActionChunk

A loader takes the first half in two steps: `collator` in its workers, `with_words` where the encoders are.
A real-time engine takes the same road in steps: `collate_pictures`, `square` on its own device, `encode_images`
for the new frames alone, `background_features` for what is missing, and `forward` with features that it kept.

Scaling of the unified vector lives only here, with its inverse beside it. RDT's own rule is `none`: SI units,
grippers in [0, 1]. `min_max` maps each slot's training range to [-1, 1], for small networks on few robots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.registry import load_attribute
from data_pipeline.schema.types import CAMERA_ROLES, Observation
from data_pipeline.transforms.dropout import Conditions
from data_pipeline.transforms.images import BACKGROUND
from rdt.batch import Condition, ObservationBatch
from rdt.encoders import pixels
from rdt.encoders.collate import Collated, Collator
from rdt.encoders.feature_cache import FeatureCache
from rdt.encoders.text import TEXT_ENCODERS, TextEncoder
from rdt.encoders.vision import VISION_ENCODERS, VisionEncoder

Kind = Literal["state", "action"]

MIN_RANGE = 0.1
"""Narrowest slot range in unified units that `min_max` uses: a joint that stood still is not blown up."""

SAME_TOWER = 0.99
"""Cosine from which on two views of the background are one tower's; rounding to bfloat16 leaves 0.9999."""


@dataclass(frozen=True)
class ConditionConfig:
    """Which encoders read the world, and how the unified vector is scaled."""

    vision: str = (
        "spatial_softmax"  # spatial_softmax (small, trained along) | siglip | timm:NAME (any of its backbones)
    )
    vision_path: str | None = None  # folder or hub id of the vision encoder; none: the published one
    text: str = "hashed_bigrams"  # hashed_bigrams (small, trained along) | t5
    text_path: str | None = None  # folder or hub id of the text encoder; none: google/t5-v1_1-xxl
    text_cache: str | None = None  # folder of sentences already embedded; none: $RDT_CACHE/text or ~/.cache/rdt/text
    brighten_dark: bool = False  # dark pictures are made 1.75 times as bright, an option of the published code
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

    @property
    def device(self) -> torch.device:
        return self.get_buffer("state_center").device

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
        self.text: TextEncoder = _make_text(config, token_dim=lang_token_dim, max_tokens=max_lang_tokens)
        self.vision: VisionEncoder = _make_vision(
            config, token_dim=img_token_dim, tokens_per_image=img_cond_len // num_images
        )
        self.scaling = Scaling()
        self.feature_cache: FeatureCache | None = None  # of a frozen encoder, where a run made one
        self._background: Tensor | None = None  # of a frozen encoder
        if self.vision.frozen:  # the mean token of the background, 0 when not known yet: saved in the tower's place
            self.register_buffer("vision_signature", torch.zeros(img_token_dim))

    def collate(
        self,
        observations: Sequence[Observation | Conditions],
        *,
        resize_pictures: bool = True,
        pad_text_to: int | None = None,
    ) -> ObservationBatch:
        """What robots see, or what training leaves of it, -> CPU tensors; missing pictures become background.

        Without `resize_pictures`, `images` has no pixels, for a caller that brings features of its own. Language is
        as long as its encoder makes it, or `pad_text_to` tokens.
        """
        buffer = self.collator.buffer(len(observations))
        return self.with_words(
            self.collator(observations, buffer if resize_pictures else buffer[:, :, :0, :0]), pad_text_to
        )

    @property
    def collator(self) -> Collator:
        """What `collate` does before it comes to the words, apart from all weights."""
        config = self.config
        return Collator(config.cameras, config.image_history, self.vision.image_size, config.brighten_dark)

    def with_words(self, collated: Collated, pad_text_to: int | None = None) -> ObservationBatch:
        """The rest of `collate`. The tensors are the arrays' own memory."""
        text, text_mask = self.text.tokenize(collated.sentences, pad_text_to)
        arrays = {f.name: getattr(collated, f.name) for f in fields(collated) if f.name != "sentences"}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return ObservationBatch(text=text, text_mask=text_mask, **tensors)

    def collate_pictures(self, observation: Observation | Conditions) -> list[np.ndarray | None]:
        """The raw frames (height, width, 3) in the network's order; None where one is missing, invalid or hidden."""
        return self.collator.pictures(observation)

    def squares(self, frames: Sequence[np.ndarray], device: torch.device) -> list[UInt8[Tensor, "size size 3"]]:
        """Raw frames (height, width, 3) as the vision encoder takes them, on `device`.

        On a CPU as `collate` does it, by Pillow, the reference; on a GPU there, within two grey levels of that, all
        frames of one size together.
        """
        if device.type == "cpu":
            return [torch.from_numpy(self.collator.square(frame)) for frame in frames]
        found: dict[int, Tensor] = {}
        for shape in {frame.shape for frame in frames}:
            places = [place for place, frame in enumerate(frames) if frame.shape == shape]
            images = torch.from_numpy(np.stack([frames[place] for place in places])).to(device)
            squares = pixels.to_square(images, self.vision.image_size, brighten=self.config.brighten_dark)
            found.update(zip(places, squares, strict=True))
        return [found[place] for place in range(len(frames))]

    def encode_images(self, images: UInt8[Tensor, "image size size 3"]) -> Float[Tensor, "image token dim"]:
        """Features of pictures one by one, in the vision encoder's own type, from the cache where they are there."""
        return self.feature_cache(images, self._encode) if self.feature_cache else self._encode(images)

    def background_features(self) -> Float[Tensor, "token dim"]:
        """Features of the picture that stands for a missing one; of a frozen encoder worked out once a device.

        Raises `ValueError` where a checkpoint was trained with another frozen encoder than the one on this machine.
        """
        device = self.scaling.device
        if self._background is not None and self._background.device == device:
            return self._background
        size = self.vision.image_size
        if not self.vision.frozen:
            return self.encode_images(torch.full((1, size, size, 3), BACKGROUND, dtype=torch.uint8, device=device))[0]
        with torch.inference_mode(False), torch.no_grad():  # training may use what an evaluation asked for first
            picture = torch.full((1, size, size, 3), BACKGROUND, dtype=torch.uint8, device=device)
            background = self.encode_images(picture)[0]
            self._check_signature(background.float().mean(dim=0))
        self._background = background
        return background

    def forward(
        self, batch: ObservationBatch, image_features: Float[Tensor, "batch image token dim"] | None = None
    ) -> Condition:
        """Tokens and scaled vectors on the batch's device. Given features, the pictures are not looked at."""
        if image_features is None:
            image_features = self._image_features(batch.images, batch.image_mask)
        state = self.scaling.scale("state", batch.state, batch.state_present)
        return Condition(
            lang_tokens=self.text(batch.text, batch.text_mask),
            lang_attn_mask=batch.text_mask,
            lang_index=batch.text_index,
            img_tokens=image_features.flatten(1, 2),
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

    def _encode(self, images: UInt8[Tensor, "image size size 3"]) -> Float[Tensor, "image token dim"]:
        return self.vision(pixels.normalise(images, self.vision.mean, self.vision.std))

    def _image_features(
        self, images: UInt8[Tensor, "batch image size size 3"], mask: Bool[Tensor, "batch image"]
    ) -> Float[Tensor, "batch image token dim"]:
        """Of every picture; a frozen encoder looks only at those that are there."""
        if not self.vision.frozen:
            return self.encode_images(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        background = self.background_features()
        features = background.repeat(*images.shape[:2], 1, 1)
        if mask.any():
            features[mask] = self.encode_images(images[mask])
        return features

    def _check_signature(self, signature: Float[Tensor, " dim"]) -> None:
        known = self.get_buffer("vision_signature")
        if not known.any():
            known.copy_(signature)
        elif torch.cosine_similarity(known.float(), signature, dim=0) < SAME_TOWER:
            raise ValueError(
                f"the vision encoder here ({self.config.vision_path or self.config.vision!r}) is not the one that this "
                "policy was trained with: it sees something else in a grey picture. Point condition.vision_path in "
                "run.yaml, or RDT_MODELS, to the same one"
            )


def _make_text(config: ConditionConfig, *, token_dim: int, max_tokens: int) -> TextEncoder:
    encoder = load_attribute("text encoder", config.text, TEXT_ENCODERS)
    return encoder.from_config(config, token_dim=token_dim, max_tokens=max_tokens)


def _make_vision(config: ConditionConfig, *, token_dim: int, tokens_per_image: int) -> VisionEncoder:
    name = "timm:NAME" if config.vision.startswith("timm:") else config.vision
    encoder = load_attribute("vision encoder", name, VISION_ENCODERS)
    vision = encoder.from_config(config, token_dim=token_dim, tokens_per_image=tokens_per_image)
    made, read = (vision.tokens_per_image, vision.token_dim), (tokens_per_image, token_dim)
    if made != read:
        raise ValueError(
            f"the vision encoder {config.vision!r} makes {made[0]} tokens of width {made[1]} from a picture, the "
            f"network reads {read[0]} of width {read[1]} (img_cond_len / pictures, img_token_dim): choose the encoder, "
            "the cameras and the image_history that the network was made for"
        )
    return vision
