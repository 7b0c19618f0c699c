"""A checkpoint folder carries everything: deployment needs one path and no flags, resuming likewise.

    config.json, pytorch_model.bin   the network in the released format (`rdt/model/released.py`)
    condition.safetensors            encoders that trained along, and the scaling of the unified vector
    instructions.safetensors         embeddings of the sentences of the training data, where the text encoder is frozen
    run.yaml                         resolved training config
    robot.yaml                       embodiment
    statistics.json                  per-slot statistics of the training data
    best.json                        of a best checkpoint, its step and what was measured (`rdt/train/best.py`)
    trainer.pt                       step, optimizer, schedule, online weights, moving average; where ranks share the
    trainer/                         model, the same in shards instead (`rdt/train/sharded.py`)
    checksums.json                   sizes and checksums of all of these (`rdt/model/manifest.py`)

Statistics and the trainer's state are absent where nothing was trained here: a released network with a robot and
encoders; the state also where it is only to act, as in a best one. The folder appears whole or not at all, and what is
read of it is compared with its checksums first; an older folder without them opens too. Tensors are read with
safetensors or `weights_only`, never unpickled.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from data_pipeline.atomic import atomic_folder, write_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import read_yaml
from rdt.encoders.t5 import CachedT5
from rdt.encoders.text_cache import embeddings_bytes, read_embeddings
from rdt.model.manifest import Entry, verify, write_manifest
from rdt.model.released import load_released, save_released
from rdt.train.best import BEST_FILE, Best
from rdt.train.config import TrainConfig, config_from_dict, dump_config
from rdt.train.parallel import ALONE, Ranks
from rdt.train.sharded import SHARDS, has_shares, load_shards, read_plain, save_shards, shared_folder
from rdt.train.trainer import Trainer
from rdt.visuomotor import VisuomotorPolicy

STATISTICS_FILE = "statistics.json"
RUN_FILE = "run.yaml"
"""What tells a checkpoint of this stack from a released one."""


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds, ready to act."""

    model: VisuomotorPolicy
    robot: Embodiment
    config: TrainConfig
    folder: Path | None = None  # that it was read from


def save_checkpoint(
    folder: str | Path,
    model: VisuomotorPolicy | None,
    robot: Embodiment,
    config: TrainConfig,
    statistics: dict[str, Any] | None = None,
    trainer_state: dict[str, Any] | None = None,
    best: Best | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Write a checkpoint folder, replacing an older one only once the new one is complete.

    Several ranks all call it, the first with the whole model, others with None; it fails on all of them or on none.
    Where `trainer_state` is that of shared tensors, every rank writes its own part.
    """
    with shared_folder(Path(folder), ranks) as temporary:
        shards: dict[str, Entry] = {}
        if trainer_state is not None and has_shares(trainer_state):
            shards = save_shards(temporary, trainer_state, ranks)
            trainer_state = None
        if model is None:
            return
        save_released(model.policy, temporary)
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.condition.state_dict().items()}
        (temporary / "condition.safetensors").write_bytes(safetensors_bytes(tensors))
        if isinstance(model.condition.text, CachedT5):
            known = embeddings_bytes(model.condition.text.embeddings)
            (temporary / "instructions.safetensors").write_bytes(known)
        (temporary / RUN_FILE).write_text(dump_config(config), encoding="utf-8")
        (temporary / "robot.yaml").write_text(yaml.safe_dump(robot.to_dict(), sort_keys=False), encoding="utf-8")
        if statistics is not None:
            (temporary / STATISTICS_FILE).write_text(json.dumps(statistics, indent=1), encoding="utf-8")
        if best is not None:
            write_json(temporary / BEST_FILE, best.to_dict())
        if trainer_state is not None:
            with (temporary / "trainer.pt").open("wb") as opened:  # a full disk is then the system's own error
                torch.save(trainer_state, opened)
        write_manifest(temporary, shards)


def keep_earlier(folder: str | Path, earlier: str | Path, step: int, count: int) -> None:
    """Beside the newest checkpoint `folder` keep it and those before it, `count` in all, as `earlier`/step_N.

    Their files are the same ones on the disk, so the newest costs no space twice. A count of 1 keeps none of them.
    """
    if count <= 1:
        return
    kept = Path(earlier) / f"step_{step:08d}"
    with atomic_folder(kept, replace=True) as temporary:
        for file in Path(folder).rglob("*"):
            if file.is_file():
                linked = temporary / file.relative_to(folder)
                linked.parent.mkdir(exist_ok=True)
                os.link(file, linked)
    until_now = [path for path in sorted(Path(earlier).glob("step_*")) if path.name <= kept.name]
    for old in until_now[:-count]:  # later ones are there where a run goes on from an earlier step: it makes them again
        shutil.rmtree(old)


def is_checkpoint(path: str | Path) -> bool:
    """Whether this is a checkpoint of this stack, not a released one."""
    return (Path(path) / RUN_FILE).is_file()


def read_run(folder: str | Path) -> TrainConfig:
    """The config that a checkpoint was trained with. Raises `ValueError` for a damaged file."""
    verify(Path(folder), (RUN_FILE,))
    file = Path(folder) / RUN_FILE
    return config_from_dict(read_yaml(file), where=str(file))


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Open a checkpoint for acting or fine-tuning. Raises `ValueError` that says which file is wrong.

    All files that it opens are compared with their checksums, which takes 0.2 s a GB beside reading them.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"there is no {folder}: name the folder of a checkpoint, such as runs/quickstart/checkpoint")
    missing = [
        name
        for name in ("config.json", "condition.safetensors", RUN_FILE, "robot.yaml")
        if not (folder / name).is_file()
    ]
    if missing:
        raise ValueError(f"{folder} is not a checkpoint of this stack: it lacks {', '.join(missing)}")
    verify(folder, ("condition.safetensors", "instructions.safetensors", "robot.yaml"))
    config = read_run(folder)
    policy = load_released(folder, device=device)
    model = VisuomotorPolicy(policy, config.condition, config.noise_slots)
    try:
        model.condition.load_state_dict(load_file(folder / "condition.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / 'condition.safetensors'} does not fit run.yaml: {error}") from None
    if isinstance(model.condition.text, CachedT5) and (folder / "instructions.safetensors").is_file():
        model.condition.text.add(read_embeddings(folder / "instructions.safetensors"))
    return Checkpoint(
        model=model.to(device).eval(),
        robot=Embodiment.from_yaml(folder / "robot.yaml"),
        config=config,
        folder=folder,
    )


def resume(trainer: Trainer, folder: str | Path, ranks: Ranks = ALONE) -> None:
    """Go on where the run that wrote the checkpoint stopped, with whatever number of ranks and mode either has.

    Raises `ValueError` for a missing or damaged file, and for the state of another run.
    """
    folder = Path(folder)
    if (folder / SHARDS).is_dir():
        state = load_shards(folder, trainer.state_dict(whole=False), ranks)
        trainer.load_state_dict(state, whole=False)
    else:
        trainer.load_state_dict(load_trainer_state(folder))


def read_progress(folder: str | Path) -> tuple[int, float] | None:
    """Steps and seconds that a checkpoint was trained; None where it has no trainer's state."""
    folder = Path(folder)
    if (folder / SHARDS).is_dir():
        state = read_plain(folder)
    elif (folder / "trainer.pt").is_file():
        state = load_trainer_state(folder)
    else:
        return None
    return state["step"], state["train_seconds"]


def load_trainer_state(folder: str | Path) -> dict[str, Any]:
    """The whole state that `Trainer.load_state_dict` takes. Raises `ValueError` for a missing or damaged file."""
    path = Path(folder) / "trainer.pt"
    verify(path.parent, (path.name,))
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "torchao" not in str(error):
                raise
            import torchao.optim  # noqa: F401  it lists its eight-bit states among what may be read

            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, ImportError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is missing or damaged ({reason}): remove {folder} to train from the start") from None
