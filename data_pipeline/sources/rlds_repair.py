"""An RLDS folder without its damaged records, so that every reader, TensorFlow's too, takes the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.atomic import atomic_folder, check_apart, read_json, write_json
from data_pipeline.sources.raw import Fault
from data_pipeline.sources.rlds import RldsSource
from data_pipeline.sources.tfrecord import read_records, write_records


def repair_rlds(path: str | Path, out: str | Path, progress: Callable[[str], object] = lambda _: None) -> list[Fault]:
    """Write the folder `out`, whole or not at all; returns what was left out.

    `progress` is called with the name of each file.
    """
    check_apart(out, path)
    source, faults = RldsSource(path), list[Fault]()
    if source.info.file_format != "tfrecord":
        raise ValueError(f"{path}: files of the kind {source.info.file_format!r} cannot be repaired, tfrecord can")
    info = read_json(source.path / "dataset_info.json", "it belongs to every TFDS folder, copy it again")
    records = {name for split in source.info.splits.values() for name in split.files}
    with atomic_folder(out) as folder:
        for entry in info["splits"]:
            lengths, num_bytes = [], 0
            for name in source.info.splits[entry["name"]].files:
                lengths.append(str(write_records(folder / name, _good_records(source, name, faults))))
                num_bytes += (folder / name).stat().st_size
                progress(name)
            entry.update(shardLengths=lengths, numBytes=str(num_bytes))
        for other in source.path.iterdir():
            if other.is_file() and other.name not in records and other.name != "dataset_info.json":
                shutil.copy2(other, folder / other.name)
        write_json(folder / "dataset_info.json", info)
    return faults


def _good_records(source: RldsSource, name: str, faults: list[Fault]) -> Iterator[bytes]:
    path = source.path / name
    if not path.is_file():
        faults.append(Fault("missing_file", name, f"{path} is not there: its records are left out"))
        return
    for number, record in enumerate(read_records(path)):
        read = record if isinstance(record, Fault) else source.episode(record, f"{name}:{number}")
        if isinstance(read, Fault):
            faults.append(read)
        else:
            assert isinstance(record, bytes)
            yield record
