"""A policy that is known: something is passed on the left or on the right, and a chunk says how.

Joint 0 follows a slow wave, `SIDE` to one side of it or to the other with equal chance. The policy is sampled as RDT
is, with the best denoiser in the network's place, so what a hand-over makes of it is the hand-over's own doing.
`rehearse` runs it through the loop and the guard in lockstep, with answers that come late.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.loop import ControlLoop, LoopSettings
from deploy.observation_buffer import Stale
from deploy.prefix import Prefix, align
from deploy.seam import Seam, seam
from rdt.diffusion.guidance import Guidance, Jacobian, prefix_weights
from rdt.diffusion.schedule import squared_cosine_alphas_cumprod
from rdt.diffusion.solver import dpm_solver_table, sample
from robot_drivers.bimanual import Bimanual
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.types import ArmCommand, ArmState

TICK_HZ = 100
TICK_NS = 10**9 // TICK_HZ
ACCELERATION = 15.0  # rad/s^2, of every joint
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)
ACP = squared_cosine_alphas_cumprod()
SIDE, SPREAD = 0.04, 0.004  # rad: half the distance of the two ways, and how exactly each is followed


def robot_at(rate_hz: float) -> Embodiment:
    """The embedded robot with the acceleration of a real arm and chunks of this rate."""
    raw = read_yaml(find_config("robots", "sim_bimanual"))
    for arm in raw["arms"].values():
        for joint in arm["joints"]:
            joint["acceleration_limit"] = ACCELERATION
    return Embodiment.from_dict({**raw, "rate_hz": rate_hz, "action_offset_steps": 1})


def wave(times_s: np.ndarray) -> np.ndarray:
    return 0.1 * (1 - np.cos(1.5 * times_s))


class TwoWays:
    """Chunks of 64 actions: wave + SIDE or wave - SIDE, and a correlated deviation of SPREAD."""

    def __init__(self, robot: Embodiment, jacobian: Jacobian = "network", horizon: int = 64):
        self.robot, self.sides, self.horizon = robot, torch.tensor([-1.0, 1.0]), horizon
        self.jacobian = jacobian
        row = torch.arange(horizon)
        self.covariance = (SPREAD / SIDE) ** 2 * torch.exp(-0.5 * ((row[:, None] - row) / 8.0) ** 2)
        self.covariance += 1e-6 * torch.eye(horizon)
        self.generator = torch.Generator().manual_seed(0)

    def denoise(self, noisy_action: Tensor, timesteps: Tensor) -> Tensor:
        """E[x0 | x] for sum_k N(m_k, S): each way's own, weighed by how likely it is."""
        acp = float(ACP[timesteps])
        total = acp * self.covariance + (1 - acp) * torch.eye(self.horizon)
        means = self.sides[:, None, None].expand(-1, self.horizon, 1)
        off = noisy_action - math.sqrt(acp) * means  # (way, horizon, 1)
        solved = torch.linalg.solve(total, off)
        share = torch.softmax(-0.5 * (off * solved).sum(dim=(1, 2)), dim=0)[:, None, None]
        return (share * (means + math.sqrt(acp) * self.covariance @ solved)).sum(dim=0, keepdim=True)

    def __call__(self, observation: Observation, prefix: Prefix | None) -> ActionChunk:
        step_ns = round(1e9 / self.robot.rate_hz)
        start_ns = observation.stamp_ns + self.robot.action_offset_steps * step_ns
        middle = wave((start_ns + step_ns * np.arange(self.horizon)) * 1e-9)
        guidance = None
        if prefix is not None:
            decided, known = align(prefix.chunk, start_ns, self.robot.rate_hz, self.horizon)
            target = (self.robot.from_unified(decided)[:, 0] - middle) / SIDE
            execute_steps = prefix.execute_steps(start_ns, self.robot.rate_hz)
            weights = prefix_weights(self.horizon, prefix.delay_steps, execute_steps) * torch.from_numpy(known)
            guidance = Guidance(
                torch.from_numpy(target).float()[None, :, None], weights[None, :, None], jacobian=self.jacobian
            )
        noise = torch.randn(1, self.horizon, 1, generator=self.generator)
        x0 = sample(self.denoise, noise, dpm_solver_table(ACP, 5), guidance=guidance)
        rows = np.tile(HOME, (self.horizon, 1))
        rows[:, 0] = middle + SIDE * x0[0, :, 0].numpy()
        return ActionChunk(start_ns, self.robot.rate_hz, *self.robot.to_unified(rows, "action"))


class IdealArm:
    """Goes where it is told at once; the caller stamps it."""

    def __init__(self, positions: np.ndarray) -> None:
        self.positions, self.stamp_ns = positions, 0

    def state(self) -> ArmState:
        return ArmState(self.positions.copy(), self.stamp_ns)

    def command(self, command: ArmCommand) -> None:
        self.positions = command.positions

    def hold(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclasses.dataclass
class Rehearsal:
    """What a rehearsed run looked like."""

    loop: ControlLoop
    commanded: list[np.ndarray] = dataclasses.field(default_factory=list)  # before the limits, one each tick
    sent: list[np.ndarray] = dataclasses.field(default_factory=list)  # after them
    handovers: list[int] = dataclasses.field(default_factory=list)  # rows of `commanded` at which a plan began
    asked_ns: list[int] = dataclasses.field(default_factory=list)  # stamps of the observations
    prefixes: list[Prefix | None] = dataclasses.field(default_factory=list)  # and what their chunks must go on from
    first_due_ns: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # of each chunk: time, and now

    def seam(self) -> Seam:
        return seam(np.array(self.commanded), self.handovers[1:], 1 / TICK_HZ)


def rehearse(policy: TwoWays, latency_ms: int, settings: LoopSettings, seconds: float = 4.0) -> Rehearsal:
    """`seconds` of the loop at 100 Hz, with answers that come `latency_ms` after they were asked for.

    Raises `RuntimeError` when a chunk is refused: the policy is sound, so something else is not.
    """
    robot = policy.robot
    run = Rehearsal(ControlLoop(robot, settings=dataclasses.replace(settings, tick_hz=TICK_HZ, cameras=())))
    loop = run.loop
    loop.start()
    arms = {"left": IdealArm(HOME[:7]), "right": IdealArm(HOME[7:])}
    body = Bimanual(robot, arms, LimitSettings(margin_rad=0.0), rate_hz=TICK_HZ)
    in_flight: list[tuple[int, ActionChunk]] = []
    for k in range(round(seconds * TICK_HZ)):
        now_ns = k * TICK_NS
        for arm in arms.values():
            arm.stamp_ns = now_ns
        loop.push_state(*body.state(), now_ns)
        if loop.wants_observation(now_ns):
            observation = loop.observation(now_ns)
            assert not isinstance(observation, Stale)
            prefix = loop.prefix(observation.stamp_ns)
            run.asked_ns.append(observation.stamp_ns)
            run.prefixes.append(prefix)
            in_flight.append((now_ns + latency_ms * 1_000_000, policy(observation, prefix)))
        while in_flight and in_flight[0][0] <= now_ns:
            chunk = in_flight.pop(0)[1]
            splice = loop.deliver(chunk, now_ns)
            if splice.outcome != "accepted":
                raise RuntimeError(f"a chunk was refused: {splice.outcome} {splice.detail}")
            if run.handovers:  # the first one waits for nobody
                run.first_due_ns.append((chunk.start_ns + splice.dropped * chunk.step_ns, now_ns))
            run.handovers.append(len(run.commanded))
        tick = loop.tick(now_ns)
        if tick.positions is None:
            body.hold()
            continue
        if body.command(tick.positions, tick.stamp_ns) and body.set_point is not None:
            loop.push_sent(body.set_point, tick.stamp_ns)
        run.commanded.append(tick.positions)
        assert body.set_point is not None
        run.sent.append(body.set_point)
    return run
