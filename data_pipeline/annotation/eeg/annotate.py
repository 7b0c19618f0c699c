"""From recordings of EEG to the valence of each step of a store's episodes.

A YAML says whose recording lies where, which parts of it are labelled, and where episodes begin in it:

    fusion: signed                     # of wcmf.py; the published ones are source and target
    labelled:                          # what people felt: to learn from, and of operators to calibrate
      - {person: s01, session: a, file: s01_a.mat, labels: label.mat}
      - {person: anna, session: monday, file: monday.fif, label: positive, start_s: 20, stop_s: 80}
    episodes:
      - {episode: episode_0, person: anna, session: monday, file: monday.fif, start_s: 312.4}

For each operator a matrix is fitted to all labelled people but this one and calibrated by the operator's own labelled
parts. Features are z-scored within each person and session over all that the YAML names of it. Needs the extra `eeg`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from data_pipeline.annotation.eeg.features import WINDOW_S, band_entropies, window_starts
from data_pipeline.annotation.eeg.normalise import personal_zscore
from data_pipeline.annotation.eeg.reader import SEED_FEATURE, RawSignal, read_raw, read_seed_features, read_seed_labels
from data_pipeline.annotation.eeg.wcmf import CALIBRATED, ChannelModelMatrix, Fusion
from data_pipeline.annotation.eeg.weights import METHODS
from data_pipeline.annotation.valence import NOTE, annotated, resample
from data_pipeline.atomic import check_apart
from data_pipeline.schema.fields import fields_of, number, positive
from data_pipeline.schema.registry import read_yaml, unknown_name
from data_pipeline.storage import EpisodeStore

LABELS = {"negative": -1, "neutral": 0, "positive": 1}


@dataclass(frozen=True)
class Part:
    """A stretch of one recording."""

    person: str  # a pseudonym will do
    session: str  # one putting-on of the cap
    file: str  # beside the YAML: SEED-style features (.mat), or a recording that MNE reads
    start_s: float = 0.0  # of a recording
    stop_s: float | None = None  # None: its end; of an episode the episode's
    trial: int | None = None  # of a .mat file, from 1 on; None: of an episode the only one, of labelled ones all
    label: str | None = None  # negative, neutral or positive
    labels: str | None = None  # of a .mat file: SEED's label.mat, in place of `label`
    episode: str | None = None  # its name in the store; `start_s` is where its first step is


@dataclass(frozen=True)
class Study:
    """What a YAML says."""

    labelled: tuple[Part, ...]
    episodes: tuple[Part, ...]
    folder: Path  # that files are named from
    fusion: Fusion = "signed"
    weight: str = "ct"
    window_s: float = WINDOW_S  # of .mat files: that they were made with
    hop_s: float | None = None  # between windows of a recording; None: a window
    feature: str = SEED_FEATURE  # of .mat files
    channels: tuple[str, ...] = ()  # of recordings; (): all EEG channels

    @classmethod
    def from_yaml(cls, path: str | Path) -> Study:
        """Raises `ValueError` that names the key."""
        path = Path(path)
        raw = {**read_yaml(path), "folder": path.resolve().parent}
        given = fields_of(cls, str(path), raw)
        for kind in ("labelled", "episodes"):
            if not isinstance(given[kind], list) or not given[kind]:
                raise ValueError(f"{path}, {kind}: expected a list of one part or more, got {given[kind]!r}")
            given[kind] = tuple(_part(f"{path}, {kind} {i + 1}", kind, row) for i, row in enumerate(given[kind]))
        given["channels"] = tuple(given.get("channels") or ())
        if given.get("fusion", cls.fusion) not in get_args(Fusion):
            raise ValueError(f"{path}: " + unknown_name("fusion", given["fusion"], get_args(Fusion)))
        if given.get("weight", cls.weight) not in METHODS:
            raise ValueError(f"{path}: " + unknown_name("weight", given["weight"], METHODS))
        for name in ("window_s", "hop_s"):
            if given.get(name) is not None:
                positive(f"{path}, {name}", given[name])
        twice = _first_twice([part.episode for part in given["episodes"]])
        if twice:
            raise ValueError(f"{path}, episodes: {twice!r} is named twice")
        return cls(**given)


@dataclass(frozen=True)
class Segment:
    """Windows of one part in the order of their time."""

    part: Part
    X: np.ndarray  # float64 (window, channel, band)
    centres_s: np.ndarray  # float64 (window,), from the part's start
    y: int | None = None


@dataclass(frozen=True)
class Judged:
    """What an operator's model says of one episode's windows."""

    note: Mapping[str, str]
    valence: np.ndarray  # float64 (window,)
    confidence: np.ndarray
    centres_s: np.ndarray  # float64 (window,), from the first step


def annotate(
    store: EpisodeStore, study: Study, out: str | Path, progress: Callable[[], object] = lambda: None
) -> EpisodeStore:
    """Write `store` anew to `out`, with the valence of the operator where the study has EEG; a stopped call goes on.

    All else stays as it is. Raises `ValueError` for an episode that the store does not have, and for an `out` that
    holds other annotations.
    """
    check_apart(out, store.path)
    judged = judge(study, {entry.name: entry.num_steps / entry.rate_hz for entry in store.entries})
    robot = store.embodiment if store.is_described else None
    with EpisodeStore.create(out, robot, robot_type=store.robot_type, profile=store.profile) as written:
        held = list(written.names)
        if held != list(store.names[: len(held)]):
            raise ValueError(f"{out} holds episodes that are not the first of {store.path}: use a new folder")
        for index, entry in enumerate(store.entries):
            found = judged.get(entry.name)
            source = dict(entry.source) if found is None else {**entry.source, NOTE: dict(found.note)}
            if index < len(held):
                if dict(written.entry(index).source) != source:
                    raise ValueError(f"{out}: {entry.name!r} was annotated by another study or model: use a new folder")
            else:
                episode = store[index]
                if found is not None:
                    values = (found.valence, found.confidence, found.centres_s)
                    episode = annotated(episode, *resample(*values, study.window_s, episode.num_steps, episode.rate_hz))
                written.add(episode, source, native=store.native(index), max_steps=entry.max_steps)
            progress()
    return written


def judge(study: Study, seconds: Mapping[str, float]) -> dict[str, Judged]:
    """Episode name -> what its operator's model says, for each episode of the study; `seconds`: how long each lasts."""
    unknown = [part.episode for part in study.episodes if part.episode not in seconds]
    if unknown:
        raise ValueError(unknown_name("episode", str(unknown[0]), seconds, " in the study's `episodes`"))
    recordings: dict[str, RawSignal] = {}
    labelled = [segment for part in study.labelled for segment in _segments(study, part, recordings)]
    own_stop = [
        replace(part, stop_s=part.start_s + seconds[str(part.episode)]) if part.stop_s is None else part
        for part in study.episodes
    ]
    episodes = [segment for part in own_stop for segment in _segments(study, part, recordings)]
    labelled, episodes = _normalised(labelled, episodes)
    judged = {}
    for person in dict.fromkeys(segment.part.person for segment in episodes):
        model, name = operator_model(study, labelled, person)
        for segment in (segment for segment in episodes if segment.part.person == person):
            valence, confidence = model.valence(segment.X)
            note = {"operator": person, "model": name}
            judged[str(segment.part.episode)] = Judged(note, valence, confidence, segment.centres_s)
    return judged


def operator_model(study: Study, labelled: Sequence[Segment], person: str) -> tuple[ChannelModelMatrix, str]:
    """The matrix of one operator, and a name that tells it from any other's or of other data.

    It learns from all labelled people but this one; where there is nobody else, from the operator alone.
    """
    own = [segment for segment in labelled if segment.part.person == person]
    if study.fusion in CALIBRATED and {segment.y for segment in own} != set(LABELS.values()):
        raise ValueError(
            f"operator {person!r} has labelled parts of {len({segment.y for segment in own})} classes: fusion "
            f"{study.fusion!r} is calibrated by one part or more of each of {', '.join(LABELS)}; add them to "
            "`labelled`, or use fusion: source"
        )
    others = [segment for segment in labelled if segment.part.person != person] or own
    model = ChannelModelMatrix(fusion=study.fusion, weight=study.weight)
    model.fit(*_stacked(others))
    if study.fusion in CALIBRATED:
        model.calibrate(*_stacked(own))
    digest = hashlib.sha256(repr((model.get_params(), study.window_s, study.hop_s)).encode())
    for segment in (*others, *(own if study.fusion in CALIBRATED else ())):
        digest.update(repr((asdict(segment.part), segment.X.shape)).encode() + segment.X.tobytes())
    return model, f"wcmf-{study.fusion}-{digest.hexdigest()[:12]}"


def _stacked(segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X, y, trial): each segment is a trial."""
    lengths = [len(segment.X) for segment in segments]
    y = np.repeat([segment.y for segment in segments], lengths)
    return np.concatenate([segment.X for segment in segments]), y, np.repeat(np.arange(len(segments)), lengths)


def _normalised(labelled: list[Segment], episodes: list[Segment]) -> tuple[list[Segment], list[Segment]]:
    every = [*labelled, *episodes]
    shapes = {segment.X.shape[1:]: segment.part.file for segment in every}
    if len(shapes) > 1:
        told = ", ".join(f"{file} {channels} x {bands}" for (channels, bands), file in shapes.items())
        raise ValueError(f"the recordings differ in channels x bands ({told}): name the common ones in `channels`")
    lengths = [len(segment.X) for segment in every]
    who = [np.repeat([getattr(segment.part, name) for segment in every], lengths) for name in ("person", "session")]
    scaled = np.split(personal_zscore(np.concatenate([s.X for s in every]), *who), np.cumsum(lengths)[:-1])
    every = [replace(segment, X=X) for segment, X in zip(every, scaled, strict=True)]
    return every[: len(labelled)], every[len(labelled) :]


def _segments(study: Study, part: Part, recordings: dict[str, RawSignal]) -> list[Segment]:
    """The windows of a part; of a .mat file with `labels` those of each of its trials."""
    path = study.folder / part.file
    if path.suffix == ".mat":
        return _feature_segments(study, part, path)
    if part.file not in recordings:
        recordings[part.file] = read_raw(path, study.channels or None)
    recording = recordings[part.file]
    rate, total = recording.rate_hz, recording.signal.shape[1]
    first, last = round(part.start_s * rate), total if part.stop_s is None else min(round(part.stop_s * rate), total)
    if not 0 <= first < last:
        raise ValueError(f"{path}: {part.start_s:g} s to {part.stop_s} s lies outside its {total / rate:.1f} s")
    X = band_entropies(recording.signal[:, first:last], rate, window_s=study.window_s, hop_s=study.hop_s)
    starts = window_starts(last - first, rate, study.window_s, study.hop_s)
    return [Segment(part, X, starts / rate + study.window_s / 2, LABELS.get(part.label or ""))]


def _feature_segments(study: Study, part: Part, path: Path) -> list[Segment]:
    trials = read_seed_features(path, study.feature)
    if part.trial is not None and not 1 <= part.trial <= len(trials):
        raise ValueError(f"{path} has trials 1 to {len(trials)}, asked for {part.trial}")
    if part.trial is None and len(trials) > 1 and part.labels is None:
        raise ValueError(f"{path} has {len(trials)} trials: say which one (trial: N), or their labels (labels: FILE)")
    chosen = range(len(trials)) if part.trial is None else [part.trial - 1]
    known = None if part.labels is None else _labels(study.folder / part.labels, len(trials))
    segments = []
    for trial in chosen:
        X = trials[trial]
        y = LABELS.get(part.label or "") if known is None else int(known[trial])
        centres = (np.arange(len(X)) + 0.5) * study.window_s - part.start_s
        segments.append(Segment(replace(part, trial=trial + 1), X, centres, y))
    return segments


def _labels(path: Path, num_trials: int) -> np.ndarray:
    known = read_seed_labels(path)
    if len(known) != num_trials or not set(known.tolist()) <= set(LABELS.values()):
        raise ValueError(f"{path} must label {num_trials} trials by {list(LABELS.values())}, got {known.tolist()}")
    return known


def _part(where: str, kind: str, raw: Any) -> Part:
    given = fields_of(Part, where, raw)
    part = Part(**{**given, **{name: str(given[name]) for name in ("person", "session", "file")}})
    number(f"{where}, start_s", part.start_s)
    if part.label is not None and part.label not in LABELS:
        raise ValueError(f"{where}: " + unknown_name("label", str(part.label), LABELS))
    if kind == "labelled" and (part.label is None) == (part.labels is None):
        raise ValueError(
            f"{where}: a labelled part has one of `label` ({', '.join(LABELS)}) and `labels` (a .mat file)"
        )
    if kind == "episodes" and part.episode is None:
        raise ValueError(f"{where} lacks `episode`, the name of an episode of the store")
    return part


def _first_twice(names: Sequence[str | None]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
