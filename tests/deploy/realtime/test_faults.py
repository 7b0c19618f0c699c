"""The control process in the test's own time, and what goes wrong one at a time: it ends in holding, never in a leap.

Whole processes that are killed are in test_supervisor.py.

Run: pytest tests/deploy/realtime/test_faults.py
"""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.schema.types import ActionChunk
from deploy.loop import ControlLoop, LoopSettings, Mode
from deploy.realtime import records
from deploy.realtime.control import ControlProcess, ControlSpec
from deploy.realtime.memory import Ring
from robot_drivers.bimanual import Bimanual
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.limits.limit import Change
from robot_drivers.types import ArmState
from tests.deploy.realtime.parts import runs, wait_for
from tests.robots import bimanual

MS = 1_000_000
TICK = 20 * MS
ACCELERATION, SPEED = 8.0, 3.14

STEP_RAD = 0.02  # of the policy, each 80 ms
ROBOT = bimanual(ACCELERATION)


class Motor:
    """Obeys at once, on the rig's clock; `fault` is what goes wrong with it."""

    def __init__(self, rig):
        self.rig, self.positions, self.stamp_ns, self.fault = rig, np.zeros(7), 0, ""

    def state(self):
        if self.fault != "frozen":
            self.stamp_ns = self.rig.now_ns
        return ArmState(self.positions * (math.nan if self.fault == "nan" else 1.0), self.stamp_ns)

    def command(self, command):
        if self.fault == "broken":
            raise OSError("the bus is gone")
        self.positions = command.positions.copy()

    def hold(self):
        pass

    def close(self):
        pass


class Rig:
    """Supervisor, inference and arms of one control process, all told what to do wrong."""

    def __init__(self):
        self.now_ns, self.missed = 10**12, 0
        dtypes = {
            "orders": records.ORDERS,
            "requests": records.request_dtype(64),
            "answers": records.answer_dtype(64),
            "health": records.HEALTH,
            "states": records.state_dtype(14),
            "ticks": records.tick_dtype(14),
        }
        self.rings = {name: Ring.create(dtype, 8) for name, dtype in dtypes.items()}
        self.order, self.health, self.answer = (self.rings[name].empty() for name in ("orders", "health", "answers"))
        self.arms = {"left": Motor(self), "right": Motor(self)}
        specs = {name: ring.spec for name, ring in self.rings.items()}
        settings = LoopSettings(interpolation="cubic", handover="blend", answer_timeout_s=0.4)
        spec = ControlSpec(ROBOT.to_dict(), settings, LimitSettings(), "", specs)
        self.process = ControlProcess(
            spec, Bimanual(ROBOT, self.arms, spec.limits), ControlLoop(ROBOT, settings=settings)
        )
        self.beats = self.breathes = True
        self.answers = "chunks"
        self.path = []

    def close(self):
        for ring in self.rings.values():
            ring.close()

    def run(self, num_ticks=1):
        for _ in range(num_ticks):
            self.now_ns += TICK
            if self.beats:
                self.say()
            if self.breathes:
                self.health["stamp_ns"] = self.now_ns
                self.rings["health"].write(self.health)
            self.process.tick(self.now_ns, 0, self.missed)
            self.path.append(np.concatenate([arm.positions for arm in self.arms.values()]))
            for request in self.rings["requests"].new():
                self.reply(request.number)

    def say(self, **orders):
        for name, value in orders.items():
            self.order[name] = value
        self.order["stamp_ns"] = self.now_ns
        self.rings["orders"].write(self.order)

    def start(self):
        self.say(wanted=records.RUN, starts=self.order["starts"] + 1)

    def reply(self, number):
        if self.answers == "none":
            return
        here = self.process.body.set_point
        here = np.zeros(14) if here is None else here
        leap = 1.0 if self.answers == "leaps" else 0.0
        rows = here + leap + STEP_RAD * np.arange(16)[:, None] * (np.arange(14) % 7 != 6)
        actions, mask = ROBOT.to_unified(rows, "action")
        records.put_answer(self.answer, number, ActionChunk(self.now_ns, ROBOT.rate_hz, actions, mask))
        if self.answers == "fails":
            self.answer["outcome"], self.answer["why"] = records.FAILED, b"ill"
        if self.answers == "stale":
            self.answer["outcome"] = records.STALE
        self.rings["answers"].write(self.answer)

    @property
    def mode(self):
        return self.process.loop.mode

    def why(self):
        return records.text(self.rings["ticks"].newest().value["why"])

    def is_still(self, ticks=5):
        return not np.diff(self.path[-ticks:], axis=0).any()


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.close()


def moving(rig):
    """In the middle of a motion."""
    rig.run(5)
    rig.start()
    rig.run(15)
    assert rig.mode is Mode.RUN
    assert not rig.is_still(2)
    return rig


def emergency_stop(rig):
    rig.say(estop=1, estops=rig.order["estops"] + 1, wanted=records.HOLD)


def fault_of_arm(word):
    return lambda rig: setattr(rig.arms["left"], "fault", word)


def replies(word):
    return lambda rig: setattr(rig, "answers", word)


def no_beat(rig):
    rig.beats = False


def no_breath(rig):
    rig.breathes = False


def missed_ticks(rig):
    rig.missed += 11


FAULTS = {
    # what happens -> (how, mode in the end, words of the reason, ms until the plan is no longer followed)
    "emergency stop": (emergency_stop, Mode.FAULT, "emergency stop", 2 * 20),
    "reset": (lambda rig: rig.say(resets=1, wanted=records.HOLD), Mode.HOLD, "reset", 2 * 20),
    "stop": (lambda rig: rig.say(wanted=records.HOLD), Mode.HOLD, "stop was asked for", 2 * 20),
    "close": (lambda rig: rig.say(closing=1), Mode.HOLD, "stop was asked for", 2 * 20),
    "SIGTERM": (lambda rig: rig.process.close_soon(), Mode.HOLD, "stop was asked for", 2 * 20),
    "silent supervisor": (no_beat, Mode.HOLD, "the supervisor is silent", 1040),
    "silent inference": (no_breath, Mode.HOLD, "the inference process is silent", 1040),
    "no joint state": (fault_of_arm("frozen"), Mode.FAULT, "old", 120),
    "joint state of NaN": (fault_of_arm("nan"), Mode.FAULT, "old", 120),
    "an arm that raises": (fault_of_arm("broken"), Mode.FAULT, "the bus is gone", 2 * 20),
    "answers that fail": (replies("fails"), Mode.HOLD, "inference failed", 2000),
    "answers that leap": (replies("leaps"), Mode.HOLD, "chunk rejected: jump", 2000),
    "no answers": (replies("none"), Mode.RUN, "plan exhausted", 2000),
    "no observations": (replies("stale"), Mode.RUN, "plan exhausted", 2000),
    "missed ticks": (missed_ticks, Mode.HOLD, "11 ticks were missed", 2 * 20),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_goes_wrong_ends_in_holding(rig, name):
    happens, mode, why, patience_ms = FAULTS[name]
    moving(rig)
    happens(rig)
    rig.run(patience_ms // 20 + math.ceil(SPEED / ACCELERATION / 0.02))
    assert rig.is_still()
    rig.run(30)
    assert rig.is_still(30)
    assert rig.mode is mode
    assert why in rig.why()
    steps = np.diff(rig.path, axis=0)
    assert np.abs(steps).max() <= SPEED * 0.02 + 1e-9
    if name != "an arm that raises":  # the motor of a dead bus stands by itself
        assert np.abs(np.diff(steps, axis=0))[:, np.arange(14) % 7 != 6].max() <= ACCELERATION * 0.02**2 + 1e-9


@pytest.mark.parametrize("name", ["emergency stop", "SIGTERM", "an arm that raises", "missed ticks", "reset", "stop"])
def test_what_must_act_at_once_brakes_in_the_next_tick(rig, name):
    moving(rig)
    before = rig.path[-1] - rig.path[-2]
    FAULTS[name][0](rig)
    rig.run(2)
    after = rig.path[-1] - rig.path[-2]
    assert (np.abs(after) <= np.abs(before) + 1e-12).all()
    assert np.abs(after[0]) < np.abs(before[0])


def test_an_answer_that_comes_after_an_emergency_stop_moves_nothing(rig):
    moving(rig)
    rig.answers = "none"
    while not list(rig.rings["requests"].new()):
        rig.process.tick(rig.now_ns)
        rig.now_ns += TICK
        rig.say()
    emergency_stop(rig)
    rig.run(30)
    rig.answers = "chunks"
    rig.reply(rig.process._request_number)
    rig.run(10)
    assert rig.is_still(10)
    assert rig.mode is Mode.FAULT


def test_an_answer_to_what_was_asked_before_a_new_start_is_no_part_of_it(rig):
    """It may be another policy's."""
    moving(rig)
    rig.answers = "none"
    rig.run(30)
    late = rig.process._request_number
    rig.say(wanted=records.HOLD)
    rig.run(40)
    rig.answers = "chunks"
    rig.start()
    rig.reply(late)
    rig.process.tick(rig.now_ns + TICK)
    assert rig.mode is Mode.RUN
    assert rig.why() == "no plan yet"


def test_after_an_emergency_stop_only_reset_and_start_move_and_gently(rig):
    moving(rig)
    emergency_stop(rig)
    rig.run(40)
    rig.start()
    rig.run(10)
    assert rig.mode is Mode.FAULT
    rig.say(estop=0, resets=1, wanted=records.HOLD)
    rig.run(10)
    assert rig.mode is Mode.HOLD
    assert rig.is_still(50)
    rig.start()
    rig.run(10)
    rig.start()  # twice is once
    rig.run(10)
    assert rig.mode is Mode.RUN
    assert not rig.is_still(2)


def test_a_start_right_after_a_reset_waits_for_the_stand(rig):
    moving(rig)
    begun = len(rig.path)
    rig.say(resets=1, wanted=records.HOLD)
    rig.start()  # before the next tick: it sees both orders as one
    rig.run(40)
    assert rig.process._resets == 1
    assert rig.mode is Mode.RUN
    steps = np.diff(rig.path, axis=0)
    assert not steps[begun:].any(axis=1).all()  # it stood
    assert steps[-1].any()
    assert np.abs(np.diff(steps, axis=0))[:, np.arange(14) % 7 != 6].max() <= ACCELERATION * 0.02**2 + 1e-9


def test_an_emergency_stop_after_a_reset_that_waits_stands(rig):
    moving(rig)
    rig.say(resets=1, wanted=records.HOLD)
    rig.run(1)
    assert rig.process._resets == 0
    emergency_stop(rig)
    rig.run(40)
    assert rig.mode is Mode.FAULT
    rig.say(estop=0)
    rig.run(10)
    assert rig.mode is Mode.FAULT


@pytest.mark.parametrize("word", ["frozen", "nan"])
def test_a_joint_state_that_comes_back_in_time_goes_on_from_where_the_arm_is(rig, word):
    moving(rig)
    rig.arms["left"].fault = word
    rig.run(15)  # 300 ms: holds, no fault
    assert rig.mode is Mode.RUN
    assert rig.is_still(2)
    rig.arms["left"].fault = ""
    rig.run(20)
    assert not rig.is_still(2)
    steps = np.diff(rig.path, n=2, axis=0)[:, np.arange(14) % 7 != 6]
    assert np.abs(steps).max() <= ACCELERATION * 0.02**2 + 1e-9


def test_a_killed_supervisor_leaves_no_process():
    """The others see that their parent is gone, come to a stand and end."""
    program = (
        "import sys, time\n"
        "from deploy.realtime.supervisor import RunSpec, Supervisor\n"
        "from tests.robots import bimanual\n"
        "if __name__ == '__main__':\n"
        "    parts = 'tests.deploy.realtime.parts'\n"
        "    spec = RunSpec(robot=bimanual(), open_arm=parts + ':open_motor', open_backend=parts + ':open_leaning')\n"
        "    supervisor = Supervisor(spec)\n"
        "    supervisor.wait_until_ready()\n"
        "    print(*(supervisor.process_id(name) for name in ('control', 'inference')), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    children = [int(word) for word in parent.stdout.readline().split()]
    assert len(children) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while any(runs(child) for child in children):
        assert time.monotonic() < until, "a process goes on without its supervisor"
        time.sleep(0.05)


def test_a_supervisor_killed_while_the_network_loads_leaves_no_process(tmp_path):
    told = tmp_path / "told"
    program = (
        "from deploy.realtime.supervisor import RunSpec, Supervisor\n"
        "from tests.deploy.realtime.parts import blind_robot\n"
        "if __name__ == '__main__':\n"
        "    parts = 'tests.deploy.realtime.parts'\n"
        f"    options = {{'opening': 3.0, 'told': {str(told)!r}}}\n"
        "    spec = RunSpec(blind_robot(), parts + ':open_slowly', options, open_arm=parts + ':open_motor')\n"
        "    Supervisor(spec).wait_until_ready()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    wait_for(lambda: told.exists() and told.read_text())
    children = [int(word) for word in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    assert int(told.read_text()) in children
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(runs(child) for child in children))


def test_a_report_with_words_of_its_own_is_told_by_them(rig, monkeypatch):
    moving(rig)
    far = Change("reach", (0, 1), 0.2, "hold", "the left tool stays 0.200 m and 0.10 rad from its pose")
    monkeypatch.setattr(rig.process.body, "command", lambda *_: (far,))
    rig.run()
    assert rig.why() == "run; reach hold: the left tool stays 0.200 m and 0.10 rad from its pose"
