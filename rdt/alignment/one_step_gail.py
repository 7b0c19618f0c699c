"""Adversarial imitation of one state and N actions, no network: where GAIL oscillates and what a controller does.

The discriminator D and the policy pi are the state of a dynamical system (spec imitation_rl.md 1.5):

    dD_a/dt  = pi_E(a) / D_a - pi(a) / (1 - D_a) - k w_a (D_a - 1/2)
    dpi/dt   = P [-log(1 - D) - lambda (1 + log pi) + u2],    P = I - 1 1' / N

wanted at pi = pi_E, D = 1/2. Written in the spirit of the one-step analysis of C-GAIL (arXiv 2402.16349); the paper's
own equations were not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

Array = np.ndarray

EXPERT = (0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005)
"""The expert's choices of the spec's table: the rare ones are hardly damped by vanilla GAIL."""

_D_MARGIN, _PI_MIN = 1e-3, 1e-6  # where Euler steps are clipped to


@dataclass(frozen=True)
class OneStepGail:
    """The system and its wanted state. `pi_E` sums to 1; every choice has some mass."""

    expert: tuple[float, ...] = EXPERT
    k: float = 0.0  # of the controller; 0 is GAIL
    sampled: bool = False  # w = (pi_E + pi) / 2, what batches of samples give, instead of the theory's w = 1
    entropy: float = 0.0  # lambda, the weight of the policy's entropy
    policy_controller: bool = False  # u2 = lambda (1 + log pi_E): needs pi_E, so it is not in the practical algorithm

    @cached_property
    def pi_E(self) -> Float[Array, " action"]:  # noqa: N802
        return np.asarray(self.expert)

    def velocity(
        self, D: Float[Array, " action"], pi: Float[Array, " action"]
    ) -> tuple[Float[Array, " action"], Float[Array, " action"]]:
        """(dD/dt, dpi/dt); the second sums to zero."""
        weight = (self.pi_E + pi) / 2 if self.sampled else np.ones_like(pi)
        D_rate = self.pi_E / D - pi / (1 - D) - self.k * weight * (D - 0.5)
        ascent = -np.log1p(-D) - self.entropy * (1 + np.log(pi))
        if self.policy_controller:
            ascent = ascent + self.entropy * (1 + np.log(self.pi_E))
        return D_rate, ascent - ascent.mean()

    @property
    def residual(self) -> float:
        """Euclidean norm of the velocity at the wanted state: zero where it is an equilibrium."""
        rates = self.velocity(np.full_like(self.pi_E, 0.5), self.pi_E)
        return float(np.linalg.norm(np.concatenate(rates)))

    def eigenvalues(self) -> Float[Array, " mode"]:
        """Of the linearisation at the wanted state, on the tangent space (sum of dpi = 0): 2N - 1 complex numbers.

        Both kinds of weight share it up to w = pi_E, because D - 1/2 is zero there.
        """
        n = len(self.pi_E)
        weight = self.pi_E if self.sampled else np.ones(n)
        projection = np.eye(n) - 1 / n
        jacobian = np.block(
            [
                [np.diag(-8 * self.pi_E - self.k * weight), -2 * np.eye(n)],
                [2 * projection, -self.entropy * projection / self.pi_E],
            ]
        )
        inside = np.linalg.svd(projection)[0][:, : n - 1]  # orthonormal, each column sums to zero
        basis = np.block([[np.eye(n), np.zeros((n, n - 1))], [np.zeros((n, n)), inside]])
        return np.linalg.eigvals(basis.T @ jacobian @ basis)

    @property
    def slowest(self) -> float:
        """max Re of the eigenvalues: the rate of the slowest mode; negative where the wanted state attracts."""
        return float(self.eigenvalues().real.max())


@dataclass(frozen=True)
class Run:
    """A trajectory: total variation between pi and pi_E at each time, the start included."""

    times: Float[Array, " step"]
    apart: Float[Array, " step"]  # TV(pi, pi_E), 0 ... 1

    def settled_at(self, level: float) -> float:
        """The last time at which TV was not below `level`; infinite if that is the end of the run."""
        above = np.flatnonzero(self.apart >= level)
        if len(above) == 0:
            return 0.0
        return float(self.times[above[-1]]) if above[-1] + 1 < len(self.times) else float("inf")


def run(system: OneStepGail, step: float, until: float = 60.0) -> Run:
    """Explicit Euler from a uniform policy and D = 1/2; D in [1e-3, 1 - 1e-3], pi at least 1e-6 and renormalised."""
    num_steps = round(until / step)
    D, pi = np.full_like(system.pi_E, 0.5), np.full_like(system.pi_E, 1 / len(system.pi_E))
    apart = np.empty(num_steps + 1)
    for i in range(num_steps + 1):
        apart[i] = np.abs(pi - system.pi_E).sum() / 2
        D_rate, pi_rate = system.velocity(D, pi)
        D = np.clip(D + step * D_rate, _D_MARGIN, 1 - _D_MARGIN)
        pi = np.maximum(pi + step * pi_rate, _PI_MIN)
        pi = pi / pi.sum()
    return Run(step * np.arange(num_steps + 1), apart)
