"""`rdt checkpoint`: what is inside a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from deploy.robot import explain
from rdt.train.checkpoint import load_checkpoint, load_trainer_state
from rdt.train.config import dump_config


def command(args: argparse.Namespace) -> None:
    folder = Path(args.checkpoint)
    checkpoint = load_checkpoint(folder)
    policy = checkpoint.model.policy
    counts = {"network": policy, "encoders": checkpoint.model.condition}
    print(f"checkpoint {folder}")
    for name, module in counts.items():
        print(f"  {name:9s} {sum(p.numel() for p in module.parameters()):,} parameters")
    print(f"  chunk     {checkpoint.model.horizon} actions at {checkpoint.robot.rate_hz:g} Hz")
    if (folder / "trainer.pt").is_file():
        state = load_trainer_state(folder)
        print(f"  trained   {state['step']} of {checkpoint.config.steps} steps, {state['train_seconds']:.0f} s")
    statistics = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    print(
        f"  learnt    {statistics['num_episodes']} episodes, {statistics['num_steps']} steps; held-out ones not counted"
    )
    print("\nrobot\n" + explain(checkpoint.robot))
    print("\nconfig\n" + dump_config(checkpoint.config))
