"""Run: pytest tests/deploy/test_evaluate.py"""

import dataclasses
import math

import pytest
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.cli import main
from deploy.evaluate import Settings, _engine, _Job, _run_job
from deploy.loop import LoopSettings
from deploy.realtime.spec import default_settings
from deploy.rollout import Trial
from rdt.diffusion.solver import ddim_table
from rdt.model.presets import PRESETS
from rdt.train.checkpoint import save_checkpoint
from rdt.train.config import load_config
from rdt.visuomotor import VisuomotorPolicy


@pytest.fixture
def checkpoint(tmp_path):
    config = load_config(find_config("train", "quickstart"))
    torch.manual_seed(0)
    network = dataclasses.replace(PRESETS["rdt_tiny"], hidden_size=32, depth=2)
    model = VisuomotorPolicy(network, config.condition, config.noise_slots)
    robot = Embodiment.from_yaml(find_config("robots", config.robot))
    save_checkpoint(tmp_path / "checkpoint", model, robot, config, {}, {})
    return tmp_path / "checkpoint"


def test_the_sampler_is_chosen_by_name(checkpoint):
    published = _engine(checkpoint, Settings("sim_handover", 1, 0, "cpu")).policy
    chosen = _engine(checkpoint, Settings("sim_handover", 1, 0, "cpu", "ddim", 9)).policy
    assert [step.timestep for step in published.solver_table] == [999, 799, 599, 400, 200]
    assert chosen.solver_table == ddim_table(chosen.alphas_cumprod, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "ddpn"], "did you mean 'ddpm'"),
        (["--sampling-steps", "1000"], "1 to 999 steps"),
        (["--sampler", "UniPCMultistepScheduler", "--handover", "rtc"], "choose dpm_solver++, ddim or ddpm"),
    ],
)
def test_a_wrong_sampler_is_one_message(checkpoint, capsys, tmp_path, options, message):
    out = tmp_path / "out"
    assert main(["eval", str(checkpoint), "--env", "sim_handover", "--out", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_hand_over_and_the_latency_reach_the_loop(checkpoint, monkeypatch):
    calls = []
    monkeypatch.setattr("deploy.evaluate.run_trials", lambda *arguments: calls.append(arguments) or [])
    trial = Trial("sim_handover", "transfer_right_to_left", "", "trained", 1)
    for handover in ("rtc", "ensemble"):
        settings = Settings("sim_handover", 1, 0, "cpu", handover=handover, latency_ms=170, jacobian="identity")
        _run_job(_Job(checkpoint, settings, (trial,)))
    (engine, _, loop, latency_ticks), (_, _, averaging, _) = calls
    assert (loop.handover, loop.execute_steps, latency_ticks) == ("rtc", LoopSettings().execute_steps, 8)
    assert (averaging.handover, averaging.execute_steps) == ("ensemble", 1)
    assert engine.robot.name == "sim_bimanual"
    as_run = default_settings(engine.robot)  # a chunk that `rdt run` follows is not rejected here
    assert (loop.jump_rad, loop.gripper_jump) == (as_run.jump_rad, as_run.gripper_jump) == (0.7, math.inf)
