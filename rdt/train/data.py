"""What a run learns from: its stores and their weights, what is fitted to them, the samples and their batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.annotation.valence import valence_weights
from data_pipeline.mapping.mixtures import MixtureConfig, WeightUnit, match_stores, read_mixture
from data_pipeline.schema.embodiment import Kind
from data_pipeline.schema.registry import find_config
from data_pipeline.selection import EpisodeSelection, find_stores
from data_pipeline.stats import Moments
from data_pipeline.stream import SampleStream
from data_pipeline.transforms.randomise import Randomisation
from rdt.train.config import DataConfig, TrainConfig
from rdt.train.loader import BatchLoader
from rdt.train.parallel import Ranks
from rdt.train.start import Start, check_statistics, keeps_scaling
from rdt.visuomotor import VisuomotorPolicy


def weighted_stores(
    data: DataConfig, recorded: Sequence[Path] = (), report: Callable[[str], None] = print
) -> tuple[dict[Path, float | None], WeightUnit]:
    """The stores that a config names and those `recorded` for it, with weights or all without; what a weight counts."""
    paths = [*(path for named in data.stores for path in find_stores(named)), *recorded]
    if data.mixture is not None:
        mixture = read_mixture(find_config("datasets/mixtures", data.mixture))
    elif data.weights is not None:
        mixture = MixtureConfig("data.weights", data.weights, "step")
    else:
        return dict.fromkeys(paths), data.weight_unit or "step"
    matched = match_stores(mixture, paths, skip_missing=data.mixture_missing == "skip")
    for what, names in (
        ("datasets without a store", matched.missing),
        ("stores that it does not name", matched.unread),
    ):
        if names:
            report(f"mixture {mixture.name!r} goes without {what}: {', '.join(names)}")
    return dict(matched.stores), data.weight_unit or mixture.weight_unit


def fit_scaling(
    model: VisuomotorPolicy,
    config: TrainConfig,
    parts: list[EpisodeSelection],
    start: Start | None,
    report: Callable[[str], None],
) -> tuple[dict, Randomisation]:
    """Statistics of the training episodes, fitted into the model's scaling where the config asks for it.

    Raises `ValueError` where they do not fit the scaling of a start.

    With them comes what training does to an observation, in which a store's mean state stands for a hidden one.
    """
    statistics: dict = {
        "num_episodes": sum(len(part) for part in parts),
        "num_steps": sum(sum(part.episode_lengths) for part in parts),
    }
    kinds: tuple[Kind, ...] = ("state", "action")
    moments = {kind: [part.moments(kind) for part in parts] for kind in kinds}
    for kind in kinds:
        stats = sum(moments[kind], Moments.zero()).finish()
        statistics[kind] = stats.to_dict()
        if start:
            check_statistics(start, config, kind, stats, report)
        if config.condition.scaling == "min_max" and not keeps_scaling(start, config):
            model.condition.scaling.fit_min_max(kind, stats.min, stats.max, stats.count > 0)
    randomisation = Randomisation(
        config.seed,
        config.condition.image_history,
        dropout=config.data.dropout,
        mean_states=np.stack([of_store.finish().mean for of_store in moments["state"]]),
        random_shift_px=config.data.random_shift_px,
        state_noise_snr_db=config.data.state_noise_snr_db,
        augment=config.data.augment if config.data.augment.probability else None,
    )
    return statistics, randomisation


def sample_stream(
    config: TrainConfig,
    model: VisuomotorPolicy,
    parts: dict[EpisodeSelection, float | None],
    unit: WeightUnit,
    *,
    train: bool,
) -> SampleStream:
    """Samples of the parts by their weights; `train` draws more of beginnings, of corrections and of episodes that
    operators felt well about, as the config says.
    """
    strength = config.data.operator_valence_strength if train else 0.0
    weights = [weight for weight in parts.values() if weight is not None]
    return SampleStream(
        list(parts),
        seed=config.seed,
        horizon=model.horizon,
        image_history=config.condition.image_history,
        cameras=config.condition.cameras,
        weights=weights or None,
        weight_unit=unit,
        start_fraction=config.data.start_fraction if train else 0.0,
        start_steps=config.data.start_steps,
        operator_fraction=config.data.operator_fraction if train else 0.0,
        episode_weights=valence_weights(list(parts), strength) if strength else None,
    )


def batch_loader(
    config: TrainConfig,
    model: VisuomotorPolicy,
    stream: SampleStream,
    randomisation: Randomisation | None,
    ranks: Ranks,
    labels: Sequence[np.ndarray] | None = None,
) -> BatchLoader:
    """Of training, or without a randomisation of validation; `labels` as of `BatchLoader`."""
    data = config.data
    return BatchLoader(
        stream,
        model.condition,
        data.batch_size,
        randomisation=randomisation,
        workers=data.workers if randomisation is not None else 0,
        rank=ranks.rank,
        world_size=ranks.size,
        with_state_norm=randomisation is None,
        labels=labels,
        max_bad_fraction=data.max_bad_fraction,
        bad_window=data.bad_window,
    )
