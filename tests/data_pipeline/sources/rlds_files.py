"""A writer of small RLDS folders: wire format, framing and the two JSON files, from nothing but bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.sources.tfrecord import masked_crc32c

Feature = np.ndarray | list[bytes] | None


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: Feature) -> bytes:
    if values is None:
        return b""
    if isinstance(values, list):
        return field(1, b"".join(field(1, value) for value in values))
    if values.dtype.kind == "f":
        return field(2, field(1, values.astype("<f4").tobytes()))
    return field(3, field(1, b"".join(varint(int(value)) for value in values.ravel())))


def example(features: Mapping[str, Feature]) -> bytes:
    entries = (field(1, field(1, name.encode()) + field(2, feature(value))) for name, value in features.items())
    return field(1, b"".join(entries))


def framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    crcs = (struct.pack("<I", masked_crc32c(part)) for part in (length, payload))
    return length + next(crcs) + payload + next(crcs)


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"tensor": {"dtype": dtype, "encoding": "none", "shape": {"dimensions": [str(n) for n in shape]}}}


def image(*shape: int, dtype: str = "uint8") -> dict[str, Any]:
    return {"image": {"dtype": dtype, "shape": {"dimensions": [str(n) for n in shape]}}}


TEXT = {"text": {}}


def tree(nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": dict(nodes)}}


def sequence(node: Mapping[str, Any], length: int = -1) -> dict[str, Any]:
    return {"sequence": {"feature": node, "length": str(length)}}


def write_folder(
    folder: Path,
    splits: Mapping[str, Sequence[Sequence[bytes]]],
    steps: Mapping[str, Any],
    episode: Mapping[str, Any] | None = None,
    file_format: str = "tfrecord",
    name: str = "tiny",
) -> Path:
    """`splits` is split -> files -> payloads; `steps` and `episode` are feature trees."""
    folder.mkdir(parents=True)
    listed = []
    for split, files in splits.items():
        for index, payloads in enumerate(files):
            path = folder / f"{name}-{split}.{file_format}-{index:05d}-of-{len(files):05d}"
            path.write_bytes(b"".join(map(framed, payloads)))
        listed.append({"name": split, "shardLengths": [str(len(payloads)) for payloads in files]})
    info = {"name": name, "fileFormat": file_format, "version": folder.name, "splits": listed}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    top = {"steps": sequence(tree(steps)), **(episode or {})}
    (folder / "features.json").write_text(json.dumps(tree(top)))
    return folder
