"""pytest tests/rdt/alignment/test_toy_nets.py"""

import torch

from rdt.alignment.models import BehaviorModel, DensityModel, density_eps
from rdt.alignment.toy import TOY_SETS, toy_problem
from rdt.alignment.toy_nets import BETA_FEATURES, TIME_FEATURES, ToyDensity, ToyEnergy, ToyNoise, beta_features, inputs
from rdt.diffusion.continuous import LINEAR_VP

A_T, T = torch.randn(5, 4, 2), torch.rand(5)


def test_contracts_and_shapes():
    assert isinstance(ToyNoise(), BehaviorModel) and isinstance(ToyDensity(), DensityModel)
    assert ToyNoise().eps(A_T, T).shape == A_T.shape
    assert ToyDensity().logp(A_T, T).shape == (5, 4)
    assert ToyEnergy(3.0)(A_T, T).shape == (5, 4)
    assert inputs(A_T, T, LINEAR_VP).shape == (5, 4, 2 + TIME_FEATURES)
    assert beta_features(torch.rand(5, 1)).shape == (5, BETA_FEATURES)


def test_where_all_is_noise_the_noise_is_predicted():
    one = torch.ones(())
    torch.testing.assert_close(ToyNoise().eps(A_T, one), A_T, atol=0.02, rtol=0)
    torch.testing.assert_close(ToyDensity().eps(A_T, one), A_T, atol=0.1, rtol=0)


def test_a_conditioned_energy_at_one_beta_is_that_row_of_it():
    energy = ToyEnergy()
    rows = torch.tensor([[1.0], [3.0], [3.0], [10.0], [20.0]])
    of_rows = energy(A_T, T, rows)
    torch.testing.assert_close(energy.at(3.0)(A_T, T)[1:3], of_rows[1:3], atol=1e-4, rtol=1e-4)
    assert (energy.at(0.0)(A_T, T) == 0).all()


def test_a_density_is_learnt_through_its_gradient():
    net = ToyDensity(16, 1)
    net.eps(A_T, T).square().sum().backward()
    assert net.net[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(net.eps(A_T, T), density_eps(net.logp, LINEAR_VP, A_T, T, None))


def test_problems_have_two_disjoint_pools_and_a_critic():
    for name in TOY_SETS:
        problem = toy_problem(name, 500)
        assert not torch.equal(problem.pool.x, problem.held_out.x)
        found = problem.energy(problem.held_out.x[:20].reshape(4, 5, 2))
        torch.testing.assert_close(found.flatten(), problem.held_out.energy[:20], atol=0.35, rtol=0)
        generator = torch.Generator().manual_seed(0)
        assert problem.truth(3.0, 10, generator).shape == problem.again(3.0, 10, generator).shape == (10, 2)
