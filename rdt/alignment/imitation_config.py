"""A task of imitation as typed dataclasses: its expert, what is shown of it, and who learns from that.

Only values, no library: `c_gail.py` builds what they say. The learners' settings are those of C-GAIL's and GAIL-DAC's
releases (spec imitation_rl.md 1.3, 1.4) unless a YAML in configs/imitation/ names others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rdt.alignment.rl_config import OnPolicyConfig, ReplayConfig, RLConfig


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Who tells the expert's steps from the policy's."""

    hidden: tuple[int, ...] = (100, 100)  # tanh layers
    lr: float = 1e-3
    halve_every: int = 100_000  # updates after which learning rates halve; of DAC the actor's too
    penalty: float = 10.0  # on slopes other than 1; DAC
    updates: int = 4  # per collection; GAIL
    scaled: bool = False  # DAC: observations are measured in units between the expert's spread and a random policy's


@dataclass(frozen=True)
class CloneConfig:
    """Behaviour cloning: regression of the shown actions."""

    steps: int = 3000
    lr: float = 1e-3


def _td3() -> RLConfig:
    replay = ReplayConfig(random_steps=1000, updates_per_step=1.0, noise=0.1)
    return RLConfig(algorithm="td3", batch_size=100, replay=replay)


def _ppo() -> RLConfig:
    settings = OnPolicyConfig(normalise_observations=False, scale_returns=False, normalise_advantages=True)
    return RLConfig(
        algorithm="ppo", hidden=(64, 64), activation="tanh", lr=3e-4, envs=8, collect_steps=2048, on_policy=settings
    )


@dataclass(frozen=True)
class ImitationConfig:
    """A task, with the settings that all its methods share. Folders, seeds and tasks inside the runs are ignored."""

    task: str = "Pendulum-v1"  # a Gymnasium id with flat observations and bounded actions
    expert: RLConfig = field(default_factory=RLConfig)  # trained on the task's own reward, once
    demonstrations: int = 4  # episodes of the expert
    steps_each: int | None = 50  # that are kept of a demonstration, evenly; none: all
    dac: RLConfig = field(default_factory=_td3)  # of GAIL-DAC: td3 as published, or sac
    actor_delay: int = 1000  # updates of DAC before the actor's first
    gail: RLConfig = field(default_factory=_ppo)  # of GAIL: ppo
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    cloning: CloneConfig = field(default_factory=CloneConfig)

    def __post_init__(self) -> None:
        for name, algorithms in (("dac", ("td3", "sac")), ("gail", ("ppo",))):
            given = getattr(self, name).algorithm
            if given not in algorithms:
                raise ValueError(f"{name}.algorithm must be {' or '.join(algorithms)}, got {given}")
        if self.demonstrations < 1 or (self.steps_each is not None and self.steps_each < 1):
            raise ValueError(
                f"demonstrations and steps_each must be at least 1, got {self.demonstrations} and {self.steps_each}"
            )
