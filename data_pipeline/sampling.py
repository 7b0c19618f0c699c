"""One step of an episode as a training sentence: what was seen at step t, and the actions that follow.

Stamps are nanoseconds since the episode's first step, so that a sample reads like a moment of serving.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from data_pipeline.frames import JpegFrames
from data_pipeline.schema.types import ActionChunk, Episode, Observation, Sample


def make_sample(
    episode: Episode,
    t: int,
    *,
    horizon: int,
    image_history: int = 2,
    cameras: Container[str] | None = None,
    rng: np.random.Generator | None = None,
    instruction: int | None = None,
) -> Sample:
    """The sample of step `t`.

    Frames are those of steps t - image_history + 1 .. t; before the episode's start the first frame is
    repeated and marked invalid. The chunk is the recorded actions t .. t + horizon - 1, the last one
    repeated and marked invalid, and starts when the first of them was meant: `action_offset_steps` after the
    observation. The phrasing is the step's own where it has one, else number `instruction`, else drawn by `rng`,
    else the first. Cameras that `cameras` does not name are left out. Arrays may be read-only views of the episode.
    """
    if not 0 <= t < episode.num_steps:
        raise ValueError(f"episode {episode.name!r} has steps 0..{episode.num_steps - 1}, asked for {t}")
    if episode.instruction_of_step is not None:
        instruction = int(episode.instruction_of_step[t])
    elif instruction is None:
        instruction = 0 if rng is None else _draw_phrasing(episode, rng)
    first = t - image_history + 1
    valid = np.arange(first, t + 1) >= 0
    images = {role: frames for role, frames in episode.images.items() if cameras is None or role in cameras}
    masks = {
        role: valid & _window(episode.image_masks[role], first, t + 1) if role in episode.image_masks else valid
        for role in images
    }
    observation = Observation(
        state=episode.states[t],
        state_mask=episode.state_mask,
        images={role: _window(frames, first, t + 1) for role, frames in images.items()},
        image_masks=masks,
        instruction=episode.instructions[instruction],
        control_hz=episode.rate_hz,
        stamp_ns=_stamp_ns(t, episode.rate_hz),
    )
    chunk = ActionChunk(
        start_ns=_stamp_ns(t + episode.action_offset_steps, episode.rate_hz),
        rate_hz=episode.rate_hz,
        actions=_window(episode.actions, t, t + horizon),
        mask=episode.action_mask,
    )
    action_valid = np.arange(t, t + horizon) < episode.num_steps
    if episode.action_valid is not None:
        action_valid &= _window(episode.action_valid, t, t + horizon)
    return Sample(observation, chunk, action_valid)


def _draw_phrasing(episode: Episode, rng: np.random.Generator) -> int:
    if not episode.instruction_weights:
        return int(rng.integers(len(episode.instructions)))
    drawn = int(np.searchsorted(np.cumsum(episode.instruction_weights), rng.random(), side="right"))
    return min(drawn, len(episode.instructions) - 1)  # the sum may be a rounding below 1


def _window(rows, start: int, stop: int) -> np.ndarray:
    """Rows start .. stop - 1, the first or last one repeated where the episode has none."""
    inside = start >= 0 and stop <= len(rows)
    if isinstance(rows, np.ndarray):
        return rows[start:stop] if inside else rows[np.clip(np.arange(start, stop), 0, len(rows) - 1)]
    steps = [min(max(i, 0), len(rows) - 1) for i in range(start, stop)]
    if isinstance(rows, JpegFrames):
        return rows.stacked(steps)
    decoded = {i: rows[i] for i in set(steps)}
    return np.stack([decoded[i] for i in steps])


def _stamp_ns(step: int, rate_hz: float) -> int:
    return round(step * 1e9 / rate_hz)
