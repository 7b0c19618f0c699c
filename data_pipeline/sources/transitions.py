"""Data sets of offline reinforcement learning as transitions: D4RL files and Minari folders, without their packages.

D4RL, one HDF5 file, a row a step of all episodes in a row (https://github.com/Farama-Foundation/D4RL):

    observations (rows, n), actions (rows, n), rewards, terminals, timeouts (rows,), infos/* (rows, ...)
    next_observations (rows, n)     optional

Minari, a folder with data/metadata.json and data/main_data.hdf5 (https://minari.farama.org):

    episode_<N>/observations        (T + 1, n), or a group of such arrays
    episode_<N>/actions             (T, n), or a group
    episode_<N>/rewards, terminations, truncations (T,), infos/* (T + 1, ...)

Where a D4RL file has no `next_observations` they are the observations of the row behind. The last row of an episode
that timed out, and the last row of a file that is not terminal, have none behind them: they are left out, their rewards
with them, and the row before becomes the time-out (as in D4RL's `qlearning_dataset`, which however forgets where the
episode ended). A terminal row stays, for its reward: its next observation is its own, which no critic reads.

Groups of observations or actions become one vector in the order of their keys. What is flattened, left out or cut
comes back as faults beside the transitions. Minari's other format (arrow), pictures and texts are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import read_json
from data_pipeline.mapping.paths import EpisodeError
from data_pipeline.schema.types import Transition
from data_pipeline.sources.hdf5 import group_names, read_tree, write_tree
from data_pipeline.sources.raw import Fault

MINARI_FILE = "main_data.hdf5"
_FLOATS = ("observations", "actions", "rewards", "next_observations")
_FLAGS = ("terminals", "timeouts")


@dataclass(frozen=True)
class TransitionFile:
    """The transitions of one file, and what there is to say of it."""

    transition: Transition
    faults: tuple[Fault, ...]
    parts: Mapping[str, slice] = field(default_factory=dict)  # of a flattened vector, by path: "observations/goal"


def read_transitions(path: str | Path, max_episode_steps: int | None = None) -> TransitionFile:
    """A D4RL file, a Minari folder, or a folder of D4RL files as one data set, by what is there."""
    path = Path(path)
    if not path.is_dir():
        return read_d4rl(path, max_episode_steps)
    if not (paths := sorted(path.glob("*.hdf5"))):
        return read_minari(path)
    files = [read_d4rl(file, max_episode_steps) for file in paths]
    faults = tuple(fault for file in files for fault in file.faults)
    return TransitionFile(joined([file.transition for file in files], path.name), faults)


def joined(parts: Sequence[Transition], name: str) -> Transition:
    """Several data sets of one task, one behind the other, with the `infos` that all have.

    A last episode that did not end is cut where its part ends.
    """
    widths = {(part.observations.shape[1], part.actions.shape[1]) for part in parts}
    if len(widths) > 1:
        raise ValueError(f"{name} joins several tasks: (observation, action) have widths {sorted(widths)}")
    columns = {key: np.concatenate([getattr(part, key) for part in parts]) for key in (*_FLOATS, "terminals")}
    columns["timeouts"] = np.concatenate([part.ends() & ~part.terminals for part in parts])
    common = set.intersection(*(set(part.infos) for part in parts))
    infos = {key: np.concatenate([part.infos[key] for part in parts]) for key in sorted(common)}
    return Transition(name, **columns, infos=infos)


def read_d4rl(path: str | Path, max_episode_steps: int | None = None) -> TransitionFile:
    """One D4RL file. `max_episode_steps` is the environment's time limit, for files without `timeouts`.

    Raises `ValueError` naming the file and what it lacks.
    """
    path = Path(path)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
    try:
        return _d4rl(path, max_episode_steps)
    except EpisodeError as error:
        raise ValueError(f"{path}: {error}") from None


def read_reference_returns(path: str | Path) -> tuple[float, float] | None:
    """`random_return` and `expert_return` of a D4RL file's attributes, of a folder's first file; None without them."""
    path = Path(path)
    file = next(iter(sorted(path.glob("*.hdf5"))), None) if path.is_dir() else path
    if file is None:
        return None
    attributes = read_tree(file).attributes
    if "random_return" not in attributes or "expert_return" not in attributes:
        return None
    return float(attributes["random_return"]), float(attributes["expert_return"])


def read_minari(root: str | Path) -> TransitionFile:
    """One Minari data set, the folder that holds `data`. An episode that cannot be used is left out and a fault.

    Raises `ValueError` for a folder of another format, or when no episode is left.
    """
    root = Path(root)
    path, metadata = root / "data" / MINARI_FILE, root / "data" / "metadata.json"
    stated = read_json(metadata, "this is no complete Minari data set") if metadata.is_file() else {}
    if stated.get("data_format", "hdf5") != "hdf5":
        raise ValueError(f"{root} is stored as {stated['data_format']!r}: Minari data sets of format hdf5 are read")
    name = str(stated.get("dataset_id", root.name))
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: {root} is no Minari data set")
    faults: list[Fault] = []
    rows, parts = _minari_episodes(path, name, faults)
    if not rows:
        first = f"; the first: {faults[0].message}" if faults else ""
        raise ValueError(f"{path}: none of its episodes can be used{first}")
    cut = sum(not (episode["terminals"] | episode["timeouts"])[-1] for episode in rows)
    for episode in rows:
        episode["timeouts"][-1] |= not episode["terminals"][-1]
    if cut:
        told = f"{cut} of {len(rows)} episodes say neither that they ended nor that they were cut: taken as cut"
        faults.append(Fault("no_end", name, told, left_out=False))
    common = set.intersection(*(set(episode["infos"]) for episode in rows))
    infos = {key: np.concatenate([episode["infos"][key] for episode in rows]) for key in sorted(common)}
    columns = {key: np.concatenate([episode[key] for episode in rows]) for key in (*_FLOATS, *_FLAGS)}
    return TransitionFile(Transition(name, **columns, infos=infos), tuple(faults), parts)


def write_d4rl(path: str | Path, transition: Transition, attributes: Mapping[str, Any] | None = None) -> None:
    """One D4RL file, with `next_observations`, whole or not at all. `attributes` are of the file: task, seeds, ..."""
    arrays = {key: getattr(transition, key) for key in (*_FLOATS, *_FLAGS)}
    arrays |= {f"infos/{key}": np.asarray(values) for key, values in transition.infos.items()}
    write_tree(path, arrays, attributes or {})


def _d4rl(path: Path, max_episode_steps: int | None) -> TransitionFile:
    arrays = read_tree(path).arrays
    _need(arrays, ("observations", "actions", "rewards", "terminals"))
    columns = {key: _rows(arrays[key], np.float32) for key in _FLOATS if key in arrays}
    columns["rewards"] = columns["rewards"].reshape(-1)
    columns |= {key: _rows(arrays[key], np.bool_).reshape(-1) for key in _FLAGS if key in arrays}
    columns |= {key: values for key, values in arrays.items() if key.startswith("infos/") and values.ndim}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise EpisodeError("lengths", f"all fields must have as many rows, got {lengths}")
    if not len(columns["rewards"]):
        raise EpisodeError("zero_length", "it has no rows")
    if "timeouts" not in columns:
        if max_episode_steps is None:
            told = "it has no 'timeouts': pass max_episode_steps, the time limit of its environment"
            raise EpisodeError("missing_field", told)
        columns["timeouts"] = _time_limit(columns["terminals"], max_episode_steps)
    faults: list[Fault] = []
    columns = _finite_episodes(columns, path.name, faults)
    if "next_observations" not in columns:
        columns = _with_successors(columns, path.name, faults)
    infos = {key.removeprefix("infos/"): columns.pop(key) for key in list(columns) if key.startswith("infos/")}
    return TransitionFile(Transition(path.stem, **columns, infos=infos), tuple(faults))


def _need(arrays: Mapping[str, np.ndarray], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in arrays or not arrays[key].ndim]
    if missing:
        raise EpisodeError("missing_field", f"it has no {', '.join(map(repr, missing))}: it has {sorted(arrays)}")


def _rows(values: np.ndarray, dtype: type) -> np.ndarray:
    """(rows, n): a number a row becomes a column."""
    return np.asarray(values).reshape(len(values), -1 if len(values) else 1).astype(dtype)


def _time_limit(terminals: np.ndarray, max_episode_steps: int) -> np.ndarray:
    """Time-outs of an environment that cuts every episode at so many steps."""
    timeouts = np.zeros(len(terminals), dtype=bool)
    starts = np.concatenate([[0], np.flatnonzero(terminals) + 1, [len(terminals)]])
    for start, stop in pairwise(starts):
        timeouts[start + max_episode_steps - 1 : stop : max_episode_steps] = True
    return timeouts & ~terminals


def _finite_episodes(columns: dict[str, np.ndarray], name: str, faults: list[Fault]) -> dict[str, np.ndarray]:
    """The rows of the episodes all of whose numbers are numbers."""
    num_rows = len(columns["rewards"])
    finite = np.ones(num_rows, dtype=bool)
    for key in _FLOATS:
        if key in columns:
            finite &= np.isfinite(columns[key].reshape(num_rows, -1)).all(axis=1)
    if finite.all():
        return columns
    ended = columns["terminals"] | columns["timeouts"]
    episode = np.concatenate([[0], np.cumsum(ended)[:-1]])
    spoilt = np.unique(episode[~finite])
    keep = ~np.isin(episode, spoilt)
    bad = np.flatnonzero(~finite)
    told = f"not finite at {len(bad)} rows, first at row {bad[0]}: {len(spoilt)} of {episode[-1] + 1} episodes left out"
    if not keep.any():
        raise EpisodeError("nan", told)
    faults.append(Fault("nan", name, told, left_out=False))
    return {key: values[keep] for key, values in columns.items()}


def _with_successors(columns: dict[str, np.ndarray], name: str, faults: list[Fault]) -> dict[str, np.ndarray]:
    """Next observations from the rows behind; rows that have none are left out."""
    terminals, timeouts = columns["terminals"], columns["timeouts"].copy()
    lost = timeouts & ~terminals
    before = np.zeros(len(lost), dtype=bool)  # rows whose episode ends with them now
    before[:-1] = lost[1:] & ~(terminals | timeouts)[:-1]
    lost[-1] = not terminals[-1]
    behind = np.concatenate([columns["observations"][1:], columns["observations"][-1:]])
    own = terminals[:, None]
    columns = columns | {
        "timeouts": timeouts | before,
        "next_observations": np.where(own, columns["observations"], behind),
    }
    if lost.all():
        raise EpisodeError("no_successor", "it has no next_observations, and no row has one behind it")
    if lost.any():
        told = f"{int(lost.sum())} of {len(lost)} rows have no next observation: left out, with their rewards"
        faults.append(Fault("no_successor", name, told, left_out=False))
    return {key: values[~lost] for key, values in columns.items()}


def _minari_episodes(path: Path, name: str, faults: list[Fault]) -> tuple[list[dict[str, Any]], dict[str, slice]]:
    """Columns of every episode that can be used, in the order of their numbers, and the parts of their vectors."""
    rows: list[dict[str, Any]] = []
    parts: dict[str, slice] = {}
    for group in sorted((key for key in group_names(path) if re.fullmatch(r"episode_\d+", key)), key=_natural):
        episode = _episode_or_fault(path, group, name, parts if rows else None)
        if isinstance(episode, Fault):
            faults.append(episode)
            continue
        columns, parts = episode
        rows.append(columns)
    flat = [key for key in parts if "/" in key]
    if flat:
        faults.append(
            Fault("flattened", name, f"one vector of several fields, in the order {', '.join(flat)}", left_out=False)
        )
    return rows, parts


def _episode_or_fault(
    path: Path, group: str, name: str, parts: Mapping[str, slice] | None
) -> tuple[dict[str, Any], dict[str, slice]] | Fault:
    """One episode, whose vectors must consist of the parts of those before it."""
    try:
        columns, found = _minari_episode(path, group)
        if parts not in (None, found):
            raise EpisodeError("wrong_width", f"its vectors consist of {found}, those before it of {parts}")
    except ValueError as error:
        kind = error.kind if isinstance(error, EpisodeError) else "truncated"
        return Fault(kind, f"{name}, {group}", f"{error}: the episode is left out")
    return columns, found


def _minari_episode(path: Path, group: str) -> tuple[dict[str, Any], dict[str, slice]]:
    tree = read_tree(path, group)
    arrays = tree.arrays
    unread = [key for key in tree.others if key.split("/")[0] in ("observations", "actions")]
    if unread:
        raise EpisodeError("wrong_kind", f"holds texts or pictures in {', '.join(unread)}: only numbers are read")
    _need(arrays, ("rewards", "terminations", "truncations"))
    observations, parts = _flat(arrays, "observations")
    actions, action_parts = _flat(arrays, "actions")
    flags = {name: arrays[key].astype(bool) for name, key in zip(_FLAGS, ("terminations", "truncations"), strict=True)}
    columns: dict[str, Any] = {"actions": actions, "rewards": arrays["rewards"].astype(np.float32), **flags}
    steps = len(columns["rewards"])
    lengths = {key: len(values) for key, values in columns.items()} | {"observations": len(observations) - 1}
    if steps == 0:
        raise EpisodeError("zero_length", "has no steps")
    if set(lengths.values()) != {steps}:
        raise EpisodeError("lengths", f"every field must have as many steps and observations one more, got {lengths}")
    columns |= {"observations": observations[:-1], "next_observations": observations[1:]}
    for key in _FLOATS:
        if not np.isfinite(columns[key]).all():
            raise EpisodeError("nan", f"{key} is not finite")
    columns["infos"] = dict(_minari_infos(arrays, steps))
    return columns, parts | action_parts


def _flat(arrays: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, dict[str, slice]]:
    """The vectors (rows, n) of a field or of a group of fields in the order of their keys, and where each stands."""
    keys = [name] if name in arrays else sorted((key for key in arrays if key.startswith(f"{name}/")), key=_natural)
    _need(arrays, keys or (name,))
    if len({len(arrays[key]) for key in keys}) > 1:
        raise EpisodeError("lengths", f"{name} differ in length: { {key: len(arrays[key]) for key in keys} }")
    columns = [_rows(arrays[key], np.float32) for key in keys]
    ends = np.cumsum([column.shape[1] for column in columns]).tolist()
    parts = {key: slice(end - c.shape[1], end) for key, end, c in zip(keys, ends, columns, strict=True)}
    return np.concatenate(columns, axis=1), parts


def _minari_infos(arrays: Mapping[str, np.ndarray], steps: int) -> Iterator[tuple[str, np.ndarray]]:
    """What the environment said after each step; its first word is of the reset."""
    for key, values in arrays.items():
        if key.startswith("infos/") and values.ndim and len(values) in (steps, steps + 1):
            yield key.removeprefix("infos/"), values[len(values) - steps :]


def _natural(key: str) -> list[tuple[int, str]]:
    """Text order, with numbers in it by their value: episode_2 before episode_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key) if part]
