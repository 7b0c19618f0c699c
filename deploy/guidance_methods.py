"""What `rdt bench guidance` compares: each method as a function from a lab and a temperature to a sampler.

The losses are the published ones; networks and schedules are small (`rdt/alignment/toy_nets.py`): Adam with a
cosine to 0, averaged weights, stratified times, and K = 256 candidates that share a time where the published toy has
all 2048.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rdt.alignment.eda import EDA
from rdt.alignment.models import AlignmentObjective, BehaviorModel, Energy, Guided, Support, sample_actions, select
from rdt.alignment.objectives import Behaviour, Demonstrations
from rdt.alignment.qgpo import ContrastiveEnergy, EnergyRegression
from rdt.alignment.toy import ToyProblem
from rdt.alignment.toy_nets import MAX_BETA, ToyDensity, ToyEnergy, ToyNoise
from rdt.alignment.toy_optimum import FINE, ROUGH, Accuracy
from rdt.diffusion.ode import TOY_SOLVER

WARM_UP = 100  # steps
EMA_DECAY = 0.9995
SFBC_SAMPLES = 4000  # its candidates are 128 times as many


@dataclass(frozen=True)
class Effort:
    """Optimizer steps of each network, and how much data there is and is drawn."""

    behaviour: int = 10_000  # of 1024 points
    density: int = 8_000  # of 1024 points, through a second derivative
    energy: int = 8_000  # of 8 x 256 points, a temperature each
    conditioned: int = 32_000  # of 16 x 192 points, all temperatures
    fine_tuning: int = 6_000  # of 8 x 256 points
    srpo: int = 1_500
    srpo_side: int = 9  # of the square of wishes
    srpo_accuracy: Accuracy = FINE
    samples: int = 20_000
    pool: int = 1_000_000
    lr: float = 3e-3


QUICK = Effort(
    behaviour=30,
    density=20,
    energy=20,
    conditioned=20,
    fine_tuning=10,
    srpo=20,
    srpo_side=2,
    srpo_accuracy=ROUGH,
    samples=500,
    pool=5000,
)
"""Seconds, for tests: nothing is learnt."""


@dataclass(frozen=True)
class Fitted:
    """An averaged network and what it cost."""

    model: Any
    seconds: float
    cpu_seconds: float  # the machine's other work left out


@dataclass(frozen=True)
class Learned:
    """A sampler for one temperature, and the networks behind it."""

    draw: Callable[[int, torch.Generator], Tensor]
    evaluations: str  # of networks, a sample
    networks: tuple[Fitted, ...] = ()
    energy: Energy | None = None  # what guides, where something does
    num_samples: int | None = None  # where fewer are drawn than asked
    microseconds: float = 0.0  # a sample, of what was drawn before


def fit(
    make: Callable[[], nn.Module],
    objective: AlignmentObjective,
    batches: Callable[[torch.Generator], Any],
    steps: int,
    lr: float,
    seed: int,
) -> Fitted:
    """Train with Adam, a warm-up and a cosine; the result is the moving average. The seed decides all of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(model).requires_grad_(False)
    kept: list[Tensor] = list(average.parameters())
    moving: list[Tensor] = list(model.parameters())
    optimizer = torch.optim.Adam(moving, lr)
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
        warm = min(1.0, (step + 1) / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss, _ = objective(model, batches(generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(kept, moving, 1 - min(EMA_DECAY, (1 + step) / (10 + step)))
    return Fitted(average.eval(), time.perf_counter() - wall, time.process_time() - cpu)


def _to_the_terminal(text: str) -> None:
    """Beside the table, not in it."""
    print(text, file=sys.stderr)


@dataclass(frozen=True)
class Candidates:
    """Samples of the learnt behaviour and what they are worth."""

    x: Tensor  # (n, 128, 2)
    energy: Tensor  # (n, 128)
    microseconds: float  # each


@dataclass
class Lab:
    """One set and one seed; what several methods share is trained once, when first asked for."""

    problem: ToyProblem
    effort: Effort
    seed: int
    say: Callable[[str], None] = _to_the_terminal

    @cached_property
    def behaviour(self) -> Fitted:
        return self.train("behaviour", ToyNoise, Behaviour(stratified=True), self._points, self.effort.behaviour)

    @cached_property
    def density(self) -> Fitted:
        """EDA's behaviour: a scalar network."""
        return self.train("density", ToyDensity, Behaviour(stratified=True), self._points, self.effort.density)

    @cached_property
    def conditioned(self) -> Fitted:
        """The energy of all temperatures: beta is drawn a row, small ones more often, and multiplies the labels."""

        def batches(generator: torch.Generator) -> Support:
            support = self.support(16, 192, generator)
            beta = MAX_BETA * torch.rand(16, 1, generator=generator) ** 1.5
            return replace(support, value=beta * support.value, cond=beta)

        objective = ContrastiveEnergy(beta=1.0, stratified=True)
        return self.train("energy of all beta", ToyEnergy, objective, batches, self.effort.conditioned)

    @cached_property
    def candidates(self) -> Candidates:
        """For SfBC at every temperature."""
        n = min(self.effort.samples, SFBC_SAMPLES)
        generator = torch.Generator().manual_seed(self.seed + 1)
        model, started = self.behaviour.model, time.perf_counter()
        x = sample_actions(model, None, (n, 128, 2), generator, solver=TOY_SOLVER)
        energy = self.problem.energy(x)
        return Candidates(x, energy, 1e6 * (time.perf_counter() - started) / (n * 128))

    def train(
        self,
        what: str,
        make: Callable[[], nn.Module],
        objective: AlignmentObjective,
        batches: Callable[[torch.Generator], Any],
        steps: int,
    ) -> Fitted:
        fitted = fit(make, objective, batches, steps, self.effort.lr, self.seed)
        self.say(f"{self.problem.name}: {what}, {steps} steps in {fitted.cpu_seconds:.0f} s of a core")
        return fitted

    def support(self, rows: int, k: int, generator: torch.Generator) -> Support:
        """Candidates of the data; there are no states, so rows differ in their time alone."""
        index = torch.randint(len(self.problem.pool.x), (rows, k), generator=generator)
        return Support(self.problem.pool.x[index], self.problem.pool.energy[index])

    def _points(self, generator: torch.Generator) -> Demonstrations:
        index = torch.randint(len(self.problem.pool.x), (1024,), generator=generator)
        return Demonstrations(self.problem.pool.x[index])


def sampler(model: BehaviorModel) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, generator: sample_actions(model, None, (n, 2), generator, solver=TOY_SOLVER)


def oracle(lab: Lab, beta: float) -> Learned | None:
    """The exact score in the same sampler; None where there is no closed form."""
    mixture = lab.problem.mixture
    return None if mixture is None else Learned(sampler(mixture.tilted(beta)), f"{TOY_SOLVER.steps}")


def cep(lab: Lab, beta: float) -> Learned:
    """An energy network of its own for every temperature; at 0 the behaviour alone."""
    if beta == 0:
        return Learned(sampler(lab.behaviour.model), f"{TOY_SOLVER.steps}", (lab.behaviour,))
    objective = ContrastiveEnergy(beta=beta, stratified=True)
    return _guided(lab, beta, f"energy of beta {beta:g}", objective, 8)


def cep_all_beta(lab: Lab, beta: float) -> Learned:
    """One energy network, told beta."""
    energy = lab.conditioned.model.at(beta)
    guided = Guided(lab.behaviour.model, energy)
    return Learned(sampler(guided), _guided_cost(), (lab.behaviour, lab.conditioned), energy)


def cep_scaled(lab: Lab, beta: float) -> Learned:
    """The energy of beta 3 times a factor: what a guidance scale does instead."""
    energy = lab.conditioned.model.at(3.0)
    guided = Guided(lab.behaviour.model, energy, beta / 3.0)
    return Learned(
        sampler(guided),
        _guided_cost(),
        (lab.behaviour, lab.conditioned),
        lambda a_t, t, cond: beta / 3.0 * energy(a_t, t, cond),
    )


def mse(lab: Lab, beta: float) -> Learned:
    """Regression of the energy: its optimum is the conditional mean."""
    return _guided(lab, beta, f"mse of beta {beta:g}", EnergyRegression("mse", beta), 8)


def emse(lab: Lab, beta: float) -> Learned:
    """Regression of exponentials; energies are counted from the largest."""
    highest = float(lab.problem.pool.energy.max())
    return _guided(lab, beta, f"e-mse of beta {beta:g}", EnergyRegression("emse", beta), 8, shift=highest)


def eda(lab: Lab, beta: float) -> Learned:
    """The scalar behaviour, fine-tuned to rank: alpha = beta in the labels, inner beta 1."""
    reference = lab.density.model
    if beta == 0:
        return Learned(sampler(reference), _density_cost(), (lab.density,))
    tuned = lab.train(
        f"fine-tuning to beta {beta:g}",
        lambda: copy.deepcopy(reference).requires_grad_(),
        EDA(reference, alpha=beta, stratified=True),
        lambda generator: lab.support(8, 256, generator),
        lab.effort.fine_tuning,
    )

    def difference(a_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        return tuned.model.logp(a_t, t) - reference.logp(a_t, t)

    return Learned(sampler(tuned.model), _density_cost(), (lab.density, tuned), difference)


def sfbc(num_candidates: int) -> Callable[[Lab, float], Learned]:
    """Selection among samples of the learnt behaviour by the exact energy."""

    def method(lab: Lab, beta: float) -> Learned:
        known = lab.candidates
        x, energy = known.x[:, :num_candidates], known.energy[:, :num_candidates]
        return Learned(
            lambda n, generator: select(x, energy, generator, alpha=beta),
            f"{TOY_SOLVER.steps * num_candidates}",
            (lab.behaviour,),
            num_samples=len(x),
            microseconds=known.microseconds * num_candidates,
        )

    return method


def sfbc_exact(num_candidates: int) -> Callable[[Lab, float], Learned | None]:
    """The same among exact samples: the bias that M alone makes."""

    def method(lab: Lab, beta: float) -> Learned | None:
        mixture = lab.problem.mixture
        if mixture is None:
            return None
        n = min(lab.effort.samples, SFBC_SAMPLES)

        def draw(_: int, generator: torch.Generator) -> Tensor:
            x, energy = mixture.sample(n * num_candidates, generator)
            return select(x.reshape(n, -1, 2), energy.reshape(n, -1), generator, alpha=beta)

        return Learned(draw, f"{num_candidates} exact", num_samples=n)

    return method


def _guided(lab: Lab, beta: float, what: str, objective: Any, rows: int, shift: float = 0.0) -> Learned:
    def batches(generator: torch.Generator) -> Support:
        support = lab.support(rows, 256, generator)
        return replace(support, value=support.value - shift)

    fitted = lab.train(what, lambda: ToyEnergy(beta), objective, batches, lab.effort.energy)
    guided = Guided(lab.behaviour.model, fitted.model)
    return Learned(sampler(guided), _guided_cost(), (lab.behaviour, fitted), fitted.model)


def _guided_cost() -> str:
    return f"{TOY_SOLVER.steps} + {TOY_SOLVER.steps}g"


def _density_cost() -> str:
    return f"{TOY_SOLVER.steps}g"


METHODS: dict[str, dict[str, Callable[[Lab, float], Learned | None]]] = {
    "sfbc": {
        **{f"SfBC, M = {m}": sfbc(m) for m in (4, 16, 32, 128)},
        **{f"SfBC, exact candidates, M = {m}": sfbc_exact(m) for m in (4, 16, 32, 128)},
    },
    "cep": {"CEP": cep},
    "cep_all_beta": {"CEP, one network": cep_all_beta, "its beta 3, scaled": cep_scaled},
    "eda": {"EDA": eda},
    "mse": {"MSE": mse},
    "emse": {"e-MSE": emse},
}
"""Word of `--methods` -> rows of the table. `srpo` has a table of its own."""
