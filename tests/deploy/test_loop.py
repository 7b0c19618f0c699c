"""The tick under everything that goes wrong with time: latency, jitter, late, lost and broken answers.

A `Rig` drives the loop as a node would: a clock, fake arms behind their limits, and an inference that answers
after a latency of its own. Nothing sleeps.

Run: pytest tests/deploy/test_loop.py
"""

import math

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ActionChunk
from deploy.loop import ControlLoop, LoopSettings, Mode
from deploy.observation_buffer import Stale
from robot_drivers.bimanual import Bimanual
from robot_drivers.errors import RobotError
from robot_drivers.limits.chain import LimitSettings
from robot_drivers.types import ArmState, CameraFrame
from tests.robots import bimanual

MS = 1_000_000
TICK, STEP = 20 * MS, 80 * MS
ROBOT = bimanual()
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)
IMAGE = np.zeros((4, 4, 3), dtype=np.uint8)


class FakeArm:
    """Goes where it is told at once."""

    def __init__(self, positions):
        self.positions, self.stamp_ns, self.broken = positions, 0, False

    def state(self):
        return ArmState(self.positions.copy(), self.stamp_ns)

    def command(self, command):
        if self.broken:
            raise OSError("bus gone")
        self.positions = command.positions

    def hold(self):
        pass

    def close(self):
        pass


def sine(times_s):
    """Where the policy wants the first joint: slow, and never a jump away, whenever it is asked again."""
    return 0.15 * (1 - np.cos(2.0 * times_s))


class Rig:
    def __init__(self, *, latency_ns=0, answer=None, jitter_ns=0, robot=ROBOT, **settings):
        self.loop = ControlLoop(robot, "wave", LoopSettings(**settings))
        self.arms = {"left": FakeArm(HOME[:7]), "right": FakeArm(HOME[7:])}
        self.body = Bimanual(robot, self.arms, LimitSettings(margin_rad=0.0, approach_rad_s=math.inf))
        self.robot = robot
        self.latency_ns = latency_ns if callable(latency_ns) else lambda k: latency_ns
        self.answer = answer or (lambda k, chunk: chunk)  # the k-th answer may be altered; "lost": none comes
        self.jitter = np.random.default_rng(0).integers(0, jitter_ns + 1, 100_000) if jitter_ns else None
        self.ticks = 0
        self.requests = 0
        self.in_flight = []
        self.states_come = self.frames_come = True
        self.times_ns, self.sent, self.why, self.reports = [], [], [], []

    def policy(self, observation):
        start_ns = observation.stamp_ns + self.robot.action_offset_steps * STEP
        rows = np.tile(HOME, (16, 1))
        rows[:, 0] += sine(start_ns * 1e-9 + 0.08 * np.arange(16))
        vector, mask = self.robot.to_unified(rows, "action")
        return ActionChunk(start_ns, self.robot.rate_hz, vector, mask)

    def run(self, ticks):
        for _ in range(ticks):
            self.tick()
        return self

    def tick(self):
        now_ns = self.ticks * TICK + (int(self.jitter[self.ticks]) if self.jitter is not None else 0)
        self.ticks += 1
        if self.states_come:
            for arm in self.arms.values():
                arm.stamp_ns = now_ns
            native, stamp_ns = self.body.state()
            self.loop.push_state(native, stamp_ns, now_ns)
        if self.frames_come:
            self.loop.push_frame(CameraFrame("external", IMAGE, now_ns), now_ns)
        if self.loop.wants_observation(now_ns):
            observation = self.loop.observation(now_ns)
            if not isinstance(observation, Stale):
                chunk = self.answer(self.requests, self.policy(observation))
                if not isinstance(chunk, str):
                    self.in_flight.append((now_ns + self.latency_ns(self.requests), chunk))
                self.requests += 1
        arrived = [chunk for due_ns, chunk in self.in_flight if due_ns <= now_ns]
        self.in_flight = [entry for entry in self.in_flight if entry[0] > now_ns]
        for chunk in arrived:
            self.loop.deliver(chunk, now_ns)
        tick = self.loop.tick(now_ns)
        report = ()
        try:
            if tick.positions is None:
                self.body.hold()
            else:
                report = self.body.command(tick.positions, tick.stamp_ns)
        except RobotError as error:
            self.loop.fault(str(error))
        self.times_ns.append(tick.stamp_ns)
        self.sent.append(self.arms["left"].positions[0])
        self.why.append(tick.why)
        self.reports.append(report)

    @property
    def counters(self):
        return self.loop.counters

    def speeds(self):
        return np.diff(self.sent) / 0.02

    def error(self, from_tick):
        """Distance from where the policy wanted to be, in rad."""
        return np.abs(np.array(self.sent) - sine(np.array(self.times_ns) * 1e-9))[from_tick:]


def started(**options):
    rig = Rig(**options)
    rig.loop.start()
    return rig


def test_it_holds_until_it_is_started():
    rig = Rig().run(10)
    assert rig.loop.mode is Mode.HOLD
    assert set(rig.why) == {"not started"}
    assert rig.requests == 0
    assert set(rig.sent) == {0.0}


def test_in_lockstep_it_follows_the_policy_and_asks_every_eight_steps():
    rig = started().run(400)
    assert rig.error(1).max() < 2e-3  # chords of the sine over 80 ms
    assert rig.requests == math.ceil(400 / 32)
    assert set(rig.why) == {"run"}
    assert (rig.counters.chunks, rig.counters.holds, rig.counters.exhausted) == (13, 0, 0)


def test_the_action_for_one_step_later_is_reached_in_the_fourth_tick():
    rig = started().run(4)
    first_action = sine(np.array(0.08))
    assert rig.sent == pytest.approx(first_action * np.array([0.25, 0.5, 0.75, 1.0]), abs=1e-6)


def test_the_whole_chunk_may_be_executed():
    rig = started(execute_steps=16).run(400)
    assert rig.requests == math.ceil(400 / 64)
    assert rig.counters.exhausted == rig.counters.late == rig.counters.holds == 0


@pytest.mark.parametrize("handover", ["switch", "blend", "ensemble", "rtc"])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_latency_costs_a_wait_at_the_start_and_nothing_after(handover, interpolation):
    rig = started(latency_ns=150 * MS, handover=handover, interpolation=interpolation).run(400)
    assert rig.error(90).max() < 4e-3  # the first chunk begins late, and an ensemble remembers it
    assert rig.counters.holds == 8
    assert rig.counters.exhausted == rig.counters.overruns == 0


def test_the_first_chunk_begins_at_its_beginning_however_long_the_robot_waited_for_it():
    """It answers a robot that stood, and still stands: its first action is due, not the clock's."""

    def far(k, chunk):
        actions = np.array(chunk.actions)
        actions[:, ROBOT.slots[0]] += 0.06 * np.arange(16)  # 0.75 rad/s: after 500 ms too far away to be sound
        return ActionChunk(chunk.start_ns, chunk.rate_hz, actions, chunk.mask)

    rig = started(latency_ns=500 * MS, answer=far).run(29)
    assert (rig.counters.rejected, rig.counters.chunks, rig.counters.holds) == (0, 1, 25)
    assert rig.sent[24] == 0 and rig.sent[25] == pytest.approx(sine(0.08), abs=1e-6)  # one tick later, row 0
    assert rig.loop._actions.horizon == 16 and rig.loop._actions.remaining(26 * TICK) == 15


def test_a_chunk_that_was_asked_for_in_motion_does_not_begin_anew():
    rig = started(latency_ns=200 * MS).run(100)
    begun = rig.loop._actions.chunk.start_ns
    late = rig.policy(rig.loop.observation(100 * TICK))
    assert rig.loop.deliver(late, 112 * TICK).dropped == 3
    assert rig.loop._actions.chunk.start_ns == late.start_ns > begun


def test_it_asks_earlier_when_answers_take_longer():
    quick, slow = started(execute_steps=15).run(100), started(execute_steps=15, latency_ns=200 * MS).run(400)
    assert quick.counters.exhausted == 0
    assert slow.counters.exhausted <= 1  # the first time it does not know
    assert slow.error(150).max() < 4e-3


def test_jitter_of_ticks_moves_no_joint_too_fast():
    rig = started(latency_ns=70 * MS, jitter_ns=8 * MS).run(400)
    assert np.abs(rig.speeds()).max() < 3.14
    assert rig.error(40).max() < 0.02
    assert rig.counters.exhausted == 0


def test_a_late_chunk_finds_the_robot_braked_and_takes_over_gently():
    rig = started(latency_ns=lambda k: 900 * MS if k == 3 else 0).run(400)
    assert rig.counters.exhausted == rig.counters.late == 1
    assert "plan exhausted" in rig.why
    assert np.abs(np.diff(rig.speeds())).max() <= 15 * 0.02 + 1e-6
    assert rig.error(250).max() < 2e-3


def test_a_chunk_that_is_too_late_is_discarded_and_asked_for_again():
    rig = started(latency_ns=lambda k: 1100 * MS if k == 3 else 0, answer_timeout_s=5.0).run(400)
    assert rig.counters.overruns == 1
    assert rig.error(250).max() < 2e-3


def test_a_lost_answer_is_asked_for_again_after_its_time():
    rig = started(answer=lambda k, chunk: "lost" if k == 2 else chunk, answer_timeout_s=0.3).run(400)
    assert rig.counters.lost == 1
    assert rig.counters.exhausted == 0  # the rest of the plan bridges it
    assert rig.error(250).max() < 2e-3


def test_an_answer_that_was_given_up_does_not_count_for_the_next_request():
    rig = started(latency_ns=lambda k: 600 * MS if k == 2 else 0, answer_timeout_s=0.3).run(200)
    assert rig.counters.lost == 1
    assert rig.counters.rejected <= 1  # out of order
    assert rig.error(150).max() < 2e-3


def test_failed_inference_is_asked_for_again_and_three_in_a_row_stop():
    once = started(answer=lambda k, chunk: None if k == 2 else chunk).run(200)
    assert once.counters.failed == 1
    assert once.loop.mode is Mode.RUN
    always = started(answer=lambda k, chunk: None if k >= 2 else chunk).run(200)
    assert always.loop.mode is Mode.HOLD
    assert always.loop.why == "inference failed"
    assert np.abs(np.diff(always.speeds())).max() <= 15 * 0.02 + 1e-6
    assert always.speeds()[-1] == 0


def broken(chunk):
    """A chunk whose values turned NaN after birth."""
    values = np.array(chunk.actions)
    values[5] = np.nan
    object.__setattr__(chunk, "actions", values)
    return chunk


def test_a_nan_chunk_never_reaches_the_robot():
    rig = started(answer=lambda k, chunk: broken(chunk) if k == 2 else chunk).run(200)
    assert rig.counters.rejected == 1
    assert np.isfinite(rig.sent).all()
    assert rig.error(150).max() < 2e-3


def test_a_chunk_from_elsewhere_is_rejected_and_the_plan_goes_on():
    def elsewhere(k, chunk):
        if k != 2:
            return chunk
        far = chunk.actions + 0.5 * chunk.mask.astype(np.float32)
        return ActionChunk(chunk.start_ns, chunk.rate_hz, far, chunk.mask)

    rig = started(answer=elsewhere).run(200)
    assert rig.counters.rejected == 1
    assert rig.error(1).max() < 2e-3


def test_chunks_out_of_order_do_not_turn_time_back():
    rig = started().run(100)
    old = rig.policy(rig.loop.observation(99 * TICK))
    rig.run(50)
    assert rig.loop.deliver(old, 150 * TICK).outcome == "out_of_order"


def test_when_the_required_camera_stops_the_plan_ends_in_a_stand_and_goes_on_when_it_comes_back():
    rig = started().run(100)
    rig.frames_come = False
    rig.run(150)
    assert rig.counters.stale > 0
    assert rig.why[-1] == "plan exhausted"
    assert rig.speeds()[-1] == 0
    assert np.abs(np.diff(rig.speeds())).max() <= 15 * 0.02 + 1e-6
    assert rig.loop.mode is Mode.RUN
    stood_at = rig.sent[-1]
    rig.frames_come = True
    rig.tick()
    assert abs(rig.sent[-1] - stood_at) <= 15 * 0.02**2 + 1e-6
    rig.run(60)
    assert rig.error(290).max() < 4e-3


def test_when_the_state_stops_it_holds_within_110_ms_and_faults_after_500():
    rig = started().run(100)
    rig.states_come = False
    rig.run(6)
    assert rig.loop.mode is Mode.RUN
    assert rig.why[-1].startswith("state is")
    rig.run(30)
    assert rig.loop.mode is Mode.FAULT
    assert rig.speeds()[-1] == 0
    rig.states_come = True
    rig.run(10)
    assert rig.loop.mode is Mode.FAULT
    with pytest.raises(ValueError, match="call reset"):
        rig.loop.start()


def test_a_short_gap_of_the_state_is_survived_with_a_fresh_plan():
    rig = started().run(100)
    rig.states_come = False
    rig.run(10)
    rig.states_come = True
    rig.run(60)
    assert rig.loop.mode is Mode.RUN
    assert rig.error(150).max() < 4e-3
    assert np.abs(np.diff(rig.speeds())).max() <= 15 * 0.02 + 1e-6


def test_states_out_of_order_are_not_taken_for_new_ones():
    rig = started().run(10)
    now_ns = 9 * TICK
    assert not rig.loop.push_state(HOME, now_ns - 1, now_ns)
    assert not rig.loop.push_state(HOME, now_ns + 10_000 * MS, now_ns)
    rig.states_come = False
    rig.run(8)
    assert rig.why[-1].startswith("state is")


def test_stop_brakes_then_holds_until_started_again():
    rig = started().run(100)
    rig.loop.stop()
    rig.run(20)
    assert rig.loop.mode is Mode.HOLD
    assert rig.why[-1] == "stop was asked for"
    assert np.abs(np.diff(rig.speeds())).max() <= 15 * 0.02 + 1e-6
    requests = rig.requests
    rig.run(20)
    assert rig.requests == requests
    rig.loop.start()
    rig.run(60)
    assert rig.error(170).max() < 4e-3


def test_an_answer_after_stop_changes_nothing():
    rig = started(latency_ns=100 * MS).run(3)
    rig.loop.stop()
    rig.run(20)
    assert rig.loop.mode is Mode.HOLD
    assert set(rig.sent) == {0.0}


def test_a_broken_driver_is_a_fault_of_the_loop():
    rig = started().run(50)
    rig.arms["right"].broken = True
    rig.run(10)
    assert rig.loop.mode is Mode.FAULT
    assert "bus gone" in rig.loop.why
    assert rig.why[-1] == rig.loop.why


def test_reset_begins_anew_with_stamps_from_zero():
    rig = started().run(50)
    rig.loop.fault("test")
    rig.loop.reset()
    assert rig.loop.push_state(HOME, 0, 0)
    rig.loop.start()
    assert rig.loop.wants_observation(0)


def test_no_motion_before_a_state_has_come():
    rig = started()
    rig.states_come = False
    rig.run(50)
    assert rig.loop.mode is Mode.RUN
    assert rig.why[-1] == "state has never come"
    assert rig.requests == 0


def test_the_gripper_starts_in_command_units():
    raw = ROBOT.to_dict()
    for arm in raw["arms"].values():
        arm["gripper"]["state_range"] = [0.0, 4.0]
        arm["gripper"]["action_range"] = [0.0, 10.0]
    robot = Embodiment.from_dict(raw)
    loop = ControlLoop(robot, settings=LoopSettings(cameras=()))
    loop.start()
    measured = np.where(np.arange(14) % 7 == 6, 2.0, HOME)  # half open
    loop.push_state(measured, 0, 0)
    vector, mask = robot.to_unified(measured, "state")
    chunk = ActionChunk(STEP, 12.5, np.tile(vector, (16, 1)), mask)
    assert loop.deliver(chunk, 0).outcome == "accepted"
    assert loop.tick(0).positions[[6, 13]] == pytest.approx([5.0, 5.0])


def native_rows(prefix):
    """What a prefix says, in native units, and the times that it says it for."""
    rows = prefix.chunk.actions[:, ROBOT.slots]
    return rows, prefix.chunk.start_ns + prefix.chunk.step_ns * np.arange(prefix.chunk.horizon)


def test_a_prefix_is_what_was_sent_and_then_what_is_planned():
    rig = started(latency_ns=150 * MS, handover="rtc").run(120)
    now_ns = rig.ticks * TICK  # the last command was for this time
    rig.loop.push_sent(HOME + 0.07, now_ns)  # a limit made something else of it
    rows, times = native_rows(rig.loop.prefix(now_ns - 170 * MS))  # an old state: it is followed by what is past
    assert times[:4].tolist() == [now_ns - 90 * MS, now_ns - 10 * MS, now_ns + 70 * MS, now_ns + 150 * MS]
    sent = dict(zip(rig.times_ns, rig.sent, strict=True))
    assert rows[0, 0] == pytest.approx((sent[now_ns - 100 * MS] + sent[now_ns - 80 * MS]) / 2, abs=1e-6)
    assert rows[1, 0] == pytest.approx((sent[now_ns - 20 * MS] + HOME[0] + 0.07) / 2, abs=1e-6)
    assert rows[2:, 0] == pytest.approx(np.array(rig.loop._actions.planned(times[2:].tolist()))[:, 0], abs=1e-6)
    assert len(rows) > 8 and np.abs(rows[2:, 0] - sine(times[2:] * 1e-9)).max() < 4e-3


def test_a_prefix_counts_the_longest_of_the_last_ten_delays_and_the_steps_since_the_last_chunk():
    rig = started(latency_ns=lambda k: 290 * MS if k == 3 else 130 * MS, handover="rtc").run(250)
    stamp_ns = rig.ticks * TICK
    prefix = rig.loop.prefix(stamp_ns)
    # row 0 is for one step later: 300 ms and the tick's 20 leave the rows for 80, 160 and 240 ms behind
    assert prefix.delay_steps == math.ceil((300 + 20) / 80) - 1 == 3
    assert prefix.plan_start_ns == rig.loop._actions.chunk.start_ns


@pytest.mark.parametrize("handover", ["switch", "blend", "ensemble"])
def test_other_hand_overs_have_no_prefix(handover):
    rig = started(handover=handover).run(50)
    assert rig.loop.prefix(50 * TICK) is None


def test_without_a_plan_there_is_no_prefix():
    rig = started(handover="rtc")
    assert rig.loop.prefix(0) is None
    rig.run(50)
    assert rig.loop.prefix(50 * TICK) is not None
    assert rig.loop.prefix(50 * TICK + 20 * STEP) is None  # it would begin after the plan
    rig.loop.stop()
    assert rig.loop.prefix(50 * TICK) is None
    rig.loop.reset()
    rig.loop.start()
    assert rig.loop.prefix(50 * TICK) is None


def test_a_delay_past_half_of_the_horizon_is_told_once():
    rig = started(latency_ns=700 * MS, answer_timeout_s=5.0)
    with pytest.warns(RuntimeWarning, match="9 steps after what it answers, more than half of its 16") as told:
        rig.run(300)
    assert len(told) == 1
    assert rig.counters.exhausted > 1  # as it says


def test_a_delay_that_can_be_bridged_is_bridged_in_silence(recwarn):
    rig = started(latency_ns=550 * MS, handover="rtc").run(400)
    assert not recwarn.list
    assert rig.counters.exhausted == 0
    assert rig.error(120).max() < 4e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"handover": "swich"}, "did you mean 'switch'"), ({"tick_hz": 0}, "must be positive")],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LoopSettings(**settings)
