"""The second road to RLDS: through tensorflow-datasets (extra `rlds`), for what the plain reader has no words for.

It gives the same episodes as `rlds.py` from the same folder, in the same order and with the same names, and reads
every feature and file format that the library knows. It needs TensorFlow, seconds to start and half a gigabyte; both
are imported here alone, when a source is made. Damage ends a file: tf.data cannot step over a bad record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.schema.registry import unknown_name
from data_pipeline.sources.pictures import encoded_frames
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode, Shard
from data_pipeline.sources.rlds import STEPS, Feature, find_version, read_features, read_info


class TfdsSource:
    """One version folder of a TFDS dataset. The arguments are those of `RldsSource`."""

    def __init__(self, path: str | Path, split: str = "all") -> None:
        self._tfds = _tensorflow_datasets()
        self.path = find_version(path)
        self.info = read_info(self.path)
        self.tree = read_features(self.path)
        if self.info.file_format == "array_record":
            raise ValueError(f"{self.path}: tf.data does not read array_record files: use the source 'rlds'")
        if split != "all" and split not in self.info.splits:
            raise ValueError(f"{self.path}: " + unknown_name("split", split, ["all", *self.info.splits]))
        names = sorted(self.info.splits) if split == "all" else [split]
        self._slices = {
            file: f"{name}[{index}shard]" for name in names for index, file in enumerate(self.info.splits[name].files)
        }
        self._builder = self._tfds.builder_from_directory(str(self.path))
        step_features = self._builder.info.features[STEPS].feature
        self._exotic = {path: _named(step_features, path) for path in self.tree.unsupported}
        self._undecoded = _nested({path: self._tfds.decode.SkipDecoding() for path in self._pictures()})

    def shards(self) -> Sequence[Shard]:
        return [Shard(file, self.path / file, index) for index, file in enumerate(self._slices)]

    def fields(self) -> Mapping[str, FieldSpec]:
        known = {path: feature.spec for path, feature in self.tree.steps.items()}
        exotic = {path: FieldSpec("array", tuple(f.shape), np.dtype(f.dtype).name) for path, f in self._exotic.items()}
        return {**known, **exotic}

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        config = self._tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        data = self._builder.as_dataset(
            split=self._slices[shard.name],
            shuffle_files=False,
            read_config=config,
            decoders={STEPS: self._undecoded} if self._undecoded else None,
        )
        number = 0
        try:
            for number, example in enumerate(data):
                yield self._episode(example, f"{shard.name}:{number}")
        except Exception as error:  # tf.errors: DataLoss, InvalidArgument, NotFound
            if not type(error).__module__.startswith("tensorflow"):
                raise
            message = f"tf.data stopped: {error}; the format `rlds` steps over damaged records"
            yield Fault("unreadable", f"{shard.name}, record {number} or the next", message)

    def _pictures(self) -> list[str]:
        return [path for path, feature in self.tree.steps.items() if feature.kind == "image"]

    def _episode(self, example: Mapping[str, Any], name: str) -> RawEpisode | Fault:
        steps = [_flat(step) for step in self._tfds.as_numpy(example[STEPS])]
        if not steps:
            return Fault("zero_length", name, "the episode has no steps: it is left out")
        fields, images = {}, {}
        for path, feature in self.tree.steps.items():
            rows = [step[path] for step in steps]
            if feature.kind == "image":
                images[path] = encoded_frames(rows, f"{name}, {path}")
            else:
                fields[path] = _stacked(rows, feature)
        for path in self._exotic:
            fields[path] = np.stack([np.asarray(step[path]) for step in steps])
        flat = _flat({key: value for key, value in self._tfds.as_numpy(example).items() if key != STEPS})
        metadata = {path: _single(flat[path], feature) for path, feature in self.tree.episode.items()}
        return RawEpisode(name, len(steps), fields, images, {k: v for k, v in metadata.items() if v is not None})


def _stacked(rows: list[Any], feature: Feature) -> np.ndarray:
    """Step values as one array, ragged rows padded as in the plain reader."""
    if feature.kind == "text" and not feature.shape:
        return np.array([row.decode("utf-8", "replace") for row in rows], dtype=object)
    if feature.kind == "text":
        rows = [np.array([text.decode("utf-8", "replace") for text in row], dtype=object) for row in rows]
    if feature.shape and feature.shape[0] is None:
        longest = max(len(row) for row in rows)
        dtype = rows[0].dtype
        fill: Any = "" if feature.kind == "text" else np.nan if dtype.kind == "f" else 0
        padded = np.full((len(rows), longest, *rows[0].shape[1:]), fill, dtype=dtype)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = row
        return padded
    return np.stack(rows)


def _single(value: Any, feature: Feature) -> Any:
    if feature.kind == "image":
        return None if value is None else value
    if feature.kind == "text":
        if feature.shape:
            return tuple(text.decode("utf-8", "replace") for text in value) or None
        return value.decode("utf-8", "replace")
    return value if feature.shape else value.item()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        leaves.update(_flat(value, f"{path}/") if isinstance(value, Mapping) else {path: value})
    return leaves


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *outer, last = path.split("/")
        node = tree
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def _named(features: Any, path: str) -> Any:
    for name in path.split("/"):
        features = features[name]
    return features


def _tensorflow_datasets() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds  # type: ignore[import-not-found]
    except ImportError:
        raise ModuleNotFoundError(
            "the source 'rlds_tfds' needs TensorFlow: pip install 'rdt-stack[rlds]'; "
            "the source 'rlds' reads the usual files without it"
        ) from None
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the memory of the whole device
    return tfds
