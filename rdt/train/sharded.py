"""The trainer's state as shards: every rank writes what it holds, and any number of ranks in any mode reads it again.

    trainer/state.json                    what is no tensor: step, schedule, groups of the optimizer
    trainer/shard-RANK-*.safetensors      a rank's parts of the tensors, with their places in the whole

Through torch.distributed.checkpoint (DCP), whose planner leaves out copies and reads of a file only what a rank needs:
no rank holds the whole state. Of DCP's two storages this is the one of safetensors. The other keeps its index as a
pickle (`.metadata`), and no file is unpickled here. Safetensors hold tensors alone, hence the JSON beside them.

All ranks write to one folder, so on several machines it lies on a file system that they share.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor

from data_pipeline.atomic import atomic_folder, explained, read_json, write_json
from rdt.model.manifest import Entry, entry, read_manifest, verify
from rdt.train.parallel import ALONE, RankError, Ranks

SHARDS = "trainer"
STATE_FILE = "state.json"


def has_shares(state: Mapping[str, Any]) -> bool:
    """Whether there are tensors in a nested state of which this rank holds its part."""
    return any(isinstance(value, DTensor) for _, value in _leaves(state))


@contextmanager
def shared_folder(path: Path, ranks: Ranks) -> Iterator[Path]:
    """An `atomic_folder` that all ranks fill: it takes the place of `path` when all have ended well, else nowhere.

    What one rank fails at fails on all. Raises `WriteError` for a full disk, `RankError` for that of another rank.
    """
    made = ExitStack()
    temporary: Path | None = None
    with ranks.together():
        if ranks.is_first:
            temporary = made.enter_context(atomic_folder(path, replace=True))
    temporary = ranks.gathered(temporary)[0]
    assert temporary is not None
    # the outer one because the end of `made`, the rename, may fail too
    with ranks.together(), made, ranks.together(), explained(path):
        yield temporary


def save_shards(folder: Path, state: Mapping[str, Any], ranks: Ranks) -> dict[str, Entry]:
    """Write a nested state of all ranks into `folder`/trainer; all have to call it, and on all it fails alike.

    Returns what a manifest of `folder` says of the shards, each read by the rank that wrote it. Raises `RankError` for
    the failure of another rank.
    """
    tensors = {".".join(path): value for path, value in _leaves(state) if isinstance(value, Tensor)}
    where = folder / SHARDS
    with ranks.together():
        if ranks.is_first:
            where.mkdir()
            write_json(where / STATE_FILE, _plain(state))
    writer = _storage("HuggingFaceStorageWriter")(str(where), save_distributed=True)
    try:
        dcp.save(tensors, storage_writer=writer)
    except dcp.CheckpointException as error:  # no Exception, and a page long
        raise _failure(error, ranks) from None
    with ranks.together():
        own = {path.relative_to(folder).as_posix(): entry(path) for path in where.glob(f"shard-{ranks.rank + 1:05d}-*")}
    return {name: found for part in ranks.gathered(own) for name, found in part.items()}


def load_shards(folder: Path, state: Mapping[str, Any], ranks: Ranks = ALONE) -> dict[str, Any]:
    """Read `folder`/trainer into the tensors of `state`, wherever and however shared they are, in place.

    Returns the state, with what is no tensor as it was saved. The files are compared with their checksums first, each
    by one of the ranks. Raises `ValueError` for a damaged file, and for a state of another run; `RankError` where
    another rank has found it.
    """
    with ranks.together():
        names = sorted(name for name in read_manifest(folder) if name.startswith(f"{SHARDS}/"))
        verify(folder, names[ranks.rank :: ranks.size])
        plain = read_plain(folder)
    tensors = {".".join(path): value for path, value in _leaves(state) if isinstance(value, Tensor)}
    reader = _storage("HuggingFaceStorageReader")(str(folder / SHARDS))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # by one process: as meant
            dcp.load(tensors, storage_reader=reader, no_dist=ranks.size == 1)
    except dcp.CheckpointException as error:
        raise ValueError(f"{folder / SHARDS} does not fit this run, or is damaged ({_failure(error, ranks)})") from None
    return _filled(plain, tensors)


def read_plain(folder: Path) -> dict[str, Any]:
    """What is no tensor of a sharded state, None in their places. Raises `ValueError` for a damaged file."""
    verify(folder, (f"{SHARDS}/{STATE_FILE}",))
    return read_json(folder / SHARDS / STATE_FILE, f"remove {folder} to train from the start")


def _storage(name: str) -> Any:
    if not hasattr(dcp, name):
        raise ModuleNotFoundError(
            f"sharded checkpoints need a PyTorch whose torch.distributed.checkpoint has {name}: "
            "upgrade it, or train with parallel: ddp"
        )
    return getattr(dcp, name)


def _failure(error: dcp.CheckpointException, ranks: Ranks) -> Exception:
    """The cause on this rank, else on another one, in one line."""
    rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0] != ranks.rank)
    if rank == ranks.rank and isinstance(cause, Exception):
        return cause
    return RankError(f"rank {rank}: {str(cause).partition(chr(10))[0] or type(cause).__name__}")


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(number)))
    else:
        yield path, value


def _plain(value: Any) -> Any:
    """The same without tensors, None in their places."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, Tensor) else value


def _filled(plain: Any, tensors: Mapping[str, Tensor], path: tuple[str, ...] = ()) -> Any:
    """The inverse of `_plain`."""
    if isinstance(plain, dict):
        return {key: _filled(inner, tensors, (*path, key)) for key, inner in plain.items()}
    if isinstance(plain, list):
        return [_filled(inner, tensors, (*path, str(number))) for number, inner in enumerate(plain)]
    return tensors.get(".".join(path), plain)
