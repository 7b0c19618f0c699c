"""Training samples by global index, read from stores in the order of a `Mixture`.

A sample that cannot be read, its picture or file being damaged, is tried once more, then replaced by the sample at a
place that follows from (seed, index, attempt) alone: any division of the work replaces it by the same one. Whoever
draws is told which place was bad, and decides how many of them are too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipeline.mapping.mixtures import WeightUnit
from data_pipeline.mixture import Mixture, Place
from data_pipeline.randomness import sample_rng
from data_pipeline.sampling import make_sample
from data_pipeline.schema.types import ACTORS, Episode, Sample
from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore

MAX_SUBSTITUTES = 8
"""Places tried for one sample after its own; were one in ten bad, one sample in a billion would find none."""

_KEPT_EPISODES = 4096  # whose deviations and norms are kept, 1 KB each


@dataclass(frozen=True)
class BadSample:
    """A place that could not be read, and what was read in its stead."""

    index: int  # of the sample in the stream
    place: Place
    store: str  # its path
    episode: str  # its name
    message: str  # why
    substitute: Place

    def __str__(self) -> str:
        return f"{self.store}, episode {self.episode!r}, step {self.place.step}: {self.message}"


@dataclass(frozen=True)
class Drawn:
    """A sample, where it comes from, and the places that should have been read before that one."""

    sample: Sample
    place: Place
    bad: tuple[BadSample, ...] = ()


class UnreadableError(ValueError):
    """Neither a sample nor any that could stand in its stead can be read."""


class SampleStream:
    """Samples by global index: what a loader's workers read."""

    def __init__(
        self,
        stores: Sequence[EpisodeStore | EpisodeSelection],
        *,
        seed: int,
        horizon: int,
        image_history: int = 2,
        cameras: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        weight_unit: WeightUnit = "step",
        start_fraction: float = 0.0,
        start_steps: int = 6,
        operator_fraction: float = 0.0,
        episode_weights: Sequence[np.ndarray] | None = None,
        decoded_cache_bytes: int = 2**31,
    ) -> None:
        """Stores are held in memory decoded where all pictures fit into `decoded_cache_bytes` together.

        Pictures of other cameras than `cameras` are not read. `operator_fraction` of the samples of a store in which a
        person acted are drawn from those steps: corrections of a policy. `episode_weights` are a number an episode,
        (episodes,) for each store: how often its steps come, relative to the store's others.
        """
        fits = sum(store.decoded_bytes for store in stores) <= decoded_cache_bytes
        self._episodes: list[Sequence[Episode]] = [_decoded(store) if fits else store for store in stores]
        self.mixture = Mixture(
            [store.episode_lengths for store in stores],
            seed=seed,
            weights=weights,
            weight_unit=weight_unit,
            visit_lengths=[store.visit_lengths for store in stores],
            start_fraction=start_fraction,
            start_steps=start_steps,
            chosen_fraction=operator_fraction,
            chosen_steps=[_operated(episodes) for episodes in self._episodes] if operator_fraction else None,
            episode_weights=None if episode_weights is None else [of_store.tolist() for of_store in episode_weights],
        )
        self.horizon = horizon
        self.image_history = image_history
        self._cameras = cameras
        self._stores = tuple(stores)
        self._deviation = lru_cache(maxsize=_KEPT_EPISODES)(self._measure_deviation)
        self._norm = lru_cache(maxsize=_KEPT_EPISODES)(self._measure_norm)

    def __getitem__(self, index: int) -> Sample:
        """The sample of that index. Raises `ValueError` where it cannot be read."""
        return self._read(index, self.mixture.locate(index))

    def draw(self, index: int) -> Drawn:
        """The sample of that index, or its substitute.

        Raises `UnreadableError` where there is none. Errors other than `ValueError` are no damage and pass.
        """
        place = self.mixture.locate(index)
        unread: list[tuple[Place, str]] = []
        for attempt in range(1, MAX_SUBSTITUTES + 2):
            sample = self._read_twice(index, place, unread)
            if sample is not None:
                return Drawn(sample, place, self._explained(index, unread, place) if unread else ())
            if attempt <= MAX_SUBSTITUTES:
                place = self.mixture.substitute(index, attempt)
        first = self._explained(index, unread[:1], place)[0]
        raise UnreadableError(
            f"sample {index} cannot be read, nor can {MAX_SUBSTITUTES} that were tried in its stead: {first}"
        )

    def state_deviation(self, place: Place) -> np.ndarray:
        """Standard deviation of each slot over all steps of the place's episode, float64 (128,)."""
        return self._deviation(place.store, place.episode)

    def state_norm(self, place: Place) -> np.ndarray:
        """Root mean square of each slot over all steps of the place's episode, float64 (128,)."""
        return self._norm(place.store, place.episode)

    def describe(self, index: int) -> str:
        """Where the sample of an index comes from, in words."""
        place = self.mixture.locate(index)
        store, episode = self._names(place)
        return f"sample {index} ({store}, episode {episode!r}, step {place.step})"

    def _read(self, index: int, place: Place) -> Sample:
        return make_sample(
            self._episodes[place.store][place.episode],
            place.step,
            horizon=self.horizon,
            image_history=self.image_history,
            cameras=self._cameras,
            rng=sample_rng(self.mixture.seed, index, "instruction"),
        )

    def _read_twice(self, index: int, place: Place, unread: list[tuple[Place, str]]) -> Sample | None:
        """The sample; None, noting place and reason, when a second try fails too: a network drive may stumble once."""
        with suppress(ValueError):
            return self._read(index, place)
        try:
            return self._read(index, place)
        except ValueError as error:
            unread.append((place, str(error)))
            return None

    def _explained(self, index: int, unread: Sequence[tuple[Place, str]], substitute: Place) -> tuple[BadSample, ...]:
        return tuple(BadSample(index, place, *self._names(place), message, substitute) for place, message in unread)

    def _names(self, place: Place) -> tuple[str, str]:
        store = self._stores[place.store]
        return str(store.path), store.entry(place.episode).name

    def _measure_deviation(self, store: int, episode: int) -> np.ndarray:
        return self._episodes[store][episode].states.std(axis=0, dtype=np.float64)

    def _measure_norm(self, store: int, episode: int) -> np.ndarray:
        return np.sqrt(np.square(self._episodes[store][episode].states, dtype=np.float64).mean(axis=0))


def _operated(episodes: Sequence[Episode]) -> list[list[int]]:
    """Steps of each episode at which a person acted."""
    operator = ACTORS.index("operator")
    return [
        [] if episode.actor_of_step is None else np.flatnonzero(episode.actor_of_step == operator).tolist()
        for episode in episodes
    ]


def _decoded(store: EpisodeStore | EpisodeSelection) -> Sequence[Episode]:
    try:
        return store.decoded()
    except ValueError:  # a damaged picture, found again and named when its sample is drawn
        return store
