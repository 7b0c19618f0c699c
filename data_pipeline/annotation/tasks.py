"""Which episodes did the same thing: those that share a phrasing, directly or through others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.storage import EpisodeStore


def episode_tasks(stores: Sequence[EpisodeStore]) -> list[np.ndarray]:
    """The number of each episode's task, float32 (episodes,) for each store.

    Episodes that share an instruction have one task, and so have those that a chain of them joins: rephrasings of one
    demonstration are one task, and the same words in two stores too.
    """
    leader: dict[str, str] = {}

    def find(sentence: str) -> str:
        while leader.setdefault(sentence, sentence) != sentence:
            sentence = leader[sentence]
        return sentence

    for store in stores:
        for i in range(len(store)):
            first, *others = store.entry(i).instructions
            for other in others:
                leader[find(other)] = find(first)
    numbers: dict[str, int] = {}
    tasks = []
    for store in stores:
        firsts = [find(store.entry(i).instructions[0]) for i in range(len(store))]
        tasks.append(np.array([numbers.setdefault(first, len(numbers)) for first in firsts], dtype=np.float32))
    return tasks
