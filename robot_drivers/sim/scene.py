"""The bimanual ViperX-300 scenes of the gym-aloha benchmark, loaded by plain MuJoCo.

The wheel of gym-aloha (Apache-2.0; ALOHA's models, MIT) brings the MJCF and mesh files and nothing else is
used of it: its Gymnasium wrapper renders three 480x640 views in every step, 150 ms that no policy asked for.
Before compilation the XML is edited: an overhead camera is added, the wrist cameras, which look at the
gripper's bar, are moved, and the picture quality is lowered to what a 64-pixel policy can see (shadow maps of
4096^2 and 4x multisampling are nine tenths of the stock rendering time).

World frame: table top at z = 0, x to the right and y away from the viewer of the overhead camera; the left
arm stands at x = -0.469 m, the right arm at x = +0.469 m, both at y = 0.5 m, facing each other. Reflecting x
swaps them (`tasks.mirror_joints`).
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

SIDES = ("left", "right")  # native order, as in ALOHA's 14-vectors
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
ARM_DIM = len(JOINTS) + 1  # six joints in rad, then the gripper's opening in [0, 1]

CONTROL_HZ = 50
PHYSICS_STEPS = 10  # of 2 ms, per control tick

GRIPPER_CLOSED_M = 0.01844  # finger slide at opening 0 and 1: PUPPET_GRIPPER_POSITION_* in gym_aloha/constants.py;
GRIPPER_OPEN_M = 0.05800  # the actuators reach 0.021 to 0.057 m, openings 0.065 to 0.975

HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.1])  # one arm at reset, START_ARM_POSE in the same file
HOME.flags.writeable = False

CAMERA_ROLES = ("external", "right_wrist", "left_wrist")

_FILES = {"transfer_cube": "bimanual_viperx_transfer_cube.xml", "insertion": "bimanual_viperx_insertion.xml"}

# 0.55 m of table, straight down: the 4 cm cube is 5 pixels wide at 64x64, against 2 in the stock `top` camera
_EXTERNAL_CAMERA = '<camera name="external" pos="0 0.5 0.8" xyaxes="1 0 0 0 1 0" fovy="38"/>'
# in the frame of gripper_link (x forward, z up): past the gripper's bar, 45 degrees down at what is held
_WRIST_CAMERA = '<camera name="{side}_wrist" pos="0.05 0 0.1" xyaxes="0 -1 0 1 0 1" fovy="75"/>'
_LOW_QUALITY = '<quality shadowsize="0" offsamples="0"/>'


class SceneUnavailableError(ImportError):
    """MuJoCo or the benchmark's scene files cannot be loaded."""


def import_mujoco():
    """The `mujoco` module, or one clear message why there is none."""
    try:
        import mujoco
    except ImportError as error:
        raise SceneUnavailableError(
            f"the simulator needs MuJoCo, which cannot be imported ({error}): pip install 'rdt-stack[sim]'"
        ) from error
    except Exception as error:  # with MUJOCO_GL set, PyOpenGL fails at import with AttributeErrors on None
        raise SceneUnavailableError(
            f"importing MuJoCo failed inside OpenGL ({error}): unset MUJOCO_GL, the simulator finds a "
            "rendering back end by itself"
        ) from error
    return mujoco


@dataclass(frozen=True)
class Scene:
    """A compiled scene; one is shared by all robots of a process, so its model must not be changed."""

    name: str
    model: mujoco.MjModel
    geom_names: tuple[str, ...]  # by geom id
    object_bodies: tuple[str, ...]  # free bodies, in the order of their joints


def assets_folder() -> Path:
    """Folder of the wheel's MJCF and mesh files; found without importing gym_aloha and gymnasium with it."""
    spec = importlib.util.find_spec("gym_aloha")
    if spec is None or spec.origin is None:
        raise SceneUnavailableError(
            "the simulator needs the scene files of gym-aloha, which is missing: pip install 'rdt-stack[sim]'"
        )
    return Path(spec.origin).parent / "assets"


@functools.cache
def load_scene(name: str) -> Scene:
    """Compiles scene `name`: `transfer_cube` or `insertion`."""
    mujoco = import_mujoco()
    folder = assets_folder()
    assets = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".xml", ".stl")}
    assets["scene.xml"] = _edit(
        assets["scene.xml"],
        ('<quality shadowsize="4096" offsamples="4"/>', _LOW_QUALITY),
        (
            'znear="0.1"',
            'znear="0.02"',
        ),  # of the scene's extent: 0.1 would cut away what is near a wrist camera
        ('<camera name="top"', _EXTERNAL_CAMERA + '<camera name="top"'),
    )
    for side in SIDES:
        stock = (
            f'<camera name="{side}_wrist" pos="-0.1 0 0.16" fovy="20" mode="targetbody" '
            f'target="vx300s_{side}/camera_focus"/>'
        )
        file = f"vx300s_{side}.xml"
        assets[file] = _edit(assets[file], (stock, _WRIST_CAMERA.format(side=side)))
    model = mujoco.MjModel.from_xml_string(assets[_FILES[name]].decode(), assets)
    free = [model.body(model.jnt_bodyid[j]).name for j in range(model.njnt) if model.jnt_type[j] == 0]
    return Scene(
        name=name,
        model=model,
        geom_names=tuple(model.geom(g).name for g in range(model.ngeom)),
        object_bodies=tuple(free),
    )


def _edit(xml: bytes, *replacements: tuple[str, str]) -> bytes:
    text = xml.decode()
    for old, new in replacements:
        if text.count(old) != 1:
            raise SceneUnavailableError(
                f"gym-aloha's scene files are not the expected ones ({old!r} occurs {text.count(old)} times, "
                "not once): install gym-aloha 0.1.5"
            )
        text = text.replace(old, new)
    return text.encode()
