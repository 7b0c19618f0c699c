"""pytest tests/rdt/diffusion/test_solver.py"""

import pytest
import torch

from rdt.diffusion.schedule import squared_cosine_alphas_cumprod
from rdt.diffusion.solver import TABLES, TableSampler, ddim_table, ddpm_table, dpm_solver_table, make_sampler, sample

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
def test_dpm_solver_equals_diffusers(num_steps, prediction_type):
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
    assert_same_sample(sample(network, noise(), table), x, prediction_type)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 30, 1000])
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_equals_diffusers(num_steps, prediction_type, eta):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type, clip_sample=False
    )
    scheduler.set_timesteps(num_steps)
    table = ddim_table(ACP, num_steps, prediction_type, eta)
    assert [step.timestep for step in table] == scheduler.timesteps.tolist()
    fresh = torch.randn(num_steps, *noise().shape, generator=torch.Generator().manual_seed(1))
    x = noise()
    for i, t in enumerate(scheduler.timesteps):
        prediction = network(x, t[None])
        x = scheduler.step(prediction, t, x, eta=eta, variance_noise=fresh[i] if eta else None).prev_sample
    assert_same_sample(sample(network, noise(), table, fresh), x, prediction_type)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 30, 1000])
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_ddpm_equals_diffusers(num_steps, prediction_type):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type, clip_sample=False
    )
    scheduler.set_timesteps(num_steps)
    table = ddpm_table(ACP, num_steps, prediction_type)
    assert [step.timestep for step in table] == scheduler.timesteps.tolist()
    # its own float32 loses 3e-4 over a thousand steps; in float64 the two are one
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    drawing, repeating = (torch.Generator().manual_seed(1) for _ in range(2))
    x, fresh = noise(torch.float64), []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None]), t, x, generator=drawing).prev_sample
        fresh.append(torch.randn(x.shape, generator=repeating, dtype=x.dtype) if t > 0 else torch.zeros_like(x))
    actual = sample(network, noise(torch.float64), table, torch.stack(fresh))
    assert_same_sample(actual, x, prediction_type)


def assert_same_sample(actual, expected, prediction_type):
    # `epsilon` divides by alpha, down to 4.9e-5: only the error relative to the result's size has a meaning
    scale = expected.abs().max() if prediction_type == "epsilon" else 1.0
    torch.testing.assert_close(actual / scale, expected / scale, atol=2e-5, rtol=0)


def test_fresh_noise_comes_from_the_default_generator():
    table, results = ddpm_table(ACP, 5), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(sample(network, noise(), table))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    torch.manual_seed(0)
    fresh = torch.stack([torch.randn_like(noise()) for _ in range(4)])  # the last step draws none
    assert torch.equal(sample(network, noise(), table, fresh), results[0])


def test_deterministic_tables_draw_nothing():
    before = torch.get_rng_state()
    for name in ("dpm_solver++", "ddim"):
        make_sampler(name, ACP, 5, "sample")(network, noise())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", list(TABLES))
def test_samplers_by_name(name):
    sampler = make_sampler(name, ACP, 4, "epsilon")
    assert sampler == TableSampler(TABLES[name](ACP, 4, "epsilon"))
    torch.manual_seed(0)
    result = sampler(network, noise())
    torch.manual_seed(0)
    assert torch.equal(result, sample(network, noise(), sampler.table))


def test_unknown_sampler_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown sampler 'ddimm': did you mean 'ddim'.*UniPCMultistepScheduler"):
        make_sampler("ddimm", ACP, 5, "sample")


@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("num_steps", [1, 2, 5, 17])
def test_result_is_the_last_prediction(name, num_steps):
    predictions = []

    def recording(x, timesteps):
        predictions.append(network(x, timesteps))
        return predictions[-1]

    result = make_sampler(name, ACP, num_steps, "sample")(recording, noise())
    assert len(predictions) == num_steps
    assert torch.equal(result, predictions[-1])


@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_true_denoiser_of_one_point_is_solved_exactly(name, prediction_type):
    """If all data are one action, every step knows it, and any number of steps ends there."""
    action = torch.linspace(-1, 1, 8, dtype=torch.float64).expand(2, 4, 8)

    def denoiser(x, timesteps):
        alpha, sigma = ACP.double()[timesteps].sqrt(), (1 - ACP.double()[timesteps]).sqrt()
        return action if prediction_type == "sample" else (x - alpha * action) / sigma

    for num_steps in (1, 3, 8):
        result = make_sampler(name, ACP, num_steps, prediction_type)(denoiser, noise(torch.float64))
        torch.testing.assert_close(result, action)


def test_x_keeps_its_type_under_a_network_of_another():
    def half(x, timesteps):
        return network(x, timesteps).bfloat16()

    assert sample(half, noise(), dpm_solver_table(ACP, 5)).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "num_steps", "limit"), [("dpm_solver++", 0, 999), ("dpm_solver++", 1000, 999), ("ddim", 1001, 1000)]
)
def test_impossible_step_counts_are_refused(name, num_steps, limit):
    with pytest.raises(ValueError, match=f"1 to {limit} steps"):
        make_sampler(name, ACP, num_steps, "sample")
