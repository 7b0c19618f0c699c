"""`rdt train`, killed without a word and gone on with: alone at several moments, and one of two ranks.

Run: pytest tests/journeys/test_resume.py
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from rdt.train.best import read_best
from rdt.train.checkpoint import load_checkpoint, load_trainer_state, read_progress
from tests.journeys.conftest import environment

pytest.importorskip("mujoco", reason="needs the extra `sim`")

# real processes that do not each read PyTorch from the disk
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["deploy.train"])


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A training config for episodes of noise."""
    folder = tmp_path_factory.mktemp("resume")
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    rng = np.random.default_rng(0)
    with EpisodeStore.create(folder / "store", robot) as store:
        for number in range(3):
            states, mask = robot.to_unified(rng.uniform(0, 1, (12, robot.num_native)))
            store.add(
                Episode(
                    name=f"episode_{number}",
                    states=states,
                    state_mask=mask,
                    actions=states,
                    action_mask=mask,
                    images={"external": rng.integers(0, 256, (12, 30, 40, 3), dtype=np.uint8)},
                    instructions=("pick up the cup",),
                    rate_hz=robot.rate_hz,
                    action_offset_steps=1,
                )
            )
    content = {
        "preset": "rdt_tiny",
        "steps": 24,
        "condition": {"cameras": ["external"], "image_history": 1},
        "data": {"stores": [str(store.path)], "batch_size": 4, "held_out_every": 3},
        "optim": {"lr": 1e-3, "warmup_steps": 4, "schedule": "cosine", "ema_decay": 0.9},
        "validate_every": 2,
        "plot_every": 0,
        "checkpoint_every": 3,
        "loggers": ["jsonl"],
        "device": "cpu",
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "run.yaml"


def rows(out: Path) -> list[dict]:
    log = out / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines(True) if line[-1] == "\n"] if log.is_file() else []


def wait_for(reached, process_ended, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not reached() and not process_ended():
        assert time.monotonic() < until
        time.sleep(0.005)


def train(config: Path, out: Path, killed_at: int | None = None, after_s: float = 0) -> bool:
    """`rdt train --resume auto` in a process; whether it was killed, so long after the row of that number."""
    process = PROCESSES.Process(target=main, args=(["train", str(config), "--out", str(out), "--resume", "auto"],))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # of the server, which starts with the first of them
        process.start()
    if killed_at is not None:
        wait_for(lambda: len(rows(out)) >= killed_at, lambda: process.exitcode is not None)
        time.sleep(after_s)
        process.kill()
    process.join(120)
    return process.exitcode == -signal.SIGKILL


def assert_equal(one, other) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, (list, tuple)):  # torch makes lists of tuples
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal(mine, theirs)
    else:
        assert one == other


def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_an_uninterrupted_one(config):
    whole, part = config.parent / "whole", config.parent / "part"
    assert not train(config, whole)
    rng = random.Random(0)
    moments = sorted(rng.sample(range(1, 11), 3))
    killed = [train(config, part, moment, rng.uniform(0, 0.2)) for moment in moments]
    assert any(killed)
    assert not train(config, part)
    states = [load_trainer_state(out / "checkpoint") for out in (whole, part)]
    for state in states:
        assert state["step"] == 24 and state.pop("train_seconds") > 0
    assert_equal(*states)
    for name in ("checkpoint", "best"):
        assert_equal(*(load_checkpoint(out / name).model.state_dict() for out in (whole, part)))
    assert read_best(whole / "best") == read_best(part / "best")
    kept = ("step", "loss", "lr", "grad_norm", "valid_sample_mse")
    assert [[row[name] for name in kept] for row in rows(part)] == [[row[name] for name in kept] for row in rows(whole)]
    assert list(part.glob(".*")) == []


def torchrun(config: Path, out: Path) -> subprocess.Popen[str]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", "localhost:0", "-m", "deploy.cli", "train", str(config)]
    words = ["--out", str(out), "--parallel", "fsdp", "--resume", "auto"]
    return subprocess.Popen(
        [sys.executable, *launch, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ranks_of(launcher: int) -> list[int]:
    """Its child processes, from /proc."""
    found = []
    for task in Path(f"/proc/{launcher}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return sorted(found)


def test_a_killed_rank_ends_all_with_a_message_and_the_next_call_goes_on(config):
    out = config.parent / "ranks"
    process = torchrun(config, out)
    try:
        wait_for((out / "checkpoint").exists, lambda: process.poll() is not None)
        os.kill(ranks_of(process.pid)[-1], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "rdt: error: rank 0 of 2 has lost another one" in said and "--resume auto" in said
    load_checkpoint(out / "checkpoint")
    step, _ = read_progress(out / "checkpoint")
    assert 3 <= step < 24

    process = torchrun(config, out)
    told, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert told.count(f"checkpoint in {out / 'checkpoint'}") == 1
    assert read_progress(out / "checkpoint")[0] == 24
    assert [row["step"] for row in rows(out)] == sorted({*range(2, 25, 2), 10, 20})
    assert (out / "checkpoint" / "trainer").is_dir() and not (out / "checkpoint" / "trainer.pt").exists()
    assert read_best(out / "best").step % 2 == 0  # when it is measured
    load_checkpoint(out / "best")
    assert list(out.glob(".*")) == []
