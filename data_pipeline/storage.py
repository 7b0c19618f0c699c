"""The native store: episodes in unified units on disk, one shard a file, pictures as JPEG.

    store.json             format, version, embodiment, and a table of the episodes
    episodes/000000.npz    live slots of states and actions, masks, JPEG bytes with their ends, description

Shards are written whole or not at all and describe themselves; the table is a copy of their descriptions
for opening in one read, renewed by `flush`. An interrupted writer therefore loses at most the episode in
hand: the next one adopts the shards that the table does not list. One writer at a time.
"""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.atomic import atomic_path, remove_leftovers, write_json
from data_pipeline.frames import JPEG_QUALITY, JpegFrames, encode_frames
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import Episode
from data_pipeline.stats import Moments, SlotStats

_FORMAT, _VERSION = "rdt-store", 1
_CACHE_BYTES = 2**30  # encoded episodes that a store keeps in memory


class EpisodeStore(Sequence[Episode]):
    """Episodes of one robot. Made by `create` or `open`."""

    def __init__(self, path: Path, embodiment: Embodiment, table: list[dict[str, Any]]) -> None:
        self.path = path
        self.embodiment = embodiment
        self._table = table  # one description an episode, in shard order
        self._cache: OrderedDict[int, tuple[Episode, int]] = OrderedDict()  # index -> episode, bytes

    @classmethod
    def create(cls, path: str | Path, embodiment: Embodiment) -> EpisodeStore:
        """A store to add to: a fresh one, or the one that is there already if it is of the same robot."""
        path = Path(path)
        if not (path / "store.json").exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ValueError(f"{path} exists and is no episode store: choose an empty or absent folder")
            store = cls(path, embodiment, [])
            store.flush()
            return store
        store = cls.open(path)
        if store.embodiment != embodiment:
            raise ValueError(
                f"{path} was made with another description of robot {store.embodiment.name!r} than the given "
                f"one of {embodiment.name!r}: write into another folder"
            )
        remove_leftovers(path)
        remove_leftovers(path / "episodes")
        return store

    @classmethod
    def open(cls, path: str | Path) -> EpisodeStore:
        """An existing store. Reads one file, and the shards that an interrupted writer left unlisted."""
        path = Path(path)
        try:
            content = json.loads((path / "store.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is no episode store: it has no store.json") from None
        except ValueError as error:
            raise ValueError(f"{path / 'store.json'} is damaged ({error}): remove {path} and convert again") from None
        if content.get("format") != _FORMAT or content.get("version") != _VERSION:
            raise ValueError(
                f"{path} has format {content.get('format')!r} version {content.get('version')!r}, this code "
                f"reads {_FORMAT!r} version {_VERSION}"
            )
        store = cls(path, Embodiment.from_dict(content["embodiment"]), content["episodes"])
        while store._shard(len(store)).exists():
            with _shard_contents(store._shard(len(store))) as shard:
                store._table.append(_description(shard))
        return store

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]  # one episode, no slices
        """An episode whose frames are decoded when indexed; recently read ones are kept in memory."""
        index = range(len(self))[index]
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index][0]
        with _shard_contents(self._shard(index)) as shard:
            episode = _read_shard(shard, f"{self.path.name} episode {index}")
        self._cache[index] = (episode, self._shard(index).stat().st_size)
        while sum(size for _, size in self._cache.values()) > _CACHE_BYTES and len(self._cache) > 1:
            self._cache.popitem(last=False)
        return episode

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row["name"] for row in self._table)

    @property
    def episode_lengths(self) -> tuple[int, ...]:
        """Steps of each episode, without reading any."""
        return tuple(row["num_steps"] for row in self._table)

    @property
    def instructions(self) -> tuple[str, ...]:
        """All phrasings of all episodes, each once, without reading any."""
        return tuple(dict.fromkeys(phrasing for row in self._table for phrasing in row["instructions"]))

    @property
    def sources(self) -> dict[str, Any]:
        """Episode name -> what its converter noted about where it came from."""
        return {row["name"]: row["source"] for row in self._table}

    @property
    def decoded_bytes(self) -> int:
        """Memory that `decoded` would take for its pictures."""
        sizes = (
            row["num_steps"] * height * width * 3
            for row in self._table
            for height, width in row["frame_sizes"].values()
        )
        return sum(sizes)

    def decoded(self) -> list[Episode]:
        """All episodes with their pictures decoded into read-only arrays (see `decoded_bytes` first)."""
        return [_decode(episode) for episode in self]

    def add(self, episode: Episode, source: Mapping[str, Any] | None = None) -> int:
        """Append an episode durably and return its index. `source` is noted beside it, plain types."""
        if episode.name in self.names:
            raise ValueError(f"{self.path} holds an episode named {episode.name!r} already")
        index = len(self)
        members, description = _shard_members(episode, dict(source or {}))
        with atomic_path(self._shard(index)) as temporary:
            np.savez(temporary, **members)
        self._table.append(description)
        return index

    def flush(self) -> None:
        """Bring the table on disk up to date."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "embodiment": self.embodiment.to_dict(),
            "episodes": self._table,
        }
        write_json(self.path / "store.json", content)

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def stats(self, which: Literal["state", "action"]) -> SlotStats:
        """Statistics of all steps, in one pass over the shards; pictures are not read."""
        return self.moments(which, range(len(self))).finish()

    def moments(self, which: Literal["state", "action"], indices: Iterable[int]) -> Moments:
        """Sums over some episodes, to be added to those of other stores."""
        moments = Moments.zero()
        for index in indices:
            with _shard_contents(self._shard(index)) as shard:
                moments += Moments.of(*_vectors(shard, which))
        return moments

    def _shard(self, index: int) -> Path:
        return self.path / "episodes" / f"{index:06d}.npz"


class EpisodeSelection(Sequence[Episode]):
    """Some episodes of a store, read like a store: a training or a held-out part."""

    def __init__(self, store: EpisodeStore, indices: Sequence[int]) -> None:
        self.store = store
        self.indices = tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]  # one episode, no slices
        return self.store[self.indices[index]]

    @property
    def episode_lengths(self) -> tuple[int, ...]:
        lengths = self.store.episode_lengths
        return tuple(lengths[i] for i in self.indices)

    @property
    def decoded_bytes(self) -> int:
        """Memory that `decoded` would take for its pictures, if all episodes of the store are alike."""
        return self.store.decoded_bytes * sum(self.episode_lengths) // max(sum(self.store.episode_lengths), 1)

    def moments(self, which: Literal["state", "action"]) -> Moments:
        """Sums over these episodes."""
        return self.store.moments(which, self.indices)

    def decoded(self) -> list[Episode]:
        """The episodes with their pictures decoded into read-only arrays."""
        return [_decode(episode) for episode in self]


def split_held_out(store: EpisodeStore, every: int) -> tuple[EpisodeSelection, EpisodeSelection]:
    """(training part, held-out part): the last episode of each stride of `every` is held out; 0: none."""
    held_out = range(every - 1, len(store), every) if every else range(0)
    training = [i for i in range(len(store)) if i not in held_out]
    return EpisodeSelection(store, training), EpisodeSelection(store, held_out)


@contextmanager
def _shard_contents(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The members of a shard, read when indexed; damage of any kind becomes one `ValueError`."""
    try:
        with np.load(path, allow_pickle=False) as members:
            yield members
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        store = path.parents[1]
        raise ValueError(f"{path} is missing or damaged ({error}): remove {store} and convert again") from None


def _shard_members(episode: Episode, source: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An episode as named arrays, and its row of the table."""
    members: dict[str, Any] = {
        "states": episode.states[:, episode.state_mask],
        "state_mask": episode.state_mask,
        "actions": episode.actions[:, episode.action_mask],
        "action_mask": episode.action_mask,
    }
    colours, sizes = {}, {}
    for role, frames in episode.images.items():
        jpegs = encode_frames(frames, JPEG_QUALITY)
        members[f"jpeg_{role}"] = np.frombuffer(b"".join(jpegs.encoded), dtype=np.uint8)
        members[f"jpeg_ends_{role}"] = np.cumsum([len(jpeg) for jpeg in jpegs.encoded], dtype=np.int64)
        colours[role] = jpegs.colour
        shapes = {frame.shape for frame in frames}  # decodes every frame: a broken one is found now
        if len(shapes) != 1:
            raise ValueError(f"episode {episode.name!r}: camera {role!r} changes its size: {sorted(shapes)}")
        sizes[role] = list(shapes.pop()[:2])
    description = {
        "name": episode.name,
        "num_steps": episode.num_steps,
        "instructions": list(episode.instructions),
        "rate_hz": episode.rate_hz,
        "action_offset_steps": episode.action_offset_steps,
        "colours": colours,
        "frame_sizes": sizes,
        "source": source,
    }
    text = json.dumps(description, allow_nan=False).encode("utf-8")
    members["description"] = np.frombuffer(text, dtype=np.uint8)
    return members, description


def _description(shard: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(shard["description"].tobytes())


def _vectors(shard: Mapping[str, np.ndarray], which: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, 128) and its mask, from the live slots."""
    mask, live = shard[f"{which}_mask"], shard[f"{which}s"]
    vectors = np.zeros((len(live), NUM_SLOTS), dtype=np.float32)
    vectors[:, mask] = live
    return vectors, mask


def _read_shard(shard: Mapping[str, np.ndarray], where: str) -> Episode:
    description = _description(shard)
    states, state_mask = _vectors(shard, "state")
    actions, action_mask = _vectors(shard, "action")
    images = {}
    for role, colour in description["colours"].items():
        content, ends = shard[f"jpeg_{role}"].tobytes(), shard[f"jpeg_ends_{role}"].tolist()
        jpegs = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        images[role] = JpegFrames(jpegs, colour, name=f"{where}, camera {role!r}")
    return Episode(
        name=description["name"],
        states=states,
        state_mask=state_mask,
        actions=actions,
        action_mask=action_mask,
        images=images,
        instructions=tuple(description["instructions"]),
        rate_hz=description["rate_hz"],
        action_offset_steps=description["action_offset_steps"],
    )


def _decode(episode: Episode) -> Episode:
    images = {role: np.stack(list(frames)) for role, frames in episode.images.items()}
    for frames in images.values():
        frames.flags.writeable = False
    return replace(episode, images=images)
