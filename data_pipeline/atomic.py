"""Files and folders that are there whole or not at all.

Everything is written under a temporary name in the target's own folder, synced to the disk and then renamed.
An exception of any kind, an interrupt too, leaves the target as it was and no temporary file. Only a killed
process leaves its temporary behind: `remove_leftovers` clears those.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SUFFIX = ".tmp"

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another place",
    errno.EFBIG: "no file may be that large here (the file system, or ulimit -f): choose another place",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "the folder must be writable: change its permissions or choose another place",
    errno.EPERM: "the folder must be writable: change its permissions or choose another place",
    errno.ENOTDIR: "a part of the path is a file where a folder was expected: choose another place",
    errno.EEXIST: "a part of the path is a file where a folder was expected: choose another place",
    errno.EISDIR: "there is a folder of that name: choose another one",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter one",
}


class WriteError(OSError):
    """Something could not be written; the message says what, why and what to do. The target is as it was."""

    def __str__(self) -> str:
        return str(self.strerror)  # without the number of the error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file name with the same ending, for a library that writes by name; renamed on success.

    Missing parent folders are made. Raises `WriteError` for a full disk or a folder that cannot be written.
    """
    path = Path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_name(path)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty temporary folder to fill; renamed to `path` on success.

    An existing `path` is an error, unless `replace`: the old folder then steps aside just before the rename
    (two renames, so a reader may for an instant find neither) and is deleted after it. Whoever was killed in
    that instant gets the old folder back by `recover_folder`.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists already: choose another name or remove it")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, aside = _temporary_name(path), _aside(path)
        recover_folder(path)
        temporary.mkdir()
        try:
            yield temporary
            for inner in [*temporary.rglob("*"), temporary]:
                _sync(inner)
            if path.exists():
                path.replace(aside)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            if aside.exists() and not path.exists():  # interrupted between the renames
                aside.replace(path)
            for leftover in (temporary, aside):
                shutil.rmtree(leftover, ignore_errors=True)


def recover_folder(path: str | Path) -> None:
    """Undo an `atomic_folder(replace=True)` that was killed between its two renames; else do nothing."""
    path = Path(path)
    aside = _aside(path)
    if aside.exists() and not path.exists():
        aside.replace(path)
    shutil.rmtree(aside, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Plain types as indented JSON; not-a-number and infinity are errors, since other readers refuse them."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, advice: str) -> dict[str, Any]:
    """An object of `write_json`. Raises `ValueError` that names a missing or damaged file and says the advice."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it must hold an object, got {type(content).__name__}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): {advice}") from None
    return content


def check_writable(folder: str | Path) -> None:
    """Make a folder where there is none; raise `WriteError` now if nothing can be written there, not hours later."""
    folder = Path(folder)
    probe = _temporary_name(folder / "probe")
    with explained(probe, folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


def check_apart(out: str | Path, *inputs: str | Path) -> None:
    """Raise `ValueError` where something would be written over, or into, what it is made of."""
    for path in inputs:
        if Path(out).resolve().is_relative_to(Path(path).resolve()):
            raise ValueError(f"{out} is, or lies in, {path}, which is left as it is: choose another place")


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete what killed writers left in `folder`; only for its single writer. Returns what was deleted."""
    leftovers = sorted(p for p in Path(folder).glob(".*" + _SUFFIX + "*") if is_temporary(p))
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return leftovers


def is_temporary(path: Path) -> bool:
    """Whether this is a name that this module gives to unfinished files and folders."""
    return re.fullmatch(rf"\..*{re.escape(_SUFFIX)}-[0-9a-f]{{8}}(\.[^.]*)?", path.name) is not None


def _temporary_name(path: Path) -> Path:
    # the ending stays last: some libraries choose the format by it, numpy appends its own when it differs
    return path.with_name(f".{path.name}{_SUFFIX}-{secrets.token_hex(4)}{path.suffix}")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _sync(path: Path) -> None:
    """Ask the disk to keep a file's content, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _related(touched: Path, target: Path) -> bool:
    """Whether a refused path belongs to the target: beside it, below it, or one of its parents."""
    return touched.is_relative_to(target.parent) or target.is_relative_to(touched)


@contextmanager
def explained(path: Path, named: Path | None = None) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` into one message; other exceptions pass unchanged.

    The message says `named` where that means more to the user than the path.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None or (refusal.filename and not _related(Path(os.fsdecode(refusal.filename)), path)):
            raise
        code = refusal.errno
        assert code is not None
        reason = os.strerror(code)
        raise WriteError(code, f"cannot write {named or path}: {reason}; {_ADVICE[code]}") from error


def _refusal(error: BaseException | None) -> OSError | None:
    """The refusal in an error, or in what it was raised during: torch says its own thing when its file is full."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _ADVICE):
        error = None if error.__suppress_context__ else error.__context__
    return error
