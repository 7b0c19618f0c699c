"""Real gloo processes against one process, on the same global batches.

Run: pytest tests/rdt/train/test_parallel.py
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rdt.batch import micro_batches
from rdt.train.checkpoint import load_checkpoint, read_progress
from rdt.train.parallel import ALONE, Ranks

ROOT = Path(__file__).resolve().parents[3]

JOB = """
import dataclasses, pickle, resource, sys
from pathlib import Path
import torch
from data_pipeline.storage import EpisodeStore
from data_pipeline.stream import SampleStream
from rdt.model.presets import PRESETS
from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.checkpoint import resume, save_checkpoint
from rdt.train.loader import BatchLoader
from rdt.train.metrics import measure, sampling_figures
from rdt.train.parallel import joined_ranks
from rdt.train.trainer import Measure, Trainer
from rdt.visuomotor import VisuomotorPolicy

work = Path(sys.argv[1])
config = pickle.loads((work / "config.pickle").read_bytes())
store = EpisodeStore.open(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
preset = dataclasses.replace(
    PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2, pred_horizon=4, lang_token_dim=8, img_token_dim=8
)
model = VisuomotorPolicy(preset, config.condition)
for kind in ("state", "action"):
    stats = store.stats(kind)
    model.condition.scaling.fit_min_max(kind, stats.min, stats.max, stats.count > 0)
with joined_ranks(torch.device("cpu")) as ranks:
    stream = SampleStream([store], seed=0, horizon=model.horizon, image_history=1)
    loader = BatchLoader(
        stream, model.condition, config.data.batch_size, rank=ranks.rank, world_size=ranks.size
    )

    def save(trainer):
        state, deployed = trainer.state_dict(whole=not trainer.shards), trainer.deployed_copy()
        if "--limit" in sys.argv and trainer.step > 3 and ranks.rank == 1:  # as if its disk were full
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        save_checkpoint(work / "checkpoint", deployed, store.embodiment, config, trainer_state=state, ranks=ranks)

    held_out = BatchLoader(
        stream, model.condition, 4, rank=ranks.rank, world_size=ranks.size, with_state_norm=True
    )
    batches = [held_out(step) for step in (90, 91)]
    held_out.close()
    generator = SampleGenerator(7)

    def validate(policy, step):
        return sampling_figures(measure(policy, batches, generator), ["store"])

    def look(policy, step):
        weights = torch.cat([value.flatten() for value in policy.state_dict().values()])
        return {"size": len(weights), "mean": weights.mean().item()}

    measures = [Measure(config.validate_every, validate), Measure(3, look, alone=True)]
    trainer = Trainer(
        model, DiffusionImitation(), loader, config, work, save=save, measures=measures, ranks=ranks
    )
    if (work / "checkpoint").exists():
        resume(trainer, work / "checkpoint", ranks)
    if len(sys.argv) > 3 and sys.argv[3].isdigit():
        trainer.config = dataclasses.replace(config, steps=int(sys.argv[3]))
    try:
        trainer.run(log_every=1)
    except OSError as error:
        print(f"full on {ranks.rank}: {error}", file=sys.stderr)
        raise
    except RuntimeError as error:
        print(f"told to {ranks.rank}: {type(error).__name__}: {error}", file=sys.stderr)
        raise
    finally:
        loader.close()
    state = trainer.state_dict()
    if ranks.is_first:
        torch.save(state, work / "state.pt")
"""


def command(work: Path, store: Path, size: int, *words: str) -> list[str]:
    (work / "job.py").write_text(JOB)
    launch = [sys.executable]
    if size > 1:
        launch += ["-m", "torch.distributed.run", "--nproc-per-node", str(size), "--master-port", "0"]
        launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [*launch, str(work / "job.py"), str(work), str(store), *words]


def children_of(parent: int) -> list[int]:
    """From /proc, as `pgrep -P` does it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = stat.read_text().split(" ", 1)
            if rest.rpartition(")")[2].split()[1] == str(parent):
                found.append(int(pid))
    return sorted(found)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, store, train_config):
    folder = tmp_path_factory.mktemp("ranks")

    def run(name: str, size: int, *words: str, **changes) -> tuple[tuple[list, list], dict, dict]:
        """Losses by step, what was measured, the whole trainer state and the deployed weights."""
        work = folder / name
        work.mkdir(exist_ok=True)
        micro = changes.pop("micro_batch_size", 0)
        data = dataclasses.replace(train_config.data, micro_batch_size=micro)
        config = dataclasses.replace(train_config, steps=6, data=data, checkpoint_every=3, validate_every=3, **changes)
        (work / "config.pickle").write_bytes(pickle.dumps(config))
        done = subprocess.run(
            command(work, store.path, size, *words), env=environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
        measured = [row[name] for name in ("overall_avg_sample_mse", "size", "mean") for row in rows if name in row]
        losses = [row["loss"] for row in rows], measured
        return losses, torch.load(work / "state.pt"), load_checkpoint(work / "checkpoint").model.state_dict()

    return run


@pytest.fixture(scope="module")
def alone(run):
    return run("alone", 1)


def assert_same(one: tuple[list, list], other: tuple[list, list]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1] == pytest.approx(other[1], abs=1e-4)  # of several denoising steps


def assert_near(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize(("size", "mode"), [(2, "ddp"), (4, "fsdp"), (2, "hsdp")])
def test_ranks_are_one_process_with_the_same_batch(run, alone, size, mode):
    losses, state, deployed = run(f"{mode}{size}", size, parallel=mode)
    assert_same(losses, alone[0])
    assert_near(alone[1]["model"], state["model"])
    assert_near(alone[2], deployed)


def test_a_run_goes_on_with_another_number_of_ranks_and_another_mode(run, alone):
    run("moving", 4, "3", parallel="fsdp")
    moved, _, _ = run("moving", 1)
    assert_same(moved, alone[0])
    run("back", 1, "3")
    back, _, _ = run("back", 2, parallel="fsdp")
    assert_same(back, alone[0])


def test_a_full_disk_of_one_rank_ends_all_and_leaves_the_last_checkpoint(tmp_path, store, train_config):
    config = dataclasses.replace(train_config, steps=6, checkpoint_every=3, validate_every=0, parallel="fsdp")
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config))
    words = command(tmp_path, store.path, 2, "--limit")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    message = f"cannot write {tmp_path / 'checkpoint'}: File too large"
    assert f"full on 1: {message}" in done.stderr
    assert f"told to 0: RankError: rank 1: {message}" in done.stderr
    assert read_progress(tmp_path / "checkpoint")[0] == 3
    load_checkpoint(tmp_path / "checkpoint")
    assert list(tmp_path.glob(".*")) == []


def test_micro_batches_give_the_gradient_of_the_whole_batch(run, alone):
    pieces, other, _ = run("pieces", 1, micro_batch_size=3)
    assert_same(pieces, alone[0])
    assert_near(alone[1]["model"], other["model"])
    shared, _, _ = run("shared", 2, micro_batch_size=3, parallel="fsdp")
    assert_same(shared, alone[0])


def test_the_interrupt_of_one_rank_saves_and_ends_all(tmp_path, store, train_config):
    work = tmp_path / "long"
    work.mkdir()
    config = dataclasses.replace(train_config, steps=100_000, checkpoint_every=0, parallel="fsdp")
    (work / "config.pickle").write_bytes(pickle.dumps(config))
    process = subprocess.Popen(
        command(work, store.path, 2), env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        log = work / "metrics.jsonl"
        until = time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(children_of(process.pid)[0], signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    step, _ = read_progress(work / "checkpoint")
    lines = len(log.read_text().splitlines())
    assert lines > 2 and step - lines in (0, 1)  # the interrupted step is done, and not logged


def test_one_process_alone_asks_nobody():
    value = torch.tensor(3.0)
    assert ALONE.is_first and ALONE.mean(value) is value and ALONE.any(True) and not ALONE.any(False)
    ALONE.wait()
    assert not Ranks(rank=1, size=2).is_first


def test_pieces_of_a_batch_are_its_samples_in_order(make_model, store):
    from data_pipeline.stream import SampleStream
    from rdt.train.loader import BatchLoader

    model = make_model()
    loader = BatchLoader(SampleStream([store], seed=0, horizon=4, image_history=1), model.condition, 8)
    batch = loader(0)
    loader.close()
    assert micro_batches(batch, 0)[0] is micro_batches(batch, 8)[0] is batch
    pieces = micro_batches(batch, 3)
    assert [len(piece.sample_index) for piece in pieces] == [3, 3, 2]
    for name in ("actions", "action_mask", "sample_index"):
        torch.testing.assert_close(torch.cat([getattr(piece, name) for piece in pieces]), getattr(batch, name))
    for name in ("images", "state", "text_index"):
        joined = torch.cat([getattr(piece.observation, name) for piece in pieces])
        torch.testing.assert_close(joined, getattr(batch.observation, name))
        assert all(piece.observation.text is batch.observation.text for piece in pieces)
