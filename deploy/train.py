"""`rdt train`: compose data, model, objective and trainer from a config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from data_pipeline.conversion import convert
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.storage import EpisodeStore
from deploy.device import choose_device
from deploy.record import record_demonstrations
from rdt.model.presets import PRESETS
from rdt.objective import DiffusionImitation
from rdt.random import SampleGenerator
from rdt.train.checkpoint import load_trainer_state, save_checkpoint
from rdt.train.config import TrainConfig, load_config
from rdt.train.loader import SampleLoader
from rdt.train.metrics import sampling_error
from rdt.train.trainer import Trainer
from rdt.visuomotor import VisuomotorPolicy
