"""A session ends whatever its parts do, and does not wait for what nobody waits for any more.

Run: pytest tests/deploy/realtime/test_session.py
"""

import dataclasses
import threading

import pytest

from data_pipeline.schema.embodiment import Camera
from deploy.realtime import session as module
from deploy.realtime.cameras import CameraPump
from deploy.realtime.session import Session
from deploy.realtime.supervisor import RunSpec
from tests.deploy.realtime.parts import Stubborn, blind_robot, runs, wait_for

PARTS = "tests.deploy.realtime.parts"


def test_a_camera_that_will_not_be_closed_keeps_no_arm_moving(monkeypatch):
    monkeypatch.setattr(module, "open_camera", lambda robot, role: Stubborn())
    robot = dataclasses.replace(blind_robot(), cameras={"external": Camera("v4l2")})
    spec = RunSpec(robot, f"{PARTS}:open_leaning", open_arm=f"{PARTS}:open_motor", frame_size=(8, 8))
    session = Session(spec)
    processes = list(session.supervisor._processes.values())
    with pytest.raises(OSError, match="the camera is stuck"):
        session.close()
    assert [process.exitcode for process in processes] == [0, 0]


def test_every_camera_is_let_go_even_if_one_raises():
    cameras = {"left": Stubborn(), "right": Stubborn()}
    with pytest.raises(OSError, match="the camera is stuck"):
        CameraPump(cameras, lambda frame: None).close()
    assert all(camera.asked for camera in cameras.values())


def test_a_session_that_is_told_to_end_while_it_opens_leaves_no_process(tmp_path):
    told, closing, raised = tmp_path / "told", threading.Event(), []
    options = {"opening": 3.0, "told": str(told)}
    spec = RunSpec(blind_robot(), f"{PARTS}:open_slowly", options, open_arm=f"{PARTS}:open_motor")

    def open_it():
        try:
            Session(spec, closing=closing).close()
        except RuntimeError as error:
            raised.append(str(error))

    opening = threading.Thread(target=open_it)
    opening.start()
    wait_for(lambda: told.exists() and told.read_text())
    closing.set()
    opening.join()
    assert raised == ["told to end before the robot's processes were ready"]
    assert not runs(int(told.read_text()))
