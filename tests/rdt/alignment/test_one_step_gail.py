"""Run: pytest tests/rdt/alignment/test_one_step_gail.py"""

import numpy as np
import pytest

from rdt.alignment.one_step_gail import EXPERT, OneStepGail, run

VANILLA = OneStepGail()
SYSTEMS = {
    "vanilla": VANILLA,
    "w=1, k=1": OneStepGail(k=1),
    "w=1, k=4": OneStepGail(k=4),
    "sampled, k=1": OneStepGail(k=1, sampled=True),
    "sampled, k=10": OneStepGail(k=10, sampled=True),
    "vanilla, lambda .1": OneStepGail(entropy=0.1),
    "w=1, k=4, lambda .1": OneStepGail(k=4, entropy=0.1),
    "w=1, k=4, lambda .1, u2": OneStepGail(k=4, entropy=0.1, policy_controller=True),
}


def test_every_mode_of_the_controlled_system_decays_and_ten_times_faster():
    assert (OneStepGail(k=1).eigenvalues().real < 0).all()
    assert OneStepGail(k=1).slowest < 10 * VANILLA.slowest < 0


def test_a_coarse_step_leaves_gail_swinging_and_the_controlled_system_settled():
    vanilla, controlled = run(VANILLA, 0.2), run(OneStepGail(k=1), 0.2)
    assert vanilla.settled_at(0.02) == float("inf")
    assert np.ptp(vanilla.apart[-75:]) > 0.03  # and not by a constant
    assert controlled.settled_at(0.02) < 5


@pytest.mark.parametrize("k", [0.1, 1.0, 3.0])
def test_the_sampled_controller_only_multiplies_the_damping(k):
    assert OneStepGail(k=k, sampled=True).slowest == pytest.approx((1 + k / 8) * VANILLA.slowest, rel=0.03)


def test_entropy_moves_the_equilibrium_away_and_only_the_policys_controller_brings_it_back():
    assert SYSTEMS["vanilla, lambda .1"].residual > 0.3
    assert SYSTEMS["w=1, k=4, lambda .1"].residual > 0.3
    assert SYSTEMS["w=1, k=4, lambda .1, u2"].residual < 1e-10
    assert VANILLA.residual < 1e-10


@pytest.mark.parametrize(
    ("case", "slowest", "apart"),
    [
        ("vanilla", -0.035, (0.0015, 0.0088, 0.0776)),
        ("w=1, k=1", -0.535, (0, 0, 0)),
        ("w=1, k=4", -0.649, (0, 0, 0)),
        ("sampled, k=1", -0.040, (0.0011, 0.0088, 0.0406)),
        ("sampled, k=10", -0.079, (0, 0.0008, 0.0256)),
        ("vanilla, lambda .1", None, (0.057, 0.057, 0.057)),
        ("w=1, k=4, lambda .1", None, (0.211, 0.211, 0.211)),
        ("w=1, k=4, lambda .1, u2", -1.010, (0, 0, 0.124)),
    ],
)
def test_the_table_of_the_spec(case, slowest, apart):
    system = SYSTEMS[case]
    if slowest is not None:
        assert system.slowest == pytest.approx(slowest, abs=6e-4)
    found = [run(system, step).apart[-1] for step in (0.005, 0.05, 0.2)]
    assert found == pytest.approx(apart, abs=6e-4)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_eigenvalues_are_those_of_the_velocity(system):
    """Where the wanted state is an equilibrium or not, the linearisation is the derivative, on the tangent space."""
    n, small = len(EXPERT), 1e-6
    projection = np.eye(n) - 1 / n
    columns = []
    for direction in np.eye(2 * n):
        D, pi = direction[:n], projection @ direction[n:]
        forth, back = (
            np.concatenate(system.velocity(0.5 + sign * small * D, system.pi_E + sign * small * pi)) for sign in (1, -1)
        )
        columns.append((forth - back) / (2 * small))
    numeric = np.linalg.eigvals(np.stack(columns, axis=1))
    kept = numeric[np.abs(numeric) > 1e-6]  # off the tangent space nothing moves
    assert np.sort_complex(kept) == pytest.approx(np.sort_complex(system.eigenvalues()), rel=1e-4, abs=1e-4)


def test_damping_ratio_of_one_action():
    """s^2 + (8 pi_E + k) s + 4 = 0 of one action, where the others may not answer: N = 2 of equal mass share it."""
    roots = np.roots([1, 8 * 0.5 + 1, 4])
    found = OneStepGail((0.5, 0.5), k=1).eigenvalues()
    assert all(np.abs(found - root).min() < 1e-9 for root in roots)


def test_the_policy_stays_a_distribution():
    pi = np.array([0.2, 0.3, 0.5])
    _, rate = OneStepGail((0.1, 0.6, 0.3), k=2, sampled=True, entropy=0.3).velocity(np.array([0.1, 0.5, 0.8]), pi)
    assert rate.sum() == pytest.approx(0, abs=1e-12)
