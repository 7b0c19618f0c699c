"""The newest states and frames, and one synchronised `Observation` of them when it is asked for.

Missing or stale data is an answer of its own, `Stale`, never an exception and never old data served as new.
Reference time is the oldest of the newest stamps of the live cameras; the state is interpolated to it, each
camera gives its nearest frame. The clock is the caller's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import Observation
from robot_drivers.types import CameraFrame

FUTURE_NS = 5_000_000  # a stamp farther ahead than this comes from another clock
EXTRAPOLATE_NS = 10_000_000  # the last two states may be continued for this long


class Stale(NamedTuple):
    """Why there is no observation."""

    what: str  # "state" or a camera role
    age_s: float  # inf: nothing has ever come

    def __str__(self) -> str:
        age = "has never come" if math.isinf(self.age_s) else f"is {self.age_s * 1e3:.0f} ms old"
        return f"{self.what} {age}"


class ObservationBuffer:
    """Rings of stamped states and frames. Stamps that do not advance or lie in the future are refused.

    `cameras` are the roles that the policy looks at, by default all that the robot has. A stale camera that
    the robot's YAML calls optional is masked; a required one is a `Stale` answer.
    """

    def __init__(
        self,
        robot: Embodiment,
        *,
        cameras: Sequence[str] | None = None,
        history: int = 1,  # frames per camera, one policy step apart
        soft_camera_s: float = 0.1,  # older cameras do not set the reference time
        hard_camera_s: float = 0.5,  # older cameras are missing
        hard_state_s: float = 0.1,
        num_states: int = 128,
        num_frames: int = 16,
    ) -> None:
        self._robot = robot
        self._roles = tuple(robot.cameras if cameras is None else cameras)
        unknown = sorted(set(self._roles) - set(robot.cameras))
        if unknown:
            raise ValueError(f"robot {robot.name!r} has cameras {list(robot.cameras)}, not {unknown}")
        self._history = history
        self._soft_camera_ns = round(soft_camera_s * 1e9)
        self._hard_camera_ns = round(hard_camera_s * 1e9)
        self._hard_state_ns = round(hard_state_s * 1e9)
        self._states = np.zeros((num_states, robot.num_native))  # a ring, entry k at k % num_states
        self._state_stamps = np.zeros(num_states, dtype=np.int64)
        self._num_pushed = 0
        self._frames: dict[str, deque[CameraFrame]] = {r: deque(maxlen=num_frames) for r in self._roles}
        self.refused = 0  # states and frames that were not taken

    def clear(self) -> None:
        """Forget all states and frames; the next stamps may begin again."""
        self._num_pushed = 0
        for frames in self._frames.values():
            frames.clear()

    def push_state(self, native: np.ndarray, stamp_ns: int, now_ns: int) -> bool:
        """Take a measured native vector; False, and counted, if it is old, from the future or not finite."""
        if native.shape != self._states.shape[1:]:
            raise ValueError(
                f"robot {self._robot.name!r} has {self._robot.num_native} native entries, got a state of "
                f"shape {native.shape}: the order is {list(self._robot.native_names)}"
            )
        newest = self._newest_state_ns()
        late = newest is not None and stamp_ns <= newest
        if late or stamp_ns > now_ns + FUTURE_NS or not np.isfinite(native).all():
            self.refused += 1
            return False
        slot = self._num_pushed % len(self._states)
        self._states[slot] = native
        self._state_stamps[slot] = stamp_ns
        self._num_pushed += 1
        return True

    def push_frame(self, frame: CameraFrame, now_ns: int) -> bool:
        """Take a frame. It must not be written to afterwards."""
        frames = self._frames.get(frame.role)
        if frames is None:
            raise ValueError(f"no camera {frame.role!r} here: the policy looks at {list(self._roles)}")
        if (frames and frame.stamp_ns <= frames[-1].stamp_ns) or frame.stamp_ns > now_ns + FUTURE_NS:
            self.refused += 1
            return False
        frames.append(frame)
        return True

    def newest_state(self) -> np.ndarray | None:
        """The last measured native vector, float64 (num_native,), whatever its age."""
        return self._states[(self._num_pushed - 1) % len(self._states)] if self._num_pushed else None

    def state_age_s(self, now_ns: int) -> float:
        newest = self._newest_state_ns()
        return math.inf if newest is None else (now_ns - newest) * 1e-9

    def observation(self, now_ns: int, instruction: str, control_hz: float | None = None) -> Observation | Stale:
        """What the robot knows now, in unified units, or what is too old to know it.

        `control_hz` is the rate of the chunk that is asked for, by default the robot's own.
        """
        control_hz = self._robot.rate_hz if control_hz is None else control_hz
        newest_ns = self._newest_state_ns()
        if newest_ns is None or now_ns - newest_ns > self._hard_state_ns:
            return Stale("state", self.state_age_s(now_ns))
        ages = {role: now_ns - f[-1].stamp_ns if f else math.inf for role, f in self._frames.items()}
        for role, age in ages.items():
            if age > self._hard_camera_ns and self._robot.cameras[role].required:
                return Stale(role, age * 1e-9)
        live = [self._frames[r][-1].stamp_ns for r, age in ages.items() if age <= self._soft_camera_ns]
        reference_ns = min(live, default=newest_ns)

        images, masks, stamps = {}, {}, {}
        step_ns = round(1e9 / control_hz)
        for role, frames in self._frames.items():
            there = frames if ages[role] <= self._hard_camera_ns else ()
            images[role], masks[role], stamps[role] = self._pick(role, there, reference_ns, step_ns)
        state, mask = self._robot.to_unified(self._state_at(reference_ns), "state")
        return Observation(
            state=state,
            state_mask=mask,
            images=images,
            image_masks=masks,
            instruction=instruction,
            control_hz=control_hz,
            stamp_ns=reference_ns,
            image_stamps_ns=stamps,
        )

    def _newest_state_ns(self) -> int | None:
        if not self._num_pushed:
            return None
        return int(self._state_stamps[(self._num_pushed - 1) % len(self._states)])

    def _state_at(self, t_ns: int) -> np.ndarray:
        """Linear between the two states around `t_ns`, continued a little beyond the newest."""
        count = min(self._num_pushed, len(self._states))
        order = np.arange(self._num_pushed - count, self._num_pushed) % len(self._states)
        stamps = self._state_stamps[order]  # ascending
        right = min(max(int(np.searchsorted(stamps, t_ns)), 1), count - 1) if count > 1 else 0
        left = max(right - 1, 0)
        if left == right or t_ns <= stamps[0]:
            return self._states[order[0]]
        t_ns = min(t_ns, int(stamps[-1]) + EXTRAPOLATE_NS)
        fraction = (t_ns - stamps[left]) / (stamps[right] - stamps[left])
        before, after = self._states[order[left]], self._states[order[right]]
        return after if fraction == 1 else before + fraction * (after - before)

    def _pick(
        self, role: str, frames: Sequence[CameraFrame], reference_ns: int, step_ns: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (history, height, width, 3), mask and stamps (history,), oldest first.

        The newest place takes the frame nearest the reference time; the places before it stay empty when no
        frame lies within half a step of theirs, and so does any whose frame has another size.
        """
        wanted_ns = [reference_ns - k * step_ns for k in reversed(range(self._history))]
        nearest = [min(frames, key=lambda f: abs(f.stamp_ns - t), default=None) for t in wanted_ns]
        shape = self._image_shape(role) if nearest[-1] is None else nearest[-1].image.shape
        images = np.zeros((self._history, *shape), dtype=np.uint8)
        masks = np.zeros(self._history, dtype=bool)
        stamps = np.zeros(self._history, dtype=np.int64)
        for place, frame in enumerate(nearest):
            if frame is None or frame.image.shape != shape:
                continue
            if place == self._history - 1 or abs(frame.stamp_ns - wanted_ns[place]) <= step_ns // 2:
                images[place], masks[place], stamps[place] = frame.image, True, frame.stamp_ns
        return images, masks, stamps

    def _image_shape(self, role: str) -> tuple[int, ...]:
        """Shape of this camera's frames; before its first one, of any camera's, for the masked places."""
        for frames in (self._frames[role], *self._frames.values()):
            if frames:
                return frames[-1].image.shape
        return (1, 1, 3)
