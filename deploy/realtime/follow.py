"""The tick where a person leads: other arms, moved by hand, say what the robot's arms shall do.

A person leads from the start, to demonstrate, or takes over from a policy, to correct it, and gives back. The arms
first go to the leader slowly, and then follow it through the same limits as a policy's commands. A leader that is
silent or raises ends in holding; one that is suddenly somewhere else is approached slowly again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.action_buffer import Splice
from deploy.loop import ControlLoop, LoopSettings, Mode
from robot_drivers.arm import Arm
from robot_drivers.bimanual import ArmGroup
from robot_drivers.drivers import open_arm
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.chain import LimitSettings

NOBODY = "deploy.realtime.follow:open_nobody"
APPROACHING = "approaching the leader"
MET = 0.05
"""Rad, or part of a gripper's range: as near as this, the arms have met the leader."""


class Leader:
    """The arms that are moved by hand. They are only looked at."""

    def __init__(self, leader: Embodiment, follower: Embodiment, open_one: Callable[[Embodiment, str], Arm]) -> None:
        """Raises `ValueError` for a leader that has other slots than its follower."""
        if set(leader.slots) != set(follower.slots):
            raise ValueError(
                f"leader {leader.name!r} fills other slots than robot {follower.name!r}: both need the same arms and "
                "joints, see `rdt robot explain`"
            )
        self._leader, self._follower = leader, follower
        self._unit = Bounds.of(leader).unit
        arms = {side: open_one(leader, side) for side in leader.arms}
        self._arms = ArmGroup(arms, {side: leader.arm_slice(side) for side in leader.arms})

    def read(self) -> tuple[np.ndarray, int]:
        """Where the follower shall be, in its native action units, float64 (num_native,); and the stamp."""
        state = self._arms.state()
        unified, _ = self._leader.to_unified(state.positions / self._unit, "state")
        return self._follower.from_unified(unified, "action"), state.stamp_ns

    def close(self) -> None:
        self._arms.close()


class FollowLoop(ControlLoop):
    """A loop in which a person may lead: then, in RUN, it follows the leader and asks no policy."""

    def __init__(self, robot: Embodiment, leader: Leader, settings: LoopSettings) -> None:
        super().__init__(robot, settings=settings)
        self._leader = leader
        self.leads = True  # the person; else a policy acts, as in any loop
        self.has_met = False  # the arms are where the leader is
        span = np.where(self._bounds.grippers, self._bounds.high - self._bounds.low, 1 / self._bounds.unit)
        self._near = MET * span  # native units
        self._jump = np.where(self._bounds.grippers, settings.gripper_jump, settings.jump_rad) * span
        self._slow = LimitSettings.approach_rad_s / settings.tick_hz * span  # a tick; grippers in openings

    def start(self) -> None:
        super().start()
        self.has_met = False

    def lead(self, leads: bool) -> None:
        """A person acts from now on, whose way begins where the policy's ended, or the policy, which is asked anew."""
        self.leads, self.has_met = leads, False
        if self.mode is Mode.RUN:
            set_point = self._set_point
            self._forget()
            if leads:
                self._set_point = set_point

    def deliver(self, chunk: ActionChunk | None, now_ns: int) -> Splice:
        return Splice("ignored", detail="a person leads") if self.leads else super().deliver(chunk, now_ns)

    def wants_observation(self, now_ns: int) -> bool:
        return not self.leads and super().wants_observation(now_ns)

    def _decide(self, now_ns: int, target_ns: int) -> tuple[np.ndarray | None, str]:
        decided = super()._decide(now_ns, target_ns)  # modes, and the age of the state; where a person leads, no plan
        if not self.leads or self.mode is not Mode.RUN or self._observations.state_age_s(now_ns) > self._hold_after_s:
            return decided
        try:
            wanted, stamp_ns = self._leader.read()
        except Exception as error:  # of another bus: the robot's own is well
            self.stop(f"the leader: {error or type(error).__name__}")
            return None, self.why
        age_s = (now_ns - stamp_ns) * 1e-9
        if age_s > self._hold_after_s or not np.isfinite(wanted).all():
            self.has_met, self._set_point = False, None  # the arms brake: from where they are, then
            return None, f"the leader's state is {age_s:.2f} s old" if np.isfinite(
                wanted
            ).all() else "no leader's state"
        at = self._set_point if self._set_point is not None else self._measured_as_command()
        assert at is not None, "the state is young, so there is one"
        away = wanted - at
        self.has_met = bool((np.abs(away) <= (self._jump if self.has_met else self._near)).all())
        if self.has_met:
            return wanted, "run"
        return at + np.clip(away, -self._slow, self._slow), APPROACHING


class Nobody:
    """Stands where a policy would; nobody asks it."""

    cameras: tuple[str, ...] = ()
    image_history = 1

    def predict(self, observation: Observation) -> ActionChunk:
        raise RuntimeError("a person leads: there is no policy to ask")


def open_nobody(robot: Embodiment, options: dict[str, Any]) -> Nobody:
    return Nobody()


def open_leader(robot: Embodiment, side: str) -> Arm:
    """An arm that is moved by hand: no torque, no command."""
    return open_arm(robot, side, passive=True)
