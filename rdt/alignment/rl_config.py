"""A run of reinforcement learning as one typed dataclass: which task, by which of Tianshou's algorithms, for how long.

Only values, no library: `tianshou_bridge.py` builds what they say. The published hyper-parameters of Tianshou's MuJoCo
benchmark stand in configs/rl/, a file an algorithm; the defaults here are those of its SAC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from data_pipeline.schema.registry import unknown_name

AlgorithmName = Literal["sac", "td3", "ddpg", "ppo", "a2c", "trpo", "npg", "reinforce"]
OffPolicyName = Literal["sac", "td3", "ddpg"]
Activation = Literal["relu", "tanh"]


def is_off_policy(algorithm: AlgorithmName) -> bool:
    """Whether it learns from a replay buffer; the others throw away what they have learnt from."""
    return algorithm in get_args(OffPolicyName)


@dataclass(frozen=True)
class ReplayConfig:
    """Of sac, td3 and ddpg, which learn from a buffer of all that was seen."""

    size: int = 1_000_000  # rows of the buffer; the oldest are written over
    random_steps: int = 10_000  # of uniformly random actions, before the first update
    updates_per_step: float = 1.0  # gradient steps an environment step
    critic_lr: float = 1e-3
    tau: float = 0.005  # of the target networks that follow, a step
    noise: float = 0.1  # std of what is added to actions in [-1, 1]; td3 and ddpg: sac draws its own
    entropy_weight: float | None = 0.2  # of sac; none: tuned, until the entropy is minus the number of actions
    entropy_lr: float = 3e-4  # of the tuning
    target_noise: float = 0.2  # of td3, on the actions of its targets
    target_noise_clip: float = 0.5
    actor_every: int = 2  # of td3: critic updates for one of the actor


@dataclass(frozen=True)
class OnPolicyConfig:
    """Of ppo, a2c, trpo, npg and reinforce, which learn from what they did last."""

    repeat: int = 10  # passes over it
    lr_decay: bool = True  # to nothing, along a line
    normalise_observations: bool = True  # by mean and standard deviation of all seen so far
    scale_returns: bool = True  # by their running standard deviation
    gae_lambda: float = 0.95
    value_weight: float = 0.25  # ppo, a2c
    entropy_weight: float = 0.0  # ppo, a2c
    max_grad_norm: float | None = 0.5  # ppo, a2c
    clip: float = 0.2  # of ppo's ratio
    normalise_advantages: bool = False  # ppo; trpo and npg do in any case
    recompute_advantages: bool = True  # of ppo, for each pass
    critic_updates: int = 20  # of trpo and npg, an update
    step_size: float = 0.1  # of npg
    max_kl: float = 0.01  # of trpo


@dataclass(frozen=True)
class RLConfig:
    """Everything that defines a run."""

    task: str = "Hopper-v5"  # a Gymnasium id with flat observations and bounded actions
    algorithm: AlgorithmName = "sac"
    out: str = ""  # folder of the run; else runs/rl/TASK/ALGORITHM_SEED
    seed: int = 0
    steps: int = 1_000_000  # of the environment, random ones among them
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics
    activation: Activation = "relu"
    lr: float = 1e-3  # of the actor; on-policy of the critic too
    gamma: float = 0.99
    batch_size: int = 256  # rows of a gradient step; 0, on-policy only: all that was collected
    envs: int = 1  # environments side by side
    subprocesses: bool = False  # each in a process of its own: pays where a step of it is slow
    collect_steps: int = 1  # of all environments together, between updates
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig)
    evaluate_every: int = 5000  # steps
    evaluation_episodes: int = 10  # by the deterministic policy, the same starts each time
    checkpoint_every: int = 1  # evaluations between two kept actors; the last one is kept in any case

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(AlgorithmName):
            raise ValueError(unknown_name("algorithm", self.algorithm, get_args(AlgorithmName)))
        if self.activation not in get_args(Activation):
            raise ValueError(unknown_name("activation", self.activation, get_args(Activation)))
        for name in ("steps", "envs", "collect_steps", "evaluate_every", "evaluation_episodes", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < (1 if is_off_policy(self.algorithm) else 0):
            raise ValueError(f"batch_size of {self.algorithm} must be at least 1, got {self.batch_size}")
        if self.collect_steps % self.envs:
            raise ValueError(f"collect_steps ({self.collect_steps}) must be a multiple of envs ({self.envs})")
        updates = self.replay.updates_per_step * self.collect_steps
        if is_off_policy(self.algorithm) and round(updates) < 1:
            raise ValueError(
                f"replay.updates_per_step x collect_steps is {updates:g}, which rounds to no update: raise one of them"
            )

    @property
    def folder(self) -> str:
        """Of the run."""
        return self.out or f"runs/rl/{self.task}/{self.algorithm}_{self.seed}"
