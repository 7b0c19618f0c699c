"""pytest tests/robot_drivers/sim/test_scene.py"""

from __future__ import annotations

import importlib.util
import sys

import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gym_aloha")

from robot_drivers.sim import scene


@pytest.mark.parametrize(("name", "objects"), [("transfer_cube", ("box",)), ("insertion", ("peg", "socket"))])
def test_a_scene_has_its_objects_and_every_camera_role(name, objects):
    loaded = scene.load_scene(name)
    assert loaded.object_bodies == objects
    cameras = {loaded.model.camera(i).name for i in range(loaded.model.ncam)}
    assert set(scene.CAMERA_ROLES) <= cameras


def test_a_control_tick_is_20_ms_of_physics():
    model = scene.load_scene("transfer_cube").model
    assert model.opt.timestep * scene.PHYSICS_STEPS * scene.CONTROL_HZ == pytest.approx(1)


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(scene.SceneUnavailableError, match=r"rdt-stack\[sim\]"):
        scene.import_mujoco()


def test_missing_scene_files_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(scene.SceneUnavailableError, match=r"rdt-stack\[sim\]"):
        scene.assets_folder()


def test_scene_files_of_another_version_are_refused():
    with pytest.raises(scene.SceneUnavailableError, match=r"gym-aloha 0\.1\.5"):
        scene._edit(b"<mujoco/>", ("<camera", "<camera"))
