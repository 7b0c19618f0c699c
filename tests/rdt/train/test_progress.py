"""Run: pytest tests/rdt/train/test_progress.py"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.stream import SampleStream
from rdt.encoders.siglip import SiglipVision
from rdt.model.cost import training_flops
from rdt.train import progress
from rdt.train.loader import BatchLoader
from rdt.train.progress import Pace, StepCost, peak_flops, picture_flops, progress_text, step_cost
from tests.published import make_siglip

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


@pytest.fixture
def batch(store, make_model):
    loader = BatchLoader(SampleStream([store], seed=0, horizon=4, image_history=1), make_model().condition, 8)
    yield loader(0)
    loader.close()


def test_figures_are_those_since_the_last_row(make_model, batch, monkeypatch):
    clock = iter([100.2, 110.0, 140.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    pace = Pace(CPU, None, step=10, num_steps=30, train_seconds=50.0)
    for _ in range(5):
        pace.count(batch, waiting_seconds=0.2)
    figures = pace.figures(15, train_seconds=54.0)
    assert (figures["samples_per_s"], figures["waiting_share"]) == (5 * 8 / 4, 0.25)
    assert figures["remaining_s"] == 10 / 4 * 15  # the first step is not counted
    pace.count(batch, waiting_seconds=0.0)
    figures = pace.figures(16, train_seconds=55.0)
    assert (figures["samples_per_s"], figures["waiting_share"]) == (8.0, 0.0)


def test_mfu_is_the_work_of_a_step_over_the_peak(make_model, batch, monkeypatch):
    model = make_model()
    assert step_cost(model) is None  # no data sheet says the peak of a CPU
    monkeypatch.setattr(progress, "peak_flops", lambda device: 1e12)
    cost = step_cost(model)
    pace = Pace(CPU, cost, step=0, num_steps=10)
    pace.count(batch, 0.0)
    assert pace.figures(1, train_seconds=2.0)["mfu"] == pytest.approx(cost(batch) / 2.0 / 1e12, rel=1e-3)


def test_throughput_is_that_of_all_ranks(batch):
    pace = Pace(CPU, None, step=0, num_steps=10, num_ranks=3)
    pace.count(batch, 0.0)
    assert pace.figures(1, train_seconds=2.0)["samples_per_s"] == 3 * 8 / 2


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX A4000", None),
    ],
)
def test_the_peak_is_that_of_the_device_by_name(name, tflops, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == (tflops and tflops * 1e12)


def test_frozen_weights_cost_no_gradient_of_theirs(make_model, batch):
    model = make_model()
    vision = 3 * picture_flops(model.condition.vision, CPU) * batch.observation.image_mask.numel()
    whole = StepCost(model, 1.0)(batch) - vision
    model.policy.requires_grad_(False)
    assert StepCost(model, 1.0)(batch) - vision == pytest.approx(whole * 2 / 3)


def test_a_frozen_encoder_looks_once_at_the_pictures_that_are_there(make_model, batch, monkeypatch):
    model = make_model()
    mask = batch.observation.image_mask.clone()
    mask[:3] = False
    hidden = dataclasses.replace(batch, observation=dataclasses.replace(batch.observation, image_mask=mask))
    picture = picture_flops(model.condition.vision, CPU)
    trains = StepCost(model, 1.0)(hidden)
    monkeypatch.setattr(type(model.condition.vision), "frozen", True)
    assert trains - StepCost(model, 1.0)(hidden) == pytest.approx(picture * (3 * 8 - 5), rel=1e-6)


def test_the_operations_of_a_step_are_those_that_pytorch_counts(make_model, batch):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from rdt.objective import DiffusionImitation
    from rdt.random import SampleGenerator

    model = make_model()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        loss, _ = DiffusionImitation()(model, batch, SampleGenerator(0))
        loss.backward()
    assert StepCost(model, 1.0)(batch) == pytest.approx(counted.get_total_flops(), rel=0.1)


def test_a_step_costs_three_forward_passes_of_the_spec():
    """Spec rdt.md section 17: 1.26 TFLOP forward, 3.8 with backward, for one sample of RDT-1B."""
    from rdt.model.presets import PRESETS

    one = training_flops(PRESETS["rdt_1b"], num_samples=1, lang_tokens=32, attended_lang_tokens=32)
    assert one == pytest.approx(3.8e12, rel=0.01)
    many = training_flops(PRESETS["rdt_1b"], num_samples=8, lang_tokens=8 * 32, attended_lang_tokens=8 * 32)
    assert many == pytest.approx(8 * one)
    shared = training_flops(PRESETS["rdt_1b"], num_samples=8, lang_tokens=32, attended_lang_tokens=8 * 32)
    assert 0 < many - shared < 0.05 * many


def test_an_encoder_outside_the_module_tree_is_counted_too(tmp_path):
    """SigLIP's towers are held apart. By hand: patches, then per layer 4 projections, 2 of the MLP, attention."""
    pytest.importorskip("transformers", reason="needs the extra `encoders`")
    width = 8
    folder = make_siglip(tmp_path / "siglip", width=width)
    vision = SiglipVision(folder)
    sizes = json.loads((folder / "config.json").read_text())
    sizes = sizes.get("vision_config", sizes)
    tokens, layers, patch = vision.tokens_per_image, sizes["num_hidden_layers"], sizes["patch_size"]
    mlp = sizes["intermediate_size"]
    layer = 2 * tokens * (4 * width * width + 2 * width * mlp) + 4 * tokens * tokens * width
    by_hand = 2 * tokens * 3 * patch * patch * width + layers * layer
    assert picture_flops(vision, CPU) == pytest.approx(by_hand)


def test_the_size_of_a_process_is_its_own_and_not_its_parents():
    held = np.ones(10**8)  # 0.8 GB, beside torch
    code = "import torch; from rdt.train.progress import peak_memory_gb; print(peak_memory_gb(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 0 < float(child.stdout) < progress.peak_memory_gb(CPU) - held.nbytes / 2e9


def test_the_line_says_what_one_looks_for():
    figures = {"samples_per_s": 52.3, "waiting_share": 0.031, "peak_memory_gb": 21.64, "remaining_s": 60.0, "mfu": 0.43}
    text = progress_text(0.01234, figures)
    assert text.startswith("loss 0.0123, 52 samples/s, waiting 3%, MFU 43%, 21.6 GB, end ")
    assert "MFU" not in progress_text(0.01, {k: v for k, v in figures.items() if k != "mfu"})
