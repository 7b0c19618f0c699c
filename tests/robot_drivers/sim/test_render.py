"""pytest tests/robot_drivers/sim/test_render.py

Nothing in this process may load OpenGL: other tests build torch optimizers, and Triton after llvmpipe is a
crash (see the module's docstring). OpenGL pictures are drawn in child processes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("gym_aloha")

from robot_drivers.sim import render
from robot_drivers.sim.robot import SimRobot

ROOT = Path(__file__).parents[3]
FAILING_CHILD = "raise SystemExit('no {name} today')"
DRAWING_CHILD = "print('drawn')"


@pytest.fixture
def choose(monkeypatch):
    """`choose_backend` without its memory, in an environment that forces nothing."""
    monkeypatch.delenv("RDT_RENDERER", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    return render.choose_backend.__wrapped__


def test_without_opengl_the_ray_caster_draws(choose, monkeypatch):
    monkeypatch.setattr(render, "_PROBE", FAILING_CHILD)
    assert choose() == "raycast"


def test_a_child_killed_by_its_driver_counts_as_a_failure(choose, monkeypatch):
    monkeypatch.setattr(render, "_PROBE", "import os; os.abort()")
    assert "died" in render.probe("egl")
    assert choose() == "raycast"


def test_egl_comes_before_osmesa(choose, monkeypatch):
    monkeypatch.setattr(render, "_PROBE", DRAWING_CHILD)
    assert choose() == "egl"
    monkeypatch.setattr(render, "_PROBE", "if '{name}' == 'osmesa': print('drawn')")
    assert choose() == "osmesa"


def test_mujoco_gl_of_the_user_is_the_only_opengl_tried(choose, monkeypatch):
    monkeypatch.setattr(render, "_PROBE", DRAWING_CHILD)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert choose() == "osmesa"


def test_the_environment_forces_a_backend_without_asking_a_child(choose, monkeypatch):
    monkeypatch.setattr(render, "probe", lambda name: pytest.fail("a child was asked"))
    monkeypatch.setenv("RDT_RENDERER", "osmesa")
    assert choose() == "osmesa"
    monkeypatch.setenv("RDT_RENDERER", "vulkan")
    with pytest.raises(ValueError, match="raycast"):
        choose()


def test_a_failed_probe_says_what_to_install(monkeypatch):
    monkeypatch.setattr(render, "_PROBE", FAILING_CHILD)
    message = render.probe("osmesa")
    assert "no osmesa today" in message
    assert "libosmesa6" in message
    assert "RDT_RENDERER=raycast" in message


@pytest.fixture(scope="module")
def robot():
    robot = SimRobot("transfer_right_to_left", seed=7)
    for _ in range(10):
        robot.step()
    return robot


def test_the_overhead_camera_sees_the_cube_where_it_lies(robot):
    with render.make_renderer(robot.scene.model, 64, 64, "raycast") as renderer:
        picture = renderer.render(robot.data, "external").astype(int)
    assert picture.shape == (64, 64, 3)
    rows, columns = np.nonzero(picture[:, :, 0] - picture[:, :, 1] > 100)
    x, y, z = robot.object_poses()["box"][:3]
    metres_per_pixel = 2 * (0.8 - z - 0.02) * np.tan(np.deg2rad(19)) / 64  # at the height of the cube's top
    assert (columns.mean() - 31.5) * metres_per_pixel == pytest.approx(x, abs=0.006)
    assert (31.5 - rows.mean()) * metres_per_pixel == pytest.approx(y - 0.5, abs=0.006)


def test_drawing_does_not_disturb_the_physics(robot):
    watched, alone = (SimRobot("transfer_right_to_left", seed=3) for _ in range(2))
    with render.make_renderer(watched.scene.model, 16, 16, "raycast") as renderer:
        for _ in range(20):
            renderer.render(watched.data, "external")
            watched.step()
            alone.step()
    np.testing.assert_array_equal(watched.data.qpos, alone.data.qpos)


def test_wrong_requests_are_refused(robot):
    model = robot.scene.model
    with pytest.raises(ValueError, match="480 x 640"):
        render.make_renderer(model, 1080, 1920, "raycast")
    with pytest.raises(ValueError, match="osmesa"):
        render.make_renderer(model, 64, 64, "vulkan")
    with (
        render.make_renderer(model, 8, 8, "raycast") as renderer,
        pytest.raises(ValueError, match="external"),
    ):
        renderer.render(robot.data, "exterior")


DRAW = """
import sys
import numpy as np
from robot_drivers.sim import render
from robot_drivers.sim.robot import SimRobot

robot = SimRobot("transfer_right_to_left", seed=7)
pictures = []
for backend in sys.argv[1:3]:
    with render.make_renderer(robot.scene.model, 64, 64, backend) as renderer:
        pictures += [renderer.render(robot.data, camera) for camera in ("external", "right_wrist", "angle")]
np.save(sys.argv[3], pictures)
"""


@pytest.mark.parametrize("backend", render.GL_BACKENDS)
def test_the_ray_caster_draws_what_opengl_draws(backend, tmp_path):
    reason = render.probe(backend)
    if reason is not None:
        pytest.skip(reason)
    file = tmp_path / "pictures.npy"
    subprocess.run([sys.executable, "-c", DRAW, backend, "raycast", str(file)], check=True, cwd=ROOT)
    for opengl, cast in np.load(file).astype(int).reshape(2, 3, 64, 64, 3).swapaxes(0, 1):
        difference = np.abs(opengl - cast)
        assert difference.mean() < 10  # of 255; what is left is smooth shading and pixels on edges
        assert (difference.max(axis=-1) > 60).mean() < 0.05
