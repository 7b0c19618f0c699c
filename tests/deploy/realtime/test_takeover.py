"""A person takes over from a toy policy with a toy leader, and gives back; who acted is kept with each step.

Run: pytest tests/deploy/realtime/test_takeover.py
"""

import threading
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from data_pipeline.schema.types import ACTORS, ActionChunk
from data_pipeline.storage import EpisodeStore
from deploy.cli import main
from deploy.loop import Mode
from deploy.realtime.follow import APPROACHING, FollowLoop, Leader
from deploy.realtime.recorder import Recorder, RecordTo, convert_line
from deploy.realtime.supervisor import RunSpec, Supervisor
from robot_drivers.types import CameraFrame
from tests.deploy.realtime.parts import open_motor, wait_for
from tests.robots import bimanual

PARTS = "tests.deploy.realtime.parts"
SIM = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
TICK = 20_000_000


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """A policy that leans up and a leader that sways between 0.2 and 0.3, with pictures."""
    monkeypatch.setenv("RDT_TEST_ARM", str(tmp_path / "fault"))
    spec = RunSpec(
        robot=SIM,
        open_arm=f"{PARTS}:open_motor",
        open_backend=f"{PARTS}:open_leaning",
        backend_options={"step_rad": 0.04},
        leader=SIM,
        takes_over=True,
        open_leader=f"{PARTS}:open_swaying",
        frame_size=(64, 64),
    )
    picture, stopping = np.zeros((64, 64, 3), np.uint8), threading.Event()

    def film():
        while not stopping.wait(0.02):
            for role in SIM.cameras:
                supervisor.push_frame(CameraFrame(role, picture, time.monotonic_ns()))

    with Supervisor(spec, "lean up") as supervisor:
        supervisor.wait_until_ready()
        filming = threading.Thread(target=film)
        filming.start()
        yield supervisor
        stopping.set()
        filming.join()


def acts(supervisor, actor):
    return lambda: supervisor.status()["actor"] == actor


def test_a_person_takes_over_and_gives_back_and_each_step_says_who_acted(supervisor, tmp_path, capsys):
    pytest.importorskip("mcap", reason="needs the extra mcap")
    pytest.importorskip("rosbags", reason="needs the extra mcap")
    to = RecordTo(SIM, tmp_path / "corrected", policies=("runs/x",))
    recorder = Recorder(to, supervisor.ring_specs())
    at = lambda: supervisor.status()["measured"][0]  # noqa: E731
    assert recorder.begin().path
    supervisor.start()
    wait_for(lambda: at() > 0.6)
    assert acts(supervisor, "policy")()
    supervisor.lead(True)
    wait_for(lambda: supervisor.status()["why"].startswith(APPROACHING))
    wait_for(acts(supervisor, "operator"))
    assert 0.1 < at() < 0.4
    time.sleep(0.5)
    supervisor.lead(False)
    wait_for(lambda: at() > 0.6)
    assert acts(supervisor, "policy")()
    supervisor.stop()
    recorder.pause()
    path = Path(recorder.end(success=True).path)
    recorder.close()
    assert path.is_file()

    words = convert_line(to).split()[1:]
    assert main([*words[:-1], str(tmp_path / "store")]) == 0, capsys.readouterr().out
    (episode,) = EpisodeStore.open(tmp_path / "store")
    actors = [ACTORS[number] for number, _ in groupby(episode.actor_of_step.tolist())]
    told = [actor for actor in actors if actor != "nobody"]
    assert told == ["policy", "operator", "policy"]
    assert actors[actors.index("operator") - 1] == "nobody"  # on the way to the leader
    shown = SIM.from_unified(episode.actions)[episode.actor_of_step == ACTORS.index("operator")]
    assert 0.1 <= shown.min() <= shown.max() <= 0.4


def test_a_leader_that_fails_ends_in_holding_and_the_policy_can_go_on(supervisor, tmp_path):
    supervisor.start()
    wait_for(acts(supervisor, "policy"))
    (tmp_path / "fault").write_text("let go")
    supervisor.lead(True)
    wait_for(lambda: "nobody leads" in supervisor.status()["why"])
    assert supervisor.status()["actor"] == "nobody"
    supervisor.lead(False)
    wait_for(acts(supervisor, "policy"))


def test_nobody_takes_over_while_the_arms_hold_or_from_a_start_on(supervisor):
    with pytest.raises(ValueError, match="from a policy that was started"):
        supervisor.lead(True)
    supervisor.start()
    supervisor.lead(True)
    wait_for(lambda: supervisor.status()["why"].startswith(APPROACHING))
    supervisor.stop()
    wait_for(lambda: supervisor.status()["mode"] == "hold")
    supervisor.start()
    wait_for(acts(supervisor, "policy"))


def test_without_a_leader_nobody_takes_over():
    with (
        Supervisor(RunSpec(bimanual(), f"{PARTS}:open_leaning", open_arm=f"{PARTS}:open_motor")) as supervisor,
        pytest.raises(ValueError, match="--leader names the arms"),
    ):
        supervisor.lead(True)


def test_the_way_to_the_leader_begins_at_the_policys_end_and_the_policy_at_the_arms():
    leader = Leader(SIM, SIM, open_motor)
    loop = FollowLoop(SIM, leader, settings=RunSpec(robot=SIM, open_backend="").settings)
    for arm in leader._arms._arms.values():
        arm.positions[:] = 0.5

    def chunk(now, start):
        rows = start + 0.02 * np.arange(16)[:, None] * np.ones(SIM.num_native)
        actions, mask = SIM.to_unified(rows, "action")
        return ActionChunk(now, SIM.rate_hz, actions, mask)

    def tick(at):
        now = time.monotonic_ns()
        loop.push_state(np.full(SIM.num_native, at), now, now)
        return loop.tick(now)

    loop.lead(False)
    loop.start()
    assert tick(0.0).wants_observation
    loop.asked(time.monotonic_ns())
    assert loop.deliver(chunk(time.monotonic_ns(), 0.0), time.monotonic_ns()).outcome == "accepted"
    ended = tick(0.0).positions
    loop.lead(True)
    taken = tick(0.0)
    assert taken.why == APPROACHING
    assert not taken.wants_observation
    assert np.abs(taken.positions - ended).max() == pytest.approx(0.3 / 50)
    assert loop.deliver(chunk(time.monotonic_ns(), 0.0), time.monotonic_ns()).outcome == "ignored"
    loop.lead(False)
    given = tick(0.3)
    assert given.positions is None  # nothing of the plan of before
    assert given.wants_observation
    loop.asked(time.monotonic_ns())
    assert loop.deliver(chunk(time.monotonic_ns(), 0.3), time.monotonic_ns()).outcome == "accepted"
    assert tick(0.3).positions == pytest.approx(np.full(SIM.num_native, 0.3), abs=0.05)
    assert loop.mode is Mode.RUN
