"""A policy of states by its settings: which networks it has and how they act, in a folder of two files.

    FOLDER/policy.yaml           how it acts, its networks' sizes
    FOLDER/policy.safetensors    all weights, and the scaling of states

    direct      the policy's one pass                                       behaviour cloning, IQL, SRPO
    sampled     a sample of a diffusion model                               diffusion cloning
    guided      the sampler, with an energy's gradient                      QGPO
    best_of     candidates of the sampler, among which a critic chooses     SfBC, EDA

States come as the environment gives them and actions leave as it takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
import yaml
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_pipeline.schema.registry import read_yaml, unknown_name
from rdt.alignment.actors import Act
from rdt.alignment.critics import SingleCritic, TwinCritic
from rdt.alignment.models import BehaviorModel, Guided, Policy, best_of, sample_actions
from rdt.alignment.nets import Bottleneck, DeterministicPolicy, EnergyMLP, GaussianPolicy, ResNetEps, ScoreUNet
from rdt.alignment.offline_data import StateScaling
from rdt.diffusion.ode import RL_SOLVER, SFBC_SOLVER, DPMSolver
from rdt.model.manifest import verify, write_manifest

ActingKind = Literal["direct", "sampled", "guided", "best_of"]
NetworkKind = Literal["unet", "resnet", "bottleneck", "deterministic", "gaussian", "energy", "twin_q", "single_q"]
SolverName = Literal["sfbc", "rl"]
SOLVERS: dict[SolverName, DPMSolver] = {"sfbc": SFBC_SOLVER, "rl": RL_SOLVER}
NEEDS: dict[ActingKind, tuple[str, ...]] = {
    "direct": ("policy",),
    "sampled": ("behaviour",),
    "guided": ("behaviour", "energy"),
    "best_of": ("behaviour", "critic"),
}
"""Networks of each kind of acting, by their names."""

POLICY_FILE, WEIGHTS_FILE = "policy.yaml", "policy.safetensors"


@dataclass(frozen=True)
class NetworkConfig:
    """Kind and sizes of a network; the defaults of each kind are `PUBLISHED`."""

    kind: NetworkKind
    hidden: tuple[int, ...] = ()  # widths of its layers, or of its residual blocks; (): the published ones
    dropout: float = 0.1  # of resnet and bottleneck

    def __post_init__(self) -> None:
        if self.kind not in get_args(NetworkKind):
            raise ValueError(unknown_name("kind of network", self.kind, get_args(NetworkKind)))
        widths = self.widths
        if self.kind in ("resnet", "bottleneck", "energy") and len(set(widths)) > 1:
            raise ValueError(f"layers of a {self.kind} are equally wide, got hidden {list(widths)}")
        if self.kind == "unet" and len(widths) != 3:
            raise ValueError(f"a unet has three widths, from its outer to its inner layers, got {list(widths)}")

    @property
    def widths(self) -> tuple[int, ...]:
        return self.hidden or PUBLISHED[self.kind]

    def make(self, action_dim: int, state_dim: int) -> nn.Module:
        """Fresh weights from torch's generator."""
        widths = self.widths
        if self.kind == "unet":
            return ScoreUNet(action_dim, state_dim, widths=cast("tuple[int, int, int]", widths))
        if self.kind in ("resnet", "bottleneck"):
            residual = ResNetEps if self.kind == "resnet" else Bottleneck
            return residual(action_dim, state_dim, width=widths[0], blocks=len(widths), dropout=self.dropout)
        if self.kind == "energy":
            return EnergyMLP(action_dim, state_dim, width=widths[0], depth=len(widths))
        plain = {
            "deterministic": DeterministicPolicy,
            "gaussian": GaussianPolicy,
            "twin_q": TwinCritic,
            "single_q": SingleCritic,
        }
        return plain[self.kind](action_dim, state_dim, widths)


PUBLISHED: dict[NetworkKind, tuple[int, ...]] = {
    "unet": (512, 256, 128),
    "resnet": (256, 256, 256),
    "bottleneck": (256, 256, 256),
    "deterministic": (256, 256),
    "gaussian": (256, 256),
    "energy": (256, 256, 256, 256),
    "twin_q": (256, 256),
    "single_q": (256, 256),
}
"""Widths of the papers' networks."""


@dataclass(frozen=True)
class StatePolicyConfig:
    """How a policy acts."""

    acting: ActingKind
    state_dim: int
    action_dim: int
    networks: Mapping[str, NetworkConfig]  # by the names of `NEEDS`
    action_limit: float = 1.0
    solver: SolverName = "rl"
    sampling_steps: int = 15
    candidates: int = 32  # of best_of
    num_selected: int = 1  # ... of which so many are drawn and averaged
    alpha: float = 100.0  # ... with probability softmax(alpha Q)
    scale: float = 1.0  # of guided; anything but 1 is another target
    made_of: Mapping[str, str] = field(default_factory=dict)  # method, task and data, to be shown

    def __post_init__(self) -> None:
        if self.acting not in get_args(ActingKind):
            raise ValueError(unknown_name("kind of acting", self.acting, get_args(ActingKind)))
        if set(self.networks) != set(NEEDS[self.acting]):
            raise ValueError(
                f"{self.acting} has networks {', '.join(NEEDS[self.acting])}, got {', '.join(self.networks) or 'none'}"
            )
        if not 1 <= self.num_selected <= self.candidates:
            raise ValueError(f"of {self.candidates} candidates 1 or more are chosen, got {self.num_selected}")


class StatePolicy(nn.Module):
    """The networks and their use."""

    def __init__(
        self, config: StatePolicyConfig, networks: Mapping[str, nn.Module], scaling: StateScaling | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.networks = nn.ModuleDict(dict(networks))
        scaling = scaling or StateScaling.none(config.state_dim)
        self.register_buffer("state_mean", scaling.mean)
        self.register_buffer("state_std", scaling.std)
        solver = SOLVERS[config.solver]
        self.solver = DPMSolver(config.sampling_steps, solver.order, solver.method, solver.prediction)
        self.eval().requires_grad_(False)

    def actor(self, generator: torch.Generator) -> Act:
        """For `actors.run_episodes`; all draws are of one generator, on whose device it acts."""

        def act(observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
            if observations.shape[1:] != (self.config.state_dim,):
                raise ValueError(
                    f"the policy reads {self.config.state_dim} numbers, the environment gives "
                    f"{observations.shape[1:]}: it was trained for another task"
                )
            states = torch.from_numpy(observations).float().to(generator.device)
            return self.act(states, generator).cpu().numpy()

        return act

    @torch.no_grad()
    def act(self, states: Float[Tensor, "batch state"], generator: torch.Generator) -> Float[Tensor, "batch action"]:
        """Actions in the environment's units, on the generator's device; `direct` draws nothing."""
        config = self.config
        scaling = StateScaling(self.get_buffer("state_mean"), self.get_buffer("state_std"))
        cond = scaling(states)
        shape = (len(states), config.action_dim)
        if config.acting == "direct":
            actions = cast("Policy", self.networks["policy"]).act(cond)
        elif config.acting == "best_of":
            actions = best_of(
                cast("BehaviorModel", self.networks["behaviour"]),
                cast("TwinCritic", self.networks["critic"]),
                cond,
                shape,
                generator,
                num_candidates=config.candidates,
                alpha=config.alpha,
                num_selected=config.num_selected,
                solver=self.solver,
            )
        else:
            model = cast("BehaviorModel", self.networks["behaviour"])
            if config.acting == "guided":
                model = Guided(model, self.networks["energy"], config.scale)
            actions = sample_actions(model, cond, shape, generator, solver=self.solver)
        return actions.clamp(-1, 1) * config.action_limit


def save_state_policy(folder: str | Path, policy: StatePolicy) -> None:
    """Write both files and their checksums into a folder that is there."""
    folder, config = Path(folder), asdict(policy.config)
    config["networks"] = {
        name: {"kind": network.kind, "hidden": list(network.widths), "dropout": network.dropout}
        for name, network in policy.config.networks.items()
    }
    (folder / POLICY_FILE).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in policy.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    write_manifest(folder)


def is_state_policy(folder: str | Path) -> bool:
    return (Path(folder) / POLICY_FILE).is_file()


def load_state_policy(folder: str | Path) -> StatePolicy:
    """The inverse. Raises `ValueError` for a folder that holds none or a damaged one."""
    folder = Path(folder)
    if not is_state_policy(folder):
        raise ValueError(f"{folder} is no checkpoint of a policy of states: it lacks {POLICY_FILE}")
    verify(folder, (POLICY_FILE, WEIGHTS_FILE))
    raw = read_yaml(folder / POLICY_FILE)
    try:
        networks = {
            name: NetworkConfig(**{**network, "hidden": tuple(network["hidden"])})
            for name, network in raw["networks"].items()
        }
        config = StatePolicyConfig(**{**raw, "networks": networks})
        made = {name: network.make(config.action_dim, config.state_dim) for name, network in networks.items()}
        policy = StatePolicy(config, made)
        policy.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, OSError) as error:
        raise ValueError(f"{folder} holds no policy that can be read ({error}): align anew") from None
    return policy
