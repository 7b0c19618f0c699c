"""The key that a server may ask of its clients: a line in a file, or an environment variable; never an argument,
which other users of the machine could read."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "RDT_API_KEY"


def read_key(path: str | None) -> str | None:
    """The key in the file, else the one in `RDT_API_KEY`, else None. Raises `ValueError` for one that is no key."""
    if path is None:
        where, key = VARIABLE, os.environ.get(VARIABLE)
        if key is None:
            return None
    else:
        where, key = path, Path(path).read_text(encoding="utf-8")
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(f"{where} must hold one line of printable ASCII, a key of at least one character")
    return key
