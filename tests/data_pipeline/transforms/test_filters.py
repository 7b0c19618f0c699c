"""pytest tests/data_pipeline/transforms/test_filters.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.transforms.filters import episode_weights, first_usable_step, usable_steps


@given(st.integers(1, 20), st.integers(1, 20))
def test_the_step_before_the_first_move(still, moving):
    values = np.zeros((still + moving, 3))
    values[still:, 1] = 0.02
    assert first_usable_step(values, 0.01) == still - 1
    assert usable_steps(values, 0.01) == range(still - 1, still + moving)


def test_what_never_moves():
    with pytest.raises(ValueError, match=r"more than 0\.01"):
        first_usable_step(np.zeros((5, 2)), 0.01)


def test_weights_are_shares_of_steps():
    np.testing.assert_allclose(episode_weights([10, 30]), [0.25, 0.75])
    for bad in ([], [0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="usable lengths"):
            episode_weights(bad)
