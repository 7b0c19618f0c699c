"""The list of a folder's files with their sizes and checksums, so that damage is found when a file is read.

    {"files": {"pytorch_model.bin": {"bytes": 4925812345, "crc32c": "1a2b3c4d"}, ...}, "crc32c": "5e6f7a8b"}

The last one is that of the list itself, as JSON without spaces and with sorted keys. CRC-32C finds what disks and
networks do to a file; it is no signature, and whoever writes the folder writes the list. Computing one takes about
0.2 s a GB where the processor has an instruction for it, beside reading the file, which whoever opens it does anyway.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import google_crc32c  # type: ignore[import-untyped]

from rdt.model.weights import CheckpointError

MANIFEST_FILE = "checksums.json"

_CHUNK_BYTES = 1 << 22
_ADVICE = (
    "take an earlier checkpoint (of a run: checkpoints/, best/), or copy this one again from where it is whole; where "
    f"the file was changed on purpose, remove {MANIFEST_FILE}"
)

Entry = dict[str, int | str]


def entry(file: Path) -> Entry:
    """Size and checksum of a file, as a manifest says them."""
    checksum = google_crc32c.Checksum()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            checksum.update(chunk)
    return {"bytes": file.stat().st_size, "crc32c": checksum.hexdigest().decode()}


def write_manifest(folder: Path, known: Mapping[str, Entry] | None = None) -> None:
    """List all files in `folder` and below; the last thing to write there. `known` entries are taken as they are."""
    known = known or {}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: known.get(name) or entry(folder / name) for name in names}
    content = {"files": files, "crc32c": _crc32c(files)}
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Entries by the names of files; none where there is no manifest. Raises `CheckpointError` for a damaged one."""
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
        files, expected = content["files"], content["crc32c"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): {_ADVICE}") from None
    if _crc32c(files) != expected:
        raise CheckpointError(f"{file} is damaged: expected checksum {expected}, found {_crc32c(files)}; {_ADVICE}")
    return files


def verify(folder: Path, names: Iterable[str], *, contents: bool = True) -> None:
    """Compare files with the manifest of their folder, by size and with `contents` by checksum.

    What the manifest does not list passes, all of it where there is none. Raises `CheckpointError` that names the
    first file that is missing, cut short or changed.
    """
    files = read_manifest(folder)
    for name in names:
        if name not in files:
            continue
        path, expected = folder / name, files[name]
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, expected {expected['bytes']} bytes: {_ADVICE}")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} is damaged: expected {expected['bytes']} bytes, found {size}; {_ADVICE}")
        if contents and (found := entry(path)["crc32c"]) != expected["crc32c"]:
            raise CheckpointError(
                f"{path} is damaged: expected checksum {expected['crc32c']}, found {found}; {_ADVICE}"
            )


def _crc32c(files: object) -> str:
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":")).encode()
    return f"{google_crc32c.value(canonical):08x}"
