"""A tiny real model on a tiny real store: a robot whose next positions follow from its present ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import Episode
from data_pipeline.storage import EpisodeStore
from data_pipeline.stream import SampleStream
from rdt.encoders.condition import ConditionConfig
from rdt.model.presets import PRESETS
from rdt.train.config import DataConfig, TrainConfig
from rdt.train.loader import BatchLoader
from rdt.train.optim import OptimConfig
from rdt.visuomotor import VisuomotorPolicy

NUM_STEPS = 12


@pytest.fixture(scope="session")
def robot() -> Embodiment:
    return Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


@pytest.fixture(scope="session")
def store(robot, tmp_path_factory) -> EpisodeStore:
    rng = np.random.default_rng(0)
    store = EpisodeStore.create(tmp_path_factory.mktemp("data") / "store", robot)
    with store:
        for number in range(4):
            native = rng.uniform(0, 1, robot.num_native) + np.linspace(0, 0.3, NUM_STEPS)[:, None]
            states, mask = robot.to_unified(native)
            actions, _ = robot.to_unified(native + 0.05, kind="action")
            store.add(
                Episode(
                    name=f"episode_{number}",
                    states=states,
                    state_mask=mask,
                    actions=actions,
                    action_mask=mask,
                    images={"external": rng.integers(0, 256, (NUM_STEPS, 64, 64, 3), dtype=np.uint8)},
                    instructions=("from right to left", "give it from right to left"),
                    rate_hz=robot.rate_hz,
                    action_offset_steps=1,
                )
            )
    return store


@pytest.fixture
def make_model():
    def make(seed: int = 0) -> VisuomotorPolicy:
        torch.manual_seed(seed)
        config = dataclasses.replace(
            PRESETS["rdt_tiny"], hidden_size=32, depth=2, num_heads=2, pred_horizon=4, lang_token_dim=8, img_token_dim=8
        )
        return VisuomotorPolicy(config, ConditionConfig(cameras=("external",), scaling="min_max"))

    return make


@pytest.fixture
def batches(store):
    """`batches(model)` reads the store for that model, its scaling fitted to it."""
    loaders = []

    def make(model: VisuomotorPolicy) -> BatchLoader:
        for kind in ("state", "action"):
            stats = store.stats(kind)
            model.condition.scaling.fit_min_max(kind, stats.min, stats.max, stats.count > 0)
        stream = SampleStream([store], seed=0, horizon=model.horizon, image_history=1, cameras=("external",))
        loaders.append(BatchLoader(stream, model.condition, 8))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


@pytest.fixture(scope="session")
def train_config() -> TrainConfig:
    return TrainConfig(
        preset="rdt_tiny",
        steps=12,
        condition=ConditionConfig(cameras=("external",), scaling="min_max"),
        data=DataConfig(batch_size=8),
        optim=OptimConfig(lr=3e-3, warmup_steps=2, schedule="cosine", ema_decay=0.9),
        validate_every=6,
        checkpoint_every=6,
        device="cpu",
    )
