"""What `rdt bench cca` and `rdt bench nca` share: rows of figures as a table, CPU seconds, pictures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.atomic import write_bytes
from deploy.plots import Line, lines

Row = dict[str, Any]
Column = tuple[str, str]
"""Key of a row, which is the heading too, and how its number is written."""


class CpuTime:
    """`with CpuTime() as spent: ...`, then `spent.seconds`: unlike the clock's they say something beside other work."""

    def __enter__(self) -> CpuTime:
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._started


class Table:
    """Prints each row when it is there; "-" where it has no such figure."""

    def __init__(self, columns: Sequence[Column], name_width: int) -> None:
        self.columns, self.name_width = columns, name_width
        self.rows: dict[str, Row] = {}
        print(" " * name_width + "".join(f"  {key}" for key, _ in columns))

    def add(self, name: str, row: Row) -> Row:
        self.rows[name] = row
        cells = (format(row[key], form) if row.get(key) is not None else "-" for key, form in self.columns)
        padded = (f"  {cell:>{len(key)}s}" for (key, _), cell in zip(self.columns, cells, strict=True))
        print(f"{name:{self.name_width}s}" + "".join(padded), flush=True)
        return row


def draw(args: argparse.Namespace, pictures: Mapping[str, tuple[Sequence[Line], str, str]]) -> None:
    """Pictures by file name, each its lines and the labels of both axes, into the folder of `--out` if one is given."""
    if args.out is None:
        return
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (drawn, x_label, y_label) in pictures.items():
        write_bytes(folder / name, lines(drawn, x_label, y_label))
        print(f"picture                  {folder / name}")
