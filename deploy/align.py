"""`rdt align CONFIG`: make a policy better by how its own rollouts ended, or by which words it was told.

    ROLLOUTS/              what the start did in the simulator and how it ended (`rdt rollout`), for all methods
    CRITIC/                who says how good a chunk is, learnt from it once: state/, metrics.jsonl
    OUT/<stage>/           the method's own training: checkpoint/ or state/, metrics.jsonl, tensorboard/
    OUT/checkpoint/        what acts: for `rdt eval`, `rdt serve` and `rdt run`, like any other
    OUT/align.yaml         the resolved config

Every stage is trained by the trainer of `rdt train`, goes on where it was interrupted, and is left alone when done.
The methods and what they do to the policy stand in docs/alignment.md.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import yaml
from torch import nn
from tqdm import tqdm

from data_pipeline.annotation.outcome import episode_success, success_ratio
from data_pipeline.annotation.tasks import episode_tasks
from data_pipeline.annotation.valence import valence_ratio
from data_pipeline.atomic import atomic_folder, check_writable, read_json, recover_folder, write_bytes
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.registry import find_config, read_yaml, shipped_configs, unknown_name
from data_pipeline.selection import EpisodeSelection, find_stores
from data_pipeline.storage import EpisodeStore
from deploy.align_config import NEEDS_CRITIC, AlignConfig, StageConfig
from deploy.device import choose_device
from deploy.rollouts import record_rollouts
from deploy.stages import STATE, is_done, train_stage
from deploy.train import CHECKPOINT, check, run_training, runs
from rdt.alignment.acting import FOLDER, ActingConfig, load_acting, save_acting
from rdt.alignment.chunks import (
    ClimbingStudent,
    CriticEnergy,
    CriticPolicy,
    ImitatingStudent,
    OutcomeCritic,
    OutcomePolicy,
    WordsPolicy,
    mean_chunk,
)
from rdt.alignment.heads import ChunkCritic, ChunkEnergy, ChunkStudent, Head, HeadConfig
from rdt.alignment.transitions import Transitions, encode_transitions
from rdt.batch import Batch, Condition, TransitionBatch, to_device
from rdt.model.manifest import MANIFEST_FILE, write_manifest
from rdt.random import SampleGenerator
from rdt.train.checkpoint import (
    STATISTICS_FILE,
    Checkpoint,
    load_checkpoint,
    load_trainer_state,
    read_progress,
    save_checkpoint,
)
from rdt.train.config import TrainConfig, config_as, differences, load_config, plain_config
from rdt.train.data import batch_loader, sample_stream
from rdt.train.loader import BatchLoader
from rdt.train.parallel import ALONE
from rdt.train.trainer import Measure, Trainer
from rdt.visuomotor import VisuomotorPolicy

AnyHead = TypeVar("AnyHead", bound=Head)

ALIGN_FILE = "align.yaml"
MEASURED_BATCHES = 16  # of which log-ratios are the mean
STUDENT = ActingConfig("student")
OFFLINE = "offline"
"""Folder of the shipped configs that align policies of states (`deploy/offline.py`)."""


def command(args: argparse.Namespace) -> None:
    path = _config_file(args.config)
    if "data" in read_yaml(path):  # of states and actions, without RDT
        from deploy.offline import align_offline

        return align_offline(path, args.overrides)
    config = load_align(path, args.overrides)
    out = Path(config.out)
    check_writable(out)
    _same_run(config, out)
    align(config)
    following = f"rdt eval {out / CHECKPOINT} --env {config.rollouts.environment} --out {out / 'eval'}"
    print(f"checkpoint in {out / CHECKPOINT}; next: {following}")


def _config_file(name: str) -> Path:
    """A path, the name of a shipped config, or offline/NAME."""
    path = Path(name)
    if path.parent == Path(OFFLINE) and not path.is_file():
        return find_config(f"align/{OFFLINE}", path.name)
    return find_config("align", path)


def load_align(path: str | Path, overrides: Sequence[str] = ()) -> AlignConfig:
    """Read a YAML file and apply `--a.b value` overrides. Raises `ValueError` that names the file and the key."""
    return config_as(AlignConfig, read_yaml(path), overrides, where=str(path))


def align(config: AlignConfig) -> None:
    """Run all stages that are not done."""
    out, device = Path(config.out), choose_device(config.device)
    start_folder = trained_start(config)
    stores = _stores(config, start_folder)
    start = load_checkpoint(start_folder, device)
    start.model.requires_grad_(False)
    run = _Run(config, start, stores, device)
    if config.method in NEEDS_CRITIC:
        run = replace(run, critic=_critic(run))
    {
        "sfbc": _sfbc,
        "cep": _cep,
        "eda": _policy_stage,
        "nca": _policy_stage,
        "cca": _policy_stage,
        "srpo": _srpo,
    }[config.method](run, out)


@dataclass(frozen=True)
class _Run:
    """What a method's stages have in common."""

    config: AlignConfig
    start: Checkpoint
    stores: list[EpisodeStore]
    device: torch.device
    critic: ChunkCritic | None = None

    def head_config(self) -> HeadConfig:
        assert self.critic is not None
        whole = self.critic.config.horizon
        return replace(self.critic.config, num_actions=whole, members=1, **asdict(self.config.head))

    @contextmanager
    def loader(self, stage: StageConfig, labels: Sequence[np.ndarray] | None = None) -> Iterator[BatchLoader]:
        """Batches of all steps of the stores, through the data road of training; nothing is hidden from them."""
        train = _train_config(self.start.config, stage, self.config, "")
        parts: dict[EpisodeSelection, float | None] = {
            EpisodeSelection(store, range(len(store))): None for store in self.stores
        }
        stream = sample_stream(train, self.start.model, parts, "step", train=False)
        loader = batch_loader(train, self.start.model, stream, None, ALONE, labels)
        try:
            yield loader
        finally:
            loader.close()


def _sfbc(run: _Run, out: Path) -> None:
    """Nothing to train: the critic chooses."""
    assert run.critic is not None
    _write_acting(run, out, ActingConfig("best_of", candidates=run.config.candidates), run.critic)


def _cep(run: _Run, out: Path) -> None:
    assert run.critic is not None
    config = run.config
    torch.manual_seed(config.seed)
    energy = ChunkEnergy(run.head_config())
    energy.copy_features_of(run.critic)
    objective = CriticEnergy(run.start.model, run.critic, config.temperature, config.candidates)
    acting = ActingConfig("guided", scale=config.scale)
    with run.loader(config.policy) as batches:
        trained = _train_head(run, out / "energy", energy.to(run.device), objective, batches, config.policy, acting)
    _write_acting(run, out, acting, trained)


def _srpo(run: _Run, out: Path) -> None:
    assert run.critic is not None
    config = run.config
    sizes = replace(run.head_config(), components=config.imitate.components)
    student = _imitating(run, out / "imitate", sizes)
    climbing = ClimbingStudent(run.start.model, run.critic, config.beta)
    student = copy.deepcopy(student).requires_grad_(True)
    with run.loader(config.policy) as batches:
        student = _train_head(run, out / "student", student, climbing, batches, config.policy, STUDENT)
    _write_acting(run, out, STUDENT, student)


def _imitating(run: _Run, folder: Path, sizes: HeadConfig) -> ChunkStudent:
    """The student's first stage, or what is kept of it."""
    stage = run.config.imitate
    if is_done(folder, stage.train.steps):
        head = load_acting(folder / STATE).head
        assert isinstance(head, ChunkStudent)
        return head.to(run.device)
    generator = torch.Generator(run.device).manual_seed(run.config.seed)
    everything = [EpisodeSelection(store, range(len(store))) for store in run.stores]
    shown = _encoded(run, everything, lambda condition: mean_chunk(run.start.model, condition, stage.draws, generator))
    torch.manual_seed(run.config.seed)
    student = ChunkStudent(sizes)
    student.fit_features(shown.features)
    batches = shown.batches(stage.train.batch_size, run.config.seed)
    return _train_head(run, folder, student.to(run.device), ImitatingStudent(), batches, stage.train, STUDENT)


def _policy_stage(run: _Run, out: Path) -> None:
    """RDT itself is trained; the start is the reference."""
    config, start = run.config, run.start
    labels: list[np.ndarray] | None = None
    objective: Any
    if config.method == "eda":
        assert run.critic is not None
        objective = CriticPolicy(
            start.model, run.critic, config.beta, config.temperature, config.candidates, config.draws, config.hold
        )
    elif config.method == "nca":
        if config.learn_from == "operator_valence":
            labels = valence_ratio(run.stores, config.temperature)
        else:
            of = episode_success if config.kind == "imitation" else success_ratio
            labels = [of(store) for store in run.stores]
        objective = OutcomePolicy(start.model, config.beta, config.draws, config.kind)
    else:
        labels = episode_tasks(run.stores)
        objective = WordsPolicy(start.model, config.beta, config.lambda_, config.draws)
    model = copy.deepcopy(start.model)
    model.policy.requires_grad_(True)
    for encoder in (model.condition.vision, model.condition.text):
        if config.train_encoders and not getattr(encoder, "frozen", False):
            cast("nn.Module", encoder).requires_grad_(True)
    train = _train_config(start.config, config.policy, config, str(out / "policy"))
    statistics = _statistics(start)

    def save(trainer: Trainer) -> None:
        save_checkpoint(
            out / "policy" / CHECKPOINT, trainer.deployed_copy(), start.robot, train, statistics, trainer.state_dict()
        )

    folder = out / "policy" / CHECKPOINT
    recover_folder(folder)
    with run.loader(config.policy, labels) as batches:
        measures = []
        if config.method == "nca":  # of the averaged weights, on batches that come after the last one
            seen = [batches(train.steps + number) for number in range(MEASURED_BATCHES)]
            measures.append(Measure(max(train.steps // 5, 1), partial(_measured_ratios, objective, seen)))
        trainer = Trainer(model, objective, batches, train, out / "policy", measures=measures, save=save)
        if folder.exists():
            trainer.load_state_dict(load_trainer_state(folder))
        if trainer.step < train.steps:
            print(f"{out / 'policy'}: {train.steps} steps, from {trainer.step}")
            trainer.run()
    with atomic_folder(out / CHECKPOINT, replace=True) as temporary:
        _copy_checkpoint(folder, temporary)
        write_manifest(temporary)


@torch.no_grad()
def _measured_ratios(
    objective: OutcomePolicy, batches: Sequence[Batch], model: VisuomotorPolicy, step: int
) -> dict[str, float]:
    """Mean log-ratios to the start over some batches, the same noise at every step."""
    found = [objective(model, to_device(batch, model.device), SampleGenerator(0))[1] for batch in batches]
    return {f"measured_{name}": float(torch.stack([row[name] for row in found]).mean()) for name in found[0]}


def _critic(run: _Run) -> ChunkCritic:
    """Learnt from the rollouts, or read where that is done."""
    config, stage = run.config, run.config.critic
    folder = Path(stage.out)
    acting = ActingConfig("best_of", candidates=config.candidates)
    if is_done(folder, stage.train.steps):
        head = load_acting(folder / STATE).head
        assert isinstance(head, ChunkCritic)
        return head.to(run.device)
    parts = [_split_scenes(store, config.rollouts.per_scene, stage.held_out_every) for store in run.stores]
    shown = _encoded(run, [training for training, _ in parts])
    sizes = HeadConfig(
        num_features=shown.features.shape[1],
        num_state=NUM_SLOTS,
        slots=tuple(sorted(int(slot) for slot in run.start.robot.slots)),
        num_actions=stage.num_actions,
        horizon=run.start.model.horizon,
        members=stage.members,
        components=stage.components,
        **asdict(stage.sizes),
    )
    torch.manual_seed(config.seed)
    critic = ChunkCritic(sizes)
    critic.fit_features(shown.features)
    measures = []
    held_out = [part for _, part in parts if len(part)]
    if held_out:
        every = max(stage.train.steps // 10, 1)
        measures.append(Measure(every, partial(_held_out_loss, _encoded(run, held_out).all())))
    batches = shown.batches(stage.train.batch_size, config.seed)
    objective = OutcomeCritic()
    return _train_head(run, folder, critic.to(run.device), objective, batches, stage.train, acting, measures)


def _held_out_loss(batch: TransitionBatch, critic: ChunkCritic, step: int) -> dict[str, float]:
    with torch.no_grad():
        _, figures = OutcomeCritic()(critic, to_device(batch, critic.device), SampleGenerator(0))
    return {f"held_out_{name}": float(value) for name, value in figures.items()}


def _encoded(
    run: _Run, parts: Sequence[EpisodeSelection], chunk_of: Callable[[Condition], torch.Tensor] | None = None
) -> Transitions:
    total = sum(sum(part.episode_lengths) for part in parts)
    with tqdm(total=total, desc="encode", unit="step", dynamic_ncols=True, leave=None) as bar:
        return encode_transitions(run.start.model, parts, run.config.critic.num_actions, bar.update, chunk_of)


def _train_head(
    run: _Run,
    folder: Path,
    head: AnyHead,
    objective: Callable[..., Any],
    batches: Callable[[int], Any],
    stage: StageConfig,
    acting: ActingConfig,
    measures: Sequence[Measure] = (),
) -> AnyHead:
    """One stage of a small network, in `folder`."""
    train = _train_config(run.start.config, stage, run.config, str(folder))
    write = partial(_write_head, acting)
    return train_stage(head, objective, batches, train, write, measures)


def _write_head(acting: ActingConfig, folder: Path, head: Head) -> None:
    save_acting(folder, acting, head)


def _write_acting(run: _Run, out: Path, acting: ActingConfig, head: Head) -> None:
    """The start, and who acts with it."""
    assert run.start.folder is not None
    with atomic_folder(out / CHECKPOINT, replace=True) as temporary:
        _copy_checkpoint(run.start.folder, temporary)
        (temporary / FOLDER).mkdir()
        save_acting(temporary / FOLDER, acting, head)
        write_manifest(temporary)


def _copy_checkpoint(source: Path, target: Path) -> None:
    """What acts, without what trains or has acted."""
    ignored = shutil.ignore_patterns("trainer.pt", "trainer", "best.json", MANIFEST_FILE, FOLDER)
    shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)


def _train_config(start: TrainConfig, stage: StageConfig, config: AlignConfig, out: str) -> TrainConfig:
    """What the trainer and the loader are told: the start's own, with the stage's length and optimizer."""
    data = replace(start.data, batch_size=stage.batch_size, micro_batch_size=0, held_out_every=0)
    return replace(
        start,
        data=data,
        optim=stage.optim,
        steps=stage.steps,
        seed=config.seed,
        out=out,
        device=config.device,
        start_from=config.start_from,
        checkpoint_every=max(stage.steps // 4, 1),
    )


def trained_start(config: AlignConfig) -> Path:
    """The checkpoint that is aligned; where a shipped training config is named, that one is trained first."""
    name, shipped = config.start_from, shipped_configs("train")
    if Path(name).exists():
        return Path(name)
    if name not in shipped:
        raise ValueError(unknown_name("checkpoint folder or training config", name, shipped))
    for before in runs(replace(load_config(shipped[name]), device=config.device)):
        folder = Path(before.out) / CHECKPOINT
        progress = read_progress(folder) if folder.exists() else None
        if progress is None or progress[0] < before.steps:
            print(f"{before.out} is trained first: {config.out} aligns it")
            check(before)
            run_training(before, ALONE)
    return folder


def _stores(config: AlignConfig, start: Path) -> list[EpisodeStore]:
    """The episodes that are learnt from."""
    if config.stores:
        return [EpisodeStore.open(path) for named in config.stores for path in find_stores(named)]
    out = Path(config.rollouts_out)
    report = record_rollouts(start, config.rollouts, out, config.device)
    for task, found in report["tasks"].items():
        low, high = found["interval_95"]
        print(f"rollouts of {task}: {found['successes']} of {found['rollouts']} succeeded [{low:.1%}, {high:.1%}]")
    return [EpisodeStore.open(out)]


def _split_scenes(
    store: EpisodeStore, per_scene: int, held_out_every: int
) -> tuple[EpisodeSelection, EpisodeSelection]:
    """(training part, held-out part); all tries of a scene are in the same one."""
    scene = np.arange(len(store)) // per_scene
    out = (scene % held_out_every == held_out_every - 1) if held_out_every else np.zeros(len(store), dtype=bool)
    training, held_out = np.flatnonzero(~out).tolist(), np.flatnonzero(out).tolist()
    return EpisodeSelection(store, training), EpisodeSelection(store, held_out)


def _statistics(start: Checkpoint) -> dict[str, Any] | None:
    assert start.folder is not None
    file = start.folder / STATISTICS_FILE
    return read_json(file, "take another checkpoint") if file.is_file() else None


def _same_run(config: AlignConfig, out: Path) -> None:
    """Note the resolved config; refuse to go on with another one."""
    file, now = out / ALIGN_FILE, plain_config(config)
    if file.exists() and any(path != file for path in out.iterdir()):  # else it had not begun
        before = {**plain_config(load_align(file)), "device": config.device}
        if changed := differences(before, {**now, "device": config.device}):
            raise ValueError(f"{out} was aligned with other settings ({', '.join(changed)}): use another out")
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(file, yaml.safe_dump(now, sort_keys=False).encode())
