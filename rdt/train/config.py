"""A training run as typed dataclasses; the YAML names only what differs.

`load_config(path, overrides)` reads a YAML file and `--a.b value` overrides through jsonargparse. An unknown key
is an error that names the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import yaml

from data_pipeline.mapping.mixtures import WeightUnit
from data_pipeline.schema.registry import check_keys, read_yaml
from data_pipeline.transforms.augment import AugmentConfig
from data_pipeline.transforms.dropout import DropoutRates
from rdt.encoders.condition import ConditionConfig
from rdt.train.lora import LoraConfig
from rdt.train.optim import OptimConfig
from rdt.train.parallel import ParallelMode
from rdt.visuomotor import NoiseSlots

BY_DEMONSTRATIONS = "by_demonstrations"
"""Key of a YAML file's presets; no setting of a run."""

Config = TypeVar("Config")
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class DataConfig:
    """Which stores are read, and how a sample is drawn from them."""

    stores: tuple[str, ...] = ()  # native stores, or folders that hold several side by side
    mixture: str | None = None  # datasets and weights: a YAML of configs/datasets/mixtures, by name or path
    mixture_missing: Literal["error", "skip"] = "error"  # skip: datasets of the mixture that have no store are left out
    weights: dict[str, float] | None = None  # the same said here: name of a store's folder -> weight
    weight_unit: WeightUnit | None = None  # episode or step; none: the mixture's own, else step
    other_robots: bool = False  # stores of other robots than the config's are read too
    batch_size: int = 32  # samples of all ranks together
    micro_batch_size: int = 0  # samples that a rank has in memory at once; 0: all of its share
    workers: int = 0  # processes that make batches; 0: a thread
    held_out_every: int = 0  # every so many-th episode of a store is kept for validation; 0: none
    start_fraction: float = 0.0  # share of samples drawn from the first `start_steps` steps of an episode
    start_steps: int = 6
    operator_fraction: float = (
        0.0  # of a store's samples from steps at which a person acted, where there are such: corrections
    )
    operator_valence_strength: float = 0.0  # how much oftener episodes come that their operator's EEG speaks well of:
    # weight exp(strength x relative valence), see data_pipeline/annotation/valence.py; 0: all alike; below 0: seldomer
    random_shift_px: int = 0  # pictures are shifted by up to this many pixels
    dropout: DropoutRates = field(default_factory=DropoutRates)  # what a sample's condition hides
    state_noise_snr_db: float | None = None  # noise on states, at this ratio to their deviation in the episode
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(probability=0))  # published: probability 0.5
    cache_features: bool = False  # a frozen vision encoder's, of a small set: encoded once, kept in OUT/features
    max_bad_fraction: float = 0.01  # training stops when more of the last `bad_window` samples cannot be read
    bad_window: int = 10_000

    def __post_init__(self) -> None:
        if self.mixture is not None and self.weights is not None:
            raise ValueError("data.mixture and data.weights say the same thing: give one of them")
        if self.micro_batch_size < 0:
            raise ValueError(f"data.micro_batch_size must be 0, all at once, or more, got {self.micro_batch_size}")
        if self.workers < 0 or self.bad_window < 1 or not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(
                "data.workers must be 0 or more, data.max_bad_fraction in [0, 1] and data.bad_window at least 1, got "
                f"{self.workers}, {self.max_bad_fraction} and {self.bad_window}"
            )
        if self.cache_features and (self.augment.probability or self.random_shift_px):
            raise ValueError(
                "data.cache_features keeps what the encoder makes of a picture as it is: set data.augment.probability "
                f"(now {self.augment.probability:g}) and data.random_shift_px (now {self.random_shift_px}) to 0"
            )


@dataclass(frozen=True)
class DemonstrationConfig:
    """Scripted demonstrations that the embedded simulator records for this run, before it trains."""

    environment: str = "sim_handover"
    per_task: int = 0  # accepted demonstrations of each task; 0: train on `data.stores` alone
    noise_rad: float = 0.01  # standard deviation of the disturbance that the expert corrects
    action: Literal["intended", "executed"] = "intended"  # executed: the disturbance is recorded, as of a shaky hand
    seed: int = 0


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a run; the resolved form is stored with its checkpoint."""

    preset: str = "rdt_1b"  # sizes of the network; the number of pictures is that of `condition`
    start_from: str | None = None  # a checkpoint to fine-tune: a folder, a file of weights, a hub id, or the name of a
    # shipped training config, which is then trained first; none: fresh weights
    start_scaling: Literal["keep", "refit"] = "keep"  # of a start with min_max: its slot ranges, or the new data's
    robot: str = "sim_bimanual"  # robot YAML, by name or path
    steps: int = 1000
    seed: int = 0
    out: str = "runs/train"
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    freeze: tuple[str, ...] = ()  # parameters that do not train, by patterns: ["condition.vision.*"]
    lora: LoraConfig = field(default_factory=LoraConfig)  # low-rank adapters in place of the network's weights
    noise_slots: NoiseSlots = "all"  # all, as published, or live: only the robot's own slots
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    activation_checkpointing: Literal["none", "blocks"] = "none"  # blocks: a third slower, a fraction of the memory
    compile: bool = False  # the blocks through torch.compile: 20 s at first, a third less time a step on a GPU
    validate_every: int = 200  # steps between looks at held-out episodes
    plot_every: int = 1000  # between pictures of predicted beside recorded actions; 0: none
    evaluate_every: int = 0  # between trials in the embedded simulator of `demonstrations.environment`; 0: none
    evaluate_episodes: int = 20  # trials of each task
    checkpoint_every: int = 500
    loggers: tuple[str, ...] = ("jsonl", "tensorboard")  # where the numbers go; wandb too, with its extra
    device: str = "auto"  # auto | cpu | cuda
    precision: Precision = "auto"  # of the arithmetic, weights stay float32; auto: bfloat16 on a GPU, else float32
    parallel: ParallelMode = "auto"  # under torchrun: ddp, fsdp, hsdp; auto: ddp
    keep_best: bool = True  # in best/, by success in trials, else by the error of held-out episodes; without: nothing
    keep_last: int = 1  # checkpoints that are kept: the newest in checkpoint/, more than one in checkpoints/

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last counts checkpoints and must be at least 1, got {self.keep_last}")
        if self.plot_every < 0 or self.evaluate_every < 0 or self.evaluate_episodes < 1:
            raise ValueError(
                "plot_every and evaluate_every must be 0 or more and evaluate_episodes at least 1, got "
                f"{self.plot_every}, {self.evaluate_every} and {self.evaluate_episodes}"
            )


def load_config(path: str | Path, overrides: Sequence[str] = (), demonstrations: int | None = None) -> TrainConfig:
    """Read a YAML file and apply `--a.b value` overrides. Raises `ValueError` that names the file and the key.

    The file may have presets `by_demonstrations`, settings by the number of demonstrations from which on they hold; the
    one for `demonstrations` is applied before the overrides.
    """
    raw = read_yaml(path)
    presets = raw.pop(BY_DEMONSTRATIONS, {})
    for count, preset in presets.items():
        if not isinstance(count, int) or not isinstance(preset, dict):
            raise ValueError(f"{path}: {BY_DEMONSTRATIONS} maps numbers to settings, got {count!r}: {preset!r}")
        _check_nested_keys(f"{path}, {BY_DEMONSTRATIONS} {count}", TrainConfig, preset)
    if demonstrations is not None:
        if not presets:
            raise ValueError(
                f"{path} has no presets by number of demonstrations; how many to record is demonstrations.per_task"
            )
        fitting = [count for count in presets if count <= demonstrations]
        if not fitting:
            raise ValueError(
                f"{path} has no preset for {demonstrations} demonstrations: its {BY_DEMONSTRATIONS} begin at "
                f"{min(presets)}"
            )
        raw = overlaid(raw, presets[max(fitting)])
    return config_from_dict(raw, overrides, where=str(path))


def config_from_dict(raw: dict[str, Any], overrides: Sequence[str] = (), where: str = "config") -> TrainConfig:
    """The same from the mapping that a checkpoint stores."""
    return config_as(TrainConfig, raw, overrides, where)


def config_as(cls: type[Config], raw: dict[str, Any], overrides: Sequence[str] = (), where: str = "config") -> Config:
    """A mapping and overrides as a dataclass of nested ones. Raises `ValueError` that names the key."""
    from jsonargparse import ArgumentError, ArgumentParser

    _check_nested_keys(where, cls, raw)
    for option in overrides:
        if option.startswith("--"):
            _check_override(cls, option.removeprefix("--").split("=")[0])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, None, fail_untyped=True)
    try:
        values = parser.instantiate(parser.parse_args(list(overrides), parser.parse_object(raw)))
    except ArgumentError as error:
        raise ValueError(f"{where}: {error}") from None
    return cls(**{f.name: getattr(values, f.name) for f in fields(cls)})  # type: ignore[arg-type]


def dump_config(config: TrainConfig) -> str:
    """The resolved config as YAML that `load_config` reads back."""
    return yaml.safe_dump(plain_config(config), sort_keys=False)


def plain_config(config: Any) -> dict[str, Any]:
    """The resolved config as plain types."""
    return _plain(config)


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two nested mappings of plain types differ, as `path: before -> now`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = {**before, **now}
        return [d for key in keys for d in differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))]
    return [] if before == now else [f"{path}: {before} -> {now}"]


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a value, that of `above`."""
    both = {**below, **above}
    return {k: overlaid(below[k], v) if isinstance(v, dict) and k in below else v for k, v in both.items()}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _check_nested_keys(where: str, cls: type, raw: dict[str, Any]) -> None:
    hints = get_type_hints(cls)
    check_keys(where, raw, hints)
    for key, value in raw.items():
        if is_dataclass(hints[key]) and isinstance(value, dict):
            _check_nested_keys(f"{where}, {key}", hints[key], value)


def _check_override(cls: type, dotted: str) -> None:
    for part in dotted.split("."):
        if not is_dataclass(cls):
            raise ValueError(f"--{dotted}: {part!r} is below a plain value")
        hints = get_type_hints(cls)
        check_keys(f"--{dotted}", {part: None}, hints)
        cls = hints[part]
