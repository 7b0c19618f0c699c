"""An episode in rerun's viewer (extra `viz`): the same cameras and slots as on the page of `rdt data view`.

    cameras/<role>            the store's JPEGs, untouched
    state/<group>/<slot>      numbers in unified units; action/... beside them
    instruction               text, where it begins

Two time lines: `step` and `time` in seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.frames import JpegFrames, encode_jpeg
from data_pipeline.schema.layout import SLOT_BLOCKS, SLOT_NAMES
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from deploy.data.view_page import GROUPS
from deploy.doctor import require


def show(store: EpisodeStore, index: int, path: Path | None) -> None:
    """Write an .rrd file, or open the viewer where `path` is None.

    Raises `ModuleNotFoundError` that names the extra where rerun is missing.
    """
    require("`rdt data view --rerun`", {"rerun": "rerun-sdk"}, extra="viz")
    import rerun as rr

    episode = store[index]
    recording = rr.RecordingStream("rdt", recording_id=f"{store.path.name}-{index}")
    if path is None:
        recording.spawn()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        recording.save(path)
    _send(rr, recording, episode)
    recording.flush()
    recording.disconnect()


def _send(rr: Any, recording: Any, episode: Episode) -> None:
    steps = np.arange(episode.num_steps)
    for kind, values, mask in (
        ("state", episode.states, episode.state_mask),
        ("action", episode.actions, episode.action_mask),
    ):
        for title, blocks in GROUPS:
            for slot in (slot for block in blocks for slot in SLOT_BLOCKS[block] if mask[slot]):
                entity = f"{kind}/{title.replace(', ', '/').replace(' ', '_').lower()}/{SLOT_NAMES[slot]}"
                rr.send_columns(
                    entity,
                    indexes=_times(rr, steps, episode.rate_hz),
                    columns=rr.Scalars.columns(scalars=values[:, slot].astype(np.float64)),
                    recording=recording,
                )
    for role, frames in episode.images.items():
        wanted = np.flatnonzero(episode.image_masks.get(role, np.ones(episode.num_steps, dtype=bool)))
        stored = frames.encoded if isinstance(frames, JpegFrames) and frames.colour == "rgb" else None
        for step in wanted.tolist():
            picture = stored[step] if stored is not None else encode_jpeg(np.asarray(frames[step]))
            rr.send_columns(
                f"cameras/{role}",
                indexes=_times(rr, np.array([step]), episode.rate_hz),
                columns=rr.EncodedImage.columns(blob=[bytes(picture)], media_type=["image/jpeg"]),
                recording=recording,
            )
    for step, text in _texts(episode):
        rr.send_columns(
            "instruction",
            indexes=_times(rr, np.array([step]), episode.rate_hz),
            columns=rr.TextDocument.columns(text=[text]),
            recording=recording,
        )


def _times(rr: Any, steps: np.ndarray, rate_hz: float) -> list[Any]:
    return [rr.TimeColumn("step", sequence=steps), rr.TimeColumn("time", duration=steps / rate_hz)]


def _texts(episode: Episode) -> list[tuple[int, str]]:
    """(step, text) wherever the instruction begins."""
    if episode.instruction_of_step is None:
        return [(0, episode.instructions[0])]
    starts = [0, *(np.flatnonzero(np.diff(episode.instruction_of_step)) + 1).tolist()]
    return [(step, episode.instructions[episode.instruction_of_step[step]]) for step in starts]
