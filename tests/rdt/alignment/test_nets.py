"""pytest tests/rdt/alignment/test_nets.py"""

import pytest
import torch

from rdt.alignment.critics import SingleCritic, TwinCritic
from rdt.alignment.models import BehaviorModel, DensityModel
from rdt.alignment.nets import Bottleneck, DeterministicPolicy, EnergyMLP, ResNetEps, ScoreUNet, ToyScore

STATES, ACTIONS = 17, 6  # of the published counts
UNUSED = 3 * 65_792  # one layer a residual block that nothing reads


def numbers(net):
    return sum(x.numel() for x in [*net.parameters(), *net.buffers()])


@pytest.mark.parametrize(
    ("net", "published"),
    [
        (ScoreUNet, 1_634_294),
        (ResNetEps, 1_840_934 - UNUSED),
        (Bottleneck, 1_847_702 - UNUSED),
        (DeterministicPolicy, 71_942),
    ],
)
def test_published_counts(net, published):
    assert numbers(net(ACTIONS, STATES)) == published


@pytest.mark.parametrize("make", [ScoreUNet, ResNetEps, Bottleneck])
def test_candidates_share_times_and_states(make):
    net = make(ACTIONS, STATES).eval()
    a_t, t, cond = torch.randn(5, 4, ACTIONS), torch.rand(5), torch.randn(5, STATES)
    assert isinstance(net, BehaviorModel)
    found = net.eps(a_t, t, cond)
    assert found.shape == a_t.shape
    for k in range(4):
        torch.testing.assert_close(found[:, k], net.eps(a_t[:, k], t, cond), atol=1e-5, rtol=1e-4)
    one_time = net.eps(a_t, torch.tensor(0.5), cond)
    torch.testing.assert_close(one_time, net.eps(a_t, torch.full((5,), 0.5), cond), atol=1e-5, rtol=1e-4)


def test_networks_without_states():
    a_t, t = torch.randn(7, 2), torch.rand(7)
    assert ToyScore().eps(a_t, t).shape == (7, 2)
    assert EnergyMLP(2, width=512)(a_t, t).shape == (7,)


def test_a_bottleneck_learns_through_its_own_gradient():
    net = Bottleneck(ACTIONS, STATES).double().eval()
    assert isinstance(net, DensityModel)
    a_t, t = torch.randn(3, ACTIONS).double(), torch.rand(3).double()
    eps = net.eps(a_t, t, torch.randn(3, STATES).double())
    eps.square().sum().backward()  # a derivative of second order
    assert all(p.grad is not None for name, p in net.named_parameters() if name != "net.last.1.bias")
    with torch.no_grad():
        assert not net.eps(a_t, t, torch.randn(3, STATES).double()).requires_grad


def test_frequencies_are_saved_and_not_trained():
    net = ScoreUNet(ACTIONS, STATES)
    assert "time.0.frequencies" in net.state_dict()
    assert "time.0.frequencies" not in dict(net.named_parameters())
    other = ScoreUNet(ACTIONS, STATES)
    other.load_state_dict(net.state_dict())
    a_t, t, cond = torch.randn(3, ACTIONS), torch.rand(3), torch.randn(3, STATES)
    assert torch.equal(net.eps(a_t, t, cond), other.eps(a_t, t, cond))


def test_a_policy_stays_within_its_range():
    action = DeterministicPolicy(ACTIONS, STATES).act(100 * torch.randn(50, STATES))
    assert action.shape == (50, ACTIONS) and action.abs().max() <= 1


def test_critics_are_saved_whole_and_pessimistic():
    critic, a, cond = TwinCritic(ACTIONS, STATES), torch.randn(5, 4, ACTIONS), torch.randn(5, STATES)
    assert {name.split(".")[0] for name in critic.state_dict()} == {"q1", "q2"}
    q1, q2 = critic.both(a, cond)
    assert q1.shape == (5, 4)
    assert torch.equal(critic.q(a, cond), torch.minimum(q1, q2))
    torch.testing.assert_close(critic.mean(a, cond), (q1 + q2) / 2)
    assert SingleCritic(ACTIONS, STATES).q(a, cond).shape == (5, 4)
