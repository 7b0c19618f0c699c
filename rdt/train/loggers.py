"""Where the numbers of a run go: a JSON line, TensorBoard, wandb; as many of them as a config names.

A row is `{"step": ..., name: number, ...}`, one a logged step, in order. A logger is opened with the step at which the
run begins or goes on: what it holds of later steps, or a row that a killed run cut short, is dropped first. So a
resumed run goes on in the same files as if it had never stopped.

TensorBoard's event file is written here (TFRecords of `tensorflow.Event`): it takes no other package to write one, and
one can go on in the same file. To look at it: `pip install tensorboard && tensorboard --logdir OUT`.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from data_pipeline.atomic import explained, write_text
from data_pipeline.schema.registry import load_attribute
from data_pipeline.sources.tfrecord import packed_record, read_records

LOGGERS = {
    "jsonl": "rdt.train.loggers:JsonlLogger",
    "tensorboard": "rdt.train.loggers:TensorBoardLogger",
    "wandb": "rdt.train.loggers:WandbLogger",
}
"""Name in a config -> class, called with (folder of the run, step at which it goes on, settings of the run)."""

Row = Mapping[str, float]


class Logger(Protocol):
    def log(self, row: Row) -> None:
        """Keep a row, for good once this has returned."""


def check_loggers(names: Iterable[str]) -> None:
    """Raise `ValueError` for a name that does not exist, `ModuleNotFoundError` for one whose package is missing."""
    for name in names:
        load_attribute("logger", name, LOGGERS)
        if name == "wandb" and find_spec("wandb") is None:
            raise ModuleNotFoundError(
                "the logger 'wandb' needs wandb: pip install 'rdt-stack[wandb]', or take it out of `loggers`"
            )


def open_loggers(names: Iterable[str], out: Path, step: int, settings: Mapping[str, Any]) -> list[Logger]:
    """Those loggers, ready for the row after `step`."""
    return [load_attribute("logger", name, LOGGERS)(out, step, settings) for name in names]


class JsonlLogger:
    """`metrics.jsonl`, a row a line."""

    def __init__(self, out: Path, step: int, _: Mapping[str, Any]) -> None:
        self._path = out / "metrics.jsonl"
        write_text(self._path, "".join(_kept_lines(self._path, step)))

    def log(self, row: Row) -> None:
        with explained(self._path), self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


class TensorBoardLogger:
    """An event file in `tensorboard/`, a scalar for each name."""

    def __init__(self, out: Path, step: int, _: Mapping[str, Any]) -> None:
        self._path = out / "tensorboard" / "events.out.tfevents.rdt"
        with explained(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.is_file():
                os.truncate(self._path, _kept_bytes(self._path, step))
        if not self._path.is_file() or self._path.stat().st_size == 0:
            self._append(_double(1, time.time()) + _bytes(3, b"brain.Event:2"))

    def log(self, row: Row) -> None:
        values = b"".join(
            _bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in row.items() if name != "step"
        )
        self._append(_double(1, time.time()) + _integer(2, int(row["step"])) + _bytes(5, values))

    def _append(self, event: bytes) -> None:
        with explained(self._path), self._path.open("ab") as file:
            file.write(packed_record(event))


class WandbLogger:
    """Weights & Biases, under the same run when it goes on.

    Offline unless WANDB_MODE says otherwise, so nobody is asked for an account; `wandb sync` sends it later.
    """

    def __init__(self, out: Path, step: int, settings: Mapping[str, Any]) -> None:
        import wandb

        name = out / "wandb_id"
        if not name.is_file():
            write_text(name, secrets.token_hex(4))
        self._step = step
        self._run = wandb.init(
            project="rdt",
            id=name.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(out),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, row: Row) -> None:
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))


def _kept_lines(path: Path, step: int) -> list[str]:
    """The lines up to a step, without what a full disk or a killed run cut short."""
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []:
        try:
            kept_on = line.endswith("\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):  # not a row
            kept_on = False
        if not kept_on:
            break
        kept.append(line)
    return kept


def _kept_bytes(path: Path, step: int) -> int:
    """Length of an event file up to a step, without a damaged end."""
    length = 0
    for record in read_records(path):
        if not isinstance(record, bytes) or _step_of(record) > step:
            break
        length += len(packed_record(record))
    return length


# --- the few kinds of protobuf fields that a tensorflow.Event of scalars has ---------------------------------------

_TIME_BYTES = 9  # a tag and a double: what every event here begins with


def _step_of(event: bytes) -> int:
    """Field 2 where it is there; the version of the file has none."""
    if event[_TIME_BYTES] != 2 << 3:
        return 0
    step = shift = 0
    for byte in event[_TIME_BYTES + 1 :]:
        step |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return step


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
