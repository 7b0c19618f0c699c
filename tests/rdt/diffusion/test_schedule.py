"""pytest tests/rdt/diffusion/test_schedule.py"""

import pytest
import torch

from rdt.diffusion.schedule import alpha_sigma, squared_cosine_alphas_cumprod


@pytest.mark.parametrize("num_steps", [10, 100, 1000])
def test_signal_only_falls(num_steps):
    acp = squared_cosine_alphas_cumprod(num_steps)
    assert acp.shape == (num_steps,) and acp.dtype == torch.float32
    assert ((acp[1:] < acp[:-1]) & (acp[1:] > 0)).all() and acp[0] < 1


def test_published_check_values():
    # spec rdt.md section 5
    acp = squared_cosine_alphas_cumprod()
    published = {
        0: 0.99995869,
        200: 0.89776301,
        400: 0.64598805,
        599: 0.34080958,
        799: 0.09404561,
        999: 2.4287e-09,
    }
    for t, value in published.items():
        assert acp[t].item() == pytest.approx(value, rel=1e-4 if t == 999 else 1e-7)


@pytest.mark.parametrize("num_steps", [50, 1000])
def test_equals_diffusers(num_steps):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDPMScheduler(num_steps, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert torch.equal(squared_cosine_alphas_cumprod(num_steps), reference)


def test_signal_and_noise_have_unit_power():
    alpha, sigma = alpha_sigma(squared_cosine_alphas_cumprod(), torch.arange(1000))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000))


def test_table_is_real_inside_a_meta_context():
    with torch.device("meta"):
        assert not squared_cosine_alphas_cumprod(10).is_meta
