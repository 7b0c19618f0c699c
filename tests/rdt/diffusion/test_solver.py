"""pytest tests/rdt/diffusion/test_solver.py"""

import pytest
import torch

from rdt.diffusion.schedule import squared_cosine_alphas_cumprod
from rdt.diffusion.solver import dpm_solver_table, sample

ACP = squared_cosine_alphas_cumprod()


def network(x, timesteps):
    """A smooth stand-in whose output depends on x and on the timestep."""
    return torch.tanh(0.7 * x + timesteps[:, None, None] / 500 - 1)


def noise(dtype=torch.float32):
    return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_published_coefficients():
    # spec rdt.md section 5: k, cx, c0, c1 for five steps
    published = [
        (999, 0.951816363, 0.306621664, 0),
        (799, 0.853006366, 0.336919203, -0.014720448),
        (599, 0.732830494, 0.523556482, -0.147641055),
        (400, 0.537396761, 0.836741479, -0.321161854),
        (200, 0, 1, 0),
    ]
    for step, row in zip(dpm_solver_table(ACP, 5), published, strict=True):
        assert (step.timestep, step.cx, step.c0, step.c1) == pytest.approx(row, abs=2e-7)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 14, 15, 20, 100])
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_equals_diffusers(num_steps, prediction_type):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type
    )
    scheduler.set_timesteps(num_steps)
    table = dpm_solver_table(ACP, num_steps, prediction_type)
    assert [step.timestep for step in table] == scheduler.timesteps.tolist()
    torch.testing.assert_close(
        torch.tensor([step.sigma for step in table] + [0.0]), scheduler.sigmas, rtol=1e-5, atol=0
    )

    x = noise()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None]), t, x).prev_sample
    # `epsilon` divides by alpha(999) = 4.9e-5: only the error relative to the result's size has a meaning
    scale = x.abs().max() if prediction_type == "epsilon" else 1.0
    torch.testing.assert_close(sample(network, noise(), table) / scale, x / scale, atol=2e-5, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 17])
def test_result_is_the_last_prediction(num_steps):
    predictions = []

    def recording(x, timesteps):
        predictions.append(network(x, timesteps))
        return predictions[-1]

    result = sample(recording, noise(), dpm_solver_table(ACP, num_steps))
    assert len(predictions) == num_steps
    assert torch.equal(result, predictions[-1])


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_true_denoiser_of_one_point_is_solved_exactly(prediction_type):
    """If all data are one action, every step knows it, and any number of steps ends there."""
    action = torch.linspace(-1, 1, 8, dtype=torch.float64).expand(2, 4, 8)

    def denoiser(x, timesteps):
        alpha, sigma = ACP.double()[timesteps].sqrt(), (1 - ACP.double()[timesteps]).sqrt()
        return action if prediction_type == "sample" else (x - alpha * action) / sigma

    for num_steps in (1, 3, 8):
        result = sample(denoiser, noise(torch.float64), dpm_solver_table(ACP, num_steps, prediction_type))
        torch.testing.assert_close(result, action)


def test_x_keeps_its_type_under_a_network_of_another():
    def half(x, timesteps):
        return network(x, timesteps).bfloat16()

    assert sample(half, noise(), dpm_solver_table(ACP, 5)).dtype == torch.float32


@pytest.mark.parametrize("num_steps", [0, 1000])
def test_impossible_step_counts_are_refused(num_steps):
    with pytest.raises(ValueError, match="1 to 999 steps"):
        dpm_solver_table(ACP, num_steps)
