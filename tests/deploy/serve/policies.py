"""A tiny random policy, and a server of it in a thread, for tests."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Observation
from deploy.engine import InferenceEngine
from deploy.serve.command import contract_of
from deploy.serve.contract import Contract
from deploy.serve.server import Converse, Listening, listen
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.train.checkpoint import load_checkpoint, save_checkpoint
from rdt.train.config import TrainConfig
from rdt.visuomotor import VisuomotorPolicy


def robot(name: str = "aloha_viperx") -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", name))


def write_checkpoint(folder: Path, of: Embodiment, history: int = 2, horizon: int = 5) -> Path:
    """A network of random weights that looks at all cameras of a robot."""
    torch.manual_seed(0)
    condition = ConditionConfig(cameras=tuple(of.cameras), image_history=history)
    sizes = dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2, pred_horizon=horizon)
    sizes = sizes.with_images(history, len(of.cameras))
    model = VisuomotorPolicy(sizes, condition, "all")
    with torch.no_grad():
        model.policy.model.final_layer.ffn_final.fc2.weight.normal_(std=0.1)  # 0 at first: it would say nothing
    save_checkpoint(folder, model, of, dataclasses.replace(TrainConfig(), condition=condition))
    return folder


def engine(checkpoint: Path) -> InferenceEngine:
    """A fresh one: equal calls give equal answers."""
    return InferenceEngine(load_checkpoint(checkpoint))


def observation(of: Embodiment, history: int = 2, stamp_ns: int = 1_000_000_000) -> Observation:
    """All joints a little off zero, noise in all pictures."""
    rng = np.random.default_rng(0)
    state, mask = of.to_unified(np.linspace(0.1, 0.4, of.num_native))
    return Observation(
        state=state,
        state_mask=mask,
        images={role: rng.integers(0, 256, (history, 48, 64, 3), dtype=np.uint8) for role in of.cameras},
        image_masks={role: np.ones(history, dtype=bool) for role in of.cameras},
        instruction="from right to left",
        control_hz=of.rate_hz,
        stamp_ns=stamp_ns,
    )


@contextmanager
def served(converse: Converse, **settings) -> Iterator[str]:
    """The address of a server that runs in a thread until the block ends."""
    addresses: list[str] = []
    opened = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def tell(address: str) -> None:
        addresses.append(address)
        opened.set()

    thread = threading.Thread(
        target=lambda: loop.run_until_complete(listen(converse, Listening(**{"port": 0, **settings}), stop, tell)),
        daemon=True,
    )
    thread.start()
    assert opened.wait(30)
    try:
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive()
        loop.close()


@contextmanager
def served_checkpoint(checkpoint: Path, service: Callable[[InferenceEngine, Contract], Any]) -> Iterator[str]:
    """The address of a service of a checkpoint's policy, until the block ends."""
    policy = engine(checkpoint)
    with served(service(policy, contract_of(policy, checkpoint)).converse) as address:
        yield address
