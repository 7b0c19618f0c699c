"""A session of real processes with a motor that obeys at once and a policy that leans up.

Run: pytest tests/deploy/realtime/test_supervisor.py
"""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config, read_yaml
from deploy.loop import LoopSettings
from deploy.realtime.inference import BackendSpec
from deploy.realtime.records import get_frame, text
from deploy.realtime.supervisor import RunSpec, Supervisor
from robot_drivers.types import CameraFrame
from tests.deploy.realtime.parts import PATIENCE_S, is_in, wait_for

PARTS = "tests.deploy.realtime.parts"


@pytest.fixture
def fault(tmp_path, monkeypatch):
    """Write a word here, and the motor has that fault."""
    monkeypatch.setenv("RDT_TEST_ARM", str(tmp_path / "fault"))
    return tmp_path / "fault"


@pytest.fixture
def open_session(fault):
    sessions, stopping = [], threading.Event()

    def keep_filming(supervisor: Supervisor) -> None:
        picture = np.zeros((64, 64, 3), np.uint8)
        while not stopping.wait(0.02):
            supervisor.push_frame(CameraFrame("external", picture, time.monotonic_ns()))

    def make(*, film: bool = True, handover: str = "blend", against: dict | None = None, **options) -> Supervisor:
        robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
        spec = RunSpec(
            robot=robot,
            open_arm=f"{PARTS}:open_motor",
            open_backend=f"{PARTS}:open_leaning",
            backend_options=options,
            against=None if against is None else BackendSpec(f"{PARTS}:open_leaning", against),
            settings=LoopSettings(interpolation="cubic", handover=handover, answer_timeout_s=0.5),
            frame_size=(64, 64),
        )
        supervisor = Supervisor(spec, "lean up")
        sessions.append(supervisor)
        supervisor.wait_until_ready()
        if film:
            thread = threading.Thread(target=keep_filming, args=(supervisor,), daemon=True)
            thread.start()
            sessions[-1].filming = thread
        return supervisor

    yield make
    stopping.set()
    for session in sessions:
        getattr(session, "filming", threading.Thread()).is_alive() and session.filming.join()
        session.close()


def test_arms_hold_until_start_then_follow_the_policy_then_stop(open_session):
    supervisor = open_session()
    assert supervisor.status()["mode"] == "hold"
    assert not np.any(supervisor.status()["measured"])
    supervisor.start()
    wait_for(lambda: supervisor.status()["measured"][0] > 0.1)
    assert supervisor.status()["mode"] == "run"
    supervisor.stop()
    wait_for(is_in(supervisor, "hold"))

    def at_rest() -> bool:  # the limits may brake a little longer than the plan
        before = supervisor.status()["measured"]
        time.sleep(0.2)
        return supervisor.status()["measured"] == before

    wait_for(at_rest)


def test_an_emergency_stop_holds_until_reset_and_start(open_session):
    supervisor = open_session()
    supervisor.start()
    wait_for(lambda: supervisor.status()["measured"][0] > 0.05)
    supervisor.estop()
    wait_for(is_in(supervisor, "fault"))
    assert "emergency stop" in supervisor.status()["why"]
    supervisor.start()
    time.sleep(0.2)
    assert supervisor.status()["mode"] == "fault"
    supervisor.reset()
    wait_for(is_in(supervisor, "hold"))
    supervisor.start()
    wait_for(is_in(supervisor, "run"))


def test_of_two_policies_the_chosen_one_acts(open_session):
    supervisor = open_session(step_rad=0.01, against={"step_rad": -0.01})
    at = lambda: supervisor.status()["measured"][0]  # noqa: E731
    supervisor.choose(1)
    supervisor.start()
    wait_for(lambda: at() < -0.05)
    with pytest.raises(ValueError, match="stop it before another one is chosen"):
        supervisor.choose(0)
    supervisor.stop()
    wait_for(is_in(supervisor, "hold"))
    supervisor.choose(0)
    low = at()
    supervisor.start()
    wait_for(lambda: at() > low + 0.1)


def test_one_policy_cannot_be_exchanged(open_session):
    with pytest.raises(ValueError, match="--against names a second one"):
        open_session(film=False).choose(1)


def test_commands_keep_within_speed_and_acceleration(open_session):
    supervisor = open_session(seconds=0.1)
    ticks = supervisor.ring("ticks")
    list(ticks.new())
    supervisor.start()
    wait_for(lambda: supervisor.status()["measured"][0] > 0.3)
    rows = [record.value for record in ticks.new()]
    ticks.close()
    measured = np.array([row["measured"] for row in rows])
    assert np.abs(np.diff(measured, axis=0)).max() <= 3.14 * 0.02 * (1 + rows[-1]["missed"]) + 1e-9
    assert {text(row["mode"]) for row in rows} <= {"hold", "run"}


def test_real_time_chunking_gets_what_was_sent_and_what_is_planned(open_session):
    supervisor = open_session(handover="rtc", guided=True)
    supervisor.start()
    wait_for(lambda: supervisor.status().get("requests", 0) >= 6)
    assert supervisor.status()["failures"] == 0
    assert supervisor.status()["measured"][0] > 0.05


@pytest.mark.parametrize(("word", "why"), [("silent", "the bus is silent"), ("stale", "old")])
def test_a_motor_that_is_silent_or_late_ends_in_holding(open_session, fault, word, why):
    supervisor = open_session()
    supervisor.start()
    wait_for(lambda: supervisor.status()["measured"][0] > 0.05)
    fault.write_text(word)
    wait_for(lambda: why in supervisor.status()["why"])
    if word == "silent":
        wait_for(is_in(supervisor, "fault"))


def test_a_policy_that_raises_stops_the_robot_with_its_words(open_session):
    supervisor = open_session(raises=True)
    supervisor.start()
    wait_for(lambda: supervisor.status()["mode"] == "hold" and "inference failed" in supervisor.status()["why"])
    wait_for(lambda: "the network is ill" in supervisor.status()["inference"])


def test_without_pictures_nothing_moves_and_the_reason_is_said(open_session):
    supervisor = open_session(film=False)
    supervisor.start()
    wait_for(lambda: "external has never come" in supervisor.status().get("inference", ""))
    assert not np.any(supervisor.status()["measured"])


def test_a_killed_policy_process_ends_in_holding_and_is_named(open_session):
    supervisor = open_session()
    supervisor.start()
    wait_for(lambda: supervisor.status()["measured"][0] > 0.05)
    os.kill(supervisor._processes["inference"].pid, signal.SIGKILL)
    wait_for(is_in(supervisor, "hold"))
    assert "inference process is silent" in supervisor.status()["why"]
    with pytest.raises(RuntimeError, match="the inference process has ended"):
        supervisor.check()


def test_sigterm_to_the_control_process_comes_to_a_stand_and_ends_well(open_session):
    supervisor = open_session()
    supervisor.start()
    wait_for(lambda: supervisor.status()["measured"][0] > 0.05)
    process = supervisor._processes["control"]
    os.kill(process.pid, signal.SIGTERM)
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def test_closing_leaves_no_process_and_no_memory(open_session):
    supervisor = open_session(film=False)
    processes = list(supervisor._processes.values())
    memory = [Path("/dev/shm", ring.spec.name) for ring in supervisor._rings.values()]
    assert all(path.exists() for path in memory)
    supervisor.close()
    assert [process.exitcode for process in processes] == [0, 0]
    assert not any(path.exists() for path in memory)


def test_a_camera_has_room_for_what_its_connection_says_and_a_topic_for_more():
    raw = read_yaml(find_config("robots", "sim_bimanual"))
    raw["cameras"] = {
        "external": {"source": "realsense", "connection": {"width": 1280, "height": 720}},
        "right_wrist": {"source": "v4l2"},
        "left_wrist": {"source": "/camera_l/color/image_raw"},
    }
    spec = RunSpec(
        robot=Embodiment.from_dict(raw), open_arm=f"{PARTS}:open_motor", open_backend=f"{PARTS}:open_leaning"
    )
    with Supervisor(spec) as supervisor:
        for role, (height, width) in {
            "external": (720, 1280),
            "right_wrist": (480, 640),
            "left_wrist": (1080, 1920),
        }.items():
            ring = supervisor.ring(f"frames of {role}")
            supervisor.push_frame(CameraFrame(role, np.full((height, width, 3), 7, np.uint8), 1))
            assert get_frame(ring.newest().value, role).image.shape == (height, width, 3)
            ring.close()
            with pytest.raises(ValueError, match="announced"):
                supervisor.push_frame(CameraFrame(role, np.zeros((height + 1, width, 3), np.uint8), 2))


def test_an_arm_that_cannot_be_opened_is_one_message(capfd):
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    spec = RunSpec(robot=robot, open_arm=f"{PARTS}:nothing", open_backend=f"{PARTS}:open_leaning")
    with Supervisor(spec) as supervisor, pytest.raises(RuntimeError, match="the control process has ended"):
        supervisor.wait_until_ready()
    assert "rdt: error: rdt control: " in capfd.readouterr().err
