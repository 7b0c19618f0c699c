"""One run of `rdt bench imitation`: an expert that is trained once, what it shows, and a learner's curve in a file.

OUT/TASK/expert/               a folder of `rdt rl train`
OUT/TASK/METHOD_s0.json        curve of one method and seed; a run that has its file is not run again
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data_pipeline.atomic import read_json, write_json
from deploy.rl import actor_files, run_of, train
from rdt.alignment.absorbing import ExpertPairs, expert_pairs
from rdt.alignment.actors import Act, Actor, ActorConfig, Rollout, load_actor, run_episodes, uniform
from rdt.alignment.imitation_config import ImitationConfig
from rdt.alignment.imitation_metrics import normalised, scale_of, sliced_wasserstein_1
from rdt.train.config import differences, plain_config

METHODS = {
    "bc": "behaviour cloning",
    "dac": "GAIL-DAC",
    "c-gail-dac": "C-GAIL-DAC",
    "gail": "GAIL",
    "c-gail": "C-GAIL",
}
BASELINES = {"c-gail-dac": "dac", "c-gail": "gail"}
"""A controlled method -> the same with k = 0."""

EVALUATION_SEED, SHOWN_SEED, OTHER_SEED = 1_000_000, 3_000_000, 4_000_000
"""First seeds of the starts: of evaluations, of demonstrations, and of two more sets of the expert's states."""

NUM_STATES = 2000
INDICATOR_UNIT = 0.1
"""Of absorbing states: they lie ten units from living ones, where a pole that has fallen lies as well."""

Array = np.ndarray


@dataclass(frozen=True)
class Learner:
    """A method, and the weight of its controller where it has one."""

    method: str
    k: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.method}_k{self.k:g}" if self.method in BASELINES else self.method


@dataclass(frozen=True, eq=False)
class Shown:
    """What learners get of the expert, and the two ends of the scale of returns."""

    rollouts: tuple[Rollout, ...]
    bounds: tuple[Float[Array, " act"], Float[Array, " act"]]
    of_expert: float  # return from the evaluation's starts
    of_random: float
    states: Float[Array, "state obs"]  # of the expert, from other starts
    floor: float  # distance of two such sets
    unit: Float[Array, " obs"]  # in which a discriminator may measure observations: see `unit_between`


def prepare(config: ImitationConfig, out: Path) -> Shown:
    """Train the expert unless that is done; the best of its kept actors shows the task."""
    import gymnasium

    folder = train(replace(config.expert, task=config.task, out=str(out / "expert")))
    _, rows = run_of(folder)
    returns = {row["steps"]: row["mean"] for row in rows}
    files = actor_files(folder)
    expert = load_actor(files[max(files, key=lambda step: returns[step])]).deterministic()

    envs = [gymnasium.make(config.task) for _ in range(10)]
    space: Any = envs[0].action_space
    act = partial(_episodes, envs=envs)
    shown = act(expert, config.demonstrations, SHOWN_SEED)
    by_chance = act(uniform(space.low, space.high), 10, EVALUATION_SEED)
    sets = [_some(states_of(act(expert, 20, OTHER_SEED + 100 * i)), NUM_STATES) for i in range(2)]
    result = Shown(
        tuple(shown),
        (space.low, space.high),
        of_expert=mean_return(act(expert, 10, EVALUATION_SEED)),
        of_random=mean_return(by_chance),
        states=sets[0],
        floor=sliced_wasserstein_1(sets[0], sets[1], scale_of(sets[0])),
        unit=unit_between(states_of(shown), states_of(by_chance)),
    )
    for env in envs:
        env.close()
    normalised(np.zeros(1), result.of_random, result.of_expert)  # says so where the expert is none
    return result


def record_of(config: ImitationConfig, shown: Shown, learner: Learner, seed: int, out: Path) -> dict[str, Any]:
    """The curve of one run, from its file if that is there. Raises `ValueError` for a file of other settings."""
    file = out / f"{learner.name}_s{seed}.json"
    settings = {**plain_config(config), "k": learner.k}
    if file.is_file():
        record = read_json(file, "delete it to run it again")
        if changed := differences(record["settings"], settings):
            raise ValueError(f"{file} is of other settings ({', '.join(changed)}): give another --out")
        return record
    began = time.process_time()
    evaluate = partial(_point, shown=shown)
    points = _cloned(config, shown, seed) if learner.method == "bc" else _adversarial(config, shown, learner, seed)
    curve = [evaluate(*point) for point in points]
    record = {
        "method": learner.method,
        "seed": seed,
        "settings": settings,
        "expert": shown.of_expert,
        "random": shown.of_random,
        "floor": shown.floor,
        "curve": curve,
        "cpu_seconds": time.process_time() - began,
    }
    write_json(file, record)
    return record


def unit_between(of_expert: Float[Array, "state obs"], of_random: Float[Array, "other obs"]) -> Float[Array, " obs"]:
    """Geometric mean of both standard deviations, entry by entry.

    An expert may hold still where chance flings about (a balanced pole: by a factor of a hundred). With slopes of at
    most 1, a discriminator in chance's units sees no small mistakes, and one in the expert's sees nothing but distance.
    """
    return np.sqrt(scale_of(of_expert) * scale_of(of_random))


def states_of(rollouts: Sequence[Rollout], *, indicator: bool = False) -> Float[Array, "state obs"]:
    """All that was seen; with the indicator of absorbing states, what was seen in life, without it."""
    states = np.concatenate([rollout.observations for rollout in rollouts])
    return states[states[:, -1] == 0][:, :-1] if indicator else states


def mean_return(rollouts: Sequence[Rollout]) -> float:
    return float(np.mean([rollout.total for rollout in rollouts]))


Point = tuple[int, int, Sequence[Rollout], bool, dict[str, float]]
"""Gradient steps, environment steps, rollouts of the deterministic policy, whether with indicator, losses."""


def _point(
    updates: int, steps: int, rollouts: Sequence[Rollout], indicator: bool, losses: dict[str, float], *, shown: Shown
) -> dict[str, Any]:
    states = _some(states_of(rollouts, indicator=indicator), NUM_STATES)
    return {
        "updates": updates,
        "steps": steps,
        "return": mean_return(rollouts),
        "n": float(normalised(np.array(mean_return(rollouts)), shown.of_random, shown.of_expert)),
        "wasserstein": sliced_wasserstein_1(states, shown.states, scale_of(shown.states)),
        "losses": losses,
    }


def _adversarial(config: ImitationConfig, shown: Shown, learner: Learner, seed: int) -> Iterable[Point]:
    import gymnasium

    from rdt.alignment.c_gail import AbsorbingWrapper, make_c_gail, make_dac
    from rdt.alignment.tianshou_bridge import training

    off_policy = learner.method in ("dac", "c-gail-dac")
    run = replace(config.dac if off_policy else config.gail, task=config.task, seed=seed)
    pairs = expert_pairs(shown.rollouts, shown.bounds, config.steps_each, seed, absorbing=off_policy)
    make_env = partial(gymnasium.make, config.task)
    if off_policy:
        unit = torch.from_numpy(np.append(shown.unit, INDICATOR_UNIT)).float() if config.discriminator.scaled else None
        algorithm = partial(make_dac, config, learner.k, pairs, unit)
        evaluations = partial(training, run, lambda: AbsorbingWrapper(make_env()), algorithm)
    else:
        evaluations = partial(training, run, make_env, partial(make_c_gail, config, learner.k, pairs))
    with tqdm(total=run.steps, desc=f"{config.task} {learner.name} seed {seed}", unit="step", smoothing=0.05) as bar:

        def watch(collector: Any) -> None:
            collector.set_on_step_hook(lambda _, rows: bar.update(len(rows)))

        for e in evaluations(prepare=watch):
            n = normalised(np.array(e.returns.mean()), shown.of_random, shown.of_expert)
            bar.set_postfix_str(f"n {n:.2f}")
            yield e.updates, e.steps, e.rollouts, off_policy, e.losses


def _cloned(config: ImitationConfig, shown: Shown, seed: int) -> Iterable[Point]:
    import gymnasium

    torch.manual_seed(seed)
    pairs = expert_pairs(shown.rollouts, shown.bounds, config.steps_each, seed, absorbing=False)
    low, high = (tuple(bound.tolist()) for bound in shown.bounds)
    actor = Actor(ActorConfig(pairs.observations.shape[1], low, high, config.dac.hidden))
    clone(actor, pairs, config.cloning.steps, config.cloning.lr, config.dac.batch_size)
    envs = [gymnasium.make(config.task) for _ in range(10)]
    yield config.cloning.steps, 0, _episodes(actor.deterministic(), 10, EVALUATION_SEED, envs=envs), False, {}
    for env in envs:
        env.close()


def clone(actor: Actor, pairs: ExpertPairs, steps: int, lr: float, batch_size: int) -> Tensor:
    """Regress the shown actions, mean of squares in [-1, 1]; the last loss. Rows by torch's global generator."""
    optimizer = torch.optim.Adam(actor.parameters(), lr=lr)
    loss = torch.zeros(())
    for _ in range(steps):
        rows = pairs.sample(batch_size)
        loss = (actor.bounded(actor(rows.observations)[0]) - rows.actions).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()


def _episodes(act: Act, number: int, first_seed: int, *, envs: Sequence[Any]) -> list[Rollout]:
    return run_episodes(act, envs, range(first_seed, first_seed + number))


def _some(states: Float[Array, "state obs"], number: int) -> Float[Array, "number obs"]:
    """So many of them by chance, always the same chance; with repetition where there are fewer."""
    generator = np.random.default_rng(0)
    return states[generator.choice(len(states), number, replace=len(states) < number)]
