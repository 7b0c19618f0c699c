"""pytest tests/journeys/test_stream.py

A training job is killed without warning and resumed with another number of workers and ranks: it reads what the
uninterrupted one reads.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from tests.damage import damage_picture
from tests.journeys.conftest import environment

BATCH_SIZE = 8
STEPS = 125
"""A thousand samples."""

JOB = """
import hashlib, sys
import numpy as np
from data_pipeline.selection import find_stores
from data_pipeline.storage import EpisodeStore
from data_pipeline.stream import SampleStream
from data_pipeline.transforms.dropout import DropoutRates
from data_pipeline.transforms.randomise import Randomisation
from rdt.encoders.condition import ConditionConfig, ConditionEncoder
from rdt.train.loader import BatchLoader

folder, (first, steps, workers, rank, world_size) = sys.argv[1], map(int, sys.argv[2:])
stores = [EpisodeStore.open(path) for path in find_stores(folder)]
condition = ConditionConfig(cameras=("external",), image_history=2)
encoder = ConditionEncoder(condition, lang_token_dim=8, max_lang_tokens=8, img_token_dim=8, img_cond_len=8)
stream = SampleStream(
    stores, seed=5, horizon=4, image_history=2, weights=[2, 1], weight_unit="episode", decoded_cache_bytes=0
)
changes = Randomisation(
    5, 2, dropout=DropoutRates(), mean_states=np.zeros((2, 128)), random_shift_px=2, state_noise_snr_db=30.0
)
loader = BatchLoader(
    stream, encoder, 8, randomisation=changes, workers=workers, rank=rank, world_size=world_size, max_bad_fraction=0.5
)
for step in range(first, first + steps):
    batch = loader(step)
    seen = vars(batch.observation).copy()
    words = seen.pop("text_index")
    seen |= {name: seen[name][words] for name in ("text", "text_mask")} | {"actions": batch.actions}
    for row, index in enumerate(batch.sample_index.tolist()):
        digest = hashlib.sha256(b"".join(value[row].numpy().tobytes() for value in seen.values())).hexdigest()
        print(step, index, digest, flush=True)
loader.close()
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Two small stores side by side, with one damaged picture."""
    folder = tmp_path_factory.mktemp("stores")
    mask = np.arange(128) < 9
    for seed, (name, lengths) in enumerate({"long": (90, 40), "short": (7, 12)}.items()):
        rng = np.random.default_rng(seed)
        with EpisodeStore.create(folder / name, None, robot_type=name) as store:
            for number, length in enumerate(lengths):
                states = np.where(mask, rng.normal(size=(length, 128)), 0).astype(np.float32)
                pictures = rng.integers(0, 256, (length, 24, 32, 3), dtype=np.uint8)
                episode = Episode(
                    name=f"{name}_{number}",
                    states=states,
                    state_mask=mask,
                    actions=states,
                    action_mask=mask,
                    images={"external": pictures},
                    instructions=("pick up the cup", "lift it"),
                    rate_hz=10.0,
                )
                store.add(episode, max_steps=30)
    damage_picture(store, 0, 3)
    return folder


def job(stores: Path, *numbers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, str(stores), *map(str, numbers)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read(*jobs: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """(index, digest) of all samples in their order."""
    samples = []
    for one in jobs:
        said, errors = one.communicate(timeout=200)
        assert one.returncode == 0, errors
        samples += [(int(index), digest) for _, index, digest in map(str.split, said.splitlines())]
    return sorted(samples)


@pytest.fixture(scope="module")
def uninterrupted(stores) -> list[tuple[int, str]]:
    samples = read(job(stores, 0, STEPS, 0, 0, 1))
    assert [index for index, _ in samples] == list(range(STEPS * BATCH_SIZE))
    assert len({digest for _, digest in samples}) > 0.99 * len(samples)
    return samples


@pytest.mark.parametrize(("workers", "world_size"), [(0, 4), (1, 2), (3, 1)])
def test_a_killed_job_goes_on_with_the_same_samples(stores, uninterrupted, workers, world_size):
    last = random.Random(workers).randrange(5, 60)
    killed = job(stores, 0, STEPS, 3 - workers, 0, 1)  # the first life has another number of workers
    assert killed.stdout is not None
    before = []
    for line in killed.stdout:
        step, index, digest = line.split()
        if int(step) > last:
            break
        before.append((int(index), digest))
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    steps = STEPS - last - 1
    ranks = [job(stores, last + 1, steps, workers, rank, world_size) for rank in range(world_size)]
    assert sorted(before) + read(*ranks) == uninterrupted
