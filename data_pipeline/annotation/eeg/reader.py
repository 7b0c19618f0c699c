"""EEG files: features of SEED's kind (.mat, by scipy), and raw recordings of any kind that MNE reads.

Nothing is downloaded: data sets of this kind come by application to their owners. Needs the extra `eeg`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED_FEATURE = "de_LDS"
"""SEED's differential entropies smoothed by a linear dynamic system; `de_movingAve` are those of a moving average."""


@dataclass(frozen=True)
class RawSignal:
    """A recording at one rate."""

    signal: np.ndarray  # float64 (channel, samples), V
    rate_hz: float
    channels: tuple[str, ...]


def read_seed_features(path: str | Path, feature: str = SEED_FEATURE) -> list[np.ndarray]:
    """The trials of one session in the order of their numbers, each (window, channel, band).

    The file holds an array (channel, window, band) for each trial, `de_LDS1`, `de_LDS2`, ... Raises `ValueError` that
    lists what it holds instead.
    """
    content = _load_mat(path)
    numbered = {int(m[1]): key for key in content if (m := re.fullmatch(rf"{re.escape(feature)}(\d+)", key))}
    if not numbered:
        kinds = sorted({re.sub(r"\d+$", "", key) for key in content})
        raise ValueError(
            f"{path} has no features {feature}1, {feature}2, ...; it holds {', '.join(kinds) or 'nothing'}"
        )
    trials = [np.asarray(content[numbered[number]], dtype=np.float64) for number in sorted(numbered)]
    for number, trial in zip(sorted(numbered), trials, strict=True):
        if trial.ndim != 3:
            raise ValueError(f"{path}, {feature}{number}: expected (channel, window, band), got shape {trial.shape}")
    return [trial.transpose(1, 0, 2) for trial in trials]


def read_seed_labels(path: str | Path) -> np.ndarray:
    """int64 (trial,) of SEED's label.mat: -1 negative, 0 neutral, 1 positive."""
    content = _load_mat(path)
    if "label" not in content:
        raise ValueError(f"{path} has no array `label`; it holds {', '.join(sorted(content)) or 'nothing'}")
    return np.asarray(content["label"]).reshape(-1).astype(np.int64)


def read_raw(path: str | Path, channels: Sequence[str] | None = None) -> RawSignal:
    """A recording in any format of MNE (FIF, EDF, BDF, CNT, BrainVision ...): its EEG channels, or those named."""
    try:
        import mne
    except ImportError as error:
        raise ModuleNotFoundError(f"reading {path} needs MNE ({error}): pip install 'rdt-stack[eeg]'") from None
    raw = mne.io.read_raw(_existing(path), preload=True, verbose="error")
    if channels is None:
        raw.pick("eeg")
    else:
        missing = [name for name in channels if name not in raw.ch_names]
        if missing:
            raise ValueError(f"{path} has no channels {missing}; it has {', '.join(raw.ch_names)}")
        raw.pick(list(channels))
    return RawSignal(raw.get_data(), float(raw.info["sfreq"]), tuple(raw.ch_names))


def _load_mat(path: str | Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(_existing(path))
    except (MatReadError, ValueError, NotImplementedError, TypeError) as error:
        raise ValueError(f"{path} is no MATLAB file that can be read ({error}); one of version 7.3 is HDF5") from None
    return {key: value for key, value in content.items() if not key.startswith("__")}


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no EEG file {path}")
    return path
