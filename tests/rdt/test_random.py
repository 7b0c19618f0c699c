"""Run: pytest tests/rdt/test_random.py"""

import torch

from rdt.random import SampleGenerator


def test_a_sample_gets_its_numbers_in_any_batch():
    generator = SampleGenerator(7)
    together = generator.normal(torch.tensor([3, 5, 9]), (4, 2), "noise")
    alone = SampleGenerator(7).normal(torch.tensor([5]), (4, 2), "noise")
    assert torch.equal(together[1], alone[0])


def test_seeds_purposes_and_samples_differ():
    index = torch.arange(4)
    base = SampleGenerator(0).normal(index, (8,), "noise")
    assert not torch.equal(base, SampleGenerator(1).normal(index, (8,), "noise"))
    assert not torch.equal(base, SampleGenerator(0).normal(index, (8,), "other"))
    assert len({tuple(row.tolist()) for row in base}) == 4


def test_the_numbers_are_standard_normal_and_uniform():
    index = torch.arange(400)
    normal = SampleGenerator(0).normal(index, (50,), "noise")
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
    whole = SampleGenerator(0).integers(index, 10, "timestep")
    assert set(whole.tolist()) == set(range(10))
