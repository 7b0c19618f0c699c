"""Boundary objects of the data language: what an observation, an action chunk, an episode and a sample are.

Each is frozen and checked once, at birth, so that inner loops trust it. Vectors are in unscaled unified
units (`layout.py`): radians, metres, gripper openings in [0, 1]. A mask never travels without what it masks,
a chunk never without its start stamp and rate. Stamps are integer nanoseconds of one clock, the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_pipeline.schema.layout import NUM_SLOTS

CAMERA_ROLES = ("external", "right_wrist", "left_wrist")
"""Camera roles in the order in which the network reads them."""

CAMERA_KEYS = {"external": "cam_high", "right_wrist": "cam_right_wrist", "left_wrist": "cam_left_wrist"}
"""Camera role -> its name in ALOHA's files and on the policy wire."""

ACTORS = ("nobody", "policy", "operator")
"""Who gives a robot its actions: nobody while it holds, or is on its way to the arms of a person who takes over. The
number of an actor is its place here."""

Frames = Sequence[np.ndarray] | np.ndarray
"""Frames of one camera by step, RGB uint8 (height, width, 3) each: in memory, or decoded when indexed."""


def _freeze(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def check_action_offset(name: str, value: object) -> None:
    """A command is meant for its own step or a later one; a negative offset would command the past."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number of steps, 0 or more, got {value!r}")


def _check_array(owner: str, name: str, value: np.ndarray, dtype: type, shape: tuple[int | None, ...]) -> None:
    """`None` in `shape` leaves that axis free."""
    fits = (
        isinstance(value, np.ndarray)
        and value.dtype == dtype
        and value.ndim == len(shape)
        and all(want is None or want == got for want, got in zip(shape, value.shape, strict=True))
    )
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{owner}.{name} must be {np.dtype(dtype).name} of shape {wanted}, got {got}")


def _check_roles(owner: str, name: str, roles: Mapping[str, object]) -> None:
    unknown = sorted(set(roles) - set(CAMERA_ROLES))
    if unknown:
        raise ValueError(f"{owner}.{name} has unknown camera roles {unknown}: use {list(CAMERA_ROLES)}")


def _check_finite_where(owner: str, name: str, values: np.ndarray, mask: np.ndarray) -> None:
    leading = tuple(range(values.ndim - 1))
    if not np.isfinite(values).all():
        slots = np.flatnonzero(~np.isfinite(values).all(axis=leading))
        raise ValueError(f"{owner}.{name} is not finite in slots {slots.tolist()}")
    if values[..., ~mask].any():
        stray = np.flatnonzero(np.any(values != 0, axis=leading) & ~mask)
        raise ValueError(f"{owner}.{name} has values in masked slots {stray.tolist()}: they must be 0")


@dataclass(frozen=True)
class Observation:
    """What the robot knows at one moment.

    Images are RGB in [0, 255], oldest frame first; a frame whose mask is False is missing and its pixels
    mean nothing. A role that is absent from `images` is a camera that the robot does not have.
    """

    state: np.ndarray  # float32 (128,), unified units, 0 where masked
    state_mask: np.ndarray  # bool (128,)
    images: Mapping[str, np.ndarray]  # role -> uint8 (frames, height, width, 3)
    image_masks: Mapping[str, np.ndarray]  # role -> bool (frames,)
    instruction: str
    control_hz: float  # rate of the action chunk that is asked for
    stamp_ns: int  # time of `state`
    image_stamps_ns: Mapping[str, np.ndarray] = field(default_factory=dict)  # role -> int64 (frames,), or {}

    def __post_init__(self) -> None:
        owner = "Observation"
        _check_array(owner, "state", self.state, np.float32, (NUM_SLOTS,))
        _check_array(owner, "state_mask", self.state_mask, np.bool_, (NUM_SLOTS,))
        _check_finite_where(owner, "state", self.state, self.state_mask)
        _check_roles(owner, "images", self.images)
        if set(self.images) != set(self.image_masks):
            raise ValueError(
                f"{owner}: images {sorted(self.images)} and image_masks {sorted(self.image_masks)} "
                "must name the same roles"
            )
        for role, frames in self.images.items():
            _check_array(owner, f"images[{role!r}]", frames, np.uint8, (None, None, None, 3))
            _check_array(owner, f"image_masks[{role!r}]", self.image_masks[role], np.bool_, (len(frames),))
        if set(self.image_stamps_ns) - set(self.images):
            raise ValueError(
                f"{owner}: image_stamps_ns {sorted(self.image_stamps_ns)} has roles without images "
                f"{sorted(self.images)}"
            )
        for role, stamps in self.image_stamps_ns.items():
            _check_array(owner, f"image_stamps_ns[{role!r}]", stamps, np.int64, (len(self.images[role]),))
        if not self.control_hz > 0:
            raise ValueError(f"{owner}.control_hz must be positive, got {self.control_hz}")
        for name in ("state", "state_mask"):
            object.__setattr__(self, name, _freeze(getattr(self, name)))


@dataclass(frozen=True)
class ActionChunk:
    """Future targets in unscaled unified units, one every `1 / rate_hz` seconds from `start_ns` on."""

    start_ns: int
    rate_hz: float
    actions: np.ndarray  # float32 (horizon, 128), 0 where masked
    mask: np.ndarray  # bool (128,)

    def __post_init__(self) -> None:
        owner = "ActionChunk"
        _check_array(owner, "actions", self.actions, np.float32, (None, NUM_SLOTS))
        _check_array(owner, "mask", self.mask, np.bool_, (NUM_SLOTS,))
        _check_finite_where(owner, "actions", self.actions, self.mask)
        if len(self.actions) == 0:
            raise ValueError(f"{owner}.actions is empty: a chunk has at least one action")
        if not self.rate_hz > 0:
            raise ValueError(f"{owner}.rate_hz must be positive, got {self.rate_hz}")
        object.__setattr__(self, "actions", _freeze(self.actions))
        object.__setattr__(self, "mask", _freeze(self.mask))

    @classmethod
    def answering(cls, observation: Observation, actions: np.ndarray, action_offset_steps: int) -> ActionChunk:
        """The chunk that an observation asked for: of its slots and rate, `action_offset_steps` after it."""
        return cls(
            start_ns=observation.stamp_ns + action_offset_steps * round(1e9 / observation.control_hz),
            rate_hz=observation.control_hz,
            actions=actions,
            mask=observation.state_mask,
        )

    @property
    def horizon(self) -> int:
        return len(self.actions)

    @property
    def step_ns(self) -> int:
        """Time between two actions, rounded to whole nanoseconds."""
        return round(1e9 / self.rate_hz)

    @property
    def end_ns(self) -> int:
        """Time of the last action; rounded once, so that it does not drift with the horizon."""
        return self.start_ns + round((self.horizon - 1) * 1e9 / self.rate_hz)


@dataclass(frozen=True)
class Episode:
    """One demonstration or rollout, all steps at one rate.

    `actions[t]` is the command recorded with `states[t]`, meant for step
    `t + action_offset_steps`.
    """

    name: str
    states: np.ndarray  # float32 (steps, 128)
    state_mask: np.ndarray  # bool (128,)
    actions: np.ndarray  # float32 (steps, 128)
    action_mask: np.ndarray  # bool (128,)
    images: Mapping[str, Frames]  # role -> as many frames as steps
    instructions: tuple[str, ...]  # phrasings of one task, at least one
    rate_hz: float
    action_offset_steps: int = 0
    image_masks: Mapping[str, np.ndarray] = field(default_factory=dict)  # role -> bool (steps,); none: all are there
    action_valid: np.ndarray | None = None  # bool (steps,), False: another step's action, for want of its own
    instruction_weights: tuple[float, ...] = ()  # chance of each phrasing; (): all alike
    instruction_of_step: np.ndarray | None = None  # int64 (steps,), the phrasing where it changes on the way
    actor_of_step: np.ndarray | None = None  # int64 (steps,), of `ACTORS`: who gave each action; None: not told
    annotations: Mapping[str, np.ndarray] = field(default_factory=dict)  # float32 (steps,) by name: said afterwards

    def __post_init__(self) -> None:
        owner = f"Episode {self.name!r}"
        _check_array(owner, "states", self.states, np.float32, (None, NUM_SLOTS))
        _check_array(owner, "state_mask", self.state_mask, np.bool_, (NUM_SLOTS,))
        _check_array(owner, "actions", self.actions, np.float32, (self.num_steps, NUM_SLOTS))
        _check_array(owner, "action_mask", self.action_mask, np.bool_, (NUM_SLOTS,))
        _check_finite_where(owner, "states", self.states, self.state_mask)
        _check_finite_where(owner, "actions", self.actions, self.action_mask)
        _check_roles(owner, "images", self.images)
        for role, frames in self.images.items():
            if len(frames) != self.num_steps:
                raise ValueError(f"{owner}: camera {role!r} has {len(frames)} frames for {self.num_steps} steps")
        if self.num_steps == 0:
            raise ValueError(f"{owner} has no steps")
        if not self.instructions:
            raise ValueError(f"{owner} has no instruction: give at least one phrasing")
        if not self.rate_hz > 0:
            raise ValueError(f"{owner}.rate_hz must be positive, got {self.rate_hz}")
        check_action_offset(f"{owner}.action_offset_steps", self.action_offset_steps)
        if not set(self.image_masks) <= set(self.images):
            raise ValueError(f"{owner} has masks of {sorted(self.image_masks)}, pictures of {sorted(self.images)}")
        for role, mask in self.image_masks.items():
            _check_array(owner, f"image_masks[{role!r}]", mask, np.bool_, (self.num_steps,))
        if self.action_valid is not None:
            _check_array(owner, "action_valid", self.action_valid, np.bool_, (self.num_steps,))
        if self.instruction_weights:
            self._check_weights(owner)
        if self.instruction_of_step is not None:
            _check_array(owner, "instruction_of_step", self.instruction_of_step, np.int64, (self.num_steps,))
            if not 0 <= self.instruction_of_step.min() <= self.instruction_of_step.max() < len(self.instructions):
                raise ValueError(f"{owner}.instruction_of_step must count its {len(self.instructions)} instructions")
        if self.actor_of_step is not None:
            _check_array(owner, "actor_of_step", self.actor_of_step, np.int64, (self.num_steps,))
            if not 0 <= self.actor_of_step.min() <= self.actor_of_step.max() < len(ACTORS):
                raise ValueError(f"{owner}.actor_of_step must count {ACTORS}, got {np.unique(self.actor_of_step)}")
        for name, values in self.annotations.items():
            _check_array(owner, f"annotations[{name!r}]", values, np.float32, (self.num_steps,))
            if not np.isfinite(values).all():
                raise ValueError(f"{owner}.annotations[{name!r}] is not finite: leave out what is not known")

    def _check_weights(self, owner: str) -> None:
        weights = np.asarray(self.instruction_weights, dtype=np.float64)
        if weights.shape != (len(self.instructions),) or weights.min() < 0 or abs(weights.sum() - 1) > 1e-6:
            raise ValueError(
                f"{owner}.instruction_weights must be {len(self.instructions)} chances that sum to 1, "
                f"got {self.instruction_weights}"
            )

    @property
    def num_steps(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class Sample:
    """One training sentence: what was seen, and what should be done."""

    observation: Observation
    action_chunk: ActionChunk
    action_valid: np.ndarray  # bool (horizon,), False where an action repeats another step's for want of its own

    def __post_init__(self) -> None:
        _check_array("Sample", "action_valid", self.action_valid, np.bool_, (self.action_chunk.horizon,))


@dataclass(frozen=True)
class Transition:
    """Flat data of reinforcement learning, a row a step: what was seen, done, got for it, and seen then.

    The numbers are an environment's own, in no unified slots: gymnasium's, or features of an encoder. Rows of one
    episode stand together in their order and its last row says how it ended; an episode whose end is not in the data
    ends with the last row. Where `terminals` is True nothing follows, and `next_observations` may be any numbers.

    A critic bootstraps from every row that is not terminal, time-outs too: `y = r + (1 - terminal) gamma V(s')`.
    """

    name: str
    observations: np.ndarray  # float32 (rows, observation)
    actions: np.ndarray  # float32 (rows, action)
    rewards: np.ndarray  # float32 (rows,)
    next_observations: np.ndarray  # float32 (rows, observation)
    terminals: np.ndarray  # bool (rows,), the environment ended the episode
    timeouts: np.ndarray  # bool (rows,), the episode was cut here: a time limit, or the recording went no further
    infos: Mapping[str, np.ndarray] = field(default_factory=dict)  # (rows, ...), say action_log_probs of who acted

    def __post_init__(self) -> None:
        owner = f"Transition {self.name!r}"
        _check_array(owner, "observations", self.observations, np.float32, (None, None))
        _check_array(owner, "actions", self.actions, np.float32, (self.num_rows, None))
        _check_array(owner, "next_observations", self.next_observations, np.float32, self.observations.shape)
        _check_array(owner, "rewards", self.rewards, np.float32, (self.num_rows,))
        for name in ("terminals", "timeouts"):
            _check_array(owner, name, getattr(self, name), np.bool_, (self.num_rows,))
        if self.num_rows == 0:
            raise ValueError(f"{owner} has no rows")
        for name in ("observations", "actions", "rewards", "next_observations"):
            values = getattr(self, name).reshape(self.num_rows, -1)
            if not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
                raise ValueError(f"{owner}.{name} is not finite, first at row {row}")
        for key, values in self.infos.items():
            if np.shape(values)[:1] != (self.num_rows,):
                raise ValueError(f"{owner}.infos[{key!r}] has shape {np.shape(values)} for {self.num_rows} rows")
        for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
            object.__setattr__(self, name, _freeze(getattr(self, name)))

    @property
    def num_rows(self) -> int:
        return len(self.observations)

    def ends(self) -> np.ndarray:
        """bool (rows,): the last row of each episode, however it ended."""
        ends = self.terminals | self.timeouts
        ends[-1] = True
        return ends

    def episode_bounds(self) -> np.ndarray:
        """int64 (episodes, 2): the rows [start, stop) of each."""
        stops = np.flatnonzero(self.ends()) + 1
        return np.stack([np.concatenate([[0], stops[:-1]]), stops], axis=1)

    def complete_episodes(self) -> np.ndarray:
        """bool (episodes,): whether the data say that it ended; False for the last one alone, if at all."""
        return (self.terminals | self.timeouts)[self.episode_bounds()[:, 1] - 1]

    def episode_returns(self) -> np.ndarray:
        """float64 (episodes,): the undiscounted sum of the rewards of each."""
        return np.add.reduceat(self.rewards, self.episode_bounds()[:, 0], dtype=np.float64)
