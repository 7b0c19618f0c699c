"""Run: pytest tests/rdt/alignment/test_heads.py"""

import pytest
import torch

from rdt.alignment.heads import ChunkCritic, ChunkEnergy, ChunkStudent, HeadConfig

CONFIG = HeadConfig(num_features=5, num_state=2, slots=(3, 10), num_actions=2, horizon=4, hidden=8, dropout=0.0)
GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(6, 5, generator=GENERATOR)
CHUNK = torch.randn(6, 4, 128, generator=GENERATOR)


def elsewhere(chunk):
    """The same in the slots and the actions that a head reads, other numbers elsewhere."""
    changed = torch.randn(chunk.shape, generator=GENERATOR)
    changed[:, :2, [3, 10]] = chunk[:, :2, [3, 10]]
    return changed


def test_a_critic_reads_the_executed_actions_and_the_robots_slots_alone():
    critic = ChunkCritic(CONFIG).eval()
    torch.testing.assert_close(critic.q(FEATURES, elsewhere(CHUNK)), critic.q(FEATURES, CHUNK))
    assert not torch.allclose(critic.q(FEATURES, -CHUNK), critic.q(FEATURES, CHUNK))


def test_a_critic_is_as_sure_as_its_most_doubtful_member():
    critic = ChunkCritic(CONFIG).eval()
    assert (critic.q(FEATURES, CHUNK) <= critic.q_logits(FEATURES, CHUNK)).all()


def test_features_are_scaled_by_what_the_data_are():
    critic = ChunkCritic(CONFIG)
    rows = torch.randn(1000, 5) * torch.tensor([1.0, 10.0, 0.1, 0.0, 1.0]) + 7
    critic.fit_features(rows)
    scaled = critic.scaled(rows)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0)[[0, 1, 2, 4]], torch.ones(4), atol=1e-3, rtol=0)
    assert scaled[:, 3].abs().max() < 1e-2  # a feature that never varies is not blown up


def test_of_pooled_tokens_the_principal_components_are_kept():
    config = HeadConfig(num_features=5, num_state=2, slots=(3, 10), num_actions=2, horizon=4, hidden=8, components=1)
    critic = ChunkCritic(config)
    direction = torch.tensor([0.6, 0.0, 0.8])
    tokens = torch.randn(500, 1) * direction + 0.01 * torch.randn(500, 3)
    critic.fit_features(torch.cat((tokens, torch.randn(500, 2)), dim=1))
    assert (critic.token_basis[:, 0] @ direction).abs() > 0.999
    assert critic.scaled(FEATURES).shape == (6, 3)


def test_fewer_rows_than_components_are_scaled_too():
    critic = ChunkCritic(HeadConfig(num_features=5, num_state=2, slots=(3, 10), num_actions=2, horizon=4, hidden=8))
    critic.fit_features(FEATURES[:2])
    assert critic.scaled(FEATURES).isfinite().all()
    assert not critic.token_basis[:, 2:].any() and critic.token_basis[:, 0].norm() == pytest.approx(1, abs=1e-5)


def test_an_energys_gradient_is_in_the_robots_slots_alone():
    energy = ChunkEnergy(CONFIG).eval()
    noisy = CHUNK.clone().requires_grad_()
    energy.energy(noisy, torch.full((6,), 0.5), FEATURES).sum().backward()
    live = torch.zeros(128, dtype=torch.bool)
    live[[3, 10]] = True
    assert noisy.grad[:, :2, live].abs().min() > 0
    assert noisy.grad[:, :, ~live].abs().max() == 0 and noisy.grad[:, 2:].abs().max() == 0


def test_a_student_makes_a_whole_chunk_of_the_robots_slots():
    chunk = ChunkStudent(CONFIG).eval().act(FEATURES, 128)
    assert chunk.shape == (6, 4, 128)
    assert chunk[..., [3, 10]].abs().min() > 0
    assert not chunk[..., [slot for slot in range(128) if slot not in (3, 10)]].any()


@pytest.mark.parametrize("wrong", [{"num_actions": 5}, {"num_actions": 0}, {"slots": ()}])
def test_a_head_for_no_chunk_is_refused(wrong):
    with pytest.raises(ValueError, match="a head reads 1 to 4 actions"):
        HeadConfig(**{**vars(CONFIG), **wrong})
