"""RLDS episodes in TFDS folders, read without TensorFlow (spec data.md section 4).

    features.json        the tree of features; `steps` is a sequence of step features
    dataset_info.json    splits, episodes in each file, how the files are named
    NAME-SPLIT.tfrecord-00000-of-00004, ...   one record an episode, a flat `tf.train.Example`

Step fields are named from the step ("observation/image"), everything else from the episode
("episode_metadata/file_path"). Numbers get the declared type, though doubles are stored as floats. A field that an
episode leaves empty is absent from it; empty text is "". Rows of a ragged field are padded: floats with NaN,
integers with 0, texts with "". Files of the kind `array_record` need the extra `array_record`; `riegeli` files and
features beyond numbers, texts and pictures (`unsupported`) need the road through TensorFlow (`rlds_tfds.py`).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import read_json
from data_pipeline.schema.registry import unknown_name
from data_pipeline.sources.pictures import encoded_frames
from data_pipeline.sources.raw import Fault, FieldKind, FieldSpec, RawEpisode, Shard
from data_pipeline.sources.tfrecord import Values, parse_example, read_records

STEPS = "steps"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_ADVICE = "it belongs to every TFDS folder, copy it again"


@dataclass(frozen=True)
class Feature:
    """One leaf of the tree."""

    kind: FieldKind
    shape: tuple[int | None, ...]  # of one step, or of the episode; None: any length
    dtype: str
    encoding: str = "none"  # of numbers: none, bytes or zlib (each tensor one byte string)

    @property
    def spec(self) -> FieldSpec:
        return FieldSpec(self.kind, self.shape, self.dtype)


@dataclass(frozen=True)
class FeatureTree:
    """What features.json says, by path."""

    steps: Mapping[str, Feature]
    episode: Mapping[str, Feature]
    unsupported: Mapping[str, str]  # step path -> kind of feature that this reader has no words for


@dataclass(frozen=True)
class Split:
    name: str
    files: tuple[str, ...]
    lengths: tuple[int, ...]  # episodes of each file


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset_info.json says."""

    name: str
    file_format: str
    splits: Mapping[str, Split]


class RldsSource:
    """One version folder of a TFDS dataset, or the folder above it where that holds one version only."""

    def __init__(self, path: str | Path, split: str = "all") -> None:
        self.path = find_version(path)
        self.info = read_info(self.path)
        self.tree = read_features(self.path)
        if split != "all" and split not in self.info.splits:
            raise ValueError(f"{self.path}: " + unknown_name("split", split, ["all", *self.info.splits]))
        names = sorted(self.info.splits) if split == "all" else [split]
        self._lengths = {
            file: length
            for name in names
            for file, length in zip(self.info.splits[name].files, self.info.splits[name].lengths, strict=True)
        }
        if self.info.file_format not in ("tfrecord", "array_record"):
            raise ValueError(
                f"{self.path}: files of the kind {self.info.file_format!r} are not read, tfrecord and array_record "
                "are: convert them with `tfds convert_format --out_file_format=tfrecord`"
            )

    def shards(self) -> Sequence[Shard]:
        return [Shard(file, self.path / file, index) for index, file in enumerate(self._lengths)]

    def fields(self) -> Mapping[str, FieldSpec]:
        return {path: feature.spec for path, feature in self.tree.steps.items()}

    def read(self, shard: Shard) -> Iterator[RawEpisode | Fault]:
        if not shard.path.is_file():
            yield Fault("missing_file", shard.name, f"{shard.path} is not there: copy it again, or choose a split")
            return
        number = -1
        for number, record in enumerate(self._records(shard.path)):
            yield record if isinstance(record, Fault) else self.episode(record, f"{shard.name}:{number}")
        stated = self._lengths[shard.name]
        if number + 1 < stated:
            yield Fault("truncated", shard.name, f"dataset_info.json states {stated} records, {number + 1} were met")
        elif number + 1 > stated:
            told = f"dataset_info.json states {stated} records, {number + 1} are there"
            yield Fault("shard_count", shard.name, told, left_out=False)

    def _records(self, path: Path) -> Iterator[bytes | Fault]:
        return read_records(path) if self.info.file_format == "tfrecord" else _read_array_records(path)

    def episode(self, record: bytes, name: str) -> RawEpisode | Fault:
        """What one record holds."""
        try:
            return build_episode(parse_example(record), self.tree, name)
        except (ValueError, zlib.error) as error:
            return Fault("unreadable", name, str(error))


def build_episode(example: Mapping[str, Values], tree: FeatureTree, name: str) -> RawEpisode | Fault:
    """The flat values of one record in the shape that the tree gives them.

    Raises `ValueError` for values of another kind than the tree's.
    """
    columns = {path: _column(example, f"{STEPS}/{path}", feature) for path, feature in tree.steps.items()}
    counts = {path: column.count for path, column in columns.items() if column is not None}
    if not counts:
        return Fault("zero_length", name, "the episode has no steps: it is left out")
    usual = Counter(count for count in counts.values() if count is not None).most_common(1)
    num_steps = counts.get("is_first") or (usual[0][0] if usual else 0)
    for path, count in counts.items():
        if count != num_steps:
            return _misfit(name, path, tree.steps[path], columns[path], num_steps)
    fields: dict[str, np.ndarray] = {}
    images: dict[str, Any] = {}
    for path, feature in tree.steps.items():
        column = columns[path]
        if feature.kind == "image":
            if column is not None:
                images[path] = encoded_frames(column.values, f"{name}, {path}")
        elif column is not None:
            fields[path] = column.rows(feature)
        elif feature.kind == "text" and not feature.shape:
            fields[path] = np.full(num_steps, "", dtype=object)
    metadata = {path: _single(example.get(path), feature) for path, feature in tree.episode.items()}
    return RawEpisode(name, num_steps, fields, images, {k: v for k, v in metadata.items() if v is not None})


@dataclass(frozen=True)
class _Column:
    """The values of a step field as stored: flat, or flat with the length of each row."""

    values: Any  # array or byte strings, never empty
    unit: int  # values of one step, where that is fixed
    lengths: np.ndarray | None = field(default=None)

    @property
    def count(self) -> int | None:
        """Steps, or None where the values do not divide into rows."""
        if self.lengths is not None:
            return len(self.lengths)
        return None if len(self.values) % self.unit else len(self.values) // self.unit

    def rows(self, feature: Feature) -> np.ndarray:
        values = _typed(self.values, feature)
        if self.lengths is None:
            return values.reshape(-1, *(feature.shape if feature.encoding == "none" else values.shape[1:]))
        inner = feature.shape[1:]
        longest = feature.shape[0] or int(self.lengths.max())
        fill: Any = "" if feature.kind == "text" else np.nan if values.dtype.kind == "f" else 0
        shape: tuple[Any, ...] = (len(self.lengths), longest, *inner)  # what is ragged has a known inner shape
        rows = np.full(shape, fill, dtype=values.dtype)
        rows[np.arange(longest) < self.lengths[:, None]] = values.reshape(-1, *inner)
        return rows


def _column(example: Mapping[str, Values], key: str, feature: Feature) -> _Column | None:
    """The stored values of one step field, None where it is empty. Raises `ValueError` that names the field."""
    lengths = example.get(f"{key}/ragged_row_lengths_0")
    if lengths is not None:
        values = example.get(f"{key}/ragged_flat_values")
        lengths = np.asarray(lengths)
        flat: Any = np.empty(0, np.float32) if values is None else values
        if lengths.sum() * prod(_known(feature.shape[1:])) != len(flat):
            raise ValueError(f"{key}: {len(flat)} values do not fill rows of {int(lengths.sum())} entries in all")
        if feature.shape[0] is not None and (lengths != feature.shape[0]).any():
            raise ValueError(f"{key}: rows must have {feature.shape[0]} entries, got up to {lengths.max()}")
        return _Column(flat, 1, lengths)
    values = example.get(key)
    if values is None:
        return None
    if isinstance(values, list) != (feature.kind != "array" or feature.encoding != "none"):
        raise ValueError(f"{key} holds {type(values).__name__} values where features.json declares {feature.dtype}")
    return _Column(values, 1 if feature.encoding != "none" else prod(_known(feature.shape, feature.kind)))


def _known(shape: tuple[int | None, ...], kind: FieldKind = "array") -> list[int]:
    return [] if kind == "image" else [size or 1 for size in shape]


def _misfit(name: str, path: str, feature: Feature, column: _Column | None, num_steps: int) -> Fault:
    assert column is not None
    got = len(column.values) if column.lengths is None else len(column.lengths)
    if feature.kind == "array" and column.lengths is None and num_steps and got % num_steps == 0:
        message = f"each step must have {column.unit} values {feature.shape}, got {got // num_steps}"
        return Fault("wrong_width", f"{name}, {path}", message)
    steps = column.count if column.count is not None else f"{got} values"
    return Fault("different_lengths", f"{name}, {path}", f"the episode has {num_steps} steps, this field {steps}")


def _typed(values: Any, feature: Feature) -> np.ndarray:
    if feature.kind == "text":
        return np.array([text.decode("utf-8", "replace") for text in values], dtype=object)
    if feature.encoding == "none":
        return np.asarray(values).astype(feature.dtype, copy=False)
    unpack = zlib.decompress if feature.encoding == "zlib" else bytes
    rows = [np.frombuffer(unpack(row), feature.dtype) for row in values]
    return np.stack(rows).reshape(len(rows), *_known(feature.shape))


def _single(values: Values, feature: Feature) -> Any:
    """One value an episode: text, number or array; texts of a sequence as a tuple; None where it is absent."""
    if values is None:
        return "" if feature.kind == "text" and not feature.shape else None
    if feature.kind == "image":
        return values[0]
    typed = _typed(values, feature)
    if not feature.shape:
        return typed[0].item() if feature.kind == "array" else typed[0]
    if feature.kind == "text":
        return tuple(typed)
    return typed.reshape([-1 if size is None else size for size in feature.shape])


def find_version(path: str | Path) -> Path:
    """The folder that holds dataset_info.json: this one, or the only one of its versions."""
    path = Path(path)
    if (path / "dataset_info.json").is_file():
        return path
    versions = sorted(found.parent for found in path.glob("*/dataset_info.json"))
    if len(versions) == 1:
        return versions[0]
    if versions:
        raise ValueError(f"{path} holds the versions {[version.name for version in versions]}: name one of them")
    raise FileNotFoundError(f"{path} is no TFDS folder: dataset_info.json is neither in it nor one folder below")


def read_info(path: Path) -> DatasetInfo:
    file = path / "dataset_info.json"
    raw = read_json(file, _ADVICE)
    splits = {}
    with _form(file):
        name = raw.get("name") or path.parent.name
        file_format = raw.get("fileFormat") or "tfrecord"
        for entry in raw.get("splits", []):
            lengths = tuple(int(length) for length in entry.get("shardLengths", []))
            words = {"DATASET": name, "SPLIT": entry["name"], "FILEFORMAT": file_format}
            template = entry.get("filepathTemplate") or _TEMPLATE
            files = tuple(_file_name(template, words, index, len(lengths)) for index in range(len(lengths)))
            splits[entry["name"]] = Split(entry["name"], files, lengths)
    if not splits:
        raise ValueError(f"{file} lists no splits: {_ADVICE}")
    for member in (member for split in splits.values() for member in split.files):
        if Path(member).name != member:  # a repair writes files of these names
            raise ValueError(f"{file} names a file {member!r} outside its folder: do not use it")
    return DatasetInfo(name, file_format, splits)


@contextmanager
def _form(file: Path) -> Iterator[None]:
    """JSON of another form than TFDS writes becomes one `ValueError`."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}: {error}): {_ADVICE}") from None


def _file_name(template: str, words: Mapping[str, str], index: int, count: int) -> str:
    numbers = {"SHARD_INDEX": f"{index:05d}", "NUM_SHARDS": f"{count:05d}"}
    numbers["SHARD_X_OF_Y"] = f"{numbers['SHARD_INDEX']}-of-{numbers['NUM_SHARDS']}"
    for word, value in {**words, **numbers}.items():
        template = template.replace("{" + word + "}", value)
    return template


def read_features(path: Path) -> FeatureTree:
    file = path / "features.json"
    raw = read_json(file, _ADVICE)
    with _form(file):
        top = raw.get("featuresDict", {}).get("features", {})
        has_steps = "sequence" in top.get(STEPS, {})
    if not has_steps:
        raise ValueError(
            f"{file} has no sequence {STEPS!r} (it has {sorted(top)}): not in the RLDS layout, whose records are "
            "episodes"
        )
    steps: dict[str, Feature] = {}
    episode: dict[str, Feature] = {}
    unsupported: dict[str, str] = {}
    with _form(file):
        _walk("", top[STEPS]["sequence"]["feature"], (), steps, unsupported)
        for name, node in top.items():
            if name != STEPS:
                _walk(name, node, (), episode, {})
    return FeatureTree(steps, episode, unsupported)


def _walk(
    path: str,
    node: Mapping[str, Any],
    outer: tuple[int | None, ...],
    leaves: dict[str, Feature],
    unknown: dict[str, str],
) -> None:
    """Collect the leaves below a node; `outer` are the lengths of the sequences around it."""
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            _walk(f"{path}/{name}" if path else name, child, outer, leaves, unknown)
    elif "sequence" in node and len(outer) == 0:
        _walk(path, node["sequence"]["feature"], (_size(node["sequence"].get("length", -1)),), leaves, unknown)
    elif "text" in node:
        leaves[path] = Feature("text", outer, "str")
    elif "classLabel" in node:
        leaves[path] = Feature("array", outer, "int64")
    elif "image" in node and not outer:
        leaves[path] = Feature("image", _shape(node["image"]), node["image"].get("dtype") or "uint8")
    elif "tensor" in node and not (outer and node["tensor"].get("encoding", "none") != "none"):
        _tensor(path, node["tensor"], outer, leaves, unknown)
    else:
        unknown[path] = str(node.get("pythonClassName", "unknown")).rpartition(".")[2]


def _tensor(
    path: str,
    tensor: Mapping[str, Any],
    outer: tuple[int | None, ...],
    leaves: dict[str, Feature],
    unknown: dict[str, str],
) -> None:
    shape, dtype = (*outer, *_shape(tensor)), tensor["dtype"]
    if None in shape[1:] or dtype == "bfloat16":
        unknown[path] = f"Tensor of {dtype} {shape}"
    elif dtype in ("string", "object"):
        leaves[path] = Feature("text", shape, "str")
    else:
        leaves[path] = Feature("array", shape, dtype, tensor.get("encoding") or "none")


def _shape(node: Mapping[str, Any]) -> tuple[int | None, ...]:
    return tuple(_size(size) for size in node.get("shape", {}).get("dimensions", []))


def _size(size: str | int) -> int | None:
    return None if int(size) < 0 else int(size)


def _read_array_records(path: Path) -> Iterator[bytes | Fault]:
    try:
        from array_record.python.array_record_module import ArrayRecordReader  # type: ignore[import-not-found]
    except ImportError:
        raise ModuleNotFoundError(
            f"{path} is an array_record file: pip install 'rdt-stack[array_record]', or convert it with "
            "`tfds convert_format --out_file_format=tfrecord`"
        ) from None
    try:
        reader = ArrayRecordReader(str(path))
        for number in range(reader.num_records()):
            yield reader.read([number])[0]
    except (ValueError, RuntimeError, IndexError) as error:
        yield Fault("unreadable", path.name, f"array_record: {error}")
