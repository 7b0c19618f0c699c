"""The operator's valence as an annotation of demonstrations, and what may be made of it.

`annotation.operator_valence` in [-1, 1] and its confidence in [0, 1] stand with each step of an episode; who the
operator was and which model said it stand with the episode's source. An episode without EEG has neither.

Valence is a weight of demonstrations, a noisy reward, or a column of a report. It is never a safety signal, and nothing
that moves a robot reads it. It is personal data: docs/eeg.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_pipeline.annotation.outcome import SCENE, SUCCESS
from data_pipeline.schema.types import Episode
from data_pipeline.selection import EpisodeSelection
from data_pipeline.storage import EpisodeStore

VALENCE, CONFIDENCE = "operator_valence", "operator_valence.confidence"
"""Names in `Episode.annotations`."""

NOTE = "operator_valence"
"""Key of an episode's source: {"operator": who, "model": what said it}."""

Episodes = EpisodeStore | EpisodeSelection


def resample(
    valence: np.ndarray,
    confidence: np.ndarray,
    centres_s: np.ndarray,
    window_s: float,
    num_steps: int,
    rate_hz: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows around `centres_s`, counted from an episode's first step, as its steps: two float32 (steps,).

    Between two centres both numbers go linearly. A step that no window holds has valence and confidence 0.
    """
    times = np.arange(num_steps) / rate_hz
    order = np.argsort(centres_s)
    centres = np.asarray(centres_s, dtype=np.float64)[order]
    values = [np.interp(times, centres, np.asarray(of)[order]) for of in (valence, confidence)]
    after = np.searchsorted(centres, times).clip(0, len(centres) - 1)
    nearest = np.minimum(np.abs(times - centres[after]), np.abs(times - centres[np.maximum(after - 1, 0)]))
    held = nearest <= window_s / 2 + 1e-9
    return values[0].clip(-1, 1).astype(np.float32) * held, values[1].clip(0, 1).astype(np.float32) * held


def annotated(episode: Episode, valence: np.ndarray, confidence: np.ndarray) -> Episode:
    """The episode with the valence of its operator at each step."""
    return replace(episode, annotations={**episode.annotations, VALENCE: valence, CONFIDENCE: confidence})


@dataclass(frozen=True)
class OperatorState:
    """Of one episode that has EEG."""

    operator: str
    model: str
    valence: float  # in [-1, 1], mean over the steps by their confidence
    confidence: float  # in [0, 1], mean over the steps
    relative: float  # valence z-scored among the operator's episodes, times the confidence


def operator_states(stores: Sequence[Episodes]) -> list[list[OperatorState | None]]:
    """What is known of each episode of each store; None where it has no EEG.

    People differ in what their EEG reaches: an episode is compared with the same operator's others, in all stores, by
    the mean and deviation that count each episode by its confidence. An operator's only episode is 0.
    """
    found = [[_state(of[i], of.entry(i).source.get(NOTE)) for i in range(len(of))] for of in stores]
    known = [state for of_store in found for state in of_store if state is not None]
    scales: dict[str, tuple[float, float]] = {}
    for operator in {state.operator for state in known}:
        own = [state for state in known if state.operator == operator]
        values, weights = np.array([s.valence for s in own]), np.array([s.confidence for s in own])
        if weights.sum() > 0:
            mean = float(np.average(values, weights=weights))
            scales[operator] = mean, float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
    return [[None if state is None else _relative(state, scales) for state in of_store] for of_store in found]


def relative_valence(stores: Sequence[Episodes]) -> list[np.ndarray]:
    """float32 (episodes,) for each store: `OperatorState.relative`, a noisy scalar reward; 0 without EEG.

    Raises `ValueError` where no episode of any store has EEG.
    """
    states = operator_states(stores)
    if not any(state is not None for of_store in states for state in of_store):
        raise ValueError(
            f"no episode of {', '.join(str(store.path) for store in stores)} says how its operator felt: annotate them "
            "with `rdt data annotate` (docs/eeg.md)"
        )
    return [np.array([state.relative if state else 0.0 for state in of], dtype=np.float32) for of in states]


def valence_weights(stores: Sequence[Episodes], strength: float) -> list[np.ndarray]:
    """How often steps of each episode come in training, float64 (episodes,) for each store: exp(strength x relative).

    An episode without EEG has weight 1, as one that is neither better nor worse than its operator's others.
    """
    return [np.exp(strength * of.astype(np.float64)) for of in relative_valence(stores)]


def valence_ratio(stores: Sequence[Episodes], temperature: float) -> list[np.ndarray]:
    """float32 (episodes,) for each store: exp(relative / temperature) over its mean among tries of the same scene.

    What noise contrastive alignment takes for a label in place of `success_ratio`. Episodes that name no scene are
    tries of one.
    """
    ratios = []
    for store, relative in zip(stores, relative_valence(stores), strict=True):
        ratio = np.exp(relative / temperature)
        scenes = np.array([str(store.entry(i).source.get(SCENE, "")) for i in range(len(store))])
        for scene in set(scenes.tolist()):
            ratio[scenes == scene] /= ratio[scenes == scene].mean()
        ratios.append(ratio.astype(np.float32))
    return ratios


def curation(stores: Sequence[Episodes]) -> list[dict[str, Any]]:
    """A row for each episode with EEG, the lowest relative valence first: where a person may want to look."""
    rows = [
        {
            "store": str(store.path),
            "episode": store.entry(i).name,
            "operator": state.operator,
            "valence": state.valence,
            "confidence": state.confidence,
            "relative": state.relative,
            "success": store.entry(i).source.get(SUCCESS),
            "model": state.model,
        }
        for store, states in zip(stores, operator_states(stores), strict=True)
        for i, state in enumerate(states)
        if state is not None
    ]
    return sorted(rows, key=lambda row: row["relative"])


def _state(episode: Episode, note: dict[str, Any] | None) -> OperatorState | None:
    if VALENCE not in episode.annotations or note is None:
        return None
    valence = episode.annotations[VALENCE].astype(np.float64)
    confidence = episode.annotations[CONFIDENCE].astype(np.float64)
    mean = float((valence * confidence).sum() / max(confidence.sum(), 1e-12))
    return OperatorState(note["operator"], note["model"], mean, float(confidence.mean()), 0.0)


def _relative(state: OperatorState, scales: dict[str, tuple[float, float]]) -> OperatorState:
    mean, deviation = scales.get(state.operator, (0.0, 0.0))
    z = (state.valence - mean) / deviation if deviation > 1e-9 else 0.0
    return replace(state, relative=z * state.confidence)
