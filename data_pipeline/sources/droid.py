"""DROID as it was recorded: one folder an episode (https://droid-dataset.github.io, droid_raw/1.0.1).

    aggregated-annotations-*.json       uuid -> language_instruction1, 2, 3; optional, in the root
    <lab>/<success|failure>/<date>/<time>/
        trajectory.h5                   observation/robot_state/*, observation/timestamp/*, action/*; a row a step
        metadata_<uuid>.json            wrist_cam_serial, ext1_cam_serial, ext2_cam_serial, current_task, success, ...
        recordings/MP4/<serial>.mp4     the left view of a stereo camera; <serial>-stereo.mp4 has both side by side
        recordings/SVO/<serial>.svo     the camera's own format, which its vendor's SDK alone can read

Fields are the numbers of trajectory.h5 by their path, among them `observation/timestamp/skip_action` and
`observation/controller_info/movement_enabled`, which say where the robot did not follow. Pictures are `wrist`, `ext1`
and `ext2`, always the left view: frame n belongs to step n, as in the dataset's own loader, and frames after the last
step are left out. Texts are `language_instruction`, `_2` and `_3`, the task that was set where nobody wrote
annotations. `success` and what else the metadata say are under `episode_metadata/`, save who the operator was.

The RLDS release is smaller, has the same steps and needs no video decoder: prefer it (configs/datasets/droid.yaml).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import read_json
from data_pipeline.mapping.paths import EpisodeError
from data_pipeline.schema.types import Frames
from data_pipeline.sources.hdf5 import read_tree
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode, Shard
from data_pipeline.sources.video import VideoFrames

TRAJECTORY = "trajectory.h5"
CAMERAS = ("wrist", "ext1", "ext2")
TEXTS = ("language_instruction", "language_instruction_2", "language_instruction_3")

_CLOCK = "observation/timestamp/control/step_start"  # ms
_STEPS = ("observation/robot_state/joint_positions", "action/joint_position")  # whose rows are the steps
_PRIVATE = ("user", "user_id")
_STEREO_ASPECT = 2.5  # a single view is 16:9, two side by side are twice as wide
_RLDS = "use the RLDS release instead (configs/datasets/droid.yaml)"


class DroidRawSource:
    """Episode folders below a folder, one shard and one episode each."""

    def __init__(self, root: str | Path, glob: str = "*/*/*/*") -> None:
        """Raises `ValueError` for annotations that cannot be read."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}")
        folders = sorted(path for path in self.root.glob(glob) if _is_episode(path))
        if not folders:
            raise FileNotFoundError(f"no episode folder {glob!r} in {self.root}: each has a {TRAJECTORY}")
        self._shards = tuple(
            Shard(path.relative_to(self.root).as_posix(), path, index) for index, path in enumerate(folders)
        )
        self._annotations: dict[str, Any] = {}
        for path in sorted(self.root.glob("aggregated-annotations-*.json")):
            self._annotations |= read_json(path, "download it again, or move it away")

    def shards(self) -> Sequence[Shard]:
        return self._shards

    def fields(self) -> Mapping[str, FieldSpec] | None:
        """Of the first episode. None when its trajectory cannot be read."""
        try:
            arrays = read_tree(self._shards[0].path / TRAJECTORY).arrays
        except (ValueError, OSError):
            return None
        specs = {
            key: FieldSpec("array", values.shape[1:], str(values.dtype))
            for key, values in arrays.items()
            if values.ndim
        }
        specs |= {name: FieldSpec("image", (None, None, 3), "uint8") for name in CAMERAS}
        return {**specs, **{name: FieldSpec("text", (), "str") for name in TEXTS}}

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        faults: list[Fault] = []
        try:
            episode = self._episode(shard, faults)
        except EpisodeError as error:
            yield from faults
            yield Fault(error.kind, shard.name, f"{error}: the episode is left out")
        except FileNotFoundError as error:
            yield Fault("missing_file", shard.name, f"{error}: the episode is left out")
        except (ValueError, OSError) as error:
            yield Fault("truncated", shard.name, f"{error}: the episode is left out")
        else:
            yield from faults
            yield episode

    def _episode(self, shard: Shard, faults: list[Fault]) -> RawEpisode:
        stated = _metadata(shard.path)
        fields = {key: values for key, values in read_tree(shard.path / TRAJECTORY).arrays.items() if values.ndim}
        rows = next((key for key in _STEPS if key in fields), None)
        if rows is None:
            raise EpisodeError("missing_field", f"{TRAJECTORY} has none of {list(_STEPS)}, it has {sorted(fields)}")
        num_steps = len(fields[rows])
        if num_steps == 0:
            raise EpisodeError("zero_length", f"{TRAJECTORY} has no steps")
        metadata: dict[str, Any] = {
            f"episode_metadata/{key}": value for key, value in stated.items() if key not in _PRIVATE
        }
        metadata["episode_metadata/file_path"] = f"{shard.name}/{TRAJECTORY}"
        metadata |= self._texts(stated)
        stamps_ms = fields.get(_CLOCK)
        return RawEpisode(
            shard.name,
            num_steps,
            fields,
            _images(shard, stated, num_steps, faults),
            metadata=metadata,
            stamps_ns=None if stamps_ms is None else np.rint(stamps_ms).astype(np.int64) * 1_000_000,
        )

    def _texts(self, stated: Mapping[str, Any]) -> dict[str, str]:
        """What annotators wrote of the episode; without them what the operator was told."""
        written = self._annotations.get(str(stated.get("uuid")), {})
        texts = [written.get(f"language_instruction{number}") for number in (1, 2, 3)]
        texts = texts if any(texts) else [stated.get("current_task")]
        return {name: text for name, text in zip(TEXTS, texts, strict=False) if text}


class _LeftHalf(Sequence[np.ndarray]):
    """The left view of two that stand side by side in one picture."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        frame = self._frames[step]
        return np.ascontiguousarray(frame[:, : frame.shape[1] // 2])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[step] for step in range(len(self)))


def _is_episode(path: Path) -> bool:
    return path.is_dir() and ((path / TRAJECTORY).is_file() or any(path.glob("metadata_*.json")))


def _metadata(folder: Path) -> dict[str, Any]:
    path = next(iter(sorted(folder.glob("metadata_*.json"))), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no metadata_<uuid>.json, which names its cameras")
    try:
        return read_json(path, "download it again")
    except ValueError as error:
        raise EpisodeError("sidecar", str(error)) from None


def _images(shard: Shard, stated: Mapping[str, Any], num_steps: int, faults: list[Fault]) -> dict[str, Frames]:
    """Frames by camera; a camera without a video is told, an episode without any is none."""
    recordings = shard.path / "recordings"
    images: dict[str, Frames] = {}
    for name in CAMERAS:
        serial = stated.get(f"{name}_cam_serial")
        paths = [recordings / "MP4" / f"{serial}{ending}.mp4" for ending in ("", "-stereo")]
        path = next((path for path in paths if path.is_file()), None)
        where = f"{shard.name}, {name}"
        if path is None:
            faults.append(Fault("missing_camera", where, f"no file {paths[0]}: that view is missing", left_out=False))
            continue
        try:
            images[name] = _left_view(path, num_steps, where, faults)
        except ValueError as error:
            faults.append(Fault("missing_camera", where, f"{error}: that view is missing", left_out=False))
    if not images:
        only_svo = any(recordings.glob("SVO/*.svo"))
        told = "its cameras are SVO files, which need the ZED SDK" if only_svo else "none of its cameras can be read"
        raise EpisodeError("missing_camera", f"{told}: {_RLDS}")
    return images


def _left_view(path: Path, num_steps: int, where: str, faults: list[Fault]) -> Frames:
    """The frames of the steps; as many as there are where they are too few, for the mapping to judge."""
    frames = VideoFrames(path)
    surplus = len(frames) - num_steps
    if surplus > 1:  # one is usual: the camera looks once more before the operator's last word ends the episode
        faults.append(
            Fault(
                "lengths",
                where,
                f"{len(frames)} frames for {num_steps} steps: the last {surplus} unused",
                left_out=False,
            )
        )
    if surplus > 0:
        frames = VideoFrames(path, 0, num_steps)
    stereo = path.stem.endswith("-stereo") or frames.video.width > _STEREO_ASPECT * frames.video.height
    return _LeftHalf(frames) if stereo else frames
