"""Scripted demonstrations: a plan of hand poses, solved once into joint targets for both arms at 50 Hz.

A plan is open loop: way points for each hand (position, pitch, roll of the tool) and for each gripper, joined
by monotone cubics, so that hands pass through their way points without stopping and never overshoot. Two
things make the demonstrations easy to learn from. The hand-over overlaps: the receiver has closed (tick 280)
before the giver begins to open (tick 288), so that being a little late does not drop the cube. And nothing
waits: each stretch of 20 ticks moves a joint or a gripper, so that no picture has "do nothing" as its answer.

Noise for recovery data (DART, Laskey et al. 2017): an Ornstein-Uhlenbeck process is added to the executed
targets of the twelve joints, while the recorded action is the clean target.

Left to right is right to left in a mirror: planned for the reflected cube, then reflected back. The idea of
way-point demonstrations for these scenes comes from ALOHA (Zhao et al. 2023); plans and code are our own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robot_drivers.sim import tasks
from robot_drivers.sim.kinematics import ArmKinematics, radial_rotation
from robot_drivers.sim.render import Renderer, make_renderer
from robot_drivers.sim.robot import SimRobot
from robot_drivers.sim.scene import CONTROL_HZ, HOME, SIDES, import_mujoco
from robot_drivers.types import ArmCommand

POLICY_HZ = 12.5
TICKS_PER_ACTION = round(CONTROL_HZ / POLICY_HZ)
EPISODE_TICKS = 400  # 8 s

NOISE_TIME_S = 0.2  # correlation time of the perturbation
MAX_POSITION_ERROR_M = 2e-3  # of the inverse kinematics; a plan that misses by more is a programming error


@dataclass(frozen=True)
class HandPath:
    """Way points of one hand and its gripper."""

    poses: Sequence[tuple[float, float, float, float, float, float]]  # tick, x, y, z in m, pitch, roll in rad
    openings: Sequence[tuple[float, float]]  # tick, opening in [0, 1]


@dataclass(frozen=True)
class Demonstration:
    """An accepted episode at the policy's rate; step t is the moment t / POLICY_HZ s after the start."""

    task: str
    seed: int
    instructions: tuple[str, ...]  # training phrasings of the task
    qpos: np.ndarray  # float32 (steps, 14), measured: left arm 6 rad and its opening, then the right arm
    action: np.ndarray  # float32 (steps, 14), clean target at the end of the step's 80 ms
    executed: np.ndarray  # float32 (steps, 14), the target that was sent instead, perturbation included
    images: Mapping[str, np.ndarray]  # role -> uint8 (steps, height, width, 3), seen at the time of qpos


def plan(task: str, positions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Joint targets (ticks + 1, 14) for objects at `positions` (3,) m; row k is for k / 50 s, row 0 home.

    One thread at a time: the kinematics of the arms are kept between calls.
    """
    name = tasks.lookup(tasks.TASKS, task).name
    if name == "transfer_left_to_right":
        mirrored = {"box": positions["box"] * (-1, 1, 1)}
        return tasks.mirror_joints(plan("transfer_right_to_left", mirrored))
    paths = _insertion_paths(**positions) if name == "insertion" else _transfer_paths(positions["box"])
    return np.concatenate([_solve(side, paths[side]) for side in SIDES], axis=1)


_DOWN = np.deg2rad(45)  # pitch of a hand that picks from the table


def _transfer_paths(box: np.ndarray) -> dict[str, HandPath]:
    """Right hand lifts the cube and holds it out; the left hand takes it from the side, fingers above and
    below.

    The right hand keeps its pitch, so that the cube stays level for the left hand.
    """
    x, y, _ = box
    meet_x, meet_y, meet_z = 0.0, 0.5, 0.25
    start = {side: _home_pose(side) for side in SIDES}
    right = HandPath(
        poses=[
            (0, *start["right"]),
            (80, x, y, 0.12, _DOWN, 0),
            (125, x, y, 0.022, _DOWN, 0),
            (170, x, y, 0.022, _DOWN, 0),
            (212, meet_x, meet_y, meet_z, _DOWN, 0),
            (320, meet_x, meet_y, meet_z, _DOWN, 0),
            (400, meet_x + 0.14, meet_y, meet_z + 0.04, _DOWN, 0),
        ],
        openings=[(0, HOME[-1]), (80, 1), (128, 1), (170, 0), (288, 0), (320, 1), (400, 0.8)],
    )
    # Reaching out, the arm runs up to 8 mm too high: aimed lower, the open fingers pass the cube centred, and
    # of the perturbed episodes 88 % end well instead of 77 %.
    quarter = np.pi / 2
    left = HandPath(
        poses=[
            (0, *start["left"]),
            (100, meet_x - 0.14, meet_y, meet_z, 0, quarter),
            (202, meet_x - 0.11, meet_y, meet_z - 0.008, 0, quarter),
            (246, meet_x - 0.005, meet_y, meet_z - 0.006, 0, quarter),
            (316, meet_x - 0.005, meet_y, meet_z - 0.006, 0, quarter),
            (400, meet_x - 0.12, meet_y, meet_z, 0, quarter),
        ],
        openings=[(0, HOME[-1]), (100, 1), (240, 0.95), (280, 0), (400, 0)],
    )
    return {"left": left, "right": right}


def _insertion_paths(peg: np.ndarray, socket: np.ndarray) -> dict[str, HandPath]:
    """Each hand lifts its part; in the air they line up along x, and the peg goes into the socket to the pin.

    Peg and pin touch when the hands are 0.1 m apart; the last targets press them 1 cm further together.
    """
    meet_y = 0.5
    start = {side: _home_pose(side) for side in SIDES}
    openings = [(0, HOME[-1]), (75, 1), (118, 1), (155, 0), (400, 0)]

    def path(side: str, part: np.ndarray, grip_z: float, meet_z: float) -> HandPath:
        x, y, _ = part
        out = 1 if side == "right" else -1
        return HandPath(
            poses=[
                (0, *start[side]),
                (75, x, y, 0.12, _DOWN, 0),
                (118, x, y, grip_z, _DOWN, 0),
                (155, x, y, grip_z, _DOWN, 0),
                (240, out * 0.085, meet_y, meet_z, _DOWN, 0),
                (360, out * 0.044, meet_y, meet_z, _DOWN, 0),
                (400, out * 0.037, meet_y, meet_z, _DOWN, 0),
            ],
            openings=openings,
        )

    # the hands hold the socket by its middle and the peg 1 cm above its own, which the heights make good
    return {"left": path("left", socket, 0.024, 0.15), "right": path("right", peg, 0.02, 0.16)}


@functools.cache
def _kinematics(side: str) -> ArmKinematics:
    return ArmKinematics(side)


@functools.cache
def _home_pose(side: str) -> tuple[float, float, float, float, float]:
    """x, y, z, pitch, roll of the tool at HOME, where waist and roll joints are 0."""
    position, rotation = _kinematics(side).tool_pose(HOME[:6])
    return (*position.tolist(), float(np.arcsin(-rotation[2, 0])), 0.0)


def _solve(side: str, path: HandPath) -> np.ndarray:
    """One arm's targets (ticks + 1, 7) along a hand path that starts at HOME."""
    ticks = np.arange(EPISODE_TICKS + 1)
    poses = _monotone_cubic(np.array(path.poses, dtype=np.float64), ticks)
    targets = np.empty((len(ticks), 7))
    openings = _monotone_cubic(np.array(path.openings, dtype=np.float64), ticks)[:, 0]
    targets[:, 6] = np.clip(openings, 0, 1)  # rounding may put a fully open gripper at 1 + 2e-16
    targets[0, :6] = HOME[:6]
    arm = _kinematics(side)
    for k in ticks[1:]:
        position, (pitch, roll) = poses[k, :3], poses[k, 3:]
        rotation = radial_rotation(arm.base_xy, position, pitch, roll)
        solution = arm.solve(position, rotation, targets[k - 1, :6])
        assert solution.position_error_m < MAX_POSITION_ERROR_M, (side, int(k), position, solution)
        targets[k, :6] = solution.joints
    return targets


def _monotone_cubic(points: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Rows (time, values...) joined by cubics that are smooth and stay between neighbours (Fritsch, Butland
    1984).

    The slope at an inner point is the weighted harmonic mean of the two secants, 0 at a local extremum and at
    both ends. (points, 1 + d), (n,) -> (n, d)
    """
    times, values = points[:, 0], points[:, 1:]
    h = np.diff(times)[:, None]
    secants = np.diff(values, axis=0) / h  # (points - 1, d)
    before, after = secants[:-1], secants[1:]
    w_before, w_after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    same = before * after > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (w_before + w_after) / (w_before / before + w_after / after)
    slopes = np.zeros_like(values)
    slopes[1:-1] = np.where(same, mean, 0)

    i = np.clip(np.searchsorted(times, ticks, side="right") - 1, 0, len(h) - 1)
    step, u = h[i], (ticks[:, None] - times[i, None]) / h[i]
    return (
        (1 + 2 * u) * (1 - u) ** 2 * values[i]
        + u * (1 - u) ** 2 * step * slopes[i]
        + u**2 * (3 - 2 * u) * values[i + 1]
        + u**2 * (u - 1) * step * slopes[i + 1]
    )


def perturbation(num_ticks: int, std_rad: float, random: np.random.Generator) -> np.ndarray:
    """Stationary Ornstein-Uhlenbeck noise (num_ticks, 14) in rad on the arms' joints; grippers get none."""
    keep = np.exp(-1 / (CONTROL_HZ * NOISE_TIME_S))
    shocks = random.normal(0, std_rad, (num_ticks, 14))
    shocks[:, [6, 13]] = 0
    noise = np.empty_like(shocks)
    noise[0] = shocks[0]
    for k in range(1, num_ticks):
        noise[k] = keep * noise[k - 1] + np.sqrt(1 - keep**2) * shocks[k]
    return noise


def record_demonstration(
    task: str,
    seed: int,
    *,
    noise_std_rad: float = 0.0,
    distribution: str | None = None,
    roles: Sequence[str] = ("external",),
    image_size: tuple[int, int] = (64, 64),
    renderer: Renderer | None = None,
) -> Demonstration | None:
    """Plans and executes one episode; None unless it ends in strict success.

    Objects and noise follow from `seed`. Pictures are drawn afterwards, of accepted episodes only, by
    `renderer` where one is given (share it: making one costs as much as 20 pictures); without `roles` there
    are none.
    """
    robot = SimRobot(task, seed, distribution=distribution)
    targets = plan(task, {body: pose[:3] for body, pose in robot.object_poses().items()})[1:]
    commands = targets + perturbation(len(targets), noise_std_rad, np.random.default_rng((seed, 1)))
    measured, positions = [], []
    for k, command in enumerate(commands):
        if k % TICKS_PER_ACTION == 0:
            measured.append(np.concatenate([robot.state(side).positions for side in SIDES]))
            positions.append(robot.data.qpos.copy())
        for i, side in enumerate(SIDES):
            robot.command(side, ArmCommand(command[7 * i : 7 * i + 7], robot.now_ns))
        robot.step()
    if not robot.strict_success():
        return None
    last = slice(TICKS_PER_ACTION - 1, None, TICKS_PER_ACTION)
    return Demonstration(
        task=task,
        seed=seed,
        instructions=robot.task.instructions,
        qpos=np.array(measured, dtype=np.float32),
        action=targets[last].astype(np.float32),
        executed=commands[last].astype(np.float32),
        images=_draw(robot, np.array(positions), roles, image_size, renderer) if roles else {},
    )


def _draw(
    robot: SimRobot,
    positions: np.ndarray,
    roles: Sequence[str],
    image_size: tuple[int, int],
    renderer: Renderer | None,
) -> dict[str, np.ndarray]:
    """Pictures of recorded positions (steps, nq)."""
    if renderer is None:
        with make_renderer(robot.scene.model, *image_size) as own:
            return _draw(robot, positions, roles, image_size, own)
    data = import_mujoco().MjData(robot.scene.model)
    images: dict[str, list[np.ndarray]] = {role: [] for role in roles}
    for qpos in positions:
        data.qpos[:] = qpos
        for role in roles:
            images[role].append(renderer.render(data, role))
    return {role: np.stack(frames) for role, frames in images.items()}
