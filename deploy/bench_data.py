"""`rdt bench data`: what a training sample costs on its way from the disk, against a plain PIL + h5py reader.

A sample is two frames of three cameras, 384 x 384 uint8 each, and 64 actions of 128 slots: what a batch holds before
the GPU normalises it. The data are made for the purpose: pictures with texture and noise, so that a JPEG is as large
as a camera's. Costs are CPU time of this process, the best of several rounds that take turns, so that other work on
the machine does not decide.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_pipeline.conversion import convert
from data_pipeline.export.exports import export
from data_pipeline.frames import decode_jpeg
from data_pipeline.lerobot_format import IMAGES
from data_pipeline.recordings import RobotRecordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import CAMERA_KEYS, CAMERA_ROLES
from data_pipeline.sources.hdf5 import opened, write_episode
from data_pipeline.storage import EpisodeStore
from data_pipeline.stream import SampleStream
from data_pipeline.transforms.augment import AugmentConfig
from data_pipeline.transforms.dropout import DropoutRates
from data_pipeline.transforms.randomise import Randomisation
from rdt.encoders.collate import Collator

HORIZON, HISTORY, SIDE = 64, 2, 384
GPU_SAMPLES_PER_S = 60  # what one H100 eats of a 1.2 B policy (spec data.md section 6)
ROUNDS = 4


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns its figures by name, CPU milliseconds a sample unless the name says otherwise."""
    torch.set_num_threads(1)
    robot = Embodiment.from_yaml(find_config("robots", "aloha_viperx"))
    with tempfile.TemporaryDirectory() as folder:
        print(f"making {args.episodes} episodes of {args.steps} steps, 3 cameras of 640 x 480 ...", flush=True)
        paths = make_recordings(Path(folder) / "recordings", robot, args.episodes, args.steps)
        started = time.process_time()
        convert(RobotRecordings(paths, robot), Path(folder) / "store", robot)
        conversion_ms = 1e3 * (time.process_time() - started) / (args.episodes * args.steps * 3)
        store = EpisodeStore.open(Path(folder) / "store")
        export(store, Path(folder) / "same", "hdf5")
        same = sorted((Path(folder) / "same").glob("*.hdf5"))
        costs = measure_cpu_ms(_plain_roads(store, paths, same) | open_roads(store), args.samples)
    plain, ours = costs["plain, the same frames"], costs["ours, sample of a batch"]
    figures: dict[str, Any] = dict(costs)
    figures |= {
        "plain / ours": plain / ours,
        "plain at 640 x 480 / ours": costs["plain, 640 x 480"] / ours,
        "share of decoding": costs["decoding alone"] / ours,
        "samples a CPU second": 1e3 / ours,
        "cores for one H100": GPU_SAMPLES_PER_S * ours / 1e3,
        "conversion a picture": conversion_ms,
        "kB a picture": np.mean([len(one) for one in _jpegs(store, 0, 1)]) / 1e3,
    }
    print(f"\n{'cpu-ms a sample of 6 pictures and 64 actions':46s}      ms   plain / this")
    for name, cost in costs.items():
        print(f"  {name:44s} {cost:7.3f}   {plain / cost:6.1f} x")
    share, cores = figures["share of decoding"], figures["cores for one H100"]
    print(f"\nof {ours:.2f} ms, decoding takes {share:.0%}; a JPEG has {figures['kB a picture']:.0f} kB")
    print(f"one core gives {1e3 / ours:.0f} samples/s; an H100 eats {GPU_SAMPLES_PER_S}: {cores:.2f} cores")
    print(f"conversion from 640 x 480 took {conversion_ms:.1f} cpu-ms a picture, once")
    return figures


def make_recordings(folder: Path, robot: Embodiment, episodes: int, steps: int) -> list[Path]:
    """ALOHA HDF5 of 640 x 480 JPEGs in which everything moves."""
    rng = np.random.default_rng(0)
    scene = Scene(rng)
    paths = []
    for number in range(episodes):
        angles = np.cumsum(rng.normal(0, 0.01, (steps, robot.num_native)), axis=0)
        images = {role: scene.film(steps, (480, 640), rng) for role in CAMERA_ROLES}
        paths.append(folder / f"episode_{number}.hdf5")
        write_episode(
            paths[-1],
            qpos=angles,
            action=angles,
            images=images,
            instructions=["hand the cube over"],
            embodiment=robot,
        )
    return paths


class Scene:
    """Pictures with texture and noise, so that a JPEG is as large as a camera's."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._grain = rng.normal(0, 6, (512, 672, 3))
        self._coarse = np.kron(rng.uniform(40, 210, (16, 21, 3)), np.ones((32, 32, 1)))

    def film(self, steps: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Frames in which everything moves, uint8 (steps, height, width, 3) of up to 480 x 640."""
        height, width = size
        frames = np.empty((steps, height, width, 3), dtype=np.uint8)
        for frame in frames:
            (top, left), (y, x) = rng.integers(0, 32, 2), rng.integers(0, 32, 2)
            seen = self._coarse[top : top + height, left : left + width] + self._grain[y : y + height, x : x + width]
            frame[...] = seen.clip(0, 255)
        return frames


Draw = Callable[[int], object]
"""Reads the sample of an index in some way."""


def _plain_roads(store: EpisodeStore, recordings: list[Path], same: list[Path]) -> dict[str, Draw]:
    """The baselines, by what the table calls them; they read the places that `open_roads` reads."""
    stream = _stream(store)
    return {
        "plain, 640 x 480": PlainReader(recordings, store.embodiment, stream).__getitem__,
        "plain, the same frames": PlainReader(same, store.embodiment, stream).__getitem__,
    }


def _stream(store: EpisodeStore) -> SampleStream:
    return SampleStream([store], seed=0, horizon=HORIZON, image_history=HISTORY, decoded_cache_bytes=0)


def open_roads(store: EpisodeStore) -> dict[str, Draw]:
    """The ways from a store to a sample, by what the table calls them; all of them take places at random."""
    stream = _stream(store)
    collator = Collator(CAMERA_ROLES, HISTORY, SIDE, brighten_dark=False)
    buffer = collator.buffer(1)
    jitter = Randomisation(0, HISTORY, augment=AugmentConfig(probability=1.0, kinds=("colour",)))
    mean_states = np.zeros((1, NUM_SLOTS))
    published = Randomisation(0, HISTORY, DropoutRates(), mean_states, state_noise_snr_db=40.0, augment=AugmentConfig())

    def fetched(index: int) -> list[bytes]:
        place = stream.mixture.locate(index)
        episode = store[place.episode]
        episode.actions[place.step : place.step + HORIZON].sum()
        return _jpegs(store, place.episode, place.step)

    def randomised(index: int, how: Randomisation) -> object:
        drawn = stream.draw(index)
        assert drawn.sample is not None
        deviation = partial(stream.state_deviation, drawn.place)
        return collator([how(drawn.sample.observation, index, drawn.place.store, deviation)], buffer)

    return {
        "ours, fetched": fetched,
        "decoding alone": lambda index: [decode_jpeg(encoded) for encoded in fetched(index)],
        "ours, sample": stream.__getitem__,
        "ours, sample of a batch": lambda index: collator([stream[index].observation], buffer),
        "ours, with colour jitter": lambda index: randomised(index, jitter),
        "ours, all published randomisation": lambda index: randomised(index, published),
    }


def _jpegs(store: EpisodeStore, episode: int, step: int) -> list[bytes]:
    return [store.jpeg(episode, IMAGES + role, max(t, 0)) for role in CAMERA_ROLES for t in (step - 1, step)]


def measure_cpu_ms(roads: dict[str, Draw], samples: int) -> dict[str, float]:
    """CPU milliseconds of this process for each sample; the best of rounds in which all take turns."""
    best = dict.fromkeys(roads, np.inf)
    for turn in range(ROUNDS + 1):  # the first one warms up caches, and is not counted
        for name, draw in roads.items():
            started = time.process_time()
            for index in range(turn * samples, (turn + 1) * samples):
                draw(index)
            if turn:
                best[name] = min(best[name], 1e3 * (time.process_time() - started) / samples)
    return best


class PlainReader:
    """What one writes in an afternoon: h5py for the rows, Pillow for the pictures."""

    def __init__(self, paths: list[Path], robot: Embodiment, stream: SampleStream) -> None:
        self._paths, self._robot, self._stream = paths, robot, stream

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        _, episode, t = self._stream.mixture.locate(index)  # the places that ours reads
        with opened(self._paths[episode]) as file:
            qpos = file["observations/qpos"][t]
            actions = file["action"][t : t + HORIZON]
            pictures = []
            for step in (max(t - 1, 0), t):
                for role in CAMERA_ROLES:
                    encoded = file[f"observations/images/{CAMERA_KEYS[role]}"][step]
                    pictures.append(self._square(encoded))
        actions = np.concatenate([actions, np.repeat(actions[-1:], HORIZON - len(actions), axis=0)])
        state, _ = self._robot.to_unified(qpos, kind="state")
        return np.stack(pictures), state, self._robot.to_unified(actions, kind="action")[0]

    def _square(self, encoded: np.ndarray) -> np.ndarray:
        with Image.open(io.BytesIO(encoded.tobytes())) as picture:
            frame = picture.convert("RGB")
        side = max(frame.size)
        square = Image.new("RGB", (side, side), (127, 127, 127))
        square.paste(frame, ((side - frame.width) // 2, (side - frame.height) // 2))
        return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
