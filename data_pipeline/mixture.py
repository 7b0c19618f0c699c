"""The order of training samples as a pure function of (seed, global index): no state, no workers, no ranks.

    index -> shuffled within its block -> stream, by exact interleave of the weights
          -> pass and position in the stream, shuffled anew each pass -> (store, episode, step)

Rank r of n takes indices r, r + n, ...; to resume is to go on counting. Every step of a store comes once in
each pass over it, and after any number of samples each stream's share is right to within a block. A store
has two streams, all of its steps and the first steps of its episodes; the second gets `start_fraction` of
the samples: later steps betray the task in the state, so only the first ones teach a policy to listen (spec
quickstart_sim.md section 5).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from data_pipeline.randomness import sample_rng
from data_pipeline.sampling import make_sample
from data_pipeline.schema.types import Episode, Sample
from data_pipeline.storage import EpisodeSelection, EpisodeStore

_BLOCK = 4096  # indices that are shuffled together before the interleave, so that no rank sees a pattern
_MASK64 = 2**64 - 1


class Place(NamedTuple):
    """Where a sample comes from."""

    store: int
    episode: int
    step: int


class Mixture:
    """The order of samples over stores of the given episode lengths."""

    def __init__(
        self,
        episode_lengths: Sequence[Sequence[int]],
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        start_fraction: float = 0.0,
        start_steps: int = 6,
    ) -> None:
        """`weights` are the stores' shares of the samples, by default their shares of all steps.

        `start_fraction` of each store's samples are drawn from the first `start_steps` steps of its episodes.
        """
        if not episode_lengths or not all(sum(lengths) for lengths in episode_lengths):
            raise ValueError("a mixture needs at least one store, and each at least one episode")
        if weights is None:
            weights = [sum(lengths) for lengths in episode_lengths]
        if len(weights) != len(episode_lengths) or min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(f"weights must be {len(episode_lengths)} numbers from 0 on, one a store, got {weights}")
        if not 0 <= start_fraction <= 1 or start_steps < 1:
            raise ValueError(
                f"start_fraction must be in [0, 1] and start_steps at least 1, got {start_fraction} and {start_steps}"
            )
        self.seed = seed
        self._streams: list[_Stream] = []
        shares = []
        for store, (lengths, weight) in enumerate(zip(episode_lengths, weights, strict=True)):
            starts = [min(length, start_steps) for length in lengths]
            for steps, share in ((lengths, 1 - Fraction(start_fraction)), (starts, Fraction(start_fraction))):
                if share * Fraction(weight):
                    self._streams.append(_Stream(store, list(accumulate(steps))))
                    shares.append(share * Fraction(weight))
        self._interleave = _Interleave(shares)

    def locate(self, index: int) -> Place:
        """The place of one sample, for any index from 0 on."""
        block, position = divmod(index, _BLOCK)
        shuffled = block * _BLOCK + shuffled_index(position, _BLOCK, _mix(self.seed, -1, block))
        number, count = self._interleave.locate(shuffled)
        stream = self._streams[number]
        epoch, position = divmod(count, stream.num_steps)
        step = shuffled_index(position, stream.num_steps, _mix(self.seed, number, epoch))
        return stream.locate(step)


class SampleStream:
    """Samples by global index: what a loader's workers read."""

    def __init__(
        self,
        stores: Sequence[EpisodeStore | EpisodeSelection],
        *,
        seed: int,
        horizon: int,
        image_history: int = 2,
        weights: Sequence[float] | None = None,
        start_fraction: float = 0.0,
        start_steps: int = 6,
        decoded_cache_bytes: int = 2**31,
    ) -> None:
        """Stores are held in memory decoded where all pictures fit into `decoded_cache_bytes` together."""
        self.mixture = Mixture(
            [store.episode_lengths for store in stores],
            seed=seed,
            weights=weights,
            start_fraction=start_fraction,
            start_steps=start_steps,
        )
        self.horizon = horizon
        self.image_history = image_history
        fits = sum(store.decoded_bytes for store in stores) <= decoded_cache_bytes
        self._episodes: list[Sequence[Episode]] = [store.decoded() if fits else store for store in stores]

    def __getitem__(self, index: int) -> Sample:
        place = self.mixture.locate(index)
        return make_sample(
            self._episodes[place.store][place.episode],
            place.step,
            horizon=self.horizon,
            image_history=self.image_history,
            rng=sample_rng(self.mixture.seed, index, "instruction"),
        )


@dataclass(frozen=True)
class _Stream:
    """Steps of one store to be drawn equally often: the first so many of each episode."""

    store: int
    ends: list[int]  # steps of the episodes, accumulated

    @property
    def num_steps(self) -> int:
        return self.ends[-1]

    def locate(self, step: int) -> Place:
        episode = bisect_right(self.ends, step)
        return Place(self.store, episode, step - (self.ends[episode - 1] if episode else 0))


class _Interleave:
    """Deals 0, 1, 2, ... to streams by exact shares: a tree of pairs, each split in two without remainder."""

    def __init__(self, shares: Sequence[Fraction]) -> None:
        self._tree = self._build(list(enumerate(shares)))

    def _build(self, streams: list[tuple[int, Fraction]]):
        if len(streams) == 1:
            return streams[0][0]
        half = len(streams) // 2
        left, right = streams[:half], streams[half:]
        share = sum((s for _, s in left), Fraction(0)) / sum(s for _, s in streams)
        return share.numerator, share.denominator, self._build(left), self._build(right)

    def locate(self, n: int) -> tuple[int, int]:
        """(stream of the n-th sample, how many samples that stream has had before)."""
        node = self._tree
        while isinstance(node, tuple):
            numerator, denominator, left, right = node
            before, after = n * numerator // denominator, (n + 1) * numerator // denominator
            node, n = (left, before) if after > before else (right, n - before)
        return node, n


def shuffled_index(position: int, size: int, key: int) -> int:
    """Where `position` stands in a permutation of range(size) that `key` chooses, in constant memory.

    A Feistel network over the next power of four, walked until it lands inside: at most four tries on
    average.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half_bits) - 1
    while True:
        left, right = position >> half_bits, position & low
        for round_number in range(4):
            mixed = ((right + key) * 0x9E3779B97F4A7C15 + round_number * 0xD1B54A32D192ED03) & _MASK64
            mixed = ((mixed ^ (mixed >> 32)) * 0xBF58476D1CE4E5B9) & _MASK64
            left, right = right, left ^ (mixed >> 40 & low)
        position = (left << half_bits) | right
        if position < size:
            return position


def _mix(*numbers: int) -> int:
    """One 64-bit key of several numbers (the finaliser of splitmix64)."""
    key = 0
    for number in numbers:
        key = (key ^ number) + 0x9E3779B97F4A7C15 & _MASK64
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _MASK64
        key ^= key >> 31
    return key
