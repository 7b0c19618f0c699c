"""ALOHA HDF5, one file an episode: reader and writer (spec interop.md section 5, rdt.md section 9.1).

    /action                      (T, num_native)    commands
    /observations/qpos, qvel     (T, num_native)    measured, in the embodiment's native order and units
    /observations/images/<cam>   raw (T, H, W, 3) uint8, or JPEG: (T, L) uint8 or T byte strings, NUL-padded
    /compress_len                (cameras, T)       JPEG lengths, cameras in key order; written, not read
    /instruction                 text, optional
    attributes                   sim, compress; and ours: robot, rate_hz, instructions, colour,
                                 action_offset_steps

Two readers. `read_recording` knows the robot: its arrays stay in the robot's words in a `Recording`, and `to_episode`
translates; base_action, effort, further cameras and instruction files beside the episodes are not read. `Hdf5Source`
knows no robot: it delivers every number field and every camera by its path, for a mapping to give meaning. Neither
reads depth.

`read_tree`, `write_tree` and `group_names` serve the other formats that keep numbers in HDF5 (`droid.py`,
`transitions.py`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

from data_pipeline.atomic import write_bytes
from data_pipeline.frames import JPEG_QUALITY, Colour, JpegFrames, check_frame, encode_frames
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import CAMERA_KEYS, CAMERA_ROLES, Episode, Frames
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode, Shard

SIDECAR_NAME = "expanded_instruction_gpt-4-turbo.json"
"""Phrasings of a folder's task, beside its episodes (spec rdt.md section 9.1)."""

_READ_KEYS = {**CAMERA_KEYS, "external": ("cam_high", "top")}  # simulated recordings say `top`


@dataclass(frozen=True)
class Recording:
    """What one file holds, in the robot's own words."""

    name: str
    qpos: np.ndarray  # (steps, num_native), native units
    action: np.ndarray  # (steps, num_native), native units
    images: Mapping[str, Frames]  # role -> steps RGB frames, read or decoded when indexed
    instructions: tuple[str, ...]
    rate_hz: float
    action_offset_steps: int

    def to_episode(self, embodiment: Embodiment) -> Episode:
        states, state_mask = embodiment.to_unified(self.qpos, kind="state")
        actions, action_mask = embodiment.to_unified(self.action, kind="action")
        return Episode(
            name=self.name,
            states=states,
            state_mask=state_mask,
            actions=actions,
            action_mask=action_mask,
            images=self.images,
            instructions=self.instructions,
            rate_hz=self.rate_hz,
            action_offset_steps=self.action_offset_steps,
        )


def read_episode(
    path: str | Path,
    embodiment: Embodiment,
    *,
    colour: Colour = "rgb",
    instructions: Sequence[str] = (),
) -> Episode:
    """One file as an episode in unified units. The arguments are those of `read_recording`."""
    recording = read_recording(path, embodiment, colour=colour, instructions=instructions)
    try:
        return recording.to_episode(embodiment)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_recording(
    path: str | Path,
    embodiment: Embodiment,
    *,
    colour: Colour = "rgb",
    instructions: Sequence[str] = (),
) -> Recording:
    """One file in the robot's own words. JPEG bytes are read now and decoded when indexed; raw frames are
    read when indexed.

    `colour` is what a standard decoder returns for the JPEGs of files that do not say it in an attribute:
    `bgr` for the published fine-tuning set. `instructions` serve files that hold none. Rate and action offset
    are the file's own where it states them, else the embodiment's. Raises `ValueError` naming file and key.
    """
    path = Path(path)
    with opened(path) as file:
        attributes = dict(file.attrs)
        robot = _text(attributes.get("robot", embodiment.name))
        if robot != embodiment.name:
            raise ValueError(f"recorded by robot {robot!r}, not {embodiment.name!r}: pass that robot's YAML")
        qpos = _vectors(file, "observations/qpos", embodiment)
        action = _vectors(file, "action", embodiment)
        if len(action) != len(qpos):
            raise ValueError(f"'action' has {len(action)} steps, 'observations/qpos' has {len(qpos)}")
        colour = _text(attributes.get("colour", colour))  # type: ignore[assignment]
        if colour not in ("rgb", "bgr"):
            raise ValueError(f"colour must be rgb or bgr, got {colour!r}")
        images = _images(file, path, len(qpos), colour)
        texts = _instructions(file) or tuple(instructions)
        if not texts:
            raise ValueError("holds no instruction ('instruction' or attribute 'instructions'): pass one")
        return Recording(
            name=path.stem,
            qpos=qpos,
            action=action,
            images=images,
            instructions=texts,
            rate_hz=float(attributes.get("rate_hz", embodiment.rate_hz)),
            action_offset_steps=int(attributes.get("action_offset_steps", embodiment.action_offset_steps)),
        )


def write_episode(
    path: str | Path,
    *,
    qpos: np.ndarray,
    action: np.ndarray,
    images: Mapping[str, Frames],
    instructions: Sequence[str],
    embodiment: Embodiment,
    qvel: np.ndarray | None = None,
    rate_hz: float | None = None,
    action_offset_steps: int | None = None,
    sim: bool = False,
    compress: bool = True,
    quality: int = JPEG_QUALITY,
) -> None:
    """Write one episode, whole or not at all. Arrays are (steps, num_native) in native order and units.

    `images` is role -> RGB frames. Pictures become true-RGB JPEGs (attribute `colour` = rgb): a reader that
    decodes with OpenCV has to reverse the channels. `compress=False` writes raw arrays. Rate and action
    offset default to the embodiment's. The whole file stands in memory before it is written.
    """
    vectors = {"action": action, "observations/qpos": qpos}
    if qvel is not None:
        vectors["observations/qvel"] = qvel
    num_steps = len(qpos)
    for key, values in vectors.items():
        if np.shape(values) != (num_steps, embodiment.num_native):
            raise ValueError(
                f"{key} must be ({num_steps}, {embodiment.num_native}), steps of qpos x native entries of "
                f"{embodiment.name!r}, got {np.shape(values)}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{key} is not finite")
    if not instructions or isinstance(instructions, str):
        raise ValueError(f"instructions must be a list of at least one phrasing, got {instructions!r}")
    unknown = sorted(set(images) - set(CAMERA_ROLES))
    if unknown:
        raise ValueError(f"images has unknown camera roles {unknown}: use {list(CAMERA_ROLES)}")
    for role, frames in images.items():
        if len(frames) != num_steps:
            raise ValueError(f"images[{role!r}] has {len(frames)} frames for {num_steps} steps")
    content = io.BytesIO()  # the HDF5 library cannot survive a full disk: it may end the process
    with h5py.File(content, "w") as file:
        for key, values in vectors.items():
            file.create_dataset(key, data=values)
        pictures = file.require_group("observations/images")
        if compress:
            _write_jpegs(file, pictures, images, quality)
        else:
            for role, frames in images.items():
                _write_raw(pictures, CAMERA_KEYS[role], frames)
        text = h5py.string_dtype()
        file.create_dataset("instruction", data=instructions[0], dtype=text)
        file.attrs.create("instructions", list(instructions), dtype=text)
        file.attrs.update(
            sim=sim,
            compress=compress,
            colour="rgb",
            robot=embodiment.name,
            rate_hz=float(embodiment.rate_hz if rate_hz is None else rate_hz),
            action_offset_steps=(
                embodiment.action_offset_steps if action_offset_steps is None else action_offset_steps
            ),
        )
    with content.getbuffer() as written:  # given back in any case: some Pythons do not survive a view left in an error
        write_bytes(path, written)


@dataclass(frozen=True)
class Hdf5Tree:
    """What stands in one group of a file, by the path from there."""

    arrays: Mapping[str, np.ndarray]  # numbers of any shape
    attributes: Mapping[str, Any]  # of the group itself
    others: tuple[str, ...]  # texts and the like, not read


def read_tree(path: str | Path, group: str = "") -> Hdf5Tree:
    """All numbers of a file, or of one of its groups, in memory. Raises `ValueError` naming file and key."""
    with opened(Path(path)) as file:
        top = file.get(group) if group else file
        if not isinstance(top, h5py.Group):
            raise ValueError(f"group {group!r} is missing: the file has {sorted(file)}")
        datasets = _datasets(top)
        arrays = {key: _read(dataset) for key, dataset in datasets.items() if dataset.dtype.kind in "fiub"}
        attributes = {key: _plain(value) for key, value in top.attrs.items()}
        return Hdf5Tree(arrays, attributes, tuple(sorted(set(datasets) - set(arrays))))


def write_tree(path: str | Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Arrays by their path in the file, for `read_tree`; whole or not at all. The file stands in memory first."""
    content = io.BytesIO()  # the HDF5 library cannot survive a full disk: it may end the process
    with h5py.File(content, "w") as file:
        for key, values in arrays.items():
            file.create_dataset(key, data=values)
        file.attrs.update(attributes)
    with content.getbuffer() as written:
        write_bytes(path, written)


def group_names(path: str | Path) -> list[str]:
    """The groups at the top of a file, in name order. Raises `ValueError` naming a damaged file."""
    with opened(Path(path)) as file:
        return sorted(name for name, item in file.items() if isinstance(item, h5py.Group))


class Hdf5Source:
    """A folder of ALOHA, ACT or AgileX HDF5 files, one episode each, as records for a mapping.

    Fields are numbers (steps,) or (steps, n) by their path in the file; pictures are what stands in a group `images`.
    Metadata are the file's attributes (rate_hz, action_offset_steps, colour, robot, ...) and `instruction`, all of its
    phrasings. A file whose pictures are raw arrays says colour rgb, whatever a mapping says of JPEGs.
    """

    def __init__(self, root: str | Path, glob: str = "**/*.hdf5") -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}")
        paths = sorted(path for path in self.root.glob(glob) if not path.is_dir())
        if not paths:
            raise FileNotFoundError(f"no file {glob!r} in {self.root}")
        self._shards = tuple(
            Shard(path.relative_to(self.root).as_posix(), path, index) for index, path in enumerate(paths)
        )

    def shards(self) -> Sequence[Shard]:
        return self._shards

    def fields(self) -> Mapping[str, FieldSpec] | None:
        """Of the first file: the format has no description of its own. None when that file cannot be read."""
        try:
            with opened(self._shards[0].path) as file:
                return _field_specs(file)
        except (ValueError, OSError):
            return None

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        try:
            sidecar = _sidecar(shard.path.parent / SIDECAR_NAME)
        except (ValueError, OSError) as error:
            yield Fault("sidecar", shard.name, str(error))
            return
        try:
            yield _read_raw(shard, sidecar)
        except FileNotFoundError as error:  # a link to nothing: content that was never fetched
            yield Fault("missing_file", shard.name, str(error))
        except (ValueError, OSError) as error:
            yield Fault("truncated", shard.name, str(error))


def _field_specs(file: h5py.File) -> dict[str, FieldSpec]:
    specs = {}
    for key, dataset in _datasets(file).items():
        if _is_picture(key):
            shape = tuple(dataset.shape[1:]) if dataset.ndim == 4 else (None, None, 3)
            specs[key] = FieldSpec("image", shape, "uint8")
        elif _is_numbers(dataset):
            specs[key] = FieldSpec("array", tuple(dataset.shape[1:]), str(dataset.dtype))
    specs["instruction"] = FieldSpec("text", (), "str")  # once an episode, in the file or beside it
    return specs


def _read_raw(shard: Shard, sidecar: Mapping[str, Any]) -> RawEpisode:
    with opened(shard.path) as file:
        datasets = _datasets(file)
        fields = {key: _read(dataset) for key, dataset in datasets.items() if _is_numbers(dataset)}
        if not fields:
            raise ValueError(f"holds no numbers by step, only {sorted(datasets)}")
        clock = next((key for key in ("observations/qpos", "action") if key in fields), next(iter(fields)))
        images = {
            key: _frames(dataset, shard.path, key, "rgb") for key, dataset in datasets.items() if _is_picture(key)
        }
        metadata: dict[str, Any] = {key: _plain(value) for key, value in file.attrs.items() if key != "instructions"}
        if any(datasets[key].ndim == 4 for key in images):
            metadata["colour"] = "rgb"
        texts = _texts(file)
        if texts:
            metadata["instruction"] = list(texts)
        return RawEpisode(
            name=shard.name,
            num_steps=len(fields[clock]),
            fields=fields,
            images=images,
            metadata=metadata,
            sidecar=sidecar,
        )


def _datasets(file: h5py.Group) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda key, item: found.update({key: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def _is_picture(key: str) -> bool:
    return "images" in key.split("/")[:-1]


def _is_numbers(dataset: h5py.Dataset) -> bool:
    key = dataset.name.lstrip("/")
    listed = dataset.dtype.kind in "fiub" and dataset.ndim in (1, 2)
    return listed and not _is_picture(key) and key not in ("compress_len", "instruction")


def _read(dataset: h5py.Dataset) -> np.ndarray:
    try:
        return dataset[()]
    except OSError as error:
        raise ValueError(f"key {dataset.name!r} cannot be read: {error}") from None


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _texts(file: h5py.File) -> tuple[str, ...]:
    """Phrasings in the file; a precomputed embedding is none."""
    stored = file.get("instruction")
    if "instructions" not in file.attrs and isinstance(stored, h5py.Dataset) and stored.dtype.kind in "fiu":
        return ()
    return _instructions(file)


def _sidecar(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object of phrasings, got {type(content).__name__}")
    return content


class _RawFrames(Sequence[np.ndarray]):
    """Uncompressed frames, read one at a time: an episode of three cameras would fill a gigabyte."""

    def __init__(self, path: Path, key: str, num_frames: int) -> None:
        self._path, self._key, self._num_frames = path, key, num_frames

    def __len__(self) -> int:
        return self._num_frames

    def __getitem__(self, step: int) -> np.ndarray:  # type: ignore[override]  # one frame, no slices
        with opened(self._path) as file:
            return file[self._key][range(self._num_frames)[step]]


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file for reading; every failure becomes one `ValueError` that begins with its name."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises for damaged structures
        raise ValueError(f"{path}: cannot be read, it is cut short or not HDF5 ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _dataset(file: h5py.File, key: str) -> h5py.Dataset:
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        parent, _, _ = key.rpartition("/")
        siblings = sorted(file[parent]) if parent in file else sorted(file)
        raise ValueError(f"key {key!r} is missing: {parent or 'the file'} has {siblings}")
    return found


def _vectors(file: h5py.File, key: str, embodiment: Embodiment) -> np.ndarray:
    values = _dataset(file, key)
    if values.ndim != 2 or values.shape[1] != embodiment.num_native:
        raise ValueError(
            f"key {key!r} has shape {values.shape}, robot {embodiment.name!r} needs (steps, "
            f"{embodiment.num_native}): {list(embodiment.native_names)}"
        )
    if len(values) == 0:
        raise ValueError(f"key {key!r} has no steps")
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"key {key!r} must hold floating-point numbers, got {values.dtype}")
    try:
        array = values[()]
    except OSError as error:
        raise ValueError(f"key {key!r} cannot be read: {error}") from None
    steps = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(steps):
        raise ValueError(f"key {key!r} is not finite at {len(steps)} steps, first at step {steps[0]}")
    return array


def _images(file: h5py.File, path: Path, num_steps: int, colour: Colour) -> dict[str, Frames]:
    group = file.get("observations/images", {})
    images: dict[str, Frames] = {}
    for role in CAMERA_ROLES:
        name = next((name for name in np.atleast_1d(_READ_KEYS[role]) if name in group), None)
        if name is None:
            continue
        key = f"observations/images/{name}"
        pictures = _dataset(file, key)
        if len(pictures) != num_steps:
            raise ValueError(f"key {key!r} has {len(pictures)} frames, 'observations/qpos' has {num_steps} steps")
        images[role] = _frames(pictures, path, key, colour)
    return images


def _frames(pictures: h5py.Dataset, path: Path, key: str, colour: Colour) -> Frames:
    """One camera in any coding: raw arrays are RGB and stay in the file, `colour` is that of decoded JPEGs."""
    if pictures.ndim != 4:
        return JpegFrames(_jpegs(pictures, key), colour, name=f"{path}: {key}")
    if pictures.dtype != np.uint8 or pictures.shape[3] != 3:
        raise ValueError(f"key {key!r} must be uint8 (steps, height, width, 3), got {pictures.shape}")
    return _RawFrames(path, key, len(pictures))


def _jpegs(pictures: h5py.Dataset, key: str) -> list[bytes]:
    """The encoded frames of any of the three layouts, without their padding."""
    try:
        rows = pictures[()]
    except OSError as error:
        raise ValueError(f"key {key!r} cannot be read: {error}") from None
    padded = pictures.ndim == 2 and pictures.dtype == np.uint8
    if not padded and not (pictures.ndim == 1 and pictures.dtype.kind in "SOV"):
        raise ValueError(f"key {key!r} must hold JPEG byte strings or frames, got {pictures.dtype} {pictures.shape}")
    return [(row if isinstance(row, bytes) else np.asarray(row).tobytes()).rstrip(b"\0") for row in rows]


def _instructions(file: h5py.File) -> tuple[str, ...]:
    found: Any = file.attrs.get("instructions")
    if found is None:
        found = file["instruction"][()] if "instruction" in file else file.attrs.get("instruction")
    if found is None:
        return ()
    if isinstance(found, np.ndarray) and found.dtype.kind in "fiu":
        raise ValueError("'instruction' holds numbers, a precomputed embedding: pass the text as an argument")
    return tuple(_text(entry) for entry in (found.ravel() if isinstance(found, np.ndarray) else [found]))


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _write_jpegs(file: h5py.File, group: h5py.Group, images: Mapping[str, Frames], quality: int) -> None:
    lengths = []
    for role in sorted(images, key=CAMERA_KEYS.__getitem__):  # the order in which HDF5 lists the keys
        jpegs = encode_frames(images[role], quality)
        if jpegs.colour != "rgb":
            jpegs = encode_frames(list(jpegs), quality)
        lengths.append([len(jpeg) for jpeg in jpegs.encoded])
        padded = np.zeros((len(jpegs), max(lengths[-1])), dtype=np.uint8)
        for row, jpeg in zip(padded, jpegs.encoded, strict=True):
            row[: len(jpeg)] = np.frombuffer(jpeg, dtype=np.uint8)
        group.create_dataset(CAMERA_KEYS[role], data=padded)
    if lengths:
        file.create_dataset("compress_len", data=np.array(lengths, dtype=np.float32))


def _write_raw(group: h5py.Group, key: str, frames: Frames) -> None:
    shape = frames[0].shape
    dataset = group.create_dataset(key, (len(frames), *shape), dtype=np.uint8, chunks=(1, *shape))
    for step, frame in enumerate(frames):
        check_frame(frame)
        if frame.shape != shape:
            raise ValueError(f"frame {step} of {key} is {frame.shape}, the first is {shape}")
        dataset[step] = frame
