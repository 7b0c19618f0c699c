"""The contracts that all methods are written against, and what composes models (spec alignment.md section 8).

    BehaviorModel   predicts the noise in an action: RDT, a small network, a bottleneck, a guided model
    DensityModel    one that also has an unnormalised log-density
    Critic          a value of actions
    Guided          a behaviour model tilted by an energy; itself a behaviour model
    best_of         the selection of SfBC over any of them

Conditions are arguments, never attributes of a network. One rule of shapes: actions are (*batch, *action), and what
belongs to them (times, conditions) has a leading shape of `batch`: states (rows, ...) serve candidates
(rows, K, *action).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rdt.diffusion.continuous import Schedule, over
from rdt.diffusion.ode import RL_SOLVER, DPMSolver


@runtime_checkable
class BehaviorModel(Protocol):
    """Where actions come from; `eps` is 0 in masked dimensions."""

    @property
    def schedule(self) -> Schedule: ...

    def eps(
        self, a_t: Float[Tensor, "*batch action"], t: Float[Tensor, "*lead"], cond: Any
    ) -> Float[Tensor, "*batch action"]: ...


@runtime_checkable
class DensityModel(BehaviorModel, Protocol):
    """A behaviour model whose score is a gradient."""

    def logp(
        self, a_t: Float[Tensor, "*batch action"], t: Float[Tensor, "*lead"], cond: Any
    ) -> Float[Tensor, "*batch"]:
        """log mu_t(a_t | s) up to a constant of (s, t)."""
        ...


class Critic(Protocol):
    def q(self, a: Float[Tensor, "*batch action"], cond: Any) -> Float[Tensor, "*batch"]:
        """Larger is better; the pessimistic one of twins."""
        ...


Energy = Callable[[Tensor, Tensor, Any], Tensor]
"""f(a_t, t, cond) -> (*batch,), a log-density to add: larger is better."""


class Policy(Protocol):
    """Acts in one pass."""

    def act(self, cond: Any) -> Float[Tensor, "*batch action"]: ...


@dataclass(frozen=True, eq=False)
class Support:
    """K candidates of each state and what they are worth: what CEP, EDA, InfoNCA and NCA learn from."""

    actions: Float[Tensor, "row k *action"]
    value: Float[Tensor, "row k"]  # a critic's Q, a reward or a score
    cond: Any = None

    def __post_init__(self) -> None:
        if self.actions.shape[:2] != self.value.shape:
            raise ValueError(
                f"expected a value for each candidate, got actions {tuple(self.actions.shape)} and values "
                f"{tuple(self.value.shape)}: both begin with (states, candidates)"
            )


class AlignmentObjective(Protocol):
    """A stage of alignment: what it does not train (the reference, the critic) it holds.

    `(model, batch, generator) -> (loss, metrics)`, the face of `rdt.objective.Objective` for models of any kind.
    """

    def __call__(self, model: Any, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]: ...


def energy_gradient(
    energy: Energy, a_t: Float[Tensor, "*batch action"], t: Float[Tensor, "*lead"], cond: Any
) -> Float[Tensor, "*batch action"]:
    """Gradient of f in a_t, under `torch.no_grad` too; where gradients are recorded, it can be trained through."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        if not (recorded and a_t.requires_grad):
            a_t = a_t.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(a_t, t, cond).sum(), a_t, create_graph=recorded)
    return gradient


def density_eps(
    logp: Energy, schedule: Schedule, a_t: Float[Tensor, "*batch action"], t: Float[Tensor, "*lead"], cond: Any
) -> Float[Tensor, "*batch action"]:
    """eps = - sigma_t grad log mu_t: the noise prediction of a scalar network."""
    return -over(schedule.sigma(t), a_t) * energy_gradient(logp, a_t, t, cond)


@dataclass(frozen=True, eq=False)
class Guided:
    """score + scale * grad f, so eps - sigma_t scale grad f.

    Where f is the E_t of CEP, scale 1 samples the tilt exactly. Another scale is no other temperature: it is wrong by
    a total variation of 0.1 to 0.4 in the 2-D benchmark. Learn an energy of the temperature instead.
    """

    model: BehaviorModel
    energy: Energy
    scale: float = 1.0
    mask: Float[Tensor, "*#batch action"] | None = None  # of the dimensions that are guided

    @property
    def schedule(self) -> Schedule:
        return self.model.schedule

    def eps(
        self, a_t: Float[Tensor, "*batch action"], t: Float[Tensor, "*lead"], cond: Any
    ) -> Float[Tensor, "*batch action"]:
        gradient = energy_gradient(self.energy, a_t, t, cond)
        gradient = gradient if self.mask is None else gradient * self.mask
        return self.model.eps(a_t, t, cond) - self.scale * over(self.schedule.sigma(t), a_t) * gradient

    def logp(
        self, a_t: Float[Tensor, "*batch action"], t: Float[Tensor, "*lead"], cond: Any
    ) -> Float[Tensor, "*batch"]:
        """Of a model that has a density."""
        if not isinstance(self.model, DensityModel):
            raise TypeError(f"{type(self.model).__name__} has no logp: guide a model with a density, or ask for eps")
        return self.model.logp(a_t, t, cond) + self.scale * self.energy(a_t, t, cond)


def sample_actions(
    model: BehaviorModel,
    cond: Any,
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    solver: DPMSolver = RL_SOLVER,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """Actions of the model, of a whole shape (*batch, *action), on the generator's device."""
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    with torch.no_grad():
        return solver(partial(model.eps, cond=cond), noise, model.schedule)


LOGIT_CAP = 40.0
"""How far above the n-th candidate a better one may stand, so that n of them keep a probability."""


def selection_probabilities(
    q: Float[Tensor, "*row k"], alpha: float = 100.0, num_selected: int = 1
) -> Float[Tensor, "*row k"]:
    """softmax(alpha Q) with its logits capped at 40 above the num_selected-th largest (section 1)."""
    logits = alpha * q
    least = logits.topk(num_selected, dim=-1).values[..., -1:]
    return torch.minimum(logits, least + LOGIT_CAP).softmax(dim=-1)


def select(
    actions: Float[Tensor, "row k *action"],
    q: Float[Tensor, "row k"],
    generator: torch.Generator,
    *,
    alpha: float = 100.0,
    num_selected: int = 1,
) -> Float[Tensor, " row *action"]:
    """Draw `num_selected` candidates of each row without replacement, better ones more likely; their mean."""
    index = torch.multinomial(selection_probabilities(q, alpha, num_selected), num_selected, generator=generator)
    return chosen(actions, index).mean(dim=1)


def chosen(actions: Float[Tensor, "row k *action"], index: Int[Tensor, "row n"]) -> Float[Tensor, "row n *action"]:
    """The candidates with these numbers."""
    return actions[torch.arange(len(actions), device=actions.device)[:, None], index]


def best_of(
    model: BehaviorModel,
    critic: Critic,
    cond: Any,
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    num_candidates: int = 32,
    alpha: float = 100.0,
    num_selected: int = 1,
    solver: DPMSolver = RL_SOLVER,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """SfBC over any model: `num_candidates` actions a row, of which the critic chooses. `shape` is (rows, *action)."""
    wide = (shape[0], num_candidates, *shape[1:])
    actions = sample_actions(model, cond, wide, generator, solver=solver, dtype=dtype)
    with torch.no_grad():
        q = critic.q(actions, cond)
    return select(actions, q, generator, alpha=alpha, num_selected=num_selected)
