#!/usr/bin/env python3
"""What acting by a head costs: best of 16, guided, student, as ratios to the plain sampler in the same run.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/align_speed.py [--device cuda] [--candidates 16] [--json FILE]

The quick start's network with random weights, heads of the shipped sizes, one observation. "Features given" is what
stands in the sampler's place, from encoded pictures to a chunk; "whole chunk" is `predict`, pictures and all.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from data_pipeline.atomic import write_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.align import load_align
from deploy.bench import measure
from deploy.device import choose_device
from deploy.engine import InferenceEngine
from rdt.alignment.acting import FOLDER, ActingConfig, save_acting
from rdt.alignment.features import pooled_features
from rdt.alignment.heads import ChunkCritic, ChunkEnergy, ChunkStudent, HeadConfig
from rdt.train.checkpoint import load_checkpoint, save_checkpoint
from rdt.train.config import load_config
from rdt.train.start import network_config
from rdt.visuomotor import VisuomotorPolicy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--json", help="write the figures there too")
    args = parser.parse_args()
    device = choose_device(args.device)
    config = load_config(find_config("train", "quickstart"))
    robot = Embodiment.from_yaml(find_config("robots", config.robot))
    model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        save_checkpoint(checkpoint, model, robot, config)
        engine = InferenceEngine(load_checkpoint(checkpoint), device)
        features = pooled_features(engine.model.condition(engine.model.observe([engine.example_observation()])))
        slots = tuple(sorted(int(slot) for slot in robot.slots))
        whole = HeadConfig(features.shape[1], 128, slots, engine.horizon, engine.horizon)
        srpo = load_align(find_config("align", "srpo_sim"))
        student = replace(whole, components=srpo.imitate.components, **asdict(srpo.head))
        executed = HeadConfig(features.shape[1], 128, slots, 8, engine.horizon, members=4)
        heads = {
            "plain": None,
            f"best of {args.candidates}": (ActingConfig("best_of", candidates=args.candidates), ChunkCritic(executed)),
            "guided": (ActingConfig("guided"), ChunkEnergy(whole)),
            "student": (ActingConfig("student"), ChunkStudent(student)),
        }
        for name, acting in heads.items():
            folder_of_head = checkpoint / FOLDER
            if acting is not None:
                folder_of_head.mkdir(exist_ok=True)
                save_acting(folder_of_head, *acting)
            figures[name] = timed(InferenceEngine(load_checkpoint(checkpoint), device))
    for name, found in figures.items():
        plain = figures["plain"]
        print(
            f"{name:12s} features given {found['head_ms']:7.2f} ms ({found['head_ms'] / plain['head_ms']:.2f} of plain)"
            f"   whole chunk {found['chunk_ms']:7.2f} ms ({found['chunk_ms'] / plain['chunk_ms']:.2f})"
        )
    if args.json:
        write_json(args.json, figures)


def timed(engine: InferenceEngine) -> dict[str, float]:
    """Medians of one observation."""
    seen = engine.example_observation()
    engine.warm_up(language_buckets=(16,))
    with torch.no_grad():
        condition = engine.model.condition(engine.model.observe([seen]))
        noise = engine.draw_noise([1])
        head = measure(lambda: engine.act(condition, noise), engine.device, budget_s=4.0)
    chunk = measure(lambda: engine.predict(seen), engine.device, budget_s=4.0)
    return {"head_ms": head.p50, "chunk_ms": chunk.p50}


if __name__ == "__main__":
    main()
