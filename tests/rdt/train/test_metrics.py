"""Run: pytest tests/rdt/train/test_metrics.py"""

import torch

from rdt.train.metrics import masked_mse


def test_masked_slots_do_not_count():
    truth = torch.zeros(2, 3, 4)
    predicted = torch.zeros(2, 3, 4)
    predicted[..., 0] = 2.0
    predicted[..., 3] = 99.0
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]])
    assert masked_mse(predicted, truth, mask) == (2 * 3 * 4.0) / (3 * 3)
