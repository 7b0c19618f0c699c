"""A whole small run, made once and shared: commands as a user types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
preset: rdt_tiny
robot: sim_bimanual
steps: 24
condition: {cameras: [external], image_history: 1, scaling: min_max}
noise_slots: live
data: {batch_size: 8, held_out_every: 2, start_fraction: 0.25}
optim: {lr: 1.0e-3, warmup_steps: 4, schedule: cosine, ema_decay: 0.9}
demonstrations: {environment: sim_handover, per_task: 2, noise_rad: 0.0}
validate_every: 12
checkpoint_every: 6
device: cpu
"""


def rdt(*words: str | Path, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run one `rdt` command from a folder that is not the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *map(str, words)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RDT_RENDERER": "raycast"}


@pytest.fixture(scope="session")
def run_rdt() -> Callable[..., subprocess.CompletedProcess[str]]:
    return rdt


@dataclass(frozen=True)
class Journey:
    """A quick start that was interrupted once while training, then finished."""

    folder: Path
    words: tuple[str, ...]
    interrupted: str  # what the first, interrupted call said
    interrupted_code: int
    finished: subprocess.CompletedProcess[str]

    @property
    def out(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="session")
def journey(tmp_path_factory) -> Journey:
    folder = tmp_path_factory.mktemp("journey")
    (folder / "small.yaml").write_text(CONFIG, encoding="utf-8")
    words = ("quickstart", "--out", "run", "--episodes", "1", "--config", "small.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = folder / "run/metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=120)
    return Journey(folder, words, error, process.returncode, rdt(*words, cwd=folder))
