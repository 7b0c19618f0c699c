"""One toy arm follows another, and what is shown becomes episodes.

Run: pytest tests/deploy/test_demonstrate.py
"""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.demonstrate import Demonstrations, Services, lead
from deploy.realtime.follow import APPROACHING, NOBODY, FollowLoop, Leader
from deploy.realtime.recorder import Recorder, RecordTo
from deploy.realtime.replay import load_episode
from deploy.realtime.supervisor import RunSpec, Supervisor
from tests.deploy.realtime.parts import is_in, open_motor, wait_for
from tests.robots import bimanual

pytest.importorskip("mcap", reason="needs the extra mcap")
pytest.importorskip("rosbags", reason="needs the extra mcap")

PARTS = "tests.deploy.realtime.parts"
PATIENCE_S = 60.0
SIM = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """(demonstrations, folder, what was said, the file that makes the leader fail)."""
    monkeypatch.setenv("RDT_TEST_ARM", str(tmp_path / "fault"))
    spec = RunSpec(
        robot=SIM,
        leader=SIM,
        open_arm=f"{PARTS}:open_motor",
        open_leader=f"{PARTS}:open_swaying",
        open_backend=NOBODY,
        frame_size=(64, 64),
    )
    said = []
    with Supervisor(spec, "sway") as supervisor:
        recorder = Recorder(RecordTo(SIM, tmp_path / "demos"), supervisor.ring_specs())
        supervisor.wait_until_ready()
        yield Demonstrations(supervisor, recorder, said.append), tmp_path / "demos", said, tmp_path / "fault"
        recorder.close()


def press(demonstrations, *steps):
    """Keys, and conditions to wait for between them."""
    steps, until = list(steps), time.monotonic() + PATIENCE_S

    def key(seconds):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(seconds)
        if not steps:
            return "q"
        if callable(steps[0]):
            if steps[0]():
                steps.pop(0)
            return ""
        return steps.pop(0)

    lead(demonstrations, key)


def after(seconds):
    """True once it has been asked for so long."""
    begun = []
    return lambda: (begun or begun.append(time.monotonic()) or begun) and time.monotonic() - begun[0] > seconds


def test_what_is_kept_is_an_episode_that_begins_at_the_leader_and_what_is_discarded_leaves_nothing(shown):
    demonstrations, folder, said, _ = shown
    recording = lambda: demonstrations.is_recording  # noqa: E731
    press(demonstrations, "s", recording, "d", "s", recording, after(2.0), " ", " ")
    assert [path.name for path in folder.glob("*.mcap")] == ["episode_0000.mcap"]
    assert demonstrations.num_kept == 1
    assert "discarded" in said
    assert said[-1] == "there is no episode to keep"
    episode = load_episode(folder / "episode_0000.mcap", SIM)
    assert episode.instructions == ("sway",)
    for native in (SIM.from_unified(episode.states, "state"), SIM.from_unified(episode.actions)):
        assert 0.15 <= native.min() <= native.max() <= 0.31  # not the way from 0 to the leader


def test_a_leader_that_fails_ends_in_holding_and_the_episode_is_discarded(shown):
    demonstrations, folder, said, fault = shown
    press(
        demonstrations,
        "s",
        lambda: demonstrations.is_recording,
        lambda: fault.write_text("let go"),
        lambda: not demonstrations.is_recording,
    )
    assert any("nobody leads" in words for words in said)
    assert not list(folder.glob("*.mcap"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, RuntimeError])
def test_whatever_ends_it_half_a_demonstration_is_not_kept(shown, monkeypatch, how):
    demonstrations, folder, said, _ = shown

    def end():
        if how is RuntimeError:
            monkeypatch.setattr(demonstrations._supervisor, "check", lambda: (_ for _ in ()).throw(how("it ended")))
        else:
            os.kill(os.getpid(), how)
        return True

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the `rdt` command has it
    try:
        with pytest.raises(RuntimeError if how is RuntimeError else KeyboardInterrupt):
            press(demonstrations, "s", lambda: demonstrations.is_recording, end, lambda: False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert said[-1] == "discarded"
    demonstrations._recorder.close()  # it keeps what is open
    assert not list(folder.glob("*.mcap"))


def test_an_episode_is_kept_as_a_failure(shown):
    demonstrations, folder, _, _ = shown
    press(demonstrations, "s", lambda: demonstrations.is_recording, after(0.5), "f")
    assert judgement(folder) is False


def judgement(folder):
    """Success of the only episode there is."""
    from mcap.reader import make_reader

    (path,) = folder.glob("*.mcap")
    with path.open("rb") as file:
        records = list(make_reader(file).iter_metadata())
    return json.loads(next(record.metadata["success"] for record in records if "success" in record.metadata))


def test_services_give_the_same_orders_and_answer_what_became_of_them(shown, monkeypatch):
    pytest.importorskip("rclpy", reason="needs the extra `ros2`")
    from robot_drivers.messages import Link, SetBool, Trigger

    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    demonstrations, folder, _, _ = shown
    answers = []

    def ask():
        with Link("foot_switch") as link:
            answers.append(link.call(Trigger, "/rdt_record/discard_episode", timeout_s=30.0))
            answers.append(link.call(Trigger, "/rdt_record/begin_episode", timeout_s=30.0))
            wait_for(lambda: demonstrations.is_recording)
            time.sleep(0.5)
            answers.append(link.call(SetBool, "/rdt_record/end_episode", SetBool.Request(data=False), 60.0))

    asking = threading.Thread(target=ask)
    until = time.monotonic() + PATIENCE_S

    def key(seconds):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(seconds)
        return "" if asking.is_alive() else "q"

    with Services(demonstrations) as services:
        asking.start()
        lead(demonstrations, key, services)
    assert [answer.success for answer in answers] == [False, True, True]
    assert [answer.message for answer in answers[:2]] == ["there is no episode to discard", "the arms go to the leader"]
    assert "episode_0000.mcap" in answers[2].message
    assert judgement(folder) is False


def test_after_an_emergency_stop_the_reason_is_said_until_it_is_reset(shown):
    demonstrations, _, said, _ = shown
    supervisor = demonstrations._supervisor
    supervisor.estop()
    wait_for(is_in(supervisor, "fault"))
    press(demonstrations, "s")
    assert said == ["the arms hold: emergency stop; reset them first"]
    press(demonstrations, "r", is_in(supervisor, "hold"), "s", lambda: demonstrations.is_recording)


def test_a_start_that_met_an_emergency_stop_is_forgotten_by_the_reset(shown):
    demonstrations, _, _, _ = shown
    supervisor = demonstrations._supervisor
    demonstrations.start()
    supervisor.estop()
    wait_for(is_in(supervisor, "fault"))
    press(demonstrations, "r", is_in(supervisor, "hold"), "s", lambda: demonstrations.is_recording)


def test_the_way_to_the_leader_is_slow_and_a_leader_that_jumps_is_approached_again():
    leader = Leader(SIM, SIM, open_motor)
    robot = bimanual()
    loop = FollowLoop(robot, leader, settings=RunSpec(robot=robot, open_backend=NOBODY).settings)
    at, period = np.zeros(SIM.num_native), 20_000_000

    def tick():
        nonlocal at
        now = time.monotonic_ns()
        loop.push_state(at, now - period, now)
        tick = loop.tick(now)
        moved, at = tick.positions - at, tick.positions
        return np.abs(moved).max(), tick.why

    def put(value):
        for arm in leader._arms._arms.values():
            arm.positions[:] = value

    loop.start()
    put(0.2)
    moved, why = tick()
    assert moved == pytest.approx(0.3 / 50)
    assert why == APPROACHING
    assert [tick()[1] for _ in range(40)][-1] == "run"
    put(0.3)
    assert tick() == (pytest.approx(0.1), "run")  # as fast as the leader: the limits follow
    put(0.9)
    moved, why = tick()
    assert moved == pytest.approx(0.3 / 50)
    assert why == APPROACHING


def test_a_leader_with_other_joints_is_refused():
    raw = SIM.to_dict()
    del raw["arms"]["left"]
    with pytest.raises(ValueError, match="other slots"):
        Leader(Embodiment.from_dict(raw), SIM, open_motor)
