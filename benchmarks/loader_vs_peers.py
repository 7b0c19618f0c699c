#!/usr/bin/env python3
"""Our loader beside LeRobotDataset and the published RDT consumer: CPU time of one sample, same frames.

    .venv/bin/python benchmarks/loader_vs_peers.py [--folder runs/peers] [--json FILE]     from the repository's root

A sample is two frames of three cameras and 64 actions. The recordings are 640 x 480; our store holds them as 384 x 288,
and so do the rows that name no other size. LeRobot cannot share our environment, so it gets one of its own
in FOLDER/venv (a download of a gigabyte, once) and answers from a process of its own; its video backend needs the
shared libraries of FFmpeg (Debian: ffmpeg). It reads AV1 video, as it writes it by default, and our own store, which
is a LeRobotDataset. The published consumer is rebuilt from its description (spec data.md section 3): raw frames in an
.npz and words in a JSON file for each sample, Pillow's padding, SigLIP's processor; its producer, which has to decode
all that before, is not counted. Rounds take turns; the best one of each counts.

Not the same work: LeRobot and the consumer give float32, ours gives uint8 and leaves normalising to the GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_pipeline.atomic import write_json
from data_pipeline.conversion import convert
from data_pipeline.export.lerobot import VideoCoding, export_lerobot
from data_pipeline.recordings import RobotRecordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.shards import Profile
from data_pipeline.storage import EpisodeStore
from deploy.bench_data import HORIZON, ROUNDS, SIDE, make_recordings, open_roads

LEROBOT = "lerobot==0.4.4"  # the last line that writes v3.0 and installs on Python 3.11
READER = Path(__file__).with_name("lerobot_reader.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="runs/peers", help="for data and the other environment; kept")
    parser.add_argument("--samples", type=int, default=100, help="read in each of the rounds")
    parser.add_argument("--json", help="write the figures there too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(args.folder)
    python = lerobot_environment(folder / "venv")
    store, full_size = make_data(folder)
    consumers = {
        "published consumer, rebuilt": make_consumer(store, folder / "consumer", args.samples),
        "published consumer, rebuilt, 640 x 480": make_consumer(full_size, folder / "consumer_640", args.samples),
    }
    ours = open_roads(store)["ours, sample of a batch"]
    lerobot = {
        "LeRobotDataset, AV1": LeRobotReader(python, folder / "video"),
        "LeRobotDataset, AV1, resized to 384 x 384": LeRobotReader(python, folder / "video", SIDE),
        "LeRobotDataset, AV1, 640 x 480, resized": LeRobotReader(python, folder / "video_640", SIDE),
        "LeRobotDataset on our store": LeRobotReader(python, store.path),
    }
    best: dict[str, float] = {}
    for turn in range(ROUNDS + 1):  # the first one warms up and is not counted
        costs = {name: reader.measure(args.samples, turn) for name, reader in lerobot.items()}
        costs |= {name: cpu_ms(consumer, range(args.samples)) for name, consumer in consumers.items()}
        costs["ours"] = cpu_ms(ours, range(turn * args.samples, (turn + 1) * args.samples))
        if turn:
            best = {name: min(cost, best.get(name, np.inf)) for name, cost in costs.items()}
    print(f"\n{'cpu-ms a sample':44s}      ms   to ours")
    for name, cost in best.items():
        print(f"{name:44s} {cost:7.2f}   {cost / best['ours']:6.1f} x")
    if args.json:
        write_json(args.json, best)


def lerobot_environment(folder: Path) -> Path:
    """The interpreter of an environment with LeRobot, made where there is none."""
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        print(f"installing {LEROBOT} into {folder} ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", LEROBOT], check=True)
        (folder / ".ready").touch()
    return python


def make_data(folder: Path) -> tuple[EpisodeStore, EpisodeStore]:
    """Stores of the same recordings, reduced as ours are and at full size, and both as LeRobot's default video."""
    robot = Embodiment.from_yaml(find_config("robots", "aloha_viperx"))
    stores = (folder / "store", folder / "store_640")
    if not (folder / "video_640").exists():
        print("making 4 episodes of 150 steps, 3 cameras ...", flush=True)
        recordings = sorted((folder / "recordings").glob("*.hdf5"))
        recordings = recordings or make_recordings(folder / "recordings", robot, 4, 150)
        coding = VideoCoding("libsvtav1", crf=30, gop=2)
        for store, video, profile in zip(stores, ("video", "video_640"), (Profile(), Profile(0)), strict=True):
            convert(RobotRecordings(recordings, robot), store, robot, profile=profile)
            if not (folder / video).exists():
                export_lerobot(EpisodeStore.open(store), folder / video, visual="video", coding=coding)
    return EpisodeStore.open(stores[0]), EpisodeStore.open(stores[1])


def make_consumer(store: EpisodeStore, folder: Path, samples: int) -> Callable[[int], object]:
    """Write the samples of a disk buffer, and return what reads one of them."""
    from transformers import SiglipImageProcessor

    processor = SiglipImageProcessor(size={"height": 384, "width": 384}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(samples):
        episode = store[int(rng.integers(len(store)))]
        t = int(rng.integers(1, episode.num_steps))
        frames = {f"frames_{role}": np.stack([images[t - 1], images[t]]) for role, images in episode.images.items()}
        chunk = np.resize(episode.actions[t : t + HORIZON], (HORIZON, episode.actions.shape[1]))
        np.savez(folder / f"{index}.npz", state=episode.states[t], actions=chunk, **frames)
        (folder / f"{index}.json").write_text(json.dumps({"instruction": episode.instructions[0]}))

    def read(index: int) -> object:
        words = json.loads((folder / f"{index}.json").read_text())
        with np.load(folder / f"{index}.npz") as stored:
            arrays = {key: stored[key] for key in stored.files}
        pictures = [frame for key, pair in arrays.items() if key.startswith("frames_") for frame in pair]
        pixels = [processor(images=_square(frame), return_tensors="pt")["pixel_values"] for frame in pictures]
        return words, arrays["state"], arrays["actions"], torch.cat(pixels)

    return read


def _square(frame: np.ndarray) -> Image.Image:
    picture = Image.fromarray(frame)
    side = max(picture.size)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def cpu_ms(read: Callable[[int], object], indices: range) -> float:
    started = time.process_time()
    for index in indices:
        read(index)
    return 1e3 * (time.process_time() - started) / len(indices)


class LeRobotReader:
    """LeRobotDataset in its own environment, asked for rounds of samples."""

    def __init__(self, python: Path, dataset: Path, side: int = 0) -> None:
        command = [str(python), str(READER), str(dataset), str(HORIZON), str(side)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, samples: int, seed: int) -> float:
        """CPU milliseconds a sample of that process."""
        assert self._process.stdin and self._process.stdout
        print(samples, seed, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("LeRobot's process ended: see its message above (its video backend needs FFmpeg's libraries)")
        return float(answer)


if __name__ == "__main__":
    main()
