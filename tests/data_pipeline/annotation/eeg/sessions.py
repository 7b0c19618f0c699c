"""Operators who do not exist, their EEG on the clock of their episodes, and the YAML that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_pipeline.annotation.eeg.features import WINDOW_S
from data_pipeline.annotation.eeg.synthetic import CLASSES, Setting, make_dataset, make_pattern

NAMES = {-1: "negative", 0: "neutral", 1: "positive"}
SETTING = Setting(num_channels=12, num_people=3, segments_per_trial=20, amplitude=0.8, trial_deviation=0.3)


@dataclass(frozen=True)
class Operator:
    """Features of one person: three labelled trials and the windows of episodes, (window, channel, band) each."""

    labelled: dict[int, np.ndarray]
    episodes: list[np.ndarray]


def make_operator(
    pattern: np.ndarray, felt: list[int], windows: int, rng: np.random.Generator, setting: Setting = SETTING
) -> Operator:
    """`felt` is the class of each episode. Half of the channels run the other way or not at all."""
    shape = pattern.shape[:2]
    m = rng.choice([-1, 0, 1], size=(shape[0], 1), p=[setting.reversed_, setting.absent, 0.4])
    offset, scale = rng.normal(0, 1.5, shape), np.exp(rng.normal(0, 0.3, shape))

    def trial(label: int, length: int) -> np.ndarray:
        effect = setting.amplitude * m * pattern[:, :, CLASSES.index(label)]
        effect = effect + rng.normal(0, setting.trial_deviation, shape)
        return offset + scale * (effect + rng.normal(size=(length, *shape)))

    labelled = {label: trial(label, setting.segments_per_trial) for label in CLASSES}
    return Operator(labelled, [trial(label, windows) for label in felt])


def write_study(
    folder: Path,
    felt: dict[str, list[int]],
    windows: int,
    seed: int = 0,
    shuffled: bool = False,
    names: dict[str, list[str]] | None = None,
) -> Path:
    """SEED-style .mat files and a YAML for operators -> what they felt in their episodes, by default OPERATOR_NUMBER.

    `shuffled` gives the EEG of each episode to another one of the same operator.
    """
    from scipy.io import savemat

    rng = np.random.default_rng(seed)
    pattern = make_pattern(SETTING, rng)
    source = make_dataset(SETTING, pattern, rng)
    labelled: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for person in range(SETTING.num_people):
        trials = np.unique(source.trial[source.person == person])
        of_trial = [source.X[source.trial == trial].transpose(1, 0, 2) for trial in trials]
        savemat(folder / f"s{person}.mat", {f"de_LDS{i}": X for i, X in enumerate(of_trial, start=1)})
        savemat(folder / f"s{person}_label.mat", {"label": [source.y[source.trial == t][0] for t in trials]})
        labelled.append({"person": f"s{person}", "session": "a", "file": f"s{person}.mat"})
        labelled[-1]["labels"] = f"s{person}_label.mat"
    episodes = []
    for who, classes in felt.items():
        operator = make_operator(pattern, classes, windows, rng)
        order = rng.permutation(len(classes)) if shuffled else np.arange(len(classes))
        parts = [*operator.labelled.values(), *(operator.episodes[i] for i in order)]
        savemat(folder / f"{who}.mat", {f"de_LDS{i}": X.transpose(1, 0, 2) for i, X in enumerate(parts, start=1)})
        for trial, label in enumerate(operator.labelled, start=1):
            part = {"person": who, "session": "monday", "file": f"{who}.mat", "trial": trial}
            labelled.append({**part, "label": NAMES[label]})
        for number in range(len(classes)):
            part = {"person": who, "session": "monday", "file": f"{who}.mat", "trial": len(CLASSES) + 1 + number}
            episodes.append({**part, "episode": names[who][number] if names else f"{who}_{number}"})
    path = folder / "eeg.yaml"
    path.write_text(yaml.safe_dump({"labelled": labelled, "episodes": episodes}), encoding="utf-8")
    return path


def steps_of(windows: int, rate_hz: float) -> int:
    """Of an episode that so many windows fill."""
    return round(windows * WINDOW_S * rate_hz)
