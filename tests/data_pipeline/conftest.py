"""Tiny robots, pictures and episodes that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings

from data_pipeline.schema.embodiment import Arm, Camera, Embodiment, Gripper, Joint
from data_pipeline.schema.types import CAMERA_ROLES, Episode

settings.register_profile("untimed", deadline=None)  # a busy machine is not a failure
settings.load_profile("untimed")


@pytest.fixture
def robot() -> Embodiment:
    """Two joints in degrees and a gripper whose state and action have different ranges."""
    arm = Arm(
        driver="fake",
        joints=(Joint("a", "arm_joint_0_pos", unit="deg"), Joint("b", "arm_joint_1_pos", sign=-1)),
        gripper=Gripper("gripper_open", state_range=(0.1, 0.9), action_range=(5, 0)),
    )
    cameras = {role: Camera(source=role) for role in CAMERA_ROLES}
    return Embodiment(name="tiny", rate_hz=12.5, arms={"right": arm}, cameras=cameras, action_offset_steps=1)


def make_pictures(num_frames: int, seed: int = 0, height: int = 16, width: int = 24) -> np.ndarray:
    """Smooth colourful frames that survive JPEG nearly unchanged; no two alike. (frames, height, width, 3)"""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(30, 225, (num_frames, 2, 2, 3))
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top = corners[:, None, None, 0, 0] * (1 - x) + corners[:, None, None, 0, 1] * x
    bottom = corners[:, None, None, 1, 0] * (1 - x) + corners[:, None, None, 1, 1] * x
    return np.rint(top * (1 - y) + bottom * y).astype(np.uint8)


@pytest.fixture
def pictures() -> Callable[..., np.ndarray]:
    return make_pictures


@pytest.fixture
def native(robot) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """(qpos, action) of some steps in the robot's own words."""

    def make(num_steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        scale = np.array([90.0, 2.0, 1.0])
        return rng.uniform(-1, 1, (num_steps, 3)) * scale, rng.uniform(-1, 1, (num_steps, 3)) * scale

    return make


@pytest.fixture
def episode(robot, native) -> Callable[..., Episode]:
    """An episode of the tiny robot with one external camera."""

    def make(num_steps: int = 9, seed: int = 0, name: str = "episode", **fields) -> Episode:
        qpos, action = native(num_steps, seed)
        states, state_mask = robot.to_unified(qpos, kind="state")
        actions, action_mask = robot.to_unified(action, kind="action")
        defaults = {
            "images": {"external": make_pictures(num_steps, seed)},
            "instructions": ("pick up the cup", "lift the cup"),
            "rate_hz": robot.rate_hz,
            "action_offset_steps": robot.action_offset_steps,
        }
        return Episode(
            name=name,
            states=states,
            state_mask=state_mask,
            actions=actions,
            action_mask=action_mask,
            **{**defaults, **fields},
        )

    return make
