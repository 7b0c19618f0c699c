"""Where a fine-tuning begins: the weights of a checkpoint of this stack, or of a released one.

    network                resized to the run's horizon, frames, cameras and language length, with an account of it
    encoders that trained  taken over, when the run has the same ones; a released checkpoint has none
    scaling                the start's slot ranges, or with `start_scaling: refit` those of the new data
    statistics, robot      the run's own; what does not fit the start is refused or said

Only a fresh run starts anywhere. One that goes on has all of this in its own checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import SLOT_NAMES, SLOT_UNITS
from data_pipeline.schema.types import CAMERA_ROLES
from data_pipeline.stats import SlotStats
from rdt.encoders.condition import MIN_RANGE, Kind
from rdt.encoders.t5 import CachedT5
from rdt.encoders.text_cache import read_embeddings
from rdt.model.manifest import verify
from rdt.model.policy import RDTPolicy
from rdt.model.presets import PRESETS, RDTConfig, image_grid
from rdt.model.released import inspect_released, load_released
from rdt.model.weights import CheckpointError
from rdt.train.checkpoint import STATISTICS_FILE, is_checkpoint, read_run
from rdt.train.config import TrainConfig
from rdt.visuomotor import VisuomotorPolicy

RESIZABLE = ("pred_horizon", "img_cond_len", "max_lang_cond_len")
FREE = ("img_pos_embed_config", "lang_pos_embed_config", "num_inference_timesteps", "adaptor_init")
"""Sizes that a trained network can change, and choices that matter to fresh weights or to sampling alone."""

FARTHEST = 4.0
"""Half ranges of the start's data, from its middle, up to which a slot of the new data is plausible.

Another task of the same robot reaches 2 or 3; degrees in place of radians reach 57.
"""

MAX_LISTED_SLOTS = 6


def network_config(config: TrainConfig) -> RDTConfig:
    """The network of a run: its preset, for the pictures of its condition."""
    return PRESETS[config.preset].with_images(config.condition.image_history, len(config.condition.cameras))


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run can start from; `open_start` has checked that it fits."""

    source: str
    config: TrainConfig | None  # of a checkpoint of this stack
    robot: Embodiment | None
    statistics: Mapping[Kind, SlotStats]  # empty where nothing is known of its data
    resized: Mapping[str, object]  # arguments of `load_released`

    @property
    def scales(self) -> bool:
        """Whether its network reads scaled vectors."""
        return self.config is not None and self.config.condition.scaling == "min_max"


def open_start(config: TrainConfig, robot: Embodiment, report: Callable[[str], None] = print) -> Start:
    """Look at the checkpoint that `config.start_from` names, its weights unread.

    Raises `ValueError` where the run cannot start from it: other sizes, encoders, scaling; `report` gets what is
    different and yet possible.
    """
    assert config.start_from is not None
    source = config.start_from
    had = inspect_released(source, report=lambda _: None).config
    theirs: TrainConfig | None = None
    their_robot: Embodiment | None = None
    statistics: dict[Kind, SlotStats] = {}
    if is_checkpoint(source):
        folder = Path(source)
        verify(folder, ("robot.yaml", STATISTICS_FILE, "condition.safetensors", "instructions.safetensors"))
        theirs = read_run(folder)
        their_robot = Embodiment.from_yaml(folder / "robot.yaml")
        statistics = _read_statistics(folder / STATISTICS_FILE)
    resized = _resizing(source, had, config, theirs.condition.cameras if theirs else None)
    start = Start(source, theirs, their_robot, statistics, resized)
    _check_condition(start, config)
    if theirs is None:
        report(f"{source} is a released checkpoint: what it was trained on, and how it saw, is not known")
    elif theirs.noise_slots != config.noise_slots:
        report(f"{source} was trained with noise_slots {theirs.noise_slots!r}, this run has {config.noise_slots!r}")
    if their_robot is not None and their_robot != robot:
        strange = np.flatnonzero(robot.mask & ~their_robot.mask)
        report(
            f"{source} is for robot {their_robot.name!r}, this run for {robot.name!r}"
            + (
                f", with slots that the other lacks: {_listed([SLOT_NAMES[i] for i in strange])}"
                if len(strange)
                else ""
            )
        )
    return start


def check_will_fit(before: TrainConfig, config: TrainConfig) -> None:
    """Raise `ValueError` where a run could not start from what another one is going to train."""
    _resizing(before.out, network_config(before), config, before.condition.cameras)
    _check_condition(Start(before.out, before, None, {}, {}), config)


def load_start(start: Start, config: TrainConfig, report: Callable[[str], None] = print) -> VisuomotorPolicy:
    """The run's policy with the start's weights, in float32; `report` gets what became of the position tables.

    The scaling is the start's where it is kept, else the identity until it is fitted.
    """
    loaded = load_released(start.source, dtype=torch.float32, report=report, **start.resized)  # type: ignore[arg-type]
    with torch.device("meta"):
        policy = RDTPolicy(network_config(config))
    policy.load_state_dict(loaded.state_dict(), assign=True)
    model = VisuomotorPolicy(policy, config.condition, config.noise_slots)
    if start.config is not None:
        _load_encoders(model, Path(start.source), keep_scaling=keeps_scaling(start, config))
    return model


def keeps_scaling(start: Start | None, config: TrainConfig) -> bool:
    """Whether the run reads vectors through the slot ranges of its start."""
    return start is not None and start.scales and config.start_scaling == "keep"


def check_statistics(
    start: Start, config: TrainConfig, kind: Kind, new: SlotStats, report: Callable[[str], None] = print
) -> None:
    """Compare the new data with the start's, slot by slot.

    Where the start's scaling is kept, slots that it does not know and values far outside raise `ValueError`: the
    network would read numbers that it never saw. Otherwise they are told to `report`.
    """
    if kind not in start.statistics:
        return
    old = start.statistics[kind]
    both = (old.count > 0) & (new.count > 0)
    unknown = np.flatnonzero((new.count > 0) & (old.count == 0))
    middle, half = (old.max + old.min) / 2, np.maximum(old.max - old.min, MIN_RANGE) / 2
    reach = np.where(both, np.maximum(new.max - middle, middle - new.min) / half, 0.0)
    findings = [
        f"{SLOT_NAMES[i]}: [{new.min[i]:.4g}, {new.max[i]:.4g}] {SLOT_UNITS[i]} against "
        f"[{old.min[i]:.4g}, {old.max[i]:.4g}]"
        for i in np.flatnonzero(reach > FARTHEST)
    ]
    findings += [f"{SLOT_NAMES[i]}: not in its data" for i in unknown]
    if not findings:
        return
    message = f"the {kind}s of this run's data do not match those of {start.source}: {_listed(findings)}"
    if keeps_scaling(start, config):
        raise ValueError(
            f"{message}. Check the robot and its units; where this is meant, start_scaling: refit maps the new ranges "
            "instead, and the network learns them anew"
        )
    report(f"{message}; check the robot and its units, unless this is meant")


def _read_statistics(file: Path) -> dict[Kind, SlotStats]:
    if not file.is_file():
        return {}
    raw = json.loads(file.read_text(encoding="utf-8"))
    kinds: tuple[Kind, ...] = ("state", "action")
    return {kind: SlotStats.from_dict(raw[kind]) for kind in kinds}


def _resizing(source: str, had: RDTConfig, config: TrainConfig, cameras: tuple[str, ...] | None) -> dict[str, object]:
    """What `load_released` has to change, so that the network is the run's; `ValueError` where that is impossible."""
    want = network_config(config)
    kept = {name: value for name, value in asdict(had).items() if name not in (*RESIZABLE, *FREE)}
    wrong = [f"{name} {value} -> {asdict(want)[name]}" for name, value in kept.items() if value != asdict(want)[name]]
    if wrong:
        raise ValueError(
            f"a run with preset {config.preset!r} cannot start from {source}, a network of other sizes or choices "
            f"({', '.join(wrong)}): choose the preset that it was trained with"
        )
    resized: dict[str, object] = {}
    if had.pred_horizon != want.pred_horizon:
        resized["pred_horizon"] = want.pred_horizon
    if had.max_lang_cond_len != want.max_lang_cond_len:
        resized["max_lang_cond_len"] = want.max_lang_cond_len
    theirs, ours = image_grid(had.img_pos_embed_config), image_grid(want.img_pos_embed_config)
    if theirs is None or ours is None:
        if had.img_cond_len != want.img_cond_len:
            raise ValueError(
                f"{source} reads {had.img_cond_len} picture tokens, this run {want.img_cond_len}, and its config.json "
                'does not say which are which: expected "img_pos_embed_config": [["image", [frames, cameras, patches]]]'
            )
        return resized
    if abs(theirs[2]) != abs(ours[2]):
        raise ValueError(
            f"{source} reads {abs(theirs[2])} tokens of a picture, this run {abs(ours[2])}: use the vision "
            "encoder and the preset that it was trained with"
        )
    roles = CAMERA_ROLES[: abs(theirs[1])] if cameras is None else cameras
    if list(map(abs, theirs)) != list(map(abs, ours)) or roles != config.condition.cameras:
        resized |= {"image_history": config.condition.image_history, "cameras": config.condition.cameras}
        resized |= {"checkpoint_cameras": cameras}
    return resized


def _check_condition(start: Start, config: TrainConfig) -> None:
    """Raise `ValueError` where the run would show the network what it cannot read."""
    now = config.condition
    if start.config is None:
        if now.scaling != "none":
            raise ValueError(
                f"{start.source} is a released checkpoint, whose network reads SI units, but the config scales with "
                f"{now.scaling!r}: set condition.scaling to none"
            )
        return
    before = start.config.condition
    for name in ("vision", "text", "scaling"):
        if getattr(before, name) != getattr(now, name):
            raise ValueError(
                f"{start.source} was trained with condition.{name} {getattr(before, name)!r}, the config says "
                f"{getattr(now, name)!r}: set it to the same"
            )


def _load_encoders(model: VisuomotorPolicy, folder: Path, *, keep_scaling: bool) -> None:
    """Weights of encoders that trained along, what a frozen one is known by, sentences; scaling where it is kept."""
    file = folder / "condition.safetensors"
    try:
        saved: dict[str, Tensor] = load_file(file)
        taken = {name: tensor for name, tensor in saved.items() if keep_scaling or not name.startswith("scaling.")}
        result = model.condition.load_state_dict(taken, strict=False)
        missing = [name for name in result.missing_keys if not name.startswith("scaling.")]
        if missing or result.unexpected_keys:
            raise ValueError(f"missing {missing}, unexpected {result.unexpected_keys}")
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} does not fit the encoders of this run: {error}") from None
    if isinstance(model.condition.text, CachedT5) and (folder / "instructions.safetensors").is_file():
        model.condition.text.add(read_embeddings(folder / "instructions.safetensors"))


def _listed(entries: list[str]) -> str:
    more = len(entries) - MAX_LISTED_SLOTS
    return ", ".join(entries[:MAX_LISTED_SLOTS]) + (f" and {more} more" if more > 0 else "")
