"""pytest tests/rdt/diffusion/test_diffusers_sampler.py"""

import sys

import pytest
import torch

from rdt.diffusion.schedule import squared_cosine_alphas_cumprod
from rdt.diffusion.solver import make_sampler

ACP = squared_cosine_alphas_cumprod()
ACTION = torch.linspace(-1, 1, 8).expand(2, 4, 8)


def noise():
    return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))


def network(x, timesteps):
    return torch.tanh(0.7 * x + timesteps[:, None, None] / 500 - 1)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
@pytest.mark.parametrize(
    ("scheduler", "table"),
    [("DPMSolverMultistepScheduler", "dpm_solver++"), ("DDIMScheduler", "ddim"), ("DDPMScheduler", "ddpm")],
)
def test_slow_road_equals_the_fast_one(scheduler, table, prediction_type):
    pytest.importorskip("diffusers")
    results = []
    for name in (scheduler, table):
        torch.manual_seed(0)
        results.append(make_sampler(name, ACP, 6, prediction_type)(network, noise()))
    scale = results[0].abs().max()
    torch.testing.assert_close(results[1] / scale, results[0] / scale, atol=2e-5, rtol=0)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"])
def test_true_denoiser_of_one_point_is_solved_exactly(scheduler, prediction_type):
    """Also where timesteps lie between two of training, or the network is asked twice a step."""
    pytest.importorskip("diffusers")

    def denoiser(x, timesteps):
        below = timesteps.long()
        acp = torch.lerp(ACP[below], ACP[(below + 1).clamp(max=999)], timesteps.float() - below)[:, None, None]
        return ACTION if prediction_type == "sample" else (x - acp.sqrt() * ACTION) / (1 - acp).sqrt()

    sampler = make_sampler(scheduler, ACP, 7, prediction_type)
    for _ in range(2):  # each run starts afresh
        torch.testing.assert_close(sampler(denoiser, noise()), ACTION, atol=1e-5, rtol=0)


def test_unknown_class_names_the_nearest():
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="no scheduler 'EulerDiscretScheduler': did you mean 'EulerDiscreteScheduler'"):
        make_sampler("EulerDiscretScheduler", ACP, 5, "sample")


def test_schedulers_of_other_processes_are_refused():
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler does not run on RDT's noise sched"):
        make_sampler("FlowMatchEulerDiscreteScheduler", ACP, 5, "sample")


def test_a_prediction_type_that_a_scheduler_lacks_is_found_at_once():
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match=r"EulerAncestralDiscreteScheduler cannot sample in 5 steps.*'sample'"):
        make_sampler("EulerAncestralDiscreteScheduler", ACP, 5, "sample")


def test_without_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'rdt-stack\[samplers\]'.*dpm_solver\+\+"):
        make_sampler("EulerDiscreteScheduler", ACP, 5, "sample")
