"""C-GAIL: adversarial imitation whose discriminator is held near 1/2 by a controller, as algorithms of Tianshou.

    CGAIL   on-policy, over Tianshou's GAIL (PPO)
    DAC     off-policy, GAIL-DAC over TD3: absorbing states, a gradient penalty, rewards of the present discriminator
    SoftDAC the same over SAC

k weighs the controller; k = 0 is the baseline to the bit. Policy, critics and rewards are the baseline's for every k.
Spec imitation_rl.md 1.2 and 1.4; Luo et al. 2024, arXiv 2402.16349; Kostrikov et al. 2019. Needs the extra `rl`.

One deviation from the released GAIL-DAC: there an episode of T steps is followed by T steps of the discriminator and
then T of TD3. Here each batch serves one step of both, so it fits Tianshou's trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rdt.alignment.absorbing import ExpertPairs, absorbing_state, act_only_in_life, alive
from rdt.alignment.adversarial import discriminator_loss, gradient_penalty
from rdt.alignment.imitation_config import DiscriminatorConfig, ImitationConfig
from rdt.alignment.tianshou_bridge import (
    check_spaces,
    make_alpha,
    make_critic,
    make_optimizer,
    make_policy,
    make_value,
    on_policy_settings,
)

try:
    import gymnasium
    from gymnasium import spaces
    from tianshou.algorithm import GAIL, SAC, TD3
    from tianshou.algorithm.imitation.gail import GailTrainingStats
    from tianshou.algorithm.modelfree.td3 import ActorDualCriticsOffPolicyAlgorithm, TD3TrainingStats
    from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactory, OptimizerFactory
    from tianshou.data import Batch, ReplayBuffer, SequenceSummaryStats
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"adversarial imitation needs tianshou ({error}): pip install 'rdt-stack[rl]'") from None


class Discriminator(nn.Module):
    """Logit of (observation, action) rows: tanh layers, orthogonal weights (GAIL-DAC's; C-GAIL has two layers of 100).

    Actions are clipped to [-1, 1] first, as an environment does: a policy's are stored unclipped, and a discriminator
    that sees those learns to tell the expert by its range.
    """

    def __init__(self, num_observed: int, num_actions: int, hidden: Sequence[int] = (100, 100)) -> None:
        super().__init__()
        self.num_observed = num_observed
        widths = [num_observed + num_actions, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "row obs+act"]) -> Float[Tensor, "row 1"]:
        x = x.float()  # Tianshou's GAIL hands on what MuJoCo observes, in double precision
        observed, actions = x[:, : self.num_observed], x[:, self.num_observed :]
        return self.layers(torch.cat([observed, actions.clamp(-1, 1)], dim=1))


class Halving(LRSchedulerFactory):
    """The learning rate halves every so many updates (1e5 in both papers)."""

    def __init__(self, every: int = 100_000) -> None:
        self.every = every

    def create_scheduler(self, optim: torch.optim.Optimizer) -> Any:
        return _Halver(optim, self.every)


class _Halver:
    """torch's StepLR, but silent about optimizers that begin later, as the actor's does."""

    def __init__(self, optim: torch.optim.Optimizer, every: int) -> None:
        self.optim, self.every, self.steps = optim, every, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            for group in self.optim.param_groups:
                group["lr"] /= 2


class CGAIL(GAIL):
    """Tianshou's GAIL with the controller in the discriminator's loss."""

    def __init__(self, *, k: float = 1.0, **gail: Any) -> None:
        super().__init__(**gail)
        self.k = k

    def _update_with_batch(self, batch: Any, batch_size: int | None, repeat: int) -> GailTrainingStats:
        """As GAIL's: the batch in `disc_update_num` parts, a step on each and as many expert rows, then PPO."""
        rows = len(batch) // self.disc_update_num
        losses, right_on_policy, right_on_expert = [], [], []
        for part in batch.split(rows, merge_last=True):
            policy, expert = self.disc(part), self.disc(self.expert_buffer.sample(rows)[0])
            loss = discriminator_loss(expert, policy, self.k)
            self.disc_optim.step(loss)
            losses.append(loss.item())
            right_on_policy.append((policy < 0).float().mean().item())
            right_on_expert.append((expert > 0).float().mean().item())
        of_ppo = super(GAIL, self)._update_with_batch(batch, batch_size, repeat)
        disc_loss, acc_pi, acc_exp = map(SequenceSummaryStats.from_sequence, (losses, right_on_policy, right_on_expert))
        return GailTrainingStats(**vars(of_ppo), disc_loss=disc_loss, acc_pi=acc_pi, acc_exp=acc_exp)


@dataclass(kw_only=True)
class DACTrainingStats(TD3TrainingStats):
    alpha: float  # the weight of the policy's entropy
    disc_loss: float
    D_policy: (
        float  # mean D of the policy's rows and of the expert's, before the step; 1/2 where nothing is left to tell
    )
    D_expert: float
    D_apart: float  # mean |D - 1/2| of both


class _OffPolicyImitation(ActorDualCriticsOffPolicyAlgorithm):
    """GAIL-DAC (k = 0) and C-GAIL-DAC (k > 0) over a learner with two critics; a base of `DAC` and `SoftDAC`.

    Observations carry the indicator of `AbsorbingWrapper`. `disc_net` gives the logit of (observation, action) rows.
    `unit` is what it measures observations in: it sees them divided by it, and the penalty, which asks for slopes of 1,
    is of these; None: as they are. The actor rests for the first `actor_delay` updates, and its gradient is clipped to
    the global norm `actor_norm`.
    """

    def __init__(
        self,
        *,
        expert: ExpertPairs,
        disc_net: nn.Module,
        disc_optim: OptimizerFactory,
        unit: Float[Tensor, " obs+1"] | None = None,
        k: float = 0.0,
        penalty: float = 10.0,
        actor_delay: int = 1000,
        actor_norm: float = 40.0,
        **learner: Any,
    ) -> None:
        self._actor_norm = actor_norm  # the learner makes the actor's optimizer
        super().__init__(**learner)
        self.expert, self.k, self.penalty, self.actor_delay = expert, k, penalty, actor_delay
        self.unit = torch.ones(()) if unit is None else unit
        self.disc_net = disc_net
        self.disc_optim = self._create_optimizer(disc_net, disc_optim)
        self._updates, self._actor_loss = 0, 0.0
        self._told: dict[str, float] = {}

    def train(self, mode: bool = True) -> Self:
        """Nothing where the mode is so already: Tianshou asks twice an update, a sixth of its time on small nets."""
        return self if mode == self.training else super().train(mode)

    def _create_optimizer(
        self, module: nn.Module, factory: OptimizerFactory, max_grad_norm: float | None = None
    ) -> Any:
        is_actor = not hasattr(self, "policy_optim")  # the first one
        return super()._create_optimizer(module, factory, self._actor_norm if is_actor else max_grad_norm)

    def _preprocess_batch(self, batch: Any, buffer: ReplayBuffer, indices: np.ndarray) -> Any:
        """A step of the discriminator, then targets r + gamma Q'(s', a' m) that no end of an episode masks.

        Tianshou's own n-step returns read rewards from the buffer, where the discriminator's are not.
        """
        batch.obs, batch.obs_next = (torch.as_tensor(x, dtype=torch.float32) for x in (batch.obs, batch.obs_next))
        stored = torch.as_tensor(batch.act, dtype=torch.float32).clamp(-1, 1)  # noise may lead outside
        batch.act = act_only_in_life(batch.obs, stored)
        self._told = self._update_discriminator(batch)
        with torch.no_grad():
            reward = self.disc_net(self._rows(batch.obs, batch.act)).flatten()
            following = Batch(obs=batch.obs_next, info=[None] * len(indices))
            value = self._target_q_compute_value(following, self._target_q_compute_action(following))
        batch.returns = reward + self.gamma * value.flatten()
        return batch

    def _rows(
        self, observations: Float[Tensor, "row obs+1"], actions: Float[Tensor, "row act"]
    ) -> Float[Tensor, "row obs+1+act"]:
        """What the discriminator sees."""
        return torch.cat([observations / self.unit, actions], dim=1)

    def _update_discriminator(self, batch: Any) -> dict[str, float]:
        expert = self.expert.sample(len(batch.act))
        x_expert, x_policy = self._rows(expert.observations, expert.actions), self._rows(batch.obs, batch.act)
        of_expert, of_policy = self.disc_net(torch.cat([x_expert, x_policy])).flatten().tensor_split(2)
        share = torch.rand(len(x_policy), 1)
        loss = discriminator_loss(of_expert, of_policy, self.k, expert.weight)
        loss = loss + self.penalty * gradient_penalty(self.disc_net, x_expert, x_policy, share)
        self.disc_optim.step(loss)
        with torch.no_grad():
            D_expert, D_policy = of_expert.sigmoid(), of_policy.sigmoid()
            apart = (torch.cat([D_expert, D_policy]) - 0.5).abs().mean()
            told = torch.stack([loss, D_policy.mean(), D_expert.mean(), apart]).tolist()
        return dict(zip(("disc_loss", "D_policy", "D_expert", "D_apart"), told, strict=True))

    def _update_with_batch(self, batch: Any) -> DACTrainingStats:
        """The learner's step, but its actor is asked for actions in living states only, and begins later."""
        _, critic1_loss = self._minimize_critic_squared_loss(batch, self.critic, self.critic_optim)
        _, critic2_loss = self._minimize_critic_squared_loss(batch, self.critic2, self.critic2_optim)
        if self._updates % self._actor_every == 0:
            living = batch.obs[batch.obs[:, -1] == 0]
            if self._updates >= self.actor_delay and len(living):
                loss = self._loss_of_actor(Batch(obs=living, info=[None] * len(living)))
                self._actor_loss = loss.item()
                self.policy_optim.step(loss)
            self._update_lagged_network_weights()
        self._updates += 1
        told: dict[str, Any] = dict(self._told, actor_loss=self._actor_loss, alpha=self._entropy_weight)
        return DACTrainingStats(critic1_loss=critic1_loss.item(), critic2_loss=critic2_loss.item(), **told)

    @property
    def _actor_every(self) -> int:
        """Updates of the critics for one of the actor."""
        return 1

    @property
    def _entropy_weight(self) -> float:
        return 0.0

    def _loss_of_actor(self, living: Batch) -> Float[Tensor, ""]:
        raise NotImplementedError


class DAC(_OffPolicyImitation, TD3):
    """Over TD3, as published: a deterministic actor without entropy."""

    @property
    def _actor_every(self) -> int:
        return self.update_actor_freq

    def _target_q_compute_action(self, obs_batch: Batch) -> Any:
        """The target actor's noisy action, within the bounds and zero in the absorbing state."""
        answer: Any = super()._target_q_compute_action(obs_batch)
        answer.act = act_only_in_life(obs_batch.obs, answer.act.clamp(-1, 1))
        return answer

    def _loss_of_actor(self, living: Batch) -> Float[Tensor, ""]:
        return -self.critic(living.obs, self.policy(living).act).mean()


class SoftDAC(_OffPolicyImitation, SAC):
    """Over SAC: explores faster on small tasks; its entropy moves the equilibrium away from the expert (spec 1.5)."""

    @property
    def _entropy_weight(self) -> float:
        return float(self.alpha.value)

    def _target_q_compute_action(self, obs_batch: Batch) -> Any:
        """A drawn action; in the absorbing state it is zero and has no entropy."""
        answer = super()._target_q_compute_action(obs_batch)
        answer.act, answer.log_prob = (act_only_in_life(obs_batch.obs, x) for x in (answer.act, answer.log_prob))
        return answer

    def _loss_of_actor(self, living: Batch) -> Float[Tensor, ""]:
        drawn = self.policy(living)
        worst = torch.minimum(self.critic(living.obs, drawn.act), self.critic2(living.obs, drawn.act))
        self.alpha.update(-drawn.log_prob.detach())
        return (self._entropy_weight * drawn.log_prob - worst).mean()


def make_dac(
    config: ImitationConfig,
    k: float,
    expert: ExpertPairs,
    unit: Float[Tensor, " obs+1"] | None,
    observation_space: spaces.Space,
    action_space: spaces.Space,
) -> DAC | SoftDAC:
    """What `config.dac` says, for environments in an `AbsorbingWrapper`; networks by torch's global random numbers."""
    observations, actions = (box.shape[0] for box in check_spaces(observation_space, action_space))
    run, replay = config.dac, config.dac.replay
    critic_optim = AdamOptimizerFactory(lr=replay.critic_lr)
    shared: dict[str, Any] = {
        "expert": expert,
        "disc_net": Discriminator(observations, actions, config.discriminator.hidden),
        "disc_optim": _discriminator_optimizer(config.discriminator),
        "unit": unit,
        "k": k,
        "penalty": config.discriminator.penalty,
        "actor_delay": config.actor_delay,
        "policy": make_policy(run, observation_space, action_space),
        "policy_optim": make_optimizer(run).with_lr_scheduler_factory(Halving(config.discriminator.halve_every)),
        "critic": make_critic(run, observations, actions),
        "critic_optim": critic_optim,
        "critic2": make_critic(run, observations, actions),
        "critic2_optim": critic_optim,
        "tau": replay.tau,
        "gamma": run.gamma,
    }
    if run.algorithm == "sac":
        return SoftDAC(**shared, alpha=make_alpha(run, actions))
    return DAC(
        **shared,
        policy_noise=replay.target_noise,
        noise_clip=replay.target_noise_clip,
        update_actor_freq=replay.actor_every,
    )


def make_c_gail(
    config: ImitationConfig,
    k: float,
    expert: ExpertPairs,
    observation_space: spaces.Space,
    action_space: spaces.Space,
) -> CGAIL:
    """With new networks from torch's global random numbers; observations and pairs have no indicator."""
    observations, actions = (box.shape[0] for box in check_spaces(observation_space, action_space))
    never = np.zeros(len(expert), dtype=bool)  # pairs know no order
    shown = ReplayBuffer.from_data(
        obs=expert.observations.numpy(),
        act=expert.actions.numpy(),
        rew=np.zeros(len(expert)),
        terminated=never,
        truncated=never,
        done=never,
        obs_next=expert.observations.numpy(),
    )
    return CGAIL(
        k=k,
        expert_buffer=shown,
        disc_net=Discriminator(observations, actions, config.discriminator.hidden),
        disc_optim=_discriminator_optimizer(config.discriminator),
        disc_update_num=config.discriminator.updates,
        policy=make_policy(config.gail, observation_space, action_space),
        critic=make_value(config.gail, observations),
        optim=make_optimizer(config.gail),
        **on_policy_settings(config.gail),
    )


def _discriminator_optimizer(config: DiscriminatorConfig) -> OptimizerFactory:
    return AdamOptimizerFactory(lr=config.lr).with_lr_scheduler_factory(Halving(config.halve_every))


class AbsorbingWrapper(gymnasium.Wrapper):
    """Gives observations the indicator, and an episode that ends by itself one step in the absorbing state.

    The step that ended it leads there; whatever is done there leads there again and ends the episode, with no reward.
    A time limit ends nothing: the true next observation stays.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"absorbing states need flat observations, a Box of one axis, got {space}")
        low, high = np.minimum(space.low, 0), np.maximum(space.high, 0)  # zeros are now among them
        low, high = (np.append(end, mark).astype(space.dtype) for end, mark in ((low, 0), (high, 1)))
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)
        self._absorbed = absorbing_state(space.shape[0]).astype(space.dtype)
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._ended = False
        return alive(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        if self._ended:
            return self._absorbed.copy(), 0.0, True, False, {}
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._ended = terminated and not truncated
        return self._absorbed.copy() if self._ended else alive(observation), reward, False, truncated, info
