"""Plausible demonstrations for the tests of the validator: smooth, with rests, command before motion, warm pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_pipeline.schema.layout import NUM_SLOTS, slot_range
from data_pipeline.schema.rotation import matrix_from_euler, rot6d_from_matrix
from data_pipeline.schema.types import Episode
from data_pipeline.validate.records import Columns, Record, of_episode

STEPS, RATE_HZ = 90, 20.0
BLOCKS = ("right_arm_joint_pos[0:6]", "right_arm_joint_vel[0:6]", "right_gripper_pos[0]", "right_eef_pos")
ROTATION = "right_eef_rot6d"


def slots(block: str) -> slice:
    found = slot_range(block)
    return slice(found.start, found.stop)


def path(steps: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(steps, width) in [0, 1]: a rest, some reaches with smooth ends, a rest."""
    knots = rng.uniform(0, 1, (5, width))
    at = np.linspace(0, 4, steps)
    low = np.minimum(np.floor(at).astype(int), 3)
    share = np.clip(at - low, 0, 1)[:, None]
    smooth = 3 * share**2 - 2 * share**3
    return knots[low] * (1 - smooth) + knots[low + 1] * smooth


def demonstration(name: str = "cups/one", seed: int = 0, steps: int = STEPS, delay: int = 1, **changes) -> Episode:
    """An arm that trails its commands by `delay` steps."""
    rng = np.random.default_rng(seed)
    commands = path(steps + delay, 10, rng)
    states, actions = np.zeros((steps, NUM_SLOTS)), np.zeros((steps, NUM_SLOTS))
    for values, rows in ((states, commands[:steps]), (actions, commands[delay:])):
        values[:, slots(BLOCKS[0])] = 3 * rows[:, :6] - 1.5
        values[:, slots(BLOCKS[2])] = rows[:, 6:7]
        values[:, slots(BLOCKS[3])] = 0.3 + 0.4 * rows[:, 7:10]
        values[:, slots(ROTATION)] = rot6d_from_matrix(matrix_from_euler(rows[:, 7:10]))
        values[:, slots(BLOCKS[1])] = np.gradient(values[:, slots(BLOCKS[0])], axis=0) * RATE_HZ
    mask = np.zeros(NUM_SLOTS, dtype=bool)
    for block in (*BLOCKS, ROTATION):
        mask[slots(block)] = True
    fields = {
        "name": name,
        "states": states.astype(np.float32),
        "state_mask": mask,
        "actions": actions.astype(np.float32),
        "action_mask": mask,
        "images": {"external": pictures(steps, seed)},
        "instructions": ("put the cup on the plate",),
        "rate_hz": RATE_HZ,
        "action_offset_steps": delay,
    }
    return Episode(**{**fields, **changes})


def pictures(steps: int, seed: int = 0) -> np.ndarray:
    """A warm room in which something moves; (steps, 24, 32, 3)."""
    rng = np.random.default_rng(seed)
    room = np.clip(rng.normal((150, 110, 70), 12, (24, 32, 3)), 0, 255)
    frames = np.repeat(room[None], steps, axis=0)
    for step in range(steps):
        frames[step, 4:10, step % 26 : step % 26 + 6] = (90 + step % 100, 90, 90)
    return frames.astype(np.uint8)


def record(**changes) -> Record:
    return of_episode(demonstration(**changes))


def changed(episode: Episode, kind: str, block: str, change) -> Episode:
    """The episode with some slots of its state or action put through `change` (steps, slots) -> the same."""
    values = np.array(getattr(episode, f"{kind}s"))
    values[:, slots(block)] = change(values[:, slots(block)])
    return replace(episode, **{f"{kind}s": values.astype(np.float32)})


def columns(**named: np.ndarray) -> Columns:
    """Columns of unknown unit."""
    return Columns(np.stack(list(named.values()), axis=1), tuple(named), ("",) * len(named))
