"""Raw EEG -> differential entropy by window, channel and band: what emotion recognition reads (spec eeg_wcmf.md).

Features are always laid out (window, channel, band). A band-limited signal is close to Gaussian, whose differential
entropy is a function of its variance alone: DE = 0.5 log(2 pi e var), in nats; twice the amplitude adds log 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BANDS: dict[str, tuple[float, float]] = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 14.0),
    "beta": (14.0, 31.0),
    "gamma": (31.0, 50.0),
}
"""Name -> edges in Hz, in the order of the last axis of all features."""

WINDOW_S = 4.0  # of the published data sets' segments
_ORDER = 4  # of the Butterworth filter, applied forwards and backwards
_FLOOR = 1e-30  # variance of a channel that records nothing: a finite, very low entropy


def band_pass(signal: np.ndarray, rate_hz: float, low_hz: float, high_hz: float) -> np.ndarray:
    """`signal` (..., samples) within a band, without delay. Raises `ValueError` for a band that it cannot hold."""
    from scipy.signal import butter, sosfiltfilt

    if not 0 < low_hz < high_hz < rate_hz / 2:
        raise ValueError(
            f"a band of {low_hz:g} to {high_hz:g} Hz needs a rate of more than {2 * high_hz:g} Hz, the signal has "
            f"{rate_hz:g}: record faster, or give other bands"
        )
    sections = butter(_ORDER, (low_hz, high_hz), btype="bandpass", fs=rate_hz, output="sos")
    return sosfiltfilt(sections, signal, axis=-1)


def differential_entropy(variance: np.ndarray) -> np.ndarray:
    """0.5 log(2 pi e var) in nats, of a Gaussian of that variance."""
    return 0.5 * np.log(2 * np.pi * np.e * np.maximum(variance, _FLOOR))


def window_starts(
    num_samples: int, rate_hz: float, window_s: float = WINDOW_S, hop_s: float | None = None
) -> np.ndarray:
    """First sample of each whole window, int64 (windows,); a window begins every `hop_s`, by default where one ends."""
    length, hop = _samples(rate_hz, window_s, "window_s"), _samples(rate_hz, hop_s or window_s, "hop_s")
    return np.arange(0, num_samples - length + 1, hop)


def band_entropies(
    signal: np.ndarray,
    rate_hz: float,
    *,
    window_s: float = WINDOW_S,
    hop_s: float | None = None,
    bands: Sequence[tuple[float, float]] = tuple(BANDS.values()),
) -> np.ndarray:
    """Differential entropy of `signal` (channel, samples) in each band, float64 (window, channel, band).

    Windows are those of `window_starts`. The whole signal is filtered at once, so windows have no edges of their own.
    """
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 2:
        raise ValueError(f"a recording is (channel, samples), got shape {signal.shape}")
    length = _samples(rate_hz, window_s, "window_s")
    starts = window_starts(signal.shape[1], rate_hz, window_s, hop_s)
    if not len(starts):
        raise ValueError(
            f"the recording has {signal.shape[1] / rate_hz:.1f} s, shorter than one window of {window_s:g} s"
        )
    features = np.empty((len(starts), len(signal), len(bands)))
    for band, (low, high) in enumerate(bands):
        windows = np.lib.stride_tricks.sliding_window_view(band_pass(signal, rate_hz, low, high), length, axis=1)
        features[:, :, band] = differential_entropy(windows[:, starts].var(axis=2)).T
    return features


def _samples(rate_hz: float, seconds: float, name: str) -> int:
    count = round(rate_hz * seconds)
    if count < 1:
        raise ValueError(f"{name} of {seconds:g} s holds no sample at {rate_hz:g} Hz")
    return count
