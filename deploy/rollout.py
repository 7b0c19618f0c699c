"""Many simulated robots side by side, each driven by the loop that drives a real one.

Per control tick and robot: the state into the loop, a picture only when the loop asks for an observation, a
command out of it through the limits, one step of physics. Observations that fall due in the same tick share one
pass of the network, whose answers come after as many ticks as one likes: 0, or the latency of a real robot's computer.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk, Episode, Observation
from data_pipeline.shards import Profile, stage_episode
from deploy.engine import InferenceEngine
from deploy.loop import ControlLoop, LoopSettings, Mode
from deploy.video import write_video
from robot_drivers.bimanual import Bimanual
from robot_drivers.errors import RobotError
from robot_drivers.limits.chain import SIMULATED
from robot_drivers.sim.arm import SimArm
from robot_drivers.sim.expert import EPISODE_TICKS
from robot_drivers.sim.render import Renderer, make_renderer
from robot_drivers.sim.robot import SimRobot
from robot_drivers.sim.scene import CONTROL_HZ, SIDES, load_scene
from robot_drivers.sim.tasks import ENVIRONMENTS, TASKS, lookup

VIDEO_SIZE = (240, 320)  # height, width
VIDEO_CAMERA = "front_close"
VIDEO_FPS = 12.5
MAX_CALLS = 1024  # network passes of one episode, an upper bound: keys of the sampling noise do not meet
_KEYS_OF_ATTEMPT = MAX_CALLS << 32  # scenes are numbered below 2^32


@dataclass(frozen=True)
class Trial:
    """One episode to run."""

    environment: str
    task: str  # what counts as success; for the control, any task of the environment
    instruction: str  # what the policy is told
    phrasing: str  # trained | held_out | control
    seed: int  # of the scene
    video: Path | None = None  # folder for a video
    attempt: int = 0  # at the same scene: each draws other sampling noise
    recording: Path | None = None  # file for what was seen and done, as an episode to adopt into a store


@dataclass(frozen=True)
class Outcome:
    """What happened."""

    trial: Trial
    did: tuple[str, ...]  # tasks of the environment that are strictly done at the end
    benchmark_success: bool  # the benchmark's full reward was reached at some time
    first_touch: str | None  # arm that first touched an object
    fault: str | None  # why the guard or the loop gave up, if one did
    limited_ticks: int  # commands that a limit changed

    @property
    def success(self) -> bool:
        """Strict success of what was asked for."""
        return self.trial.task in self.did


def run_trials(
    engine: InferenceEngine, trials: Sequence[Trial], settings: LoopSettings, latency_ticks: int = 0
) -> list[Outcome]:
    """Run all trials in lockstep and judge them; a chunk comes `latency_ticks` after it was asked for."""
    episodes = [_Episode(engine.robot, trial, settings) for trial in trials]
    for _ in range(EPISODE_TICKS):
        requests = [(episode, observation) for episode in episodes if (observation := episode.observe()) is not None]
        if requests:
            chunks = engine.predict_batch(
                [observation for _, observation in requests],
                [episode.next_noise_key() for episode, _ in requests],
                [episode.loop.prefix(observation.stamp_ns) for episode, observation in requests],
            )
            for (episode, _), chunk in zip(requests, chunks, strict=True):
                episode.answer(chunk, latency_ticks)
        for episode in episodes:
            episode.act()
    return [episode.finish() for episode in episodes]


class _Episode:
    """One simulated robot with its loop, its limits and its camera."""

    def __init__(self, robot: Embodiment, trial: Trial, settings: LoopSettings) -> None:
        environment = lookup(ENVIRONMENTS, trial.environment)
        self.trial = trial
        self.tasks = environment.tasks
        self.roles = settings.cameras or tuple(robot.cameras)
        self.frame_every_ticks = round(CONTROL_HZ / robot.rate_hz) if settings.history > 1 else 0
        scene = TASKS[trial.task].scene
        self.sim = SimRobot(
            trial.task, trial.seed, distribution=environment.distribution, renderer=_policy_renderer(scene)
        )
        self.body = Bimanual(robot, {side: SimArm(self.sim, side) for side in SIDES}, SIMULATED, CONTROL_HZ)
        self.loop = ControlLoop(robot, trial.instruction, settings)
        self.loop.start()
        self.fault: str | None = None
        self.limited_ticks = 0
        self._num_calls = 0
        self._in_flight: deque[tuple[int, ActionChunk]] = deque()  # the tick in which each chunk comes
        self._frames: list[np.ndarray] = []
        self._record = _Record(robot, self.roles) if trial.recording else None

    def observe(self) -> Observation | None:
        """Feed the loop; an observation if the network is wanted now."""
        now = self.sim.now_ns
        native, stamp = self.body.state()
        self.loop.push_state(native, stamp, now)
        if self._record:
            self._record.before(native, self.sim)
        if self.trial.video and self.sim.ticks % round(CONTROL_HZ / VIDEO_FPS) == 0:
            self._frames.append(_video_renderer(self.sim.task.scene).render(self.sim.data, VIDEO_CAMERA))
        wanted = not self.fault and self.loop.wants_observation(now)
        if wanted or (self.frame_every_ticks and self.sim.ticks % self.frame_every_ticks == 0):
            for role in self.roles:
                self.loop.push_frame(self.sim.frame(role), now)
        if not wanted:
            return None
        answer = self.loop.observation(now)
        return answer if isinstance(answer, Observation) else None

    def answer(self, chunk: ActionChunk, latency_ticks: int) -> None:
        """Take the network's answer to an observation of this tick, which the loop gets when it is due."""
        self._in_flight.append((self.sim.ticks + latency_ticks, chunk))

    def act(self) -> None:
        """One tick of the loop, through the limits, into the physics. A fault ends in holding."""
        while self._in_flight and self._in_flight[0][0] <= self.sim.ticks:
            self.loop.deliver(self._in_flight.popleft()[1], self.sim.now_ns)
        tick = self.loop.tick(self.sim.now_ns)
        try:
            if tick.positions is None or self.fault:
                self.body.hold()
            else:
                limited = self.body.command(tick.positions, tick.stamp_ns)
                self.limited_ticks += bool(limited)
                if limited and self.body.set_point is not None:
                    self.loop.push_sent(self.body.set_point, tick.stamp_ns)
        except RobotError as error:
            self.fault = self.fault or str(error)
        if self._record:
            self._record.after(self.body.set_point, self.sim)
        self.sim.step()

    def next_noise_key(self) -> int:
        self._num_calls += 1
        return self.trial.attempt * _KEYS_OF_ATTEMPT + self.trial.seed * MAX_CALLS + self._num_calls

    def finish(self) -> Outcome:
        """Judge the episode, and write its video if one was asked for."""
        did = tuple(name for name in self.tasks if self.sim.strict_success(TASKS[name]))
        outcome = Outcome(
            trial=self.trial,
            did=did,
            benchmark_success=self.sim.highest_reward == 4,
            first_touch=self.sim.first_touch,
            fault=self.fault or (None if self.loop.mode is Mode.RUN else self.loop.why),
            limited_ticks=self.limited_ticks,
        )
        if self.trial.video:
            verdict = "success" if outcome.success else "failure"
            name = f"{self.trial.task}_{self.trial.seed}_{verdict}.mp4"
            write_video(self.trial.video / name, self._frames, VIDEO_FPS)
        if self.trial.recording and self._record:
            note = {"scene": self.trial.seed, "attempt": self.trial.attempt, "success": outcome.success}
            stage_episode(
                self.trial.recording,
                self._record.episode(episode_name(self.trial), self.trial.instruction),
                Profile(),
                source={**note, "benchmark_success": outcome.benchmark_success},
                native={"reward": np.array(self._record.rewards, dtype=np.float32)},
            )
        return outcome


class _Record:
    """What was seen and done at the policy's rate: `actions[t]` is what the arms were told by the end of step t."""

    def __init__(self, robot: Embodiment, roles: Sequence[str]) -> None:
        """`roles` of cameras are kept: those that the policy looks at."""
        self._robot = robot
        self._every = round(CONTROL_HZ / robot.rate_hz)
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._images: dict[str, list[np.ndarray]] = {role: [] for role in roles}
        self.rewards: list[int] = []  # the benchmark's, at the end of each step

    def before(self, native: np.ndarray, sim: SimRobot) -> None:
        """The moment in which a step begins."""
        if sim.ticks % self._every == 0:
            self._states.append(native)
            for role, frames in self._images.items():
                frames.append(sim.frame(role).image)

    def after(self, set_point: np.ndarray | None, sim: SimRobot) -> None:
        """What the arms have been told in the tick that is about to pass; without a command they stay."""
        if (sim.ticks + 1) % self._every == 0:
            self._actions.append(self._states[-1] if set_point is None else set_point.copy())
            self.rewards.append(sim.reward())

    def episode(self, name: str, instruction: str) -> Episode:
        states, state_mask = self._robot.to_unified(np.array(self._states[: len(self._actions)]), "state")
        actions, action_mask = self._robot.to_unified(np.array(self._actions), "action")
        return Episode(
            name=name,
            states=states,
            state_mask=state_mask,
            actions=actions,
            action_mask=action_mask,
            images={role: np.stack(frames[: len(actions)]) for role, frames in self._images.items()},
            instructions=(instruction,),
            rate_hz=self._robot.rate_hz,
            action_offset_steps=self._robot.action_offset_steps,
        )


def episode_name(trial: Trial) -> str:
    """Of a recorded trial."""
    return f"{trial.task}/scene_{trial.seed}_{trial.attempt}"


@functools.cache
def _policy_renderer(scene: str) -> Renderer:
    return make_renderer(load_scene(scene).model)


@functools.cache
def _video_renderer(scene: str) -> Renderer:
    return make_renderer(load_scene(scene).model, *VIDEO_SIZE)
