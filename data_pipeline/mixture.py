"""The order of training samples as a pure function of (seed, global index): no state, no workers, no ranks.

    index -> shuffled within its block -> stream, by exact interleave of the weights
          -> pass and position in the stream, shuffled anew each pass -> (store, episode, step)

Rank r of n takes indices r, r + n, ...; to resume is to go on counting. Every step of a store comes once in
each pass over it, and after any number of samples each stream's share is right to within a block. A store
has up to three streams: all of its steps; the first steps of its episodes, which get `start_fraction` of the samples,
since later steps betray the task in the state and only the first ones teach a policy to listen (spec quickstart_sim.md
section 5); and `chosen_steps`, a person's corrections, say, which get `chosen_fraction`.

Weights count steps or, as published, episodes. In unit episode a pass over a store visits each of its episodes once
and draws at most so many of its steps (`visit_lengths`); the next visit goes on where a permutation of the episode's
steps was left, so that in the long run each comes equally often. `episode_weights` make episodes of a store come more
or less often than its others: a pass then draws as many of an episode's steps as its weight says, the store's share of
the samples stays.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from data_pipeline.mapping.mixtures import WeightUnit

_WEIGHTED_PASSES = 64  # of unweighted length in a weighted pass: weights are exact to 1/64 of a step of an episode
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
        weight_unit: WeightUnit = "step",
        visit_lengths: Sequence[Sequence[int]] | None = None,
        start_fraction: float = 0.0,
        start_steps: int = 6,
        chosen_fraction: float = 0.0,
        chosen_steps: Sequence[Sequence[Sequence[int]]] | None = None,
        episode_weights: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """`weights` in unit step are the stores' shares of the samples, by default their shares of all steps.

        In unit episode they are chances to visit an episode, which gives `visit_lengths` samples, by default all of
        its steps: a store's share is its weight times the mean of these. Without weights all episodes count alike.
        `start_fraction` of each store's samples are drawn from the first `start_steps` steps of its episodes.
        `chosen_fraction` of a store that has `chosen_steps`, of each of its episodes, are drawn from those.
        `episode_weights` say how often the steps of each episode come, relative to the others of its store; 0: never.
        """
        if not episode_lengths or not all(sum(lengths) for lengths in episode_lengths):
            raise ValueError("a mixture needs at least one store, and each at least one episode")
        if weight_unit == "step" or visit_lengths is None:
            visit_lengths = episode_lengths
        for lengths, visits in zip(episode_lengths, visit_lengths, strict=True):
            if any(not 1 <= visit <= length for length, visit in zip(lengths, visits, strict=True)):
                raise ValueError("a visit of an episode draws at least one of its steps and at most all of them")
        if weights is None:
            weights = [sum(lengths) if weight_unit == "step" else len(lengths) for lengths in episode_lengths]
        if len(weights) != len(episode_lengths) or min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(f"weights must be {len(episode_lengths)} numbers from 0 on, one a store, got {weights}")
        if not 0 <= start_fraction <= 1 or start_steps < 1:
            raise ValueError(
                f"start_fraction must be in [0, 1] and start_steps at least 1, got {start_fraction} and {start_steps}"
            )
        if not 0 <= chosen_fraction <= 1 - start_fraction:
            raise ValueError(
                f"chosen_fraction must be in [0, 1] and leave start_fraction {start_fraction} its share, got "
                f"{chosen_fraction}"
            )
        self.seed = seed
        self._streams: list[_Stream] = []
        shares = []
        starting = Fraction(start_fraction)
        for store, (lengths, visits, weight) in enumerate(zip(episode_lengths, visit_lengths, weights, strict=True)):
            starts = [min(length, start_steps) for length in lengths]
            chosen = chosen_steps[store] if chosen_steps else []
            counts = [len(steps) for steps in chosen]
            choosing = Fraction(chosen_fraction) if any(counts) else Fraction(0)
            of_store = Fraction(weight) * (Fraction(sum(visits), len(visits)) if weight_unit == "episode" else 1)
            for visible, drawn, share, steps in (
                (lengths, visits, 1 - starting - choosing, None),
                (starts, starts, starting, None),
                (counts, counts, choosing, chosen),
            ):
                if share * of_store:
                    if episode_weights is not None:
                        drawn = _weighted(drawn, episode_weights[store])
                    self._streams.append(_Stream(seed, len(self._streams), store, visible, drawn, steps))
                    shares.append(share * of_store)
        self._interleave = _Interleave(shares)

    def locate(self, index: int) -> Place:
        """The place of one sample, for any index from 0 on."""
        block, position = divmod(index, _BLOCK)
        shuffled = block * _BLOCK + shuffled_index(position, _BLOCK, _mix(self.seed, -1, block))
        number, count = self._interleave.locate(shuffled)
        return self._streams[number].locate(count)

    def substitute(self, index: int, attempt: int) -> Place:
        """Another place for a sample that cannot be read, drawn like any other: attempts count from 1."""
        return self.locate(_mix(self.seed, -2, index, attempt))


class _Stream:
    """Steps of one store to be drawn equally often: so many of the first ones of each episode in each pass."""

    def __init__(
        self,
        seed: int,
        number: int,
        store: int,
        lengths: Sequence[int],
        visits: Sequence[int],
        steps: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`visits` of the `lengths` steps of an episode are drawn in a pass, each more than once where there are more
        visits than steps; `steps`: which, if not the first ones.
        """
        self._seed, self._number, self._store = seed, number, store
        self._ends = array("q", accumulate(visits))  # plain numbers: forked workers share them for good
        self._lengths = array("q", lengths) if tuple(visits) != tuple(lengths) else None
        self._steps = None if steps is None else [array("q", of_episode) for of_episode in steps]

    def locate(self, count: int) -> Place:
        """The place of the stream's sample number `count`."""
        size = self._ends[-1]
        turn, position = divmod(count, size)
        row = shuffled_index(position, size, _mix(self._seed, self._number, turn))
        episode = bisect_right(self._ends, row)
        begin = self._ends[episode - 1] if episode else 0
        step = row - begin
        if self._lengths is not None and (length := self._lengths[episode]) != (visit := self._ends[episode] - begin):
            # one permutation for good: any `length` steps in a row of it, over its end too, are different ones
            step = shuffled_index((turn * visit + step) % length, length, _mix(self._seed, self._number, -3, episode))
        return Place(self._store, episode, step if self._steps is None else self._steps[episode][step])


def _weighted(visits: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Visits of a longer pass, in proportion to weight x visits."""
    if len(weights) != len(visits) or min(weights) < 0 or not math.isfinite(sum(weights)):
        raise ValueError(f"episode_weights must be {len(visits)} numbers from 0 on, one an episode, got {weights}")
    total = sum(weight * visit for weight, visit in zip(weights, visits, strict=True))
    if not total > 0:
        raise ValueError("episode_weights are 0 for all steps of a store: leave the store out")
    scale = _WEIGHTED_PASSES * sum(visits) / total
    return [round(scale * weight * visit) for weight, visit in zip(weights, visits, strict=True)]


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
