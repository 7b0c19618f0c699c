"""Which episodes are meant: the stores at a path, a part of a store, the training and the held-out part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data_pipeline.schema.types import Episode
from data_pipeline.shards import EpisodeEntry
from data_pipeline.stats import Moments
from data_pipeline.storage import HEADER, EpisodeStore, decode_episode


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
    def visit_lengths(self) -> tuple[int, ...]:
        """Steps that one visit of each episode draws."""
        lengths = self.store.visit_lengths
        return tuple(lengths[i] for i in self.indices)

    @property
    def path(self) -> Path:
        """Of the store."""
        return self.store.path

    def entry(self, index: int) -> EpisodeEntry:
        """What the table says of one episode."""
        return self.store.entry(self.indices[index])

    @property
    def decoded_bytes(self) -> int:
        """Memory that `decoded` would take for its pictures, if all episodes of the store are alike."""
        return self.store.decoded_bytes * sum(self.episode_lengths) // max(sum(self.store.episode_lengths), 1)

    def moments(self, which: Literal["state", "action"]) -> Moments:
        """Sums over these episodes."""
        return self.store.moments(which, self.indices)

    def decoded(self) -> list[Episode]:
        """The episodes with their pictures decoded into read-only arrays."""
        return [decode_episode(episode) for episode in self]


def split_held_out(store: EpisodeStore, every: int) -> tuple[EpisodeSelection, EpisodeSelection]:
    """(training part, held-out part): the last episode of each stride of `every` is held out; 0: none."""
    held_out = range(every - 1, len(store), every) if every else range(0)
    training = [i for i in range(len(store)) if i not in held_out]
    return EpisodeSelection(store, training), EpisodeSelection(store, held_out)


def find_stores(path: str | Path) -> list[Path]:
    """The store at `path`, or those that lie side by side in that folder, by name."""
    path = Path(path)
    if EpisodeStore.exists(path):
        return [path]
    stores = sorted(header.parent for header in path.glob(f"*/{HEADER}"))
    if stores:
        return stores
    what = "holds none" if path.is_dir() else "there is no such folder"
    raise ValueError(f"{path} is no episode store and {what}: expected {path / HEADER} or {path / 'NAME' / HEADER}")
