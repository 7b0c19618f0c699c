"""What the embedded robot can be asked to do: scenes, instructions, rewards and success tests, as tables.

Nothing here needs MuJoCo. A task judges a moment by its contacts (pairs of geom names) and by where its
objects are. Two judgements stand side by side: the reward 0..4 of the published benchmark
(gym_aloha/tasks/sim.py), which pays full marks for the moment in which the receiving finger touches a lifted
cube, and the strict success, which asks at the end of the episode whether the job is done. Strict success
implies reward 4.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

EVALUATION_SEED = 1_000_000_000
"""Scenes of evaluations begin here, far from those of recording."""

SEEDS_PER_RUN = 100_000
"""Run s of a recording or an evaluation takes the scenes from s * SEEDS_PER_RUN on."""

Contacts = Set[frozenset[str]]  # pairs of touching geoms, by name
Positions = Mapping[str, np.ndarray]  # object -> (3,) m, world

CONTROL_INSTRUCTION = "pass the cube"
"""Says what both transfer tasks have in common but no direction: the control of instruction tests."""

TABLE = "table"
CUBE = "red_box"
PEG = "red_peg"
PIN = "pin"
SOCKET = ("socket-1", "socket-2", "socket-3", "socket-4")
LIFTED_M = 0.1  # a cube whose centre is higher than this is up

_T = TypeVar("_T")
_OTHER = {"left": "right", "right": "left"}


def fingers(side: str) -> tuple[str, str]:
    """Both finger geoms of an arm, the one that the benchmark looks at first."""
    return f"vx300s_{side}/10_{side}_gripper_finger", f"vx300s_{side}/10_{_OTHER[side]}_gripper_finger"


def _touch(contacts: Contacts, first: str, *others: str) -> bool:
    return any(frozenset((first, other)) in contacts for other in others)


def _holds(contacts: Contacts, side: str, *geoms: str) -> bool:
    """Both fingers touch the object, so it is between them."""
    return all(_touch(contacts, finger, *geoms) for finger in fingers(side))


def _arm_touches(contacts: Contacts, side: str, *geoms: str) -> bool:
    prefix = f"vx300s_{side}/"
    return any(name.startswith(prefix) for pair in contacts if not pair.isdisjoint(geoms) for name in pair)


def _transfer_reward(contacts: Contacts, giver: str) -> int:
    lifted = not _touch(contacts, CUBE, TABLE)
    if _touch(contacts, CUBE, fingers(_OTHER[giver])[0]):
        return 4 if lifted else 3
    if _touch(contacts, CUBE, fingers(giver)[0]):
        return 2 if lifted else 1
    return 0


def _transfer_strict(contacts: Contacts, positions: Positions, giver: str) -> bool:
    return (
        _holds(contacts, _OTHER[giver], CUBE)
        and not _arm_touches(contacts, giver, CUBE)
        and not _touch(contacts, CUBE, TABLE)
        and bool(positions["box"][2] > LIFTED_M)
    )


def _insertion_reward(contacts: Contacts) -> int:
    if _touch(contacts, PEG, PIN):
        return 4
    lifted = not _touch(contacts, TABLE, PEG, *SOCKET)
    if lifted and _touch(contacts, PEG, *SOCKET):
        return 3
    if _touch(contacts, fingers("right")[0], PEG) and _touch(contacts, fingers("left")[0], *SOCKET):
        return 2 if lifted else 1
    return 0


def _insertion_strict(contacts: Contacts, positions: Positions) -> bool:
    return (
        _touch(contacts, PEG, PIN)
        and _holds(contacts, "right", PEG)
        and _holds(contacts, "left", *SOCKET)
        and not _touch(contacts, TABLE, PEG, PIN, *SOCKET)
    )


@dataclass(frozen=True)
class Task:
    """One thing to do, how to say it, and how to tell whether it is done."""

    name: str
    scene: str  # of `scene.load_scene`
    distribution: str  # of DISTRIBUTIONS; an environment may name another one
    instructions: tuple[str, ...]  # phrasings for training
    held_out_instructions: tuple[str, ...]  # phrasings for testing only
    reward: Callable[[Contacts], int]  # the benchmark's, 0..4
    strict_success: Callable[[Contacts, Positions], bool]  # of the last moments' contacts together; at the end
    first_arm: str | None = None  # the arm that should touch an object first, where the task says


def _transfer(giver: str) -> Task:
    receiver = _OTHER[giver]
    # The direction is in the SET of word bigrams ("from right", "to left"): articles would hide it, since
    # "from the right arm to the left arm" and its opposite are made of the same six bigrams.
    return Task(
        name=f"transfer_{giver}_to_{receiver}",
        scene="transfer_cube",
        distribution="centred_box",
        instructions=(
            f"hand the red cube over from {giver} to {receiver}",
            f"pick up the cube with {giver} hand and pass it to {receiver} hand",
            f"make a {giver} to {receiver} transfer of the cube",
            f"move the red block from {giver} gripper to {receiver} gripper",
            f"lift the block with {giver} arm and hand it to {receiver} arm",
            f"the cube goes from {giver} to {receiver}",
            f"take the red cube {giver} to {receiver}",
            f"let {giver} hand give the red block to {receiver} hand",
        ),
        held_out_instructions=(
            f"please bring the block from {giver} to {receiver}",
            f"grasp the red cube with {giver} gripper then give it to {receiver} hand",
        ),
        reward=partial(_transfer_reward, giver=giver),
        strict_success=partial(_transfer_strict, giver=giver),
        first_arm=giver,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _transfer("right"),
        _transfer("left"),
        Task(
            name="insertion",
            scene="insertion",
            distribution="benchmark_insertion",
            instructions=(
                "insert the red peg into the blue socket",
                "pick up the peg and the socket and put the peg into the socket",
                "lift both parts and push the red peg into the blue socket",
                "join the peg and the socket in the air",
            ),
            held_out_instructions=(
                "put the red peg into the blue socket",
                "lift the peg and the socket then push the peg in",
            ),
            reward=_insertion_reward,
            strict_success=_insertion_strict,
        ),
    )
}


# object -> lowest and highest x, y, z of its centre in m; drawn uniformly, in this order
_Ranges = dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]

DISTRIBUTIONS: dict[str, _Ranges] = {
    # gym_aloha/utils.py; the same seed gives the same scene there and here
    "benchmark_box": {"box": ((0.0, 0.4, 0.05), (0.2, 0.6, 0.05))},
    "benchmark_insertion": {
        "peg": ((0.1, 0.4, 0.05), (0.2, 0.6, 0.05)),
        "socket": ((-0.2, 0.4, 0.05), (-0.1, 0.6, 0.05)),
    },
    # within reach of both arms and as often left as right of the middle: only the words decide who begins
    "centred_box": {"box": ((-0.06, 0.42, 0.05), (0.06, 0.58, 0.05))},
}


def draw_positions(distribution: str, seed: int) -> dict[str, np.ndarray]:
    """Start position (3,) in m of every object, a function of `seed` (0 <= seed < 2^32) alone.

    All objects start axis-aligned, 5 cm above the table, and drop in the first ticks.
    """
    random = np.random.RandomState(seed)  # its stream is frozen by numpy, and it is the benchmark's
    return {name: random.uniform(low, high) for name, (low, high) in lookup(DISTRIBUTIONS, distribution).items()}


@dataclass(frozen=True)
class Environment:
    """A named evaluation: the tasks that are asked for, and where the objects lie."""

    name: str
    tasks: tuple[str, ...]
    distribution: str | None = None  # none: each task's own


ENVIRONMENTS: dict[str, Environment] = {
    env.name: env
    for env in (
        Environment("sim_transfer", ("transfer_right_to_left",), "benchmark_box"),
        Environment("sim_handover", ("transfer_right_to_left", "transfer_left_to_right"), "centred_box"),
        Environment("sim_insertion", ("insertion",), "benchmark_insertion"),
        Environment("sim_pretraining", ("transfer_left_to_right", "insertion")),  # what sim_transfer is not
    )
}


def lookup(table: Mapping[str, _T], name: str) -> _T:
    """`table[name]`, or a ValueError that names the nearest entry."""
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.0)
        raise ValueError(f"there is no {name!r}: did you mean {near[0]!r}? Known: {', '.join(table)}")
    return table[name]


# waist, forearm_roll and wrist_rotate turn the other way round
_MIRROR_SIGNS = np.array([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0])


def mirror_joints(joints: np.ndarray) -> np.ndarray:
    """The same posture seen in a mirror at x = 0: arms swapped. (..., 14) -> (..., 14), native order."""
    arms = np.asarray(joints).reshape(*np.shape(joints)[:-1], 2, 7)
    return (arms[..., ::-1, :] * _MIRROR_SIGNS).reshape(np.shape(joints))
