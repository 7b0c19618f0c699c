"""Run: pytest tests/deploy/test_picture_memory.py"""

import numpy as np
import pytest
import torch

from data_pipeline.schema.types import Observation
from deploy.picture_memory import PictureMemory
from rdt.batch import to_device
from rdt.encoders.condition import ConditionConfig, ConditionEncoder

CAMERAS = ("external", "right_wrist")


@pytest.fixture
def encoder() -> ConditionEncoder:
    torch.manual_seed(0)
    config = ConditionConfig(cameras=CAMERAS, image_history=2)
    return ConditionEncoder(config, lang_token_dim=8, max_lang_tokens=4, img_token_dim=8, img_cond_len=8).eval()


def frame(value: int) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def observation(external: tuple[int, int], wrist: tuple[int, int], masks: dict | None = None) -> Observation:
    masks = masks or {}
    return Observation(
        state=np.zeros(128, np.float32),
        state_mask=np.zeros(128, bool),
        images={"external": np.stack([frame(i) for i in external]), "right_wrist": np.stack([frame(i) for i in wrist])},
        image_masks={role: np.array(masks.get(role, (True, True))) for role in CAMERAS},
        instruction="go",
        control_hz=25.0,
        stamp_ns=0,
    )


def slow(encoder: ConditionEncoder, seen: Observation) -> torch.Tensor:
    return encoder(to_device(encoder.collate([seen]), "cpu")).img_tokens


@torch.inference_mode()
def test_a_stream_gives_the_features_of_encoding_everything(encoder):
    memory = PictureMemory(encoder, torch.device("cpu"))
    stream = [
        observation((0, 1), (10, 11)),
        observation((1, 2), (11, 12)),
        observation((2, 3), (12, 13), {"external": (True, False)}),
        observation((3, 3), (13, 14)),
        observation((3, 4), (14, 14), {"right_wrist": (False, False)}),
    ]
    for seen in stream:
        found = memory.features(memory.prepare(seen)).flatten(1, 2)
        torch.testing.assert_close(found, slow(encoder, seen))


@torch.inference_mode()
def test_a_frame_is_encoded_once(encoder):
    memory = PictureMemory(encoder, torch.device("cpu"))
    memory.features(memory.prepare(observation((0, 1), (10, 11))))
    assert memory.num_encoded == 4
    memory.features(memory.prepare(observation((1, 2), (11, 12))))
    assert memory.num_encoded == 6
    memory.features(memory.prepare(observation((1, 2), (11, 12))))
    assert memory.num_encoded == 6


@torch.inference_mode()
def test_cameras_do_not_share_pictures_and_buffers_may_be_reused(encoder):
    memory = PictureMemory(encoder, torch.device("cpu"))
    first = observation((0, 1), (0, 1))
    memory.features(memory.prepare(first))
    assert memory.num_encoded == 4
    first.images["external"][1, 5, 5] += 1  # a camera driver writes the next picture into the same memory
    memory.features(memory.prepare(first))
    assert memory.num_encoded == 5
    torch.testing.assert_close(memory.features(memory.prepare(first)).flatten(1, 2), slow(encoder, first))
