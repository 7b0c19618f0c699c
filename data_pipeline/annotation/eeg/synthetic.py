"""EEG of people who do not exist, with the effects that real people have (spec eeg_wcmf.md section 3.2).

    z = offset[person] + scale[person] * (amp * m[person, channel] * pattern[channel, band, class] + trial + noise)
    x = gain[dataset] * z

m in {-1, 0, 1} says whether a person's channel shows the emotional effect reversed, not at all, or like others': the
individual difference that the framework is made for, the same in all sessions of a person. The trial term is one draw
for all segments of a trial; offset and scale cluster samples by person; the gain is what another laboratory changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_pipeline.annotation.eeg.features import BANDS, WINDOW_S, band_pass

CLASSES = (-1, 0, 1)
"""Negative, neutral, positive."""


@dataclass(frozen=True)
class Setting:
    """Of the generator; the defaults are the reference setting."""

    num_channels: int = 20
    num_people: int = 8  # of each data set
    num_sessions: int = 1
    trials_per_session: int = 9  # a third of each class
    segments_per_trial: int = 30
    absent: float = 0.35  # chance that a channel of a person shows no effect
    reversed_: float = 0.25  # chance that it shows it the other way round
    amplitude: float = 0.45  # of the emotional effect; the noise has 1
    trial_deviation: float = 0.55
    offset_deviation: float = 1.5
    scale_deviation: float = 0.3  # of its logarithm
    gain_deviation: float = 0.4  # of its logarithm
    silent_channels: float = 0.3  # share of channels in which nobody shows an effect


@dataclass(frozen=True)
class Recordings:
    """Labelled segments of the people of one data set, in the order of their time."""

    X: np.ndarray  # float64 (sample, channel, band)
    y: np.ndarray  # int64 (sample,), of CLASSES
    person: np.ndarray  # int64 (sample,)
    session: np.ndarray  # int64 (sample,)
    trial: np.ndarray  # int64 (sample,), unique over people and sessions

    def of(self, chosen: np.ndarray) -> Recordings:
        """Some samples, by truth values (sample,)."""
        return Recordings(*(getattr(self, name)[chosen] for name in ("X", "y", "person", "session", "trial")))


def make_pattern(setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """The emotional effect that people share, (channel, band, class)."""
    pattern = rng.normal(size=(setting.num_channels, len(BANDS), len(CLASSES)))
    silent = rng.permutation(setting.num_channels)[: round(setting.silent_channels * setting.num_channels)]
    pattern[silent] = 0
    return pattern


def make_dataset(setting: Setting, pattern: np.ndarray, rng: np.random.Generator, first_person: int = 0) -> Recordings:
    """One data set: people of their own, numbered from `first_person`, and one laboratory's gain."""
    per_class = setting.trials_per_session // len(CLASSES)
    if per_class * len(CLASSES) != setting.trials_per_session:
        raise ValueError(f"trials_per_session must be a multiple of {len(CLASSES)}, got {setting.trials_per_session}")
    shape = pattern.shape[:2]
    gain = np.exp(rng.normal(0, setting.gain_deviation, shape))
    parts, labels, people, sessions = list[np.ndarray](), list[int](), list[int](), list[int]()
    for person in range(first_person, first_person + setting.num_people):
        shown = 1 - setting.absent - setting.reversed_
        m = rng.choice([-1, 0, 1], size=(shape[0], 1), p=[setting.reversed_, setting.absent, shown])
        offset = rng.normal(0, setting.offset_deviation, shape)
        scale = np.exp(rng.normal(0, setting.scale_deviation, shape))
        for session in range(setting.num_sessions):
            for label in rng.permutation(np.repeat(np.arange(len(CLASSES)), per_class)):
                effect = setting.amplitude * m * pattern[:, :, label] + rng.normal(0, setting.trial_deviation, shape)
                noise = rng.normal(size=(setting.segments_per_trial, *shape))
                parts.append(gain * (offset + scale * (effect + noise)))
                labels.append(CLASSES[label])
                people.append(person)
                sessions.append(session)
    trials = np.arange(len(labels)) + first_person * len(labels)
    y, person_of, session_of, trial = (
        np.repeat(column, setting.segments_per_trial) for column in (labels, people, sessions, trials)
    )
    return Recordings(np.concatenate(parts), y, person_of, session_of, trial)


def raw_signal(entropies: np.ndarray, rng: np.random.Generator, rate_hz: float = 200.0) -> np.ndarray:
    """A signal whose windows of 4 s have the differential entropies (window, channel, band), (channel, samples).

    Noise of each band, scaled window by window: what `band_entropies` gives back, but for what leaks between bands.
    """
    num_windows, num_channels, _ = entropies.shape
    length = round(WINDOW_S * rate_hz)
    signal = np.zeros((num_channels, num_windows * length))
    for band, edges in enumerate(BANDS.values()):
        noise = band_pass(rng.standard_normal((num_channels, num_windows * length)), rate_hz, *edges)
        windows = noise.reshape(num_channels, num_windows, length)
        deviation = np.exp(entropies[:, :, band].T - 0.5 * np.log(2 * np.pi * np.e))  # (channel, window)
        windows *= (deviation / windows.std(axis=2))[:, :, None]
        signal += noise
    return signal
