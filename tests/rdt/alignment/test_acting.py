"""Run: pytest tests/rdt/alignment/test_acting.py"""

import pytest
import torch

from rdt.alignment.acting import Acting, ActingConfig, drawn, load_acting, save_acting
from rdt.alignment.features import pooled_features
from rdt.alignment.heads import ChunkCritic, ChunkEnergy, ChunkStudent
from tests.rdt.alignment.parts import condition_of, make_batch, make_head, make_policy, noise_of


@pytest.fixture
def model():
    return make_policy()


@pytest.fixture
def condition(model):
    return condition_of(model, make_batch(model))


@pytest.fixture
def num_features(condition):
    return pooled_features(condition).shape[1]


def plain(model, condition, noise):
    return model.policy.predict_action(**vars(condition), noise=noise)


def test_the_best_of_one_is_the_policys_own(model, condition, num_features):
    acting = Acting(ActingConfig("best_of", candidates=1), make_head(ChunkCritic, num_features))
    noise = noise_of(4)
    torch.testing.assert_close(acting.sample(model.policy, condition, noise), plain(model, condition, noise))


def test_the_best_of_several_is_what_the_critic_likes_best(model, condition, num_features):
    critic = make_head(ChunkCritic, num_features)
    acting = Acting(ActingConfig("best_of", candidates=3), critic)
    noise = noise_of(12)
    chosen = acting.sample(model.policy, condition, noise)
    every = torch.stack([plain(model, condition, noise[i::3]) for i in range(3)])  # (candidate, row, ...)
    features = pooled_features(condition)
    best = torch.stack([critic.q(features, chunks) for chunks in every]).argmax(dim=0)
    torch.testing.assert_close(chosen, every[best, torch.arange(4)])


def test_candidates_of_one_observation_share_its_encoding(model, condition, num_features):
    """One row is expanded, several are repeated: the chunks are those of each noise alone."""
    noise = noise_of(12)
    together = drawn(model.policy, condition, noise).unflatten(0, (4, 3))
    for candidate in range(3):
        torch.testing.assert_close(together[:, candidate], plain(model, condition, noise[candidate::3]))
    one = condition_of(model, make_batch(model, 1))
    torch.testing.assert_close(drawn(model.policy, one, noise[:3]), plain_rows(model, one, noise[:3]))


def plain_rows(model, one, noise):
    return torch.cat([plain(model, one, row[None]) for row in noise])


def test_guidance_of_no_energy_changes_nothing_and_of_one_raises_it(model, condition, num_features):
    energy = make_head(ChunkEnergy, num_features)
    energy.frequencies.zero_()  # the same at every time: each step then climbs what is asked at the end
    noise = noise_of(4)
    expected = plain(model, condition, noise)
    unguided = Acting(ActingConfig("guided", scale=0.0), energy).sample(model.policy, condition, noise)
    torch.testing.assert_close(unguided, expected)
    guided = Acting(ActingConfig("guided", scale=1.0), energy).sample(model.policy, condition, noise)
    features, clean = pooled_features(condition), torch.zeros(4)
    assert (energy.energy(guided, clean, features) > energy.energy(expected, clean, features)).all()
    assert torch.equal(guided[..., 20:30], expected[..., 20:30])  # no slots of this robot


def test_a_student_needs_no_noise(model, condition, num_features):
    acting = Acting(ActingConfig("student"), make_head(ChunkStudent, num_features))
    first = acting.sample(model.policy, condition, noise_of(4, 3))
    assert torch.equal(first, acting.sample(model.policy, condition, noise_of(4, 4)))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (ActingConfig("best_of", candidates=2), ChunkCritic),
        (ActingConfig("guided", scale=0.5), ChunkEnergy),
        (ActingConfig("student"), ChunkStudent),
    ],
)
def test_who_acts_comes_back_from_its_folder(model, condition, num_features, tmp_path, config, kind):
    head = make_head(kind, num_features)
    head.fit_features(torch.randn(50, num_features))
    save_acting(tmp_path, config, head)
    back = load_acting(tmp_path)
    noise = noise_of(4 * back.num_candidates)
    assert back.config == config
    assert torch.equal(
        back.sample(model.policy, condition, noise), Acting(config, head).sample(model.policy, condition, noise)
    )


def test_a_damaged_head_is_named(num_features, tmp_path):
    save_acting(tmp_path, ActingConfig("student"), make_head(ChunkStudent, num_features))
    (tmp_path / "head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="holds no head that can be read"):
        load_acting(tmp_path)


def test_an_unknown_way_of_acting_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="best_of"):
        ActingConfig("best_off")
