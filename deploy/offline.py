"""Alignment of policies of states: `rdt align` on a data set of transitions, without RDT.

    OUT/behaviour/       the diffusion model of the data's actions
    OUT/support/         its actions in every state of the data, drawn once
    OUT/critic/          who says how good an action is
    OUT/policy/          what the method itself trains: a policy, an energy, a copy of the behaviour
    OUT/checkpoint/      what acts: for `rdt eval CHECKPOINT --env Hopper-v5`
    OUT/align.yaml       the resolved config

Only the stages that a method needs are there. They are trained by the trainer of `rdt train`, go on where they were
interrupted, and are left alone when done; several methods may share the first three (`behaviour.out` and so on), which
then have to be told the same settings. The methods stand in docs/offline_rl.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from data_pipeline.atomic import atomic_folder, check_writable, write_bytes
from data_pipeline.schema.registry import read_yaml
from data_pipeline.sources.transitions import read_transitions
from deploy.device import choose_device
from deploy.offline_config import NEEDS_CRITIC, OfflineConfig, StageConfig, load_offline
from deploy.stages import train_stage
from deploy.train import CHECKPOINT
from rdt.alignment.critics import SingleCritic, TargetedCritic
from rdt.alignment.eda import EDA
from rdt.alignment.iql import ImplicitQ, WeightedImitation
from rdt.alignment.losses import TIME_WEIGHTS
from rdt.alignment.models import Critic, Support
from rdt.alignment.objectives import Behaviour
from rdt.alignment.offline_data import OfflineData, OnBatch, StageModel, offline_data, row_batches
from rdt.alignment.qgpo import ContrastiveEnergy, SoftmaxQ, SupportTransition
from rdt.alignment.sfbc import ReturnRegression, Returns, first_returns, plan, support_actions
from rdt.alignment.srpo import SRPO
from rdt.alignment.state_policy import (
    SOLVERS,
    NetworkConfig,
    StatePolicy,
    StatePolicyConfig,
    load_state_policy,
    save_state_policy,
)
from rdt.diffusion.ode import DPMSolver
from rdt.train.config import DataConfig, TrainConfig, differences, plain_config

ALIGN_FILE, STAGE_FILE, SUPPORT_FILE = "align.yaml", "stage.yaml", "support.safetensors"
ROWS_AT_ONCE = 1024


def align_offline(path: Path, overrides: Sequence[str]) -> None:
    """The command: read the config, run it, say what comes next."""
    config = load_offline(path, overrides)
    run_offline(config)
    checkpoint = Path(config.out) / CHECKPOINT
    environment = config.environment or "TASK"
    print(f"checkpoint in {checkpoint}; next: rdt eval {checkpoint} --env {environment} --out {config.out}/eval")


def read_data(config: OfflineConfig) -> OfflineData:
    if not config.data:
        raise ValueError("data is empty: name a D4RL file, a Minari folder, or a folder of D4RL files")
    file = read_transitions(config.data, config.max_episode_steps)
    for fault in file.faults:
        print(f"{config.data}: {fault.message}")
    return offline_data(
        file.transition,
        reward_scaling=config.reward_scaling,
        scale_states=config.scale_states,
        action_limit=config.action_limit,
    )


def run_offline(config: OfflineConfig, data: OfflineData | None = None) -> StatePolicy:
    """Train what is not done, write the checkpoint, return what acts; `data` where they are read already."""
    out = Path(config.out)
    check_writable(out)
    _same_settings(out / ALIGN_FILE, plain_config(config) | {"device": ""})
    if (out / CHECKPOINT).exists():
        return load_state_policy(out / CHECKPOINT)
    run = OfflineRun(config, data or read_data(config), choose_device(config.device))
    policy = run.policy()
    with atomic_folder(out / CHECKPOINT, replace=True) as temporary:
        save_state_policy(temporary, policy)
    return policy


@dataclass(frozen=True)
class OfflineRun:
    """The stages of one run; each is asked for by those that need it."""

    config: OfflineConfig
    data: OfflineData
    device: torch.device

    def policy(self) -> StatePolicy:
        """The method's own stage, and what acts afterwards."""
        config, method = self.config, self.config.method
        networks: dict[str, tuple[NetworkConfig, nn.Module]] = {}
        if config.needs_behaviour and method != "srpo":
            networks["behaviour"] = config.behaviour.network, self.behaviour
        if method in ("bc", "iql", "srpo"):
            acting, networks = "direct", {"policy": (config.policy.network, self._own_stage())}
        elif method == "diffusion_bc":
            acting = "sampled"
        elif method == "qgpo":
            acting, networks["energy"] = "guided", (config.policy.network, self._own_stage())
        else:
            acting, networks["critic"] = "best_of", (self._critic_config(), cast("nn.Module", self.asked))
            if method == "eda":
                networks["behaviour"] = config.behaviour.network, self._own_stage()
        settings = config.acting
        return StatePolicy(
            StatePolicyConfig(
                acting=acting,  # type: ignore[arg-type]
                state_dim=self.data.state_dim,
                action_dim=self.data.action_dim,
                networks={name: network for name, (network, _) in networks.items()},
                action_limit=self.data.action_limit,
                solver=settings.solver,
                sampling_steps=settings.sampling_steps,
                candidates=settings.candidates,
                num_selected=settings.num_selected,
                alpha=settings.alpha,
                scale=settings.scale,
                made_of={"method": method, "task": config.task, "data": config.data},
            ),
            {name: net for name, (_, net) in networks.items()},
            self.data.scaling,
        )

    @cached_property
    def behaviour(self) -> nn.Module:
        stage = self.config.behaviour
        net = self._fresh(stage.network)
        folder = self._folder("behaviour", stage.out)
        return self._train(folder, net, Behaviour(stage.t_min), self.data.demonstrations, stage.train)

    @cached_property
    def support(self) -> tuple[Tensor, Tensor]:
        """Behaviour actions (place, k, action) of all visited states, and where each row's next state stands."""
        stage, data = self.config.support, self.data
        folder = self._folder("support", stage.out)
        states, place = data.visited()
        if not (folder / SUPPORT_FILE).exists():
            generator = torch.Generator(self.device).manual_seed(self.config.seed)
            kind = SOLVERS[stage.solver]
            solver = DPMSolver(stage.sampling_steps, kind.order, kind.method, kind.prediction)
            model = cast("Any", self.behaviour)
            with tqdm(total=len(states), desc="behaviour actions", unit="state", dynamic_ncols=True) as bar:
                actions = support_actions(
                    model,
                    states,
                    data.action_dim,
                    generator,
                    num_candidates=stage.candidates,
                    rows=max(1, ROWS_AT_ONCE // stage.candidates),
                    solver=solver,
                    progress=lambda done: bar.update(done - bar.n) and None,
                )
            temporary = folder / f".{SUPPORT_FILE}.tmp"
            save_file({"actions": actions.clamp(-1, 1)}, temporary)
            temporary.replace(folder / SUPPORT_FILE)
        return load_file(folder / SUPPORT_FILE)["actions"], place

    @cached_property
    def critic(self) -> TargetedCritic | SingleCritic:
        stage, data = self.config.critic, self.data
        folder = self._folder("critic", stage.out)
        if stage.kind == "planned":
            return self._planned(folder)
        torch.manual_seed(self.config.seed)
        critic = TargetedCritic(data.action_dim, data.state_dim, stage.hidden, with_value=stage.kind == "iql")
        if stage.kind == "iql":
            implicit = ImplicitQ(stage.expectile, self.config.discount, stage.rate)
            return self._train(folder, critic, implicit, data.steps, stage.train)
        actions, place = self.support

        def content(rows: Tensor) -> SupportTransition:
            return SupportTransition(**vars(data.steps(rows)), next_actions=actions[place[rows]])

        return self._train(
            folder, critic, SoftmaxQ(stage.alpha, self.config.discount, stage.rate), content, stage.train
        )

    @property
    def asked(self) -> Critic:
        """Who is asked about actions: of twins the pessimistic slow copy."""
        return self.critic.target if isinstance(self.critic, TargetedCritic) else self.critic

    @cached_property
    def support_q(self) -> Tensor:
        """The critic's values of the behaviour actions in the data's own states, (row, k)."""
        return self._values(self.asked)

    def _own_stage(self) -> nn.Module:
        """The network that the method trains, by its objective."""
        config, data, stage = self.config, self.data, self.config.policy
        folder = Path(config.out) / "policy"
        if config.method in NEEDS_CRITIC and isinstance(self.critic, TargetedCritic):
            twins = self.critic
        objective: Callable[..., Any]
        content: Callable[[Tensor], Any] = data.demonstrations
        count = len(data)
        net = self._fresh(stage.network) if config.method != "eda" else without_dropout(self.behaviour)
        if config.method in ("bc", "iql"):
            objective = WeightedImitation(twins if config.method == "iql" else None, config.temperature)
        elif config.method == "srpo":
            objective = SRPO(
                cast("Any", self.behaviour),
                twins.target.mean,
                config.beta,
                TIME_WEIGHTS[config.weight],
                config.subtract_noise,
                config.unit_q_gradient,
            )
            content = data.states.__getitem__
        else:
            labelled = self._labelled()
            actions, q, count = self.support[0], self.support_q, len(labelled)

            def content(rows: Tensor) -> Support:
                at = labelled[rows]
                return Support(actions[at], q[at], data.states[at])

            objective = ContrastiveEnergy(config.alpha)
            if config.method == "eda":
                objective = EDA(cast("Any", self.behaviour), config.alpha, config.beta)
        return self._train(folder, net, objective, content, stage.train, count)

    def _labelled(self) -> Tensor:
        """Rows whose candidates the critic labels, drawn once."""
        count = max(1, round(self.config.label_fraction * len(self.data)))
        return torch.randperm(len(self.data), generator=torch.Generator().manual_seed(self.config.seed))[:count]

    def _planned(self, folder: Path) -> SingleCritic:
        """Regression on returns; between two of them returns may switch to a better trajectory."""
        config, data, stage = self.config, self.data, self.config.critic
        returns = first_returns(data.rewards, data.ends, config.discount)
        critic = self._regressed(folder / "iteration0", returns.returns, 0)
        for iteration in range(1, stage.iterations):
            returns = plan(data.rewards, data.ends, self._values(critic), returns, stage.alpha, config.discount)
            critic = self._regressed(folder / f"iteration{iteration}", returns.returns, iteration)
        return critic

    def _regressed(self, folder: Path, returns: Tensor, iteration: int) -> SingleCritic:
        data, stage = self.data, self.config.critic
        torch.manual_seed(self.config.seed + iteration)
        critic = SingleCritic(data.action_dim, data.state_dim, stage.hidden)

        def content(rows: Tensor) -> Returns:
            return Returns(data.actions[rows], returns[rows], data.states[rows])

        return self._train(folder, critic, ReturnRegression(), content, stage.train)

    @torch.no_grad()
    def _values(self, critic: Critic) -> Tensor:
        actions = self.support[0][: len(self.data)]
        pieces = [
            critic.q(a.to(self.device), s.to(self.device)).cpu()
            for a, s in zip(actions.split(ROWS_AT_ONCE), self.data.states.split(ROWS_AT_ONCE), strict=True)
        ]
        return torch.cat(pieces)

    def _critic_config(self) -> NetworkConfig:
        kind = "twin_q" if isinstance(self.critic, TargetedCritic) else "single_q"
        return NetworkConfig(kind, self.config.critic.hidden)  # type: ignore[arg-type]

    def _fresh(self, network: NetworkConfig) -> nn.Module:
        torch.manual_seed(self.config.seed)
        return network.make(self.data.action_dim, self.data.state_dim)

    def _folder(self, name: str, given: str) -> Path:
        """Where a shared stage is kept; refuses one that was trained with other settings."""
        folder = Path(given) if given else Path(self.config.out) / name
        folder.mkdir(parents=True, exist_ok=True)
        _same_settings(folder / STAGE_FILE, shared_stages(self.config)[name])
        return folder

    def _train(
        self,
        folder: Path,
        net: Any,
        objective: Callable[..., Any],
        content: Callable[[Tensor], Any],
        stage: StageConfig,
        count: int | None = None,
    ) -> Any:
        """A stage in its folder; the network, frozen, on the device."""
        train = TrainConfig(
            steps=stage.steps,
            seed=self.config.seed,
            out=str(folder),
            data=DataConfig(batch_size=stage.batch_size),
            optim=stage.optim,
            precision="float32",
            checkpoint_every=max(stage.steps // 10, 1),
        )
        batches = row_batches(count or len(self.data), stage.batch_size, self.config.seed, content)
        return train_stage(StageModel(net).to(self.device), OnBatch(objective), batches, train).net


def without_dropout(net: nn.Module) -> nn.Module:
    """A copy to train on, whose dropout is off in training too."""
    copied = copy.deepcopy(net).requires_grad_(True)
    for module in copied.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return copied


def shared_stages(config: OfflineConfig) -> dict[str, dict[str, Any]]:
    """What decides each stage that methods may share, as plain types: two of equal settings are one."""
    plain = _without_places(plain_config(config))
    common = {key: plain[key] for key in ("data", "seed", "scale_states", "action_limit", "max_episode_steps")}
    behaviour = common | {"behaviour": plain["behaviour"]}
    support = behaviour | {"support": plain["support"]}
    base = common if config.critic.kind == "iql" else support
    critic = base | {key: plain[key] for key in ("critic", "discount", "reward_scaling")}
    return {"behaviour": behaviour, "support": support, "critic": critic}


def _without_places(plain: dict[str, Any]) -> dict[str, Any]:
    """Whatever folder or device it was."""
    return {
        key: _without_places(value) if isinstance(value, dict) else value
        for key, value in plain.items()
        if key not in ("out", "device")
    }


def _same_settings(file: Path, now: dict[str, Any]) -> None:
    """Note the settings of a folder; refuse to go on with others."""
    if file.exists() and (changed := differences(read_yaml(file), now)):
        raise ValueError(f"{file.parent} was made with other settings ({', '.join(changed)}): use another out")
    write_bytes(file, yaml.safe_dump(now, sort_keys=False).encode())
