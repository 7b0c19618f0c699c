"""`rdt bench eeg`: emotion of people never seen, on people who do not exist: WCMF beside its baselines.

Each repeat draws one data set to learn from and another one of new people (spec eeg_wcmf.md sections 3.2 and 3.3). A
person's first trial of each class is the calibration, the other six are the test of every row. Z-scores of a person use
all of that person's unlabelled segments, so the test is transductive. The figures describe the generator, not people.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.annotation.eeg.normalise import personal_zscore
from data_pipeline.annotation.eeg.synthetic import CLASSES, Recordings, Setting, make_dataset, make_pattern
from data_pipeline.atomic import write_bytes
from deploy.bench_sequences import CpuTime, Row, Table
from deploy.doctor import require
from deploy.plots import Grouping, grouped_points, range_bars, signed_maps

NUM_SUBSAMPLES, SEGMENTS_PER_TRIAL = 20, 10
CALIBRATION_REPEATS = 5  # of calibration samples beside those of the source data
PICTURED_SETTING = Setting(num_people=6, num_sessions=2)
PICTURED_SEGMENTS = 6  # of each trial in the sample space
COLUMNS = (("accuracy", ".3f"), ("std over people", ".3f"), ("worst person", ".3f"), ("above LogReg", "+.3f"))

POOLED = "LogReg, Personal-Zscore"
EQUAL, CALIBRATED, ALONE = "channel models, equal weights", "LogReg + calibration (x5)", "LogReg, calibration only"
WHOSE = {
    "LogReg, raw": "baseline",
    POOLED: "baseline",
    "linear SVM, Personal-Zscore": "baseline",
    EQUAL: "baseline",
    "WCMF source": "published rule",
    "WCMF target": "published rule",
    CALIBRATED: "baseline",
    ALONE: "baseline",
    "WCMF agreement": "ours",
    "WCMF signed": "ours",
}
"""Row -> whose method it is."""

ChannelModel = Literal["logistic", "mlp"]
Predict = Callable[[np.ndarray], np.ndarray]


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns all accuracies by method, repeat and person."""
    require("rdt bench eeg", {"sklearn": "scikit-learn", "scipy": "scipy"}, extra="eeg")
    setting = Setting(num_people=3, num_channels=8) if args.quick else Setting()
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    with CpuTime() as spent:
        found = [accuracies(setting, seed, args.model) for seed in seeds]
    table = Table(COLUMNS, name_width=32)
    of_method = {name: np.array([[person[name] for person in people] for people in found]) for name in WHOSE}
    for name, accuracy in of_method.items():
        table.add(name, row(accuracy, of_method[POOLED]) | {"whose": WHOSE[name]})
    print(f"\nchance {1 / len(CLASSES):.3f}; std over people within a repeat, mean of {len(seeds)} repeats")
    print(f"{spent.seconds:.1f} CPU-s for all rows and repeats")
    print("published rules: source, target; this project's own: agreement, signed; all others are baselines")
    for name in ("WCMF source", "WCMF signed"):
        print(f"{name} - {POOLED}: {gain(of_method[name], of_method[POOLED])}")
    if args.out is not None:
        for file, picture in pictures(of_method, args.seed, args.quick).items():
            write_bytes(Path(args.out) / file, picture)
            print(f"picture                  {Path(args.out) / file}")
    return {
        "seeds": list(seeds),
        "channel_model": args.model,
        "cpu_seconds": spent.seconds,
        "rows": table.rows,
        "accuracies": {name: accuracy.tolist() for name, accuracy in of_method.items()},
    }


def row(accuracy: np.ndarray, pooled: np.ndarray) -> Row:
    """Of accuracies (repeat, person)."""
    return {
        "accuracy": float(accuracy.mean()),
        "std over people": float(accuracy.std(axis=1).mean()),
        "worst person": float(accuracy.min()),
        "above LogReg": float((accuracy - pooled).mean()),
    }


def gain(accuracy: np.ndarray, pooled: np.ndarray) -> str:
    """The mean difference over repeats, and its standard error: people of one repeat share their source."""
    difference = (accuracy - pooled).mean(axis=1)
    if len(difference) < 2:
        return f"{difference.mean():+.3f}"
    return f"{difference.mean():+.3f} +- {difference.std(ddof=1) / np.sqrt(len(difference)):.3f}"


def accuracies(setting: Setting, seed: int, channel_model: ChannelModel = "logistic") -> list[dict[str, float]]:
    """Of each person of the new data set, by method."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    from data_pipeline.annotation.eeg.wcmf import ChannelModelMatrix

    rng = np.random.default_rng(seed)
    pattern = make_pattern(setting, rng)
    source = make_dataset(setting, pattern, rng)
    target = make_dataset(setting, pattern, rng, first_person=setting.num_people)
    scaled, other = (personal_zscore(of.X, of.person, of.session) for of in (source, target))
    pooled: dict[str, tuple[Predict, np.ndarray]] = {
        "LogReg, raw": (_flat(LogisticRegression(max_iter=500), source.X, source.y), target.X),
        POOLED: (_flat(LogisticRegression(max_iter=500), scaled, source.y), other),
        "linear SVM, Personal-Zscore": (_flat(LinearSVC(dual=False), scaled, source.y), other),
    }
    matrix = ChannelModelMatrix(
        model=channel_model, num_subsamples=NUM_SUBSAMPLES, segments_per_trial=SEGMENTS_PER_TRIAL, random_state=seed
    ).fit(scaled, source.y, source.trial)
    found = []
    for person in np.unique(target.person):
        calibration = first_trials(target, person)
        test = (target.person == person) & ~calibration
        X, y, truth = other[calibration], target.y[calibration], target.y[test]
        matrix.calibrate(X, y, target.trial[calibration])
        predicted = {name: predict(features[test]) for name, (predict, features) in pooled.items()}
        for fusion in ("equal", "source", "target", "agreement", "signed"):
            name = EQUAL if fusion == "equal" else f"WCMF {fusion}"
            predicted[name] = matrix.set_params(fusion=fusion).predict(other[test])
        both = np.concatenate([scaled, *[X] * CALIBRATION_REPEATS])
        labels = np.concatenate([source.y, *[y] * CALIBRATION_REPEATS])
        predicted[CALIBRATED] = _flat(LogisticRegression(max_iter=500), both, labels)(other[test])
        predicted[ALONE] = _flat(LogisticRegression(max_iter=500), X, y)(other[test])
        found.append({name: float((said == truth).mean()) for name, said in predicted.items()})
    return found


def first_trials(recordings: Recordings, person: int) -> np.ndarray:
    """bool (sample,): the person's first trial of each class."""
    own = recordings.person == person
    first = [recordings.trial[own & (recordings.y == label)][0] for label in CLASSES]
    return own & np.isin(recordings.trial, first)


def pictures(of_method: dict[str, np.ndarray], seed: int, quick: bool) -> dict[str, bytes]:
    """By file name: accuracies, the sample space before and after z-scores, the patterns of people and sessions."""
    from data_pipeline.annotation.eeg.analysis import aggregation, compare_patterns, embed, pattern_maps

    rng = np.random.default_rng(seed)
    setting = Setting(num_people=3, num_channels=8, num_sessions=2) if quick else PICTURED_SETTING
    people = make_dataset(setting, make_pattern(setting, rng), rng)
    scaled = personal_zscore(people.X, people.person, people.session)
    maps = pattern_maps(scaled, people.y, people.person, people.session, people.trial, num_subsamples=5)
    patterns = compare_patterns(maps)
    print(
        f"patterns      IEFDD {patterns.difference:.2f} between people (1 - correlation of their signed CT maps), "
        f"CCIEP {patterns.between_sessions:.2f} (correlation between sessions of one person)"
    )
    few = np.arange(len(people.y)) % setting.segments_per_trial < PICTURED_SEGMENTS
    shown, panels = people.of(few), {}
    effects = {"person": shown.person, "session": shown.session, "trial": shown.trial, "emotion": shown.y}
    for heading, X in (("raw", shown.X), ("Personal-Zscore", scaled[few])):
        plane = embed(X, seed)
        for name, of in aggregation(X, effects, plane, seed).items():
            print(
                f"aggregation   {heading:15s} by {name:8s} silhouette {of.silhouette:+.2f}, mutual information with "
                f"DBSCAN's clusters {of.density:.2f}, with k-means' {of.k_means:.2f}"
            )
            panels[f"{heading}, by {name}"] = Grouping(plane, effects[name])
    bars = {name: (float(of.mean()), of.ravel()) for name, of in of_method.items()}
    labels = [f"person {who}, session {when}" for who, when in maps]
    return {
        "accuracy.png": range_bars(bars, 1 / len(CLASSES), "accuracy; dots are people"),
        "samples.png": grouped_points(panels, columns=len(effects)),
        "patterns.png": signed_maps(
            labels, [of[1].T for of in maps.values()], "channel (CT of negative against positive)", "band"
        ),
    }


def _flat(model: Any, X: np.ndarray, y: np.ndarray) -> Predict:
    fitted = model.fit(X.reshape(len(X), -1), y)
    return lambda features: fitted.predict(features.reshape(len(features), -1))
