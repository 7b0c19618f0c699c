"""RH20T scenes: one folder each, robot readings and cameras by millisecond stamps (https://rh20t.github.io).

    task_description.json                   task -> {task_description_english, ...}; in the root, or a folder above
    RH20T_cfg<N>/task_.._user_.._scene_.._cfg_<N>/
        metadata.json                       rating, finish_time (ms), calib
        transformed/joint.npy               {serial: {ms: array}}; positions, for some arms velocities behind them
        transformed/tcp_base.npy            {serial: [{timestamp: ms, tcp: 7, robot_ft: 6}, ...]}
        transformed/gripper.npy             {serial: {ms: {gripper_info: 3, gripper_command: 3}}}
        transformed/force_torque_base.npy   {serial: [{timestamp: ms, raw: 6, zeroed: 6}, ...]}
        cam_<serial>/color.mp4 + timestamps.npy ({color: [ms, ...]}), or color/<ms>.jpg

The steps are the frames of one camera, `image`: the first in name order that is not in the robot's hand and can be
read. Every other camera is `image_<serial>`. A field at a step is the reading closest in time, whichever camera it was
stored beside (all are in the base's frame), no older or newer than `max_age_s`; steps without one are NaN, or an
undecodable frame, and are told.

Fields are `joint`, `joint_velocity` where the arm reports it, `tcp_base`, `gripper`, and what else stands beside them
by its key: `tcp_base/robot_ft`, `gripper/gripper_command`, `force_torque_base/zeroed`, ... Numbers stay as they are:
of `tcp_base` the dataset's own software writes x, y, z and a quaternion (w, x, y, z). Human demonstrations
(`.._human`), depth, sound, tactile and high-frequency data are not read. The .npy files are pickles: see `npy.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import read_json
from data_pipeline.frames import JpegFrames
from data_pipeline.mapping.paths import EpisodeError
from data_pipeline.mapping.sync import sample_nearest
from data_pipeline.schema.types import Frames
from data_pipeline.sources.npy import UnsafeFileError, read_npy
from data_pipeline.sources.pictures import PictureFrames
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode, Shard
from data_pipeline.sources.video import VideoFrames

TASKS = "task_description.json"
MAX_AGE_S = 0.1  # one period of the cameras

# rh20t_api configs/configs.json, `in_hand` and `robot_joint_field` of each configuration
IN_HAND = frozenset(
    ["043322070878", "104422070042", "104422071090", "045322071843", "135122079702", "135122075425", "135122070361"]
)
"""Serials of the cameras that any of the arms carries."""

NUM_JOINTS = {1: 7, 2: 7, 3: 6, 4: 6, 5: 7, 6: 7, 7: 7}
"""Configuration -> joints of its arm: Flexiv, Flexiv, UR5, UR5, Franka, KUKA, KUKA."""

_MAIN = {"tcp_base": "tcp", "gripper": "gripper_info"}  # file -> the entry that is the field of its name
_FILES = ("joint", "tcp_base", "gripper", "force_torque_base")
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class _Camera:
    """One camera's colour frames and when they were taken."""

    serial: str
    stamps_ms: np.ndarray  # int64 (frames,), in the order of the frames
    frames: Frames


class Rh20tSource:
    """Scenes below a folder, one shard and one episode each."""

    def __init__(self, root: str | Path, glob: str = "RH20T_cfg*/*", max_age_s: float = MAX_AGE_S) -> None:
        self.root, self.max_age_s = Path(root), max_age_s
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}")
        scenes = sorted(path for path in self.root.glob(glob) if path.is_dir() and _is_scene(path.name))
        if not scenes:
            raise FileNotFoundError(f"no scene folder {glob!r} in {self.root}: they are called task_..._cfg_000N")
        self._shards = tuple(
            Shard(path.relative_to(self.root).as_posix(), path, index) for index, path in enumerate(scenes)
        )

    def shards(self) -> Sequence[Shard]:
        return self._shards

    def fields(self) -> Mapping[str, FieldSpec]:
        """What every scene may have, and the cameras of the first one; widths differ from scene to scene."""
        serials = sorted(path.name[len("cam_") :] for path in self._shards[0].path.glob("cam_*"))
        specs = {name: FieldSpec("array", (None,), "float64") for name in ("joint", "joint_velocity", *_MAIN)}
        specs |= {name: FieldSpec("image", (None, None, 3), "uint8") for name in ("image", *map(_image, serials))}
        return {**specs, "instruction": FieldSpec("text", (), "str")}

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        faults: list[Fault] = []
        try:
            episode = self._scene(shard, faults)
        except UnsafeFileError as error:
            yield Fault("unsafe_file", shard.name, f"{error}: the scene is left out")
        except EpisodeError as error:
            yield from faults
            yield Fault(error.kind, shard.name, f"{error}: the scene is left out")
        except (ValueError, OSError) as error:
            yield Fault("truncated", shard.name, f"{error}: the scene is left out")
        else:
            yield from faults
            yield episode

    def _scene(self, shard: Shard, faults: list[Fault]) -> RawEpisode:
        metadata = self._metadata(shard, faults)
        cameras = list(_cameras(shard, faults))
        clock = next((camera for camera in cameras if camera.serial not in IN_HAND), None)
        if clock is None:
            raise EpisodeError(
                "missing_camera", f"no camera outside the hand can be read, of {[c.serial for c in cameras]}"
            )
        steps_ms = clock.stamps_ms
        fields: dict[str, np.ndarray] = {}
        for name in _FILES:
            path = shard.path / "transformed" / f"{name}.npy"
            if path.is_file():
                series = _series(read_npy(path), clock.serial, name, path)
                fields |= {key: self._at(steps_ms, *rows, shard, key, faults) for key, rows in series.items()}
            elif name != "force_torque_base":  # arms without that sensor have no such file
                faults.append(
                    Fault("missing_field", f"{shard.name}, {name}", f"no file {path}: it is left out", left_out=False)
                )
        if "joint" in fields:
            fields |= _split_joints(fields.pop("joint"), shard.name)
        images: dict[str, Frames] = {"image": clock.frames}
        for camera in cameras:
            if camera is not clock:
                images[_image(camera.serial)] = self._frames_at(steps_ms, camera, shard, faults)
        return RawEpisode(shard.name, len(steps_ms), fields, images, metadata=metadata, stamps_ns=steps_ms * 1_000_000)

    def _metadata(self, shard: Shard, faults: list[Fault]) -> dict[str, Any]:
        path, found = shard.path / "metadata.json", {}
        if path.is_file():
            found = _json(path)
        metadata = {f"episode_metadata/{key}": value for key, value in found.items()}
        folders = [self.root, *self.root.parents][:2]
        described = next((folder / TASKS for folder in folders if (folder / TASKS).is_file()), None)
        task = shard.path.name[: len("task_0000")]
        text = _json(described).get(task) if described else None
        if isinstance(text, dict):
            text = text.get("task_description_english")
        if isinstance(text, str) and text:
            metadata["instruction"] = text
        else:
            told = f"no {TASKS} in {self.root}" if described is None else f"{described} says nothing of {task!r}"
            faults.append(Fault("no_language", shard.name, f"{told}: the scene has no instruction", left_out=False))
        return metadata

    def _at(
        self, steps_ms: np.ndarray, stamps_ms: np.ndarray, values: np.ndarray, shard: Shard, key: str, told: list[Fault]
    ) -> np.ndarray:
        """Readings at the steps, float64, NaN where none is young enough."""
        chosen, valid = sample_nearest(stamps_ms, values, steps_ms, round(self.max_age_s * 1000))
        chosen = np.array(chosen, dtype=np.float64)
        chosen[~valid] = np.nan
        told.extend(self._stale(valid, shard, key))
        return chosen

    def _frames_at(self, steps_ms: np.ndarray, camera: _Camera, shard: Shard, told: list[Fault]) -> Frames:
        order = np.argsort(camera.stamps_ms, kind="stable")
        max_age_ms = round(self.max_age_s * 1000)
        chosen, valid = sample_nearest(camera.stamps_ms[order], order, steps_ms, max_age_ms)
        name = _image(camera.serial)
        told.extend(self._stale(valid, shard, name))
        return _NearestFrames(camera.frames, np.where(valid, chosen, -1), f"{shard.name}, {name}")

    def _stale(self, valid: np.ndarray, shard: Shard, key: str) -> Iterator[Fault]:
        if not valid.all():
            message = f"{int((~valid).sum())} of {len(valid)} steps have no value within {self.max_age_s} s: masked"
            yield Fault("stale", f"{shard.name}, {key}", message, left_out=False)


class _NearestFrames(Sequence[np.ndarray]):
    """Frames of a camera by the steps of another clock; -1 is a step without one."""

    def __init__(self, frames: Frames, index: np.ndarray, name: str) -> None:
        self._frames, self._index, self._name = frames, index, name

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        number = int(self._index[step])
        if number < 0:
            raise ValueError(f"{self._name}, frame {step}: no frame was young enough")
        return self._frames[number]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[step] for step in range(len(self)))


class _Files(Sequence[bytes]):
    """Contents of files, read when indexed: the pictures of ten cameras would fill a gigabyte."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]  # one file, no slices
        return self._paths[index].read_bytes()


def _is_scene(name: str) -> bool:
    return name.startswith("task_") and not name.endswith("_human")


def _image(serial: str) -> str:
    return f"image_{serial}"


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "download it again")
    except ValueError as error:
        raise EpisodeError("sidecar", str(error)) from None


def _cameras(shard: Shard, faults: list[Fault]) -> Iterator[_Camera]:
    """The cameras that can be read, in name order; what is wrong with the others is told."""
    for folder in sorted(path for path in shard.path.glob("cam_*") if path.is_dir()):
        serial, where = folder.name[len("cam_") :], f"{shard.name}, {folder.name}"
        try:
            stamps, frames = _colour(folder)
        except UnsafeFileError:
            raise
        except (ValueError, OSError) as error:
            faults.append(Fault("missing_camera", where, f"{error}: that view is missing", left_out=False))
            continue
        if len(stamps) == 0 or len(stamps) != len(frames):
            message = f"{len(frames)} frames for {len(stamps)} stamps: that view is missing"
            faults.append(Fault("lengths" if len(stamps) else "missing_camera", where, message, left_out=False))
            continue
        yield _Camera(serial, stamps, frames)


def _colour(folder: Path) -> tuple[np.ndarray, Frames]:
    """Stamps in ms and frames, of the video where there is one, else of the pictures."""
    if (folder / "color.mp4").is_file():
        stamps = read_npy(folder / "timestamps.npy")
        stamps = stamps.get("color") if isinstance(stamps, dict) else stamps
        return _stamps(stamps, folder / "timestamps.npy"), VideoFrames(folder / "color.mp4")
    paths = [path for path in (folder / "color").glob("*") if path.stem.isdecimal() and path.suffix in _PICTURES]
    if not paths:
        raise FileNotFoundError(f"{folder} has neither color.mp4 nor color/<ms>.jpg")
    paths.sort(key=lambda path: int(path.stem))
    form = PictureFrames if any(path.suffix == ".png" for path in paths) else JpegFrames
    return np.array([int(path.stem) for path in paths], dtype=np.int64), form(_Files(paths), name=str(folder))


def _stamps(values: Any, path: Path) -> np.ndarray:
    stamps = np.asarray(values)
    if stamps.ndim != 1 or (len(stamps) and stamps.dtype.kind not in "iuf"):
        raise ValueError(f"{path}: stamps must be numbers of milliseconds (frames,), got {stamps.dtype} {stamps.shape}")
    return stamps.astype(np.int64)


def _series(content: Any, first: str, name: str, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Field -> stamps in ms (readings,) and values (readings, n), of all cameras in one row.

    Of readings with one stamp those beside camera `first` come last, which is the one that counts.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a dictionary of cameras, got {type(content).__name__}")
    rows: list[tuple[int, bool, Any]] = []
    for serial, readings in content.items():
        if isinstance(readings, dict):
            rows += [(stamp, serial == first, entry) for stamp, entry in readings.items()]
        elif isinstance(readings, list) and all(isinstance(e, dict) and "timestamp" in e for e in readings):
            rows += [(entry["timestamp"], serial == first, _without_stamp(entry)) for entry in readings]
        else:
            raise ValueError(f"{path}: camera {serial!r} must hold readings by their stamps")
    rows = sorted(((int(stamp), own, entry) for stamp, own, entry in rows), key=lambda row: row[:2])
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for stamp, _, entry in rows:
        for key, value in entry.items() if isinstance(entry, dict) else [(None, entry)]:
            field = name if key in (None, _MAIN.get(name)) else f"{name}/{key}"
            found.setdefault(field, []).append((stamp, _vector(value, f"{path}: {field} at {stamp} ms")))
    return {field: _stacked(readings, f"{path}: {field}") for field, readings in found.items()}


def _without_stamp(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "timestamp"}


def _vector(value: Any, what: str) -> np.ndarray:
    vector = np.atleast_1d(np.asarray(value))
    if vector.dtype.kind not in "biuf" or vector.ndim != 1:
        raise ValueError(f"{what} must be a row of numbers, got {vector.dtype} {vector.shape}")
    return vector.astype(np.float64)


def _stacked(readings: Sequence[tuple[int, np.ndarray]], what: str) -> tuple[np.ndarray, np.ndarray]:
    widths = {len(value) for _, value in readings}
    if len(widths) > 1:
        raise EpisodeError("wrong_width", f"{what} must have one width, got {sorted(widths)}")
    stamps = np.array([stamp for stamp, _ in readings], dtype=np.int64)
    return stamps, np.stack([value for _, value in readings])


def _split_joints(joint: np.ndarray, scene: str) -> dict[str, np.ndarray]:
    """Positions, and velocities where twice as many numbers are there; of an arm unknown by its number all numbers."""
    configuration = re.search(r"_cfg_(\d+)$", scene)
    count = NUM_JOINTS.get(int(configuration[1]), 0) if configuration else 0
    if not 0 < count < joint.shape[1]:
        return {"joint": joint}
    parts = {"joint": joint[:, :count]}
    if joint.shape[1] >= 2 * count:
        parts["joint_velocity"] = joint[:, count : 2 * count]
    return parts
