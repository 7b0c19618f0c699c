"""One store of several. Nothing is renamed in silence: names that meet are an error until a rename says what is meant.

Pictures keep their bytes and are decoded once, so that a broken one is found now. Stores of different rates do not
join, since a LeRobotDataset has one rate; a mixture trains on them side by side without any copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.atomic import check_apart
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import unknown_name
from data_pipeline.schema.types import CAMERA_ROLES, Episode
from data_pipeline.shards import EpisodeEntry
from data_pipeline.storage import EpisodeStore

KINDS = ("camera", "field", "task", "episodes")


@dataclass(frozen=True)
class Rename:
    """One name of one kind that becomes another; an empty new name leaves a camera or a field out."""

    kind: str  # camera: a role; field: a path of the source's own; task: a phrasing; episodes: the start of names
    old: str
    new: str
    store: int | None = None  # from 0 on; None: all

    @classmethod
    def parse(cls, text: str) -> Rename:
        """`[N:]KIND:OLD=NEW`, N from 1 on as the stores are written."""
        head, _, rest = text.partition(":")
        store = int(head) - 1 if head.isdigit() else None
        kind, colon, names = (rest if store is not None else text).partition(":")
        old, equals, new = names.partition("=")
        if not colon or not equals or store == -1:
            raise ValueError(
                f"a rename is [N:]KIND:OLD=NEW, for instance 2:camera:external=left_wrist or 2:episodes:=second/, "
                f"got {text!r}"
            )
        if kind not in KINDS:
            raise ValueError(unknown_name("kind of rename", kind, KINDS))
        if not old and kind != "episodes":
            raise ValueError(f"{text!r} names nothing to rename")
        if kind == "camera":
            for role in (old, *([new] if new else [])):
                if role not in CAMERA_ROLES:
                    raise ValueError(unknown_name("camera", role, CAMERA_ROLES))
        if kind == "task" and not new:
            raise ValueError(f"{text!r}: a task needs words, an empty instruction is none")
        return cls(kind, old, new, store)

    def __str__(self) -> str:
        where = "" if self.store is None else f"{self.store + 1}:"
        return f"{where}{self.kind}:{self.old}={self.new}"


def merge(
    stores: Sequence[EpisodeStore],
    out: str | Path,
    renames: Sequence[Rename] = (),
    progress: Callable[[], object] = lambda: None,
) -> EpisodeStore:
    """Write the episodes of `stores`, in their order, into the new store `out`; an interrupted call goes on.

    The robot's description is kept where all have the same one; else the store holds unified vectors alone. Raises
    `ValueError` for names, rates or columns that do not go together, before anything is written, and for a rename that
    nothing answers to.
    """
    if len(stores) < 2:
        raise ValueError("merging takes two stores or more")
    check_apart(out, *(store.path for store in stores))
    _check_used(stores, renames)
    names = _renamed_episodes(stores, renames)
    _check_rates(stores)
    _check_columns(stores, renames)
    _check_begun(out, [name for of_store in names for name in of_store])
    robot = common_robot(stores)
    robot_type = robot.name if robot else "+".join(dict.fromkeys(store.robot_type or "unknown" for store in stores))
    with EpisodeStore.create(out, robot, robot_type=robot_type, profile=stores[0].profile) as merged:
        for number, store in enumerate(stores):
            ours = [rename for rename in renames if rename.store in (None, number)]
            for index, entry in enumerate(store.entries):
                if not merged.has(names[number][index]):
                    episode = _renamed(store[index], names[number][index], ours)
                    native = _renamed_keys(store.native(index), [r for r in ours if r.kind == "field"], entry.name)
                    merged.add(episode, entry.source, native=native, max_steps=entry.max_steps)
                progress()
    return merged


def common_robot(stores: Sequence[EpisodeStore]) -> Embodiment | None:
    """The description that all stores share; None where one has another one or none."""
    robots = [store.embodiment if store.is_described else None for store in stores]
    return robots[0] if all(robot == robots[0] for robot in robots) else None


def _renamed(episode: Episode, name: str, renames: Sequence[Rename]) -> Episode:
    cameras = [rename for rename in renames if rename.kind == "camera"]
    tasks = {rename.old: rename.new for rename in renames if rename.kind == "task"}
    return replace(
        episode,
        name=name,
        images=_renamed_keys(episode.images, cameras, name),
        image_masks=_renamed_keys(episode.image_masks, cameras, name),
        instructions=tuple(tasks.get(text, text) for text in episode.instructions),
    )


def _renamed_keys(values: Mapping[str, Any], renames: Sequence[Rename], episode: str) -> dict[str, Any]:
    table = {rename.old: rename.new for rename in renames}
    found: dict[str, Any] = {}
    for key, value in values.items():
        new = table.get(key, key)
        if new in found:
            raise ValueError(f"episode {episode!r}: two cameras or fields are named {new!r} after the renames")
        if new:
            found[new] = value
    return found


def _renamed_episodes(stores: Sequence[EpisodeStore], renames: Sequence[Rename]) -> list[list[str]]:
    seen: dict[str, int] = {}
    names: list[list[str]] = []
    for number, store in enumerate(stores):
        names.append([])
        for name in store.names:
            for rename in renames:
                if rename.kind == "episodes" and rename.store in (None, number) and name.startswith(rename.old):
                    name = rename.new + name.removeprefix(rename.old)
            if name in seen:
                raise ValueError(
                    f"{stores[seen[name]].path} and {store.path} both have an episode {name!r}: put a prefix before "
                    f"the names of one of them, --rename {number + 1}:episodes:=NEW/"
                )
            seen[name] = number
            names[-1].append(name)
    return names


def _check_begun(out: str | Path, names: Sequence[str]) -> None:
    """What is there already must be the beginning of this merge."""
    held = EpisodeStore.open(out).names if EpisodeStore.exists(out) else ()
    if list(held) != list(names[: len(held)]):
        raise ValueError(f"{out} holds episodes that are not the first of this merge: merge into a new folder")


def _check_used(stores: Sequence[EpisodeStore], renames: Sequence[Rename]) -> None:
    for rename in renames:
        if rename.store is not None and rename.store >= len(stores):
            raise ValueError(f"--rename {rename} names store {rename.store + 1} of {len(stores)}")
        named = [store for number, store in enumerate(stores) if rename.store in (None, number)]
        known = {name for store in named for name in _names(store, rename.kind)}
        used = any(name.startswith(rename.old) for name in known) if rename.kind == "episodes" else rename.old in known
        if not used:
            raise ValueError(f"--rename {rename}: " + unknown_name(rename.kind, rename.old, known))


def _names(store: EpisodeStore, kind: str) -> Sequence[str]:
    if kind == "camera":
        return [role for entry in store.entries for role in entry.frame_sizes]
    if kind == "field":
        return list(store.native_paths())
    return store.instructions if kind == "task" else store.names


def _check_rates(stores: Sequence[EpisodeStore]) -> None:
    rates: dict[float, EpisodeEntry] = {}
    for store in stores:
        for entry in store.entries:
            rates.setdefault(entry.rate_hz, entry)
    if len(rates) > 1:
        told = ", ".join(f"{entry.name!r} {rate:g} Hz" for rate, entry in rates.items())
        raise ValueError(
            f"the stores have several rates ({told}), a LeRobotDataset has one: train on them side by side by a "
            "mixture (data.stores) instead, or convert with fps: {from: timestamps, resample: Hz}"
        )


def _check_columns(stores: Sequence[EpisodeStore], renames: Sequence[Rename]) -> None:
    """Fields of one name have one type and width."""
    seen: dict[str, tuple[int, Any]] = {}
    for number, store in enumerate(stores):
        table = {r.old: r.new for r in renames if r.kind == "field" and r.store in (None, number)}
        for path, feature in store.native_paths().items():
            new, form = table.get(path, path), (feature.dtype, feature.shape)
            first, known = seen.setdefault(new, (number, form))
            if new and known != form:
                raise ValueError(
                    f"field {new!r} is {known[0]} {list(known[1])} in {stores[first].path} and {form[0]} "
                    f"{list(form[1])} in {store.path}: rename it, --rename {number + 1}:field:{path}=NEW, or leave it "
                    f"out, --rename {number + 1}:field:{path}="
                )
