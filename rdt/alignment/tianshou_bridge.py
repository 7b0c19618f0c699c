"""Tianshou 2.0 behind one door: its algorithms from our configs, its training as a stream of evaluations, its buffers.

Importing this module imports Tianshou (seconds), so whoever needs it imports it when used. Its procedural API only:
the high-level one does not import from a plain install, and the extras `mujoco` and `envpool` pin old environments.

Spaces of actions: Tianshou's buffers hold policy-space actions, before `map_action` bounds and scales them; ours hold
the environment's. `buffer_of` and `transition_of_buffer` cross that line, and nothing else does. What ppo stores may
lie outside [-1, 1], since its bound is a cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from data_pipeline.schema.types import Transition
from rdt.alignment.actors import ACTIVATIONS, Actor, ActorConfig, Rollout, run_episodes
from rdt.alignment.rl_config import RLConfig, is_off_policy

try:
    from tianshou.algorithm import A2C, DDPG, NPG, PPO, SAC, TD3, TRPO, Reinforce
    from tianshou.algorithm.algorithm_base import Algorithm, OffPolicyAlgorithm, OnPolicyAlgorithm, Policy
    from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.modelfree.sac import AutoAlpha, SACPolicy
    from tianshou.algorithm.optim import (
        AdamOptimizerFactory,
        LRSchedulerFactoryLinear,
        OptimizerFactory,
        RMSpropOptimizerFactory,
    )
    from tianshou.data import Batch, Collector, CollectStats, ReplayBuffer, VectorReplayBuffer
    from tianshou.env import BaseVectorEnv, DummyVectorEnv, SubprocVectorEnv, VectorEnvNormObs
    from tianshou.exploration import GaussianNoise
    from tianshou.trainer import OffPolicyTrainer, OffPolicyTrainerParams, OnPolicyTrainer, OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import (
        ContinuousActorDeterministic,
        ContinuousActorProbabilistic,
        ContinuousCritic,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"reinforcement learning needs tianshou ({error}): pip install 'rdt-stack[rl]'") from None

MakeEnv = Callable[[], Any]
"""A new Gymnasium environment."""

EVALUATION_SEED = 1_000_000
"""First seed of the evaluation's starts, far from those of training."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good the policy was after so many steps of training."""

    steps: int  # of the environment, random ones among them
    updates: int  # gradient steps
    seconds: float  # of training so far, without evaluations
    rollouts: tuple[Rollout, ...]  # of the deterministic policy
    losses: dict[str, float]  # of the last update
    actor: Actor  # a copy of the policy as it was evaluated

    @property
    def returns(self) -> np.ndarray:
        """float64 (episodes,)"""
        return np.array([rollout.total for rollout in self.rollouts])


def dist_of(loc_scale: tuple[torch.Tensor, torch.Tensor]) -> torch.distributions.Distribution:
    """A diagonal Gaussian of the on-policy actors."""
    loc, scale = loc_scale
    return torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> tuple[spaces.Box, spaces.Box]:
    """Raises `ValueError` unless observations are one vector and actions a bounded one."""
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise ValueError(f"observations must be one vector (a Box of shape (n,)), got {observation_space}")
    bounded = isinstance(action_space, spaces.Box) and len(action_space.shape) == 1 and action_space.is_bounded()
    if not bounded:
        raise ValueError(f"actions must be one bounded vector (a Box of shape (n,)), got {action_space}")
    return observation_space, cast(spaces.Box, action_space)


def make_net(config: RLConfig, inputs: int, concat: int = 0) -> Net:
    """The hidden layers of an actor, or of a critic that reads `concat` numbers of an action too."""
    return Net(
        state_shape=inputs,
        action_shape=concat,
        hidden_sizes=config.hidden,
        activation=ACTIVATIONS[config.activation],
        concat=concat > 0,
    )


def make_critic(config: RLConfig, observation: int, action: int) -> ContinuousCritic:
    """Q(s, a) of the off-policy algorithms."""
    return ContinuousCritic(preprocess_net=make_net(config, observation, action))


def make_policy(
    config: RLConfig, observation_space: spaces.Space, action_space: spaces.Space
) -> SACPolicy | ContinuousDeterministicPolicy | ProbabilisticActorPolicy:
    """The actor of `config.algorithm` as Tianshou's policy; actions are scaled from [-1, 1] to the space."""
    observations, actions = check_spaces(observation_space, action_space)
    net, shape = make_net(config, observations.shape[0]), actions.shape
    if config.algorithm == "sac":
        actor = ContinuousActorProbabilistic(
            preprocess_net=net, action_shape=shape, unbounded=True, conditioned_sigma=True
        )
        return SACPolicy(actor=actor, action_space=actions, action_scaling=True)
    if is_off_policy(config.algorithm):
        return ContinuousDeterministicPolicy(
            actor=ContinuousActorDeterministic(preprocess_net=net, action_shape=shape),
            exploration_noise=GaussianNoise(sigma=config.replay.noise),
            action_space=actions,
            action_scaling=True,
        )
    actor = ContinuousActorProbabilistic(preprocess_net=net, action_shape=shape, unbounded=True)
    _initialise_on_policy(actor)
    nn.init.constant_(actor.sigma_param, -0.5)
    for layer in actor.mu.modules():  # first actions near zero (Andrychowicz et al. 2021, figure 24)
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(0.01)
    return ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=dist_of,
        deterministic_eval=True,
        action_space=actions,
        action_scaling=True,
        action_bound_method="tanh" if config.algorithm == "reinforce" else "clip",
    )


def make_algorithm(config: RLConfig, observation_space: spaces.Space, action_space: spaces.Space) -> Algorithm:
    """What `config` says, with new networks from torch's global random numbers."""
    policy = make_policy(config, observation_space, action_space)
    make = _off_policy if is_off_policy(config.algorithm) else _on_policy
    return make(config, policy, check_spaces(observation_space, action_space))


def on_policy_settings(config: RLConfig) -> dict[str, Any]:
    """Of PPO (and of GAIL, which is one): its keyword arguments but policy, critic and optimiser."""
    on = config.on_policy
    return {
        "eps_clip": on.clip,
        "advantage_normalization": on.normalise_advantages,
        "recompute_advantage": on.recompute_advantages,
        "vf_coef": on.value_weight,
        "ent_coef": on.entropy_weight,
        "max_grad_norm": on.max_grad_norm,
        **_advantage_settings(config),
    }


def make_value(config: RLConfig, observation: int) -> ContinuousCritic:
    """V(s) of the on-policy algorithms."""
    critic = ContinuousCritic(preprocess_net=make_net(config, observation))
    _initialise_on_policy(critic)
    return critic


def make_optimizer(config: RLConfig) -> OptimizerFactory:
    """Of actor and value in the on-policy algorithms, of the actor in the others."""
    if config.algorithm == "a2c":
        factory: OptimizerFactory = RMSpropOptimizerFactory(lr=config.lr, eps=1e-5, alpha=0.99)
    else:
        factory = AdamOptimizerFactory(lr=config.lr)
    if not is_off_policy(config.algorithm) and config.on_policy.lr_decay:
        factory.with_lr_scheduler_factory(
            LRSchedulerFactoryLinear(
                max_epochs=1, epoch_num_steps=config.steps, collection_step_num_env_steps=config.collect_steps
            )
        )
    return factory


def _off_policy(config: RLConfig, policy: Any, boxes: tuple[spaces.Box, spaces.Box]) -> Algorithm:
    observation, action = (box.shape[0] for box in boxes)
    replay = config.replay
    shared: dict[str, Any] = {
        "policy": policy,
        "policy_optim": make_optimizer(config),
        "critic": make_critic(config, observation, action),
        "critic_optim": AdamOptimizerFactory(lr=replay.critic_lr),
        "tau": replay.tau,
        "gamma": config.gamma,
    }
    if config.algorithm == "ddpg":
        return DDPG(**shared)
    shared["critic2"] = make_critic(config, observation, action)
    if config.algorithm == "td3":
        return TD3(
            **shared,
            policy_noise=replay.target_noise,
            noise_clip=replay.target_noise_clip,
            update_actor_freq=replay.actor_every,
        )
    if replay.entropy_weight is None:
        tuned = AutoAlpha(-float(action), 0.0, AdamOptimizerFactory(lr=replay.entropy_lr))
        return SAC(**shared, alpha=tuned)
    return SAC(**shared, alpha=replay.entropy_weight)


def _on_policy(config: RLConfig, policy: Any, boxes: tuple[spaces.Box, spaces.Box]) -> Algorithm:
    on, optim = config.on_policy, make_optimizer(config)
    if config.algorithm == "reinforce":
        return Reinforce(policy=policy, optim=optim, gamma=config.gamma, return_standardization=on.scale_returns)
    shared: dict[str, Any] = {"policy": policy, "critic": make_value(config, boxes[0].shape[0]), "optim": optim}
    if config.algorithm == "ppo":
        return PPO(**shared, **on_policy_settings(config))
    shared |= _advantage_settings(config)
    if config.algorithm == "a2c":
        return A2C(**shared, vf_coef=on.value_weight, ent_coef=on.entropy_weight, max_grad_norm=on.max_grad_norm)
    shared |= {"optim_critic_iters": on.critic_updates, "trust_region_size": on.step_size}
    return NPG(**shared) if config.algorithm == "npg" else TRPO(**shared, max_kl=on.max_kl)


def _advantage_settings(config: RLConfig) -> dict[str, Any]:
    on = config.on_policy
    return {"gae_lambda": on.gae_lambda, "gamma": config.gamma, "return_scaling": on.scale_returns}


def _initialise_on_policy(module: nn.Module) -> None:
    """Orthogonal with gain sqrt(2), no bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=2**0.5)
            nn.init.zeros_(layer.bias)


def actor_of(policy: Policy, config: RLConfig, envs: BaseVectorEnv | None = None) -> Actor:
    """A policy of `make_policy` as an actor that needs no Tianshou: a copy of its numbers.

    `envs` are those of training, for the mean and standard deviation by which they normalise observations.
    """
    source: Any = policy.actor
    rms = envs.get_obs_rms() if isinstance(envs, VectorEnvNormObs) else None
    space = cast(spaces.Box, policy.action_space)
    probabilistic = isinstance(source, ContinuousActorProbabilistic)
    clipped = isinstance(policy, ProbabilisticActorPolicy) and policy.action_bound_method == "clip"
    layers = [layer for layer in source.preprocess.modules() if isinstance(layer, nn.Linear)]
    actor = Actor(
        ActorConfig(
            observation=layers[0].in_features,
            low=tuple(space.low.tolist()),
            high=tuple(space.high.tolist()),
            hidden=tuple(layer.out_features for layer in layers),
            activation=config.activation,
            bound="clip" if clipped else "tanh",
            spread=("state" if isinstance(policy, SACPolicy) else "constant") if probabilistic else "none",
            normalised=rms is not None,
        )
    )
    pairs = list(zip([m for m in actor.body if isinstance(m, nn.Linear)], layers, strict=True))
    pairs.append((actor.mean, (source.mu if probabilistic else source.last).model[0]))
    if actor.log_std_head is not None:
        pairs.append((actor.log_std_head, source.sigma.model[0]))
    for target, layer in pairs:
        target.load_state_dict(layer.state_dict())
    if actor.log_std is not None:
        actor.log_std.data.copy_(source.sigma_param.data.flatten())
    if rms is not None:
        actor.observation_mean.copy_(torch.as_tensor(rms.mean))
        actor.observation_std.copy_(torch.as_tensor(np.sqrt(rms.var + rms.eps)))
    return actor.eval()


def make_envs(config: RLConfig, make_env: MakeEnv) -> BaseVectorEnv:
    """The environments of training, seeded by the run, normalised where an on-policy config says so."""
    kind = SubprocVectorEnv if config.subprocesses else DummyVectorEnv
    envs: BaseVectorEnv = kind([make_env] * config.envs)
    if not is_off_policy(config.algorithm) and config.on_policy.normalise_observations:
        envs = VectorEnvNormObs(envs)
    envs.seed([config.seed * config.envs + index for index in range(config.envs)])
    return envs


def training(
    config: RLConfig,
    make_env: MakeEnv,
    algorithm: Callable[[spaces.Space, spaces.Space], Algorithm] | None = None,
    evaluation_env: MakeEnv | None = None,
    prepare: Callable[[Collector], None] | None = None,
) -> Iterator[Evaluation]:
    """Train; an evaluation before the first step, then one every `config.evaluate_every` steps and at the end.

    Sets the global random seeds of torch and numpy, which Tianshou draws from, so one run at a time. `algorithm` makes
    another one than `make_algorithm` from observation and action space: the trainer is that of its kind. `prepare` may
    hang hooks on the collector of training. `evaluation_env` is a second kind of environment, with other rewards, say.
    """
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    envs = make_envs(config, make_env)
    tests = [(evaluation_env or make_env)() for _ in range(config.evaluation_episodes)]
    try:
        learner = _learner(config, tests[0] if evaluation_env is None else make_env(), algorithm)
        yield from _Training(config, learner, envs, tests, prepare).run()
    finally:
        envs.close()
        for test in tests:
            test.close()


def _learner(config: RLConfig, env: Any, algorithm: Any) -> Algorithm:
    make = algorithm or (lambda observations, actions: make_algorithm(config, observations, actions))
    return make(env.observation_space, env.action_space)


class _Training:
    """Tianshou's trainer, driven epoch by epoch, with our evaluations between."""

    def __init__(
        self,
        config: RLConfig,
        algorithm: Algorithm,
        envs: BaseVectorEnv,
        tests: Sequence[Any],
        prepare: Callable[[Collector], None] | None,
    ) -> None:
        self.config, self.algorithm, self.envs, self.tests = config, algorithm, envs, tests
        self.off_policy = isinstance(algorithm, OffPolicyAlgorithm)
        if not self.off_policy and not isinstance(algorithm, OnPolicyAlgorithm):
            raise TypeError(f"{type(algorithm).__name__} learns neither on- nor off-policy: it needs no environment")
        size = config.replay.size if self.off_policy else config.collect_steps
        buffer = VectorReplayBuffer(size, config.envs, random_seed=config.seed)
        self.collector = Collector[CollectStats](algorithm, envs, buffer, exploration_noise=self.off_policy)
        self.steps = self.updates = 0
        self.seconds = 0.0
        self.losses: dict[str, float] = {}
        if prepare is not None:
            prepare(self.collector)

    def run(self) -> Iterator[Evaluation]:
        config = self.config
        yield self.evaluate()
        began = time.perf_counter()
        self.collector.reset()
        if self.off_policy and config.replay.random_steps:
            rounds = -(-min(config.replay.random_steps, config.steps) // config.envs)
            self.steps += self.collector.collect(n_step=rounds * config.envs, random=True).n_collected_steps
        trainer = self._trainer()
        trainer.reset(reset_collectors=False)
        while self.steps < config.steps:
            trainer.params.epoch_num_steps = min(
                config.evaluate_every - self.steps % config.evaluate_every, config.steps - self.steps
            )
            before = self.collector.collect_step
            stats = trainer.execute_epoch()
            self.steps += self.collector.collect_step - before
            self.updates += self._updates_in(self.collector.collect_step - before)
            self.losses = {} if stats.training_stat is None else dict(stats.training_stat.get_loss_stats_dict())
            self.seconds += time.perf_counter() - began
            yield self.evaluate()
            began = time.perf_counter()

    def evaluate(self) -> Evaluation:
        actor = actor_of(self.algorithm.policy, self.config, self.envs)
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + len(self.tests))
        rollouts = run_episodes(actor.deterministic(), self.tests, seeds)
        return Evaluation(self.steps, self.updates, self.seconds, tuple(rollouts), self.losses, actor)

    def _updates_in(self, steps: int) -> int:
        """Gradient steps after so many of the environment: of the critics off-policy, of everything on-policy."""
        config, collections = self.config, steps // self.config.collect_steps
        if self.off_policy:
            return collections * round(config.collect_steps * config.replay.updates_per_step)
        batches = max(config.collect_steps // config.batch_size, 1) if config.batch_size else 1
        return collections * config.on_policy.repeat * batches

    def _trainer(self) -> OffPolicyTrainer | OnPolicyTrainer:
        config = self.config
        shared: dict[str, Any] = {
            "max_epochs": 1,
            "epoch_num_steps": config.evaluate_every,
            "training_collector": self.collector,
            "collection_step_num_env_steps": config.collect_steps,
            "verbose": False,
            "show_progress": False,
        }
        if self.off_policy:
            params = OffPolicyTrainerParams(
                **shared,
                batch_size=config.batch_size,
                update_step_num_gradient_steps_per_sample=config.replay.updates_per_step,
            )
            return OffPolicyTrainer(cast(OffPolicyAlgorithm, self.algorithm), params)
        params = OnPolicyTrainerParams(
            **shared, batch_size=config.batch_size or None, update_step_num_repetitions=config.on_policy.repeat
        )
        return OnPolicyTrainer(cast(OnPolicyAlgorithm, self.algorithm), params)


def buffer_of(transition: Transition, policy: Policy) -> ReplayBuffer:
    """Recorded steps as a replay buffer of that policy: actions in its own space, `done` where an episode ends."""
    actions = (
        np.clip(policy.map_action_inverse(transition.actions), -1, 1) if policy.action_scaling else transition.actions
    )
    ends = transition.ends()
    buffer = ReplayBuffer(size=transition.num_rows)
    for row in range(transition.num_rows):
        buffer.add(
            Batch(
                obs=transition.observations[row],
                act=actions[row],
                rew=float(transition.rewards[row]),
                terminated=bool(transition.terminals[row]),
                truncated=bool(ends[row] and not transition.terminals[row]),
                done=bool(ends[row]),
                obs_next=transition.next_observations[row],
                info={},
            )
        )
    return buffer


def transition_of_buffer(buffer: ReplayBuffer, policy: Policy, name: str) -> Transition:
    """What a buffer holds, oldest first, a sub-buffer behind the other; actions as the environment got them.

    An episode that is still going where a sub-buffer ends is cut there: a time-out.
    """
    indices = buffer.sample_indices(0)
    if len(indices) == 0:
        raise ValueError(f"{name}: the buffer is empty")
    rows = buffer[indices]
    cut = np.isin(indices, buffer.unfinished_index())
    terminals = np.asarray(rows.terminated, dtype=bool)
    return Transition(
        name,
        observations=np.asarray(rows.obs, dtype=np.float32),
        actions=np.asarray(policy.map_action(rows.act), dtype=np.float32),
        rewards=np.asarray(rows.rew, dtype=np.float32),
        next_observations=np.asarray(rows.obs_next, dtype=np.float32),
        terminals=terminals,
        timeouts=(np.asarray(rows.truncated, dtype=bool) | cut) & ~terminals,
    )
