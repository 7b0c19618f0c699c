"""Run: pytest tests/rdt/alignment/test_state_policy.py"""

import numpy as np
import pytest
import torch

from rdt.alignment.offline_data import StateScaling
from rdt.alignment.state_policy import (
    NEEDS,
    NetworkConfig,
    StatePolicy,
    StatePolicyConfig,
    is_state_policy,
    load_state_policy,
    save_state_policy,
)

SMALL = {
    "policy": NetworkConfig("gaussian", (8,)),
    "behaviour": NetworkConfig("bottleneck", (8, 8)),
    "energy": NetworkConfig("energy", (8,)),
    "critic": NetworkConfig("twin_q", (8,)),
}


def make(acting, behaviour="bottleneck", **settings):
    torch.manual_seed(0)
    networks = {name: SMALL[name] for name in NEEDS[acting]}
    if "behaviour" in networks:
        networks["behaviour"] = NetworkConfig(behaviour, (8, 8, 8))
    settings = {"sampling_steps": 3, "candidates": 4, **settings}
    config = StatePolicyConfig(acting, state_dim=3, action_dim=2, networks=networks, **settings)
    scaling = StateScaling(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([2.0, 1.0, 0.5]))
    return StatePolicy(config, {name: network.make(2, 3) for name, network in networks.items()}, scaling)


def act(policy, seed=0):
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    return policy.act(states, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("acting", NEEDS)
@pytest.mark.parametrize("behaviour", ["unet", "resnet", "bottleneck"])
def test_what_is_read_acts_as_what_was_written(acting, behaviour, tmp_path):
    policy = make(acting, behaviour, action_limit=2.0)
    save_state_policy(tmp_path, policy)
    assert is_state_policy(tmp_path)
    again = load_state_policy(tmp_path)
    assert torch.equal(act(policy), act(again)) and again.config == policy.config
    assert act(policy).shape == (5, 2) and act(policy).abs().max() <= 2.0


def test_samples_follow_the_generator_and_a_direct_policy_none():
    sampled, direct = make("sampled"), make("direct")
    assert not torch.equal(act(sampled), act(sampled, seed=1))
    assert torch.equal(act(direct), act(direct, seed=1))


def test_a_guided_sampler_climbs_its_energy():
    policy = make("guided")
    near, far = act(policy), act(make("guided", scale=50.0))
    energy, cond, t = policy.networks["energy"], torch.zeros(5, 3), torch.tensor(1e-3)
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    cond = (states - policy.state_mean) / policy.state_std
    with torch.no_grad():
        assert energy(far, t, cond).mean() > energy(near, t, cond).mean()


def test_an_actor_refuses_states_of_another_task():
    actor = make("direct").actor(torch.Generator())
    with pytest.raises(ValueError, match="trained for another task"):
        actor(np.zeros((2, 4), dtype=np.float32), [])
    assert actor(np.zeros((2, 3), dtype=np.float32), []).shape == (2, 2)


def test_a_damaged_or_foreign_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"lacks policy\.yaml"):
        load_state_policy(tmp_path)
    save_state_policy(tmp_path, make("direct"))
    (tmp_path / "policy.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        load_state_policy(tmp_path)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="equally wide"):
        NetworkConfig("resnet", (8, 16))
    with pytest.raises(ValueError, match="three widths"):
        NetworkConfig("unet", (8,))
    with pytest.raises(ValueError, match="guided has networks behaviour, energy"):
        StatePolicyConfig("guided", 3, 2, {"behaviour": SMALL["behaviour"]})
