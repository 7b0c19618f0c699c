"""pytest tests/rdt/diffusion/test_process.py"""

import torch

from rdt.diffusion.process import q_sample, training_target
from rdt.diffusion.schedule import squared_cosine_alphas_cumprod

ACP = squared_cosine_alphas_cumprod()


def action_and_noise():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, generator=generator), torch.randn(2, 4, 8, generator=generator)


def test_first_timestep_is_nearly_clean_and_last_is_nearly_noise():
    action, noise = action_and_noise()
    clean, noisy = (
        q_sample(action, noise, torch.tensor([0, 0]), ACP),
        q_sample(action, noise, torch.tensor([999, 999]), ACP),
    )
    torch.testing.assert_close(clean, action, atol=0.03, rtol=0)
    torch.testing.assert_close(noisy, noise, atol=1e-3, rtol=0)


def test_each_sample_has_its_own_timestep():
    action, noise = action_and_noise()
    together = q_sample(action, noise, torch.tensor([100, 900]), ACP)
    for i, t in enumerate((100, 900)):
        alone = q_sample(action[i : i + 1], noise[i : i + 1], torch.tensor([t]), ACP)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_targets():
    action, noise = action_and_noise()
    assert training_target("sample", action, noise) is action
    assert training_target("epsilon", action, noise) is noise
