"""Inference that takes time, at the rates of real arms: real-time chunking from the sampler to the guard.

The policy is a distribution that is known: joint 0 follows a slow wave, passing something on the left or on the right
with equal chance. It is sampled as RDT is, with the best denoiser in the network's place.

Run: pytest tests/deploy/test_realtime.py
"""

import math

import numpy as np
import pytest
import torch

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk
from deploy.loop import ControlLoop, LoopSettings
from deploy.prefix import align
from deploy.seam import seam
from rdt.diffusion.guidance import Guidance, prefix_weights
from rdt.diffusion.schedule import squared_cosine_alphas_cumprod
from rdt.diffusion.solver import dpm_solver_table, sample
from robot_drivers.bimanual import Bimanual
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.types import ArmState
from tests.robots import bimanual

MS = 1_000_000
TICK = 10 * MS
ACCELERATION = 15.0  # rad/s^2, of every joint
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)
ACP = squared_cosine_alphas_cumprod()
SIDE, SPREAD = 0.04, 0.004  # rad: half the distance of the two ways, and how exactly each is followed


def robot_at(rate_hz: float, offset: int = 1) -> Embodiment:
    return Embodiment.from_dict({**bimanual(ACCELERATION).to_dict(), "rate_hz": rate_hz, "action_offset_steps": offset})


class Arm:
    """Goes where it is told at once."""

    def __init__(self, positions):
        self.positions, self.stamp_ns = positions, 0

    def state(self):
        return ArmState(self.positions.copy(), self.stamp_ns)

    def command(self, command):
        self.positions = command.positions

    def hold(self):
        pass

    def close(self):
        pass


def wave(times_s):
    return 0.1 * (1 - np.cos(1.5 * times_s))


class TwoWays:
    """Chunks of 64 actions: wave + SIDE or wave - SIDE, and a correlated deviation of SPREAD."""

    def __init__(self, robot, jacobian="network", horizon=64):
        self.robot, self.sides, self.horizon = robot, torch.tensor([-1.0, 1.0]), horizon
        self.jacobian = jacobian
        row = torch.arange(horizon)
        self.covariance = (SPREAD / SIDE) ** 2 * torch.exp(-0.5 * ((row[:, None] - row) / 8.0) ** 2)
        self.covariance += 1e-6 * torch.eye(horizon)
        self.generator = torch.Generator().manual_seed(0)

    def denoise(self, x, timesteps):
        """E[x0 | x] for sum_k N(m_k, S): each way's own, weighed by how likely it is."""
        acp = float(ACP[timesteps])
        total = acp * self.covariance + (1 - acp) * torch.eye(self.horizon)
        means = self.sides[:, None, None].expand(-1, self.horizon, 1)
        off = x - math.sqrt(acp) * means  # (way, horizon, 1)
        solved = torch.linalg.solve(total, off)
        share = torch.softmax(-0.5 * (off * solved).sum(dim=(1, 2)), dim=0)[:, None, None]
        return (share * (means + math.sqrt(acp) * self.covariance @ solved)).sum(dim=0, keepdim=True)

    def __call__(self, observation, prefix):
        step_ns = round(1e9 / self.robot.rate_hz)
        start_ns = observation.stamp_ns + self.robot.action_offset_steps * step_ns
        middle = wave((start_ns + step_ns * np.arange(self.horizon)) * 1e-9)
        guidance = None
        if prefix is not None:
            decided, known = align(prefix.chunk, start_ns, self.robot.rate_hz, self.horizon)
            target = (self.robot.from_unified(decided)[:, 0] - middle) / SIDE
            weights = prefix_weights(self.horizon, prefix.delay_steps, prefix.execute_steps) * torch.from_numpy(known)
            guidance = Guidance(
                torch.from_numpy(target).float()[None, :, None], weights[None, :, None], jacobian=self.jacobian
            )
        noise = torch.randn(1, self.horizon, 1, generator=self.generator)
        x0 = sample(self.denoise, noise, dpm_solver_table(ACP, 5), guidance=guidance)
        rows = np.tile(HOME, (self.horizon, 1))
        rows[:, 0] = middle + SIDE * x0[0, :, 0].numpy()
        return ActionChunk(start_ns, self.robot.rate_hz, *self.robot.to_unified(rows, "action"))


class Run:
    """`seconds` of the loop at 100 Hz, with answers that come `latency_ms` after they were asked for."""

    def __init__(self, policy, latency_ms, seconds=4.0, **settings):
        robot = policy.robot
        self.loop = ControlLoop(robot, settings=LoopSettings(tick_hz=100, cameras=(), **settings))
        self.loop.start()
        self.arms = {"left": Arm(HOME[:7]), "right": Arm(HOME[7:])}
        self.body = Bimanual(robot, self.arms, LimitSettings(margin_rad=0.0), rate_hz=100)
        self.commanded, self.sent, self.handovers, self.prefixes = [], [], [], []
        in_flight = []
        for k in range(round(seconds * 100)):
            now_ns = k * TICK
            for arm in self.arms.values():
                arm.stamp_ns = now_ns
            self.loop.push_state(*self.body.state(), now_ns)
            if self.loop.wants_observation(now_ns):
                observation = self.loop.observation(now_ns)
                prefix = self.loop.prefix(observation.stamp_ns)
                self.prefixes.append(prefix)
                in_flight.append((now_ns + latency_ms * MS, policy(observation, prefix)))
            while in_flight and in_flight[0][0] <= now_ns:
                chunk = in_flight.pop(0)[1]
                splice = self.loop.deliver(chunk, now_ns)
                assert splice.outcome == "accepted"
                begun = chunk if self.handovers else self.loop._actions.chunk  # the first one waits for nobody
                assert begun.start_ns + splice.dropped * chunk.step_ns >= now_ns + TICK  # nothing past is executed
                self.handovers.append(len(self.commanded))
            tick = self.loop.tick(now_ns)
            if tick.positions is None:
                self.body.hold()
                continue
            if self.body.command(tick.positions, tick.stamp_ns):
                self.loop.push_sent(self.body.set_point, tick.stamp_ns)
            self.commanded.append(tick.positions)
            self.sent.append(self.body.set_point)

    def seam(self):
        return seam(np.array(self.commanded), self.handovers[1:], 0.01)


@pytest.mark.parametrize("rate_hz", [25.0, 50.0])
@pytest.mark.parametrize("latency_ms", [50, 100, 170, 300])
def test_latency_leaves_no_gap_and_the_guard_keeps_the_acceleration(latency_ms, rate_hz):
    run = Run(TwoWays(robot_at(rate_hz)), latency_ms, handover="rtc", execute_steps=12)
    counters = run.loop.counters
    assert (counters.exhausted, counters.late, counters.overruns, counters.rejected) == (0, 0, 0, 0)
    assert counters.holds == latency_ms // 10  # until the first answer
    assert len(run.sent) == 400 - counters.holds
    acceleration = np.diff(np.array(run.sent), n=2, axis=0) / 0.01**2
    assert np.abs(acceleration).max() <= ACCELERATION * (1 + 1e-6)
    delay = math.ceil((latency_ms + 10) * 1e-3 * rate_hz) - 1
    assert run.prefixes[0] is None
    assert {prefix.delay_steps for prefix in run.prefixes[1:]} == {delay}
    steps = {prefix.execute_steps for prefix in run.prefixes[1:]}
    assert all(max(12, delay) <= s <= max(12, delay) + 2 and s <= 64 - delay for s in steps)


@pytest.mark.parametrize(("jacobian", "rate_hz"), [("network", 25.0), ("identity", 25.0), ("identity", 50.0)])
@pytest.mark.parametrize("latency_ms", [50, 170])
def test_chunks_that_go_on_from_each_other_have_a_smaller_seam_than_a_switch(jacobian, rate_hz, latency_ms):
    """A chunk that is sampled afresh takes the other way half of the time."""
    switched = Run(TwoWays(robot_at(rate_hz)), latency_ms, handover="switch", execute_steps=12)
    chunked = Run(TwoWays(robot_at(rate_hz), jacobian), latency_ms, handover="rtc", execute_steps=12)
    assert switched.seam().velocity > SIDE / 0.04  # the whole distance within two ticks
    assert chunked.seam().velocity < 0.3 * switched.seam().velocity
    assert chunked.seam().acceleration < 0.3 * switched.seam().acceleration
