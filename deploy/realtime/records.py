"""What the processes of a running robot tell each other, as fixed-size records of `memory.Ring`.

    orders      supervisor -> all         emergency stop, run or hold, instruction, heartbeat
    states      control -> inference      measured native vectors
    ticks       control -> all            what was commanded and why
    requests    control -> inference      a new chunk is wanted
    answers     inference -> control      the chunk, or why there is none
    frames      supervisor -> inference   pictures, a ring for each camera
    health      inference -> all          heartbeat, ready, latency

Text is UTF-8 in a fixed number of bytes, cut where it is longer. Stamps are ns of `clock.now_ns`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import ActionChunk
from deploy.prefix import Prefix
from robot_drivers.types import CameraFrame

RUN, HOLD = 1, 0
CHUNK, STALE, FAILED = 1, 2, 3
WHY_BYTES, INSTRUCTION_BYTES = 160, 2048

ORDERS = np.dtype(
    [
        ("stamp_ns", np.int64),  # heartbeat of the supervisor
        ("estop", np.int64),
        ("estops", np.int64),  # how often it was asked for: one that was reset at once is not overlooked
        ("wanted", np.int64),  # RUN or HOLD
        ("starts", np.int64),  # how often a start was asked for
        ("resets", np.int64),  # how often a reset was asked for
        ("policy", np.int64),  # who answers: 0, or 1 for the policy that it is compared with
        ("leads", np.int64),  # a person leads: no policy is asked
        ("closing", np.int64),  # stop, hold and end
        ("instruction", f"S{INSTRUCTION_BYTES}"),
    ]
)

HEALTH = np.dtype(
    [
        ("stamp_ns", np.int64),
        ("ready", np.int64),
        ("requests", np.int64),
        ("failures", np.int64),
        ("latency_ns", np.int64),  # of the last answer, from its request
        ("why", f"S{WHY_BYTES}"),
    ]
)


def state_dtype(num_native: int) -> np.dtype:
    return np.dtype([("stamp_ns", np.int64), ("positions", np.float64, (num_native,))])


def tick_dtype(num_native: int) -> np.dtype:
    return np.dtype(
        [
            ("stamp_ns", np.int64),  # of the tick
            ("target_ns", np.int64),  # time that the command is meant for
            ("lateness_ns", np.int64),
            ("missed", np.int64),  # ticks so far that were skipped
            ("commanded", np.int64),  # 0: the arms were told to hold
            ("limited", np.int64),  # a limit changed the command
            ("actor", np.int64),  # number of who gave the command, of `schema.types.ACTORS`
            ("mode", "S16"),
            ("wanted", np.float64, (num_native,)),  # by the plan
            ("measured", np.float64, (num_native,)),
            ("sent", np.float64, (num_native,)),  # to the arms, after all limits; not finite before the first command
            ("why", f"S{WHY_BYTES}"),
        ]
    )


def request_dtype(horizon: int) -> np.dtype:
    """For prefixes of at most so many actions."""
    return np.dtype(
        [
            ("stamp_ns", np.int64),
            ("delay_steps", np.int64),
            ("plan_start_ns", np.int64),
            *_chunk_fields(horizon),  # 0 steps: there is no prefix
        ]
    )


def answer_dtype(horizon: int) -> np.dtype:
    """For chunks of at most so many actions."""
    return np.dtype(
        [
            ("request", np.int64),
            ("stamp_ns", np.int64),  # when it was given
            ("outcome", np.int64),  # CHUNK, STALE or FAILED
            ("why", f"S{WHY_BYTES}"),
            *_chunk_fields(horizon),
        ]
    )


def _chunk_fields(horizon: int) -> list[tuple]:
    return [
        ("start_ns", np.int64),
        ("rate_hz", np.float64),
        ("steps", np.int64),
        ("mask", np.bool_, (NUM_SLOTS,)),
        ("actions", np.float32, (horizon, NUM_SLOTS)),
    ]


def frame_dtype(height: int, width: int) -> np.dtype:
    """For pictures of at most so many pixels in either direction."""
    return np.dtype(
        [
            ("stamp_ns", np.int64),
            ("height", np.int64),
            ("width", np.int64),
            ("pixels", np.uint8, (height * width * 3,)),
        ]
    )


def put_answer(record: np.ndarray, request: int, chunk: ActionChunk) -> np.ndarray:
    """Fill an answer. Raises `ValueError` for a chunk that is longer than the record."""
    record["request"], record["outcome"], record["why"] = request, CHUNK, b""
    return put_chunk(record, chunk)


def put_prefix(record: np.ndarray, prefix: Prefix | None) -> np.ndarray:
    """Fill a request's prefix. Of one that is longer than the record the far end is left out: it weighs least."""
    record["steps"] = 0
    if prefix:
        record["delay_steps"], record["plan_start_ns"] = prefix.delay_steps, prefix.plan_start_ns
        put_chunk(record, replace(prefix.chunk, actions=prefix.chunk.actions[: record["actions"].shape[0]]))
    return record


def get_prefix(record: np.ndarray) -> Prefix | None:
    if not record["steps"]:
        return None
    return Prefix(get_chunk(record), int(record["delay_steps"]), int(record["plan_start_ns"]))


def put_chunk(record: np.ndarray, chunk: ActionChunk) -> np.ndarray:
    """Fill the chunk of a record. Raises `ValueError` for one that is longer than the record."""
    steps = len(chunk.actions)
    if steps > record["actions"].shape[0]:
        raise ValueError(f"a chunk of {steps} actions came where at most {record['actions'].shape[0]} were announced")
    record["start_ns"], record["rate_hz"], record["steps"] = chunk.start_ns, chunk.rate_hz, steps
    record["mask"] = chunk.mask
    record["actions"][:steps] = chunk.actions
    return record


def get_chunk(record: np.ndarray) -> ActionChunk:
    return ActionChunk(
        start_ns=int(record["start_ns"]),
        rate_hz=float(record["rate_hz"]),
        actions=record["actions"][: int(record["steps"])].copy(),
        mask=record["mask"].copy(),
    )


def put_frame(record: np.ndarray, frame: CameraFrame) -> np.ndarray:
    """Fill a frame record. Raises `ValueError` for a picture that is larger than the record."""
    height, width = frame.image.shape[:2]
    if frame.image.size > record["pixels"].size:
        raise ValueError(
            f"camera {frame.role!r} sent {width} x {height}, more than was announced at the start: `width` and "
            f"`height` in cameras.{frame.role}.connection of the robot's YAML say how large its pictures are; those of "
            "a topic may have 1920 x 1080"
        )
    record["stamp_ns"], record["height"], record["width"] = frame.stamp_ns, height, width
    record["pixels"][: frame.image.size] = frame.image.reshape(-1)
    return record


def get_frame(record: np.ndarray, role: str) -> CameraFrame:
    height, width = int(record["height"]), int(record["width"])
    image = record["pixels"][: height * width * 3].reshape(height, width, 3)
    return CameraFrame(role, image, int(record["stamp_ns"]))


def text(value: Any) -> str:
    """Text of a record."""
    return bytes(value).rstrip(b"\0").decode("utf-8", errors="ignore")
