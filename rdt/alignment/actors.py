"""Small actors of vector environments: a network from observation to action that needs torch alone.

What reinforcement learning trains through Tianshou leaves as an `Actor`: one safetensors file with its description
in the metadata. It makes demonstrations and offline data (`run_episodes`), without the library that trained it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from data_pipeline.atomic import write_bytes
from data_pipeline.schema.types import Transition

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
LOG_STD_RANGE = (-20.0, 2.0)
OBSERVATION_CLIP = 10.0
"""Of normalised observations, as Tianshou's wrapper has it."""

_METADATA = "actor"

Act = Callable[[np.ndarray, Sequence[np.random.Generator]], np.ndarray]
"""(batch, observation) and a generator a row -> the environment's actions (batch, action)."""


@dataclass(frozen=True)
class ActorConfig:
    """Sizes and conventions of an actor, stored beside its weights."""

    observation: int
    low: tuple[float, ...]  # bounds of the environment's actions
    high: tuple[float, ...]
    hidden: tuple[int, ...] = (256, 256)
    activation: Literal["relu", "tanh"] = "relu"
    bound: Literal["tanh", "clip"] = "tanh"  # how the network's numbers come into [-1, 1]
    spread: Literal["none", "constant", "state"] = "none"  # of a Gaussian before the bound, and what it hangs on
    normalised: bool = False  # observations come in by the mean and standard deviation of those of training


class Actor(nn.Module):
    """Observation -> mean of a Gaussian (or the action itself) -> bound to [-1, 1] -> the environment's units."""

    def __init__(self, config: ActorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.observation, *config.hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[config.activation]()]
        self.body = nn.Sequential(*layers)
        self.mean = nn.Linear(widths[-1], len(config.low))
        self.log_std_head = nn.Linear(widths[-1], len(config.low)) if config.spread == "state" else None
        self.log_std = nn.Parameter(torch.zeros(len(config.low))) if config.spread == "constant" else None
        self.register_buffer("observation_mean", torch.zeros(config.observation))
        self.register_buffer("observation_std", torch.ones(config.observation))
        self.register_buffer("low", torch.tensor(config.low))
        self.register_buffer("high", torch.tensor(config.high))
        self.observation_mean: Tensor
        self.observation_std: Tensor
        self.low: Tensor
        self.high: Tensor

    def forward(
        self, observations: Float[Tensor, "batch observation"]
    ) -> tuple[Float[Tensor, "batch action"], Float[Tensor, "batch action"] | None]:
        """Mean and standard deviation before the bound; no deviation where there is no spread."""
        if self.config.normalised:
            observations = (observations - self.observation_mean) / self.observation_std
            observations = observations.clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        hidden = self.body(observations)
        mean = self.mean(hidden)
        if self.log_std_head is not None:
            return mean, self.log_std_head(hidden).clamp(*LOG_STD_RANGE).exp()
        return mean, None if self.log_std is None else self.log_std.exp().expand_as(mean)

    def bounded(self, numbers: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        """The network's numbers as policy-space actions in [-1, 1]."""
        return numbers.tanh() if self.config.bound == "tanh" else numbers.clamp(-1, 1)

    def to_environment(self, actions: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        """[-1, 1] -> [low, high]."""
        return self.low + (self.high - self.low) * (actions + 1) / 2

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """The deterministic policy: float32 (batch, observation) or (observation,) -> the environment's actions."""
        rows = torch.as_tensor(np.atleast_2d(observations), dtype=torch.float32)
        actions = self.to_environment(self.bounded(self(rows)[0])).numpy()
        return actions if np.ndim(observations) == 2 else actions[0]

    def deterministic(self) -> Act:
        """For `run_episodes`: the best it knows."""
        return lambda observations, _: self.act(observations)

    def noisy(self, noise: float = 0.0) -> Act:
        """For `run_episodes`: drawn from its own Gaussian where it has one, then `noise` x a standard normal number
        added in [-1, 1] and cut there."""

        @torch.no_grad()
        def act(observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
            mean, std = self(torch.as_tensor(observations, dtype=torch.float32))
            draws = np.stack([g.standard_normal((2, mean.shape[1]), dtype=np.float32) for g in generators], axis=1)
            own, added = torch.from_numpy(draws)
            actions = self.bounded(mean if std is None else mean + std * own)
            return self.to_environment((actions + noise * added).clamp(-1, 1)).numpy()

        return act


def uniform(low: np.ndarray, high: np.ndarray) -> Act:
    """For `run_episodes`: who knows nothing."""
    return lambda _, generators: np.stack([g.uniform(low, high) for g in generators]).astype(np.float32)


def save_actor(actor: Actor, path: str | Path) -> None:
    """One safetensors file, whole or not at all."""
    write_bytes(path, save(actor.state_dict(), metadata={_METADATA: json.dumps(asdict(actor.config))}))


def load_actor(path: str | Path) -> Actor:
    """What `save_actor` wrote. Raises `ValueError` naming a file that is none."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: an actor is a .safetensors file of `rdt rl train`")
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})[_METADATA])
            tensors = {key: file.get_tensor(key) for key in file.offset_keys()}
        lists = {key: tuple(value) for key, value in described.items() if isinstance(value, list)}
        actor = Actor(ActorConfig(**described | lists))
        actor.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds no actor ({type(error).__name__}: {error})") from None
    return actor.eval()


@dataclass(frozen=True, eq=False)
class Rollout:
    """One episode of a vector environment."""

    observations: np.ndarray  # float32 (steps, observation)
    actions: np.ndarray  # float32 (steps, action), the environment's own
    rewards: np.ndarray  # float32 (steps,)
    last_observation: np.ndarray  # float32 (observation,)
    terminated: bool  # the environment ended it; else its time limit

    @property
    def total(self) -> float:
        """Its return, not discounted."""
        return float(self.rewards.sum(dtype=np.float64))

    def __len__(self) -> int:
        return len(self.rewards)


def run_episodes(act: Act, envs: Sequence[Any], seeds: Sequence[int], max_steps: int | None = None) -> list[Rollout]:
    """An episode a seed, in their order; the environments (of Gymnasium) run in step, so that one forward pass serves
    all. Seeds decide starts and the draws of `act`, whichever environment serves them.

    `max_steps` ends an episode of an environment that has no time limit.
    """
    waiting = list(enumerate(seeds))[::-1]
    done: dict[int, Rollout] = {}
    running = [_Running(env, *waiting.pop()) for env in envs[: len(seeds)]]
    while running:
        actions = act(np.stack([r.observation for r in running]), [r.generator for r in running])
        going = []
        for one, action in zip(running, actions, strict=True):
            rollout = one.step(action, max_steps)
            if rollout is None:
                going.append(one)
                continue
            done[one.index] = rollout
            if waiting:
                going.append(_Running(one.env, *waiting.pop()))
        running = going
    return [done[index] for index in range(len(seeds))]


def transition_of(rollouts: Sequence[Rollout], name: str) -> Transition:
    """Episodes one behind the other, for `data_pipeline.sources.transitions` and critics."""
    ends = [np.arange(len(r)) == len(r) - 1 for r in rollouts]
    return Transition(
        name,
        observations=np.concatenate([r.observations for r in rollouts]),
        actions=np.concatenate([r.actions for r in rollouts]),
        rewards=np.concatenate([r.rewards for r in rollouts]),
        next_observations=np.concatenate([np.vstack([r.observations[1:], r.last_observation[None]]) for r in rollouts]),
        terminals=np.concatenate([end & r.terminated for end, r in zip(ends, rollouts, strict=True)]),
        timeouts=np.concatenate([end & (not r.terminated) for end, r in zip(ends, rollouts, strict=True)]),
    )


class _Running:
    """An episode on its way."""

    def __init__(self, env: Any, index: int, seed: int) -> None:
        self.env, self.index = env, index
        self.generator = np.random.default_rng(seed)
        self.observation = np.asarray(env.reset(seed=seed)[0], dtype=np.float32)
        self.rows: list[tuple[np.ndarray, np.ndarray, float]] = []

    def step(self, action: np.ndarray, max_steps: int | None) -> Rollout | None:
        following, reward, terminated, truncated, _ = self.env.step(action)
        self.rows.append((self.observation, np.asarray(action, dtype=np.float32), float(reward)))
        self.observation = np.asarray(following, dtype=np.float32)
        if not (terminated or truncated or len(self.rows) == max_steps):
            return None
        observations, actions, rewards = zip(*self.rows, strict=True)
        return Rollout(
            np.stack(observations),
            np.stack(actions),
            np.asarray(rewards, dtype=np.float32),
            self.observation,
            bool(terminated),
        )
