"""A run of `rdt align` on states and actions, without RDT, as typed dataclasses; the YAML names only what differs.

a method's YAML                   its published protocol
by_task, in that file             what the paper sets for some tasks: patterns of their names -> settings, in order
offline/budgets/NAME.yaml         smaller networks and fewer steps, by method or for `all`
--a.b value                       on the command line, over all of these
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from data_pipeline.schema.registry import check_keys, find_config, read_yaml, unknown_name
from rdt.alignment.losses import TIME_WEIGHTS
from rdt.alignment.offline_data import RewardScaling
from rdt.alignment.state_policy import NetworkConfig, SolverName
from rdt.train.config import OptimConfig, config_as, overlaid

OfflineMethod = Literal["bc", "diffusion_bc", "iql", "sfbc", "qgpo", "eda", "srpo"]
CriticKind = Literal["iql", "planned", "softmax"]
DIFFUSION: tuple[OfflineMethod, ...] = ("diffusion_bc", "sfbc", "qgpo", "eda", "srpo")
"""Methods that stand on a diffusion model of the data's actions."""
NEEDS_CRITIC: tuple[OfflineMethod, ...] = ("iql", "sfbc", "qgpo", "eda", "srpo")
NEEDS_SUPPORT: tuple[OfflineMethod, ...] = ("sfbc", "qgpo", "eda")
BY_TASK = "by_task"
PUBLISHED_BUDGET = "published"


def _optim(lr: float, schedule: Literal["constant", "cosine"] = "constant", weight_decay: float = 0.0) -> OptimConfig:
    """As the papers have it: no clipping of gradients, no averaged weights."""
    return OptimConfig(lr=lr, weight_decay=weight_decay, schedule=schedule, clip_norm=1e9)


@dataclass(frozen=True)
class StageConfig:
    """How long and with what one network is trained."""

    steps: int = 1_000_000
    batch_size: int = 256
    optim: OptimConfig = field(default_factory=lambda: _optim(3e-4))


@dataclass(frozen=True)
class BehaviourConfig:
    """The diffusion model of the data's actions."""

    out: str = ""  # where it is kept; none: OUT/behaviour. Methods may share it
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig("resnet"))
    t_min: float = 1e-3
    train: StageConfig = field(default_factory=lambda: StageConfig(2_000_000, 2048))


@dataclass(frozen=True)
class SupportConfig:
    """Behaviour actions in every state of the data, drawn once."""

    out: str = ""  # none: OUT/support
    candidates: int = 16
    solver: SolverName = "rl"
    sampling_steps: int = 15


@dataclass(frozen=True)
class CriticConfig:
    """Who says how good an action is."""

    out: str = ""  # none: OUT/critic
    kind: CriticKind = "iql"
    hidden: tuple[int, ...] = (256, 256)
    expectile: float = 0.7  # of iql
    rate: float = 0.005  # of iql and softmax: at which the target follows; values travel so far in a step
    alpha: float = 1.0  # of softmax and planned: how greedily the value of a state looks at its candidates
    iterations: int = 2  # of planned: trainings; between two of them returns are planned anew
    train: StageConfig = field(default_factory=lambda: StageConfig(1_500_000, 256))


@dataclass(frozen=True)
class PolicyConfig:
    """What the method itself trains: the policy, an energy, or a copy of the behaviour."""

    network: NetworkConfig = field(default_factory=lambda: NetworkConfig("deterministic"))
    train: StageConfig = field(default_factory=StageConfig)


@dataclass(frozen=True)
class ActingSettings:
    """How the result acts."""

    solver: SolverName = "rl"
    sampling_steps: int = 15
    candidates: int = 32  # of sfbc and eda
    num_selected: int = 1  # ... so many of them are drawn and averaged
    alpha: float = 100.0  # ... with probability softmax(alpha Q)
    scale: float = 1.0  # of qgpo: what guidance is multiplied by; anything but 1 is another target


@dataclass(frozen=True)
class OfflineConfig:
    """Everything that defines a run; the resolved form is stored in OUT/align.yaml."""

    method: OfflineMethod = "bc"
    data: str = ""  # a D4RL file, a Minari folder, or a folder of D4RL files that are read as one
    task: str = ""  # a name like hopper-medium-v2, for `by_task`
    environment: str = ""  # a Gymnasium id like Hopper-v5, where the result is tried
    budget: str = PUBLISHED_BUDGET  # or the name of a file in configs/align/offline/budgets/
    out: str = "runs/offline/run"
    seed: int = 0
    device: str = "auto"
    discount: float = 0.99
    reward_scaling: RewardScaling = "none"
    scale_states: bool = False  # to mean 0 and deviation 1
    action_limit: float = 1.0  # the largest number of an action
    max_episode_steps: int | None = None  # of files without `timeouts`
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    support: SupportConfig = field(default_factory=SupportConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    acting: ActingSettings = field(default_factory=ActingSettings)
    alpha: float = 3.0  # of qgpo and eda: labels are softmax(alpha Q)
    beta: float = 1.0  # of eda: the inner KL coefficient; of srpo: weight of the critic
    temperature: float = 3.0  # of iql: weights are exp(temperature (Q - V))
    label_fraction: float = 1.0  # of eda: the share of the data's states whose candidates are labelled by the critic
    weight: str = "sigma^2"  # of srpo, over noise levels
    subtract_noise: bool = True  # of srpo: less variance, the same mean; the released code does not
    unit_q_gradient: bool = False  # of srpo, AntMaze

    def __post_init__(self) -> None:
        if self.weight not in TIME_WEIGHTS:
            raise ValueError(unknown_name("weight", self.weight, TIME_WEIGHTS))
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction is a share of the states in (0, 1], got {self.label_fraction}")
        if self.method in ("iql", "eda", "srpo", "qgpo") and self.critic.kind == "planned":
            raise ValueError(f"{self.method} asks twins: critic.kind must be iql or softmax, got planned")
        if self.method == "iql" and self.critic.kind != "iql":
            raise ValueError("iql weighs by Q - V: critic.kind must be iql")
        if self.method == "eda" and self.behaviour.network.kind != "bottleneck":
            raise ValueError("eda compares densities: behaviour.network.kind must be bottleneck")

    @property
    def needs_support(self) -> bool:
        return self.method in NEEDS_SUPPORT or (self.method in NEEDS_CRITIC and self.critic.kind == "softmax")

    @property
    def needs_behaviour(self) -> bool:
        return self.method in DIFFUSION or self.needs_support


def load_offline(path: str | Path, overrides: Sequence[str] = ()) -> OfflineConfig:
    """Read a YAML file, what it says of the task, the budget, and `--a.b value` overrides."""
    raw = read_yaml(path)
    by_task = raw.pop(BY_TASK, {})
    if not isinstance(by_task, dict) or not all(isinstance(settings, dict) for settings in by_task.values()):
        raise ValueError(f"{path}: {BY_TASK} maps patterns of task names to settings")
    asked = config_as(OfflineConfig, raw, overrides, where=str(path))  # for its task and budget
    for settings in (*_of_task(by_task, asked.task), *_of_budget(asked.budget, asked.method)):
        raw = overlaid(raw, settings)
    return config_as(OfflineConfig, raw, overrides, where=str(path))


def _of_task(by_task: dict[str, dict[str, Any]], task: str) -> Iterator[dict[str, Any]]:
    for pattern, settings in by_task.items():
        if task and fnmatchcase(task, pattern):
            yield settings


def _of_budget(name: str, method: str) -> Iterator[dict[str, Any]]:
    if name == PUBLISHED_BUDGET:
        return
    path = find_config("align/offline/budgets", name)
    budget = read_yaml(path)
    check_keys(str(path), budget, ("all", *get_args(OfflineMethod)))
    for key in ("all", method):
        if key in budget:
            yield budget[key]
