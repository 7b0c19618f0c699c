"""A plan by time stamps: hand-over without a jump, honest answers for useless chunks, an end that brakes.

Run: pytest tests/deploy/test_action_buffer.py
"""

import numpy as np
import pytest

from data_pipeline.schema.types import ActionChunk
from deploy.action_buffer import ActionBuffer, ensemble
from robot_drivers.limits.bounds import Bounds
from robot_drivers.limits.jump import JumpLimit
from tests.robots import bimanual

MS = 1_000_000
TICK, STEP = 20 * MS, 80 * MS
ROBOT = bimanual()
HOME = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], 2)
GRIPPERS = [6, 13]


def buffer(**options):
    return ActionBuffer(ROBOT, lead_ns=TICK, **options)


def chunk(start_ns, offsets, entry=0):
    """A chunk whose one native entry follows `offsets` from home."""
    rows = np.tile(HOME, (len(offsets), 1))
    rows[:, entry] += offsets
    vector, mask = ROBOT.to_unified(rows, "action")
    return ActionChunk(start_ns, ROBOT.rate_hz, vector, mask)


def line(start_ns, first=0.02, horizon=16, entry=0):
    return chunk(start_ns, first + 0.02 * np.arange(horizon), entry)


def path(actions, times_ns, entry=0):
    return np.array([actions.action_at(t).positions[entry] - HOME[entry] for t in times_ns])


def test_without_a_plan_there_is_no_action():
    assert buffer().action_at(0) is None
    assert buffer().remaining(0) == 0


def test_linear_goes_from_the_set_point_to_the_first_action_one_step_later():
    actions = buffer()
    splice = actions.splice(line(STEP), 0, 0, HOME)
    assert splice == ("accepted", 16, 0, "")
    times = np.arange(0, 4 * STEP + 1, TICK)
    assert path(actions, times.tolist()) == pytest.approx(0.02 * times / STEP, abs=1e-6)


def test_actions_that_are_past_are_dropped_and_none_is_nearer_than_the_lead():
    for now_ms, dropped in ((0, 0), (60, 0), (61, 1), (140, 1), (141, 2)):
        actions = buffer()
        splice = actions.splice(line(STEP), now_ms * MS, now_ms * MS, HOME)
        assert (splice.kept, splice.dropped) == (16 - dropped, dropped)


def test_a_chunk_that_comes_too_late_is_an_overrun_and_the_plan_stays():
    actions = buffer(min_remaining=4)
    actions.splice(line(STEP), 0, 0, HOME)
    before = actions.action_at(STEP).positions
    now_ns = 20 * STEP
    assert actions.splice(line(7 * STEP), now_ns, now_ns, HOME).outcome == "overrun"
    assert (actions.action_at(STEP).positions == before).all()
    assert actions.splice(line(9 * STEP), now_ns, now_ns, HOME).outcome == "accepted"


def test_after_a_start_that_was_moved_to_the_present_the_next_answer_is_in_order():
    actions, now_ns = buffer(), 3 * STEP
    assert actions.splice(line(STEP), now_ns, now_ns, HOME, from_rest=True) == ("accepted", 16, 0, "")
    assert actions.chunk.start_ns == now_ns + TICK
    soon = line(3 * STEP)  # of an observation before the plan began, after the one that it answers
    assert actions.splice(soon, now_ns + TICK, now_ns + TICK, HOME).outcome == "accepted"
    assert actions.splice(line(2 * STEP), now_ns + TICK, now_ns + TICK, HOME).outcome == "out_of_order"


@pytest.mark.parametrize("handover", ["switch", "blend"])
def test_where_limits_held_the_robot_back_the_next_chunk_goes_on_from_the_robot(handover):
    actions = buffer(handover=handover, jump=JumpLimit(Bounds.of(ROBOT), 0.35, 0.5))
    actions.splice(chunk(STEP, 0.1 * np.arange(1, 17)), 0, 0, HOME)
    now_ns = 6 * STEP  # the plan says 0.6, the robot has come to 0.1
    behind = HOME.copy()
    behind[0] += 0.1
    again = chunk(now_ns + STEP, 0.1 + 0.1 * np.arange(1, 17))
    before = actions.action_at(now_ns).positions
    assert actions.splice(again, now_ns, now_ns, behind).outcome == "jump"
    assert (actions.action_at(now_ns).positions == before).all()
    assert actions.splice(again, now_ns, now_ns, behind, held_back=True).outcome == "accepted"
    assert path(actions, [now_ns, now_ns + STEP]) == pytest.approx([0.1, 0.2], abs=1e-6)


@pytest.mark.parametrize("handover", ["switch", "blend", "ensemble", "rtc"])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_the_target_is_continuous_at_a_hand_over(handover, interpolation):
    actions = buffer(handover=handover, interpolation=interpolation)
    actions.splice(line(STEP), 0, 0, HOME)
    switch_ns = 8 * STEP
    before = actions.action_at(switch_ns).positions
    assert actions.splice(line(9 * STEP, first=0.10), switch_ns, switch_ns, HOME).outcome == "accepted"
    assert actions.action_at(switch_ns).positions == pytest.approx(before, abs=1e-12)
    after = path(actions, range(switch_ns, 14 * STEP, MS))
    assert np.abs(np.diff(after)).max() < 0.0012  # per ms, for a disagreement of 0.08 rad
    if handover != "ensemble":
        assert after[-1] == pytest.approx(0.10 + 0.02 * (13 - 9 + 79 / 80), abs=2e-4)


@pytest.mark.parametrize("handover", ["switch", "blend"])
def test_a_hand_over_of_the_cubic_keeps_the_velocity(handover):
    actions = buffer(handover=handover, interpolation="cubic")
    actions.splice(line(STEP), 0, 0, HOME)
    switch_ns = 8 * STEP + TICK
    short = MS // 100
    before = np.diff(path(actions, [switch_ns - short, switch_ns])) / short
    actions.splice(line(9 * STEP, first=0.10), switch_ns, switch_ns, HOME)
    after = np.diff(path(actions, [switch_ns, switch_ns + short])) / short
    assert after == pytest.approx(before, rel=0.01)  # a straight line turns round at once


def test_grippers_go_in_straight_lines():
    offsets = np.array([0.0, 0.0, 0.4, 0.4, 0.4, -0.3, -0.3, -0.3])
    linear, cubic = buffer(), buffer(interpolation="cubic")
    times = range(0, 8 * STEP, MS)
    for actions in (linear, cubic):
        actions.splice(chunk(STEP, offsets, entry=6), 0, 0, HOME)
    assert path(cubic, times, 6) == pytest.approx(path(linear, times, 6))
    for actions in (linear, cubic):
        actions.clear()
        actions.splice(chunk(STEP, offsets, entry=0), 0, 0, HOME)
    assert np.abs(path(cubic, times) - path(linear, times)).max() > 0.01


def test_a_blend_ends_on_the_plan_that_took_over():
    actions = buffer(handover="blend", blend_steps=2)
    actions.splice(line(STEP), 0, 0, HOME)
    actions.splice(line(9 * STEP, first=0.05), 8 * STEP, 8 * STEP, HOME)
    assert path(actions, [10 * STEP]) == pytest.approx([0.07], abs=1e-6)


def test_blends_in_quick_succession_stay_continuous():
    actions = buffer(handover="blend", blend_steps=4)
    actions.splice(line(STEP), 0, 0, HOME)
    for k in range(1, 6):
        now_ns = k * STEP
        before = actions.action_at(now_ns).positions
        actions.splice(line((k + 1) * STEP, first=0.02 * k * (-1) ** k), now_ns, now_ns, HOME)
        assert actions.action_at(now_ns).positions == pytest.approx(before, abs=1e-12)


def test_the_end_of_a_plan_brakes_to_a_stand():
    actions = buffer()
    actions.splice(line(STEP), 0, 0, HOME)  # ends at 16 STEP with 0.25 rad/s; rests after 0.25 / 15 s
    end_ns = 16 * STEP
    assert not actions.action_at(end_ns).braking
    target = actions.action_at(end_ns + 10 * MS)
    assert target.braking
    coasted = 0.25 * 0.01 - 15 * 0.01**2 / 2
    assert target.positions[0] - HOME[0] == pytest.approx(0.32 + coasted, abs=1e-6)
    assert actions.action_at(end_ns + 17 * MS) is None
    assert actions.remaining(end_ns) == 0


def test_a_chunk_after_the_end_begins_where_the_robot_came_to_rest():
    actions = buffer()
    actions.splice(line(STEP), 0, 0, HOME)
    now_ns = 30 * STEP
    actions.splice(line(31 * STEP, first=0.4), now_ns, now_ns, HOME)
    assert path(actions, [now_ns]) == pytest.approx([0.32 + 0.25**2 / 30], abs=1e-6)


def test_stop_leaves_the_plan_and_brakes():
    actions = buffer()
    actions.splice(line(STEP), 0, 0, HOME)
    actions.stop(4 * STEP)
    assert actions.action_at(4 * STEP + MS).braking
    assert actions.action_at(5 * STEP) is None
    assert actions.remaining(4 * STEP) == 0


def test_remaining_counts_what_is_still_to_come():
    actions = buffer()
    actions.splice(line(STEP), 0, 0, HOME)
    assert [actions.remaining(k * STEP) for k in (0, 1, 8, 16)] == [16, 15, 8, 0]
    assert actions.remaining(8 * STEP - 1) == 9


def test_old_and_future_chunks_are_refused_by_name():
    actions = buffer()
    actions.splice(line(5 * STEP), 4 * STEP, 4 * STEP, HOME)
    assert actions.splice(line(4 * STEP), 4 * STEP, 4 * STEP, HOME).outcome == "out_of_order"
    assert actions.splice(line(50 * STEP), 4 * STEP, 4 * STEP, HOME).outcome == "future"


def test_a_chunk_of_another_robot_is_refused_by_name():
    vector, mask = ROBOT.to_unified(HOME[None], "action")
    half = mask.copy()
    half[:50] = False
    splice = buffer().splice(ActionChunk(STEP, 12.5, vector * half, half), 0, 0, HOME)
    assert splice.outcome == "wrong_robot"
    assert "right_waist" in splice.detail


def test_values_that_turned_nan_after_birth_are_refused():
    bad = line(STEP)
    writeable = np.array(bad.actions)
    writeable[3, ROBOT.slots[0]] = np.nan
    object.__setattr__(bad, "actions", writeable)
    assert buffer().splice(bad, 0, 0, HOME).outcome == "not_finite"


def test_a_plan_that_jumps_is_refused_by_joint():
    actions = buffer(jump=JumpLimit(Bounds.of(ROBOT)), min_remaining=1)
    far = actions.splice(chunk(STEP, np.array([0.4])), 0, 0, HOME)
    assert (far.outcome, far.detail) == ("jump", "0.4 at left_waist")
    assert actions.splice(chunk(STEP, np.array([0.3])), 0, 0, HOME).outcome == "accepted"


def test_an_ensemble_weighs_the_oldest_most():
    old, new = (0, 10, np.zeros((4, 1))), (10, 10, np.ones((4, 1)))
    merged = ensemble([old, new], [10, 20, 30, 40])[:, 0]
    expected = np.exp(-0.01) / (1 + np.exp(-0.01))
    assert merged == pytest.approx([expected, expected, expected, 1.0])


def test_weights_of_an_ensemble_fall_by_the_same_factor_with_each_younger_chunk():
    """Spec 5.5: w_j = exp(-0.01 j), j = 0 the oldest of the chunks that speak about the time."""
    chunks = [(k * 10, 10, np.full((6, 1), float(k))) for k in range(4)]
    weights = np.exp(-0.01 * np.arange(4))
    merged = ensemble(chunks, [30, 60, 80])[:, 0]
    assert merged[0] == pytest.approx(np.average([0, 1, 2, 3], weights=weights))
    assert merged[1] == pytest.approx(
        np.average([1, 2, 3], weights=weights[:3])
    )  # the oldest is over: j = 0 is the next
    assert merged[2] == 3.0


def test_chunks_of_an_ensemble_need_not_share_a_time_grid():
    chunks = [(0, 10, np.arange(6.0)[:, None]), (15, 10, 1.5 + np.arange(6.0)[:, None])]  # one line, seen twice
    times = [15, 25, 35, 45]
    assert ensemble(chunks, times)[:, 0] == pytest.approx([1.5, 2.5, 3.5, 4.5])


def test_an_ensemble_that_is_executed_is_the_mean_of_what_was_said():
    actions = buffer(handover="ensemble")
    actions.splice(chunk(STEP, np.zeros(16)), 0, 0, HOME)
    actions.splice(chunk(2 * STEP, np.full(16, 0.1)), STEP, STEP, HOME)
    young = np.exp(-0.01)
    assert path(actions, [3 * STEP]) == pytest.approx([0.1 * young / (1 + young)], abs=1e-6)
    assert path(actions, [17 * STEP]) == pytest.approx([0.1], abs=1e-6)  # here the second one speaks alone


def test_what_is_planned_ends_with_the_last_action():
    actions = buffer()
    assert actions.planned([0, STEP]) == []
    actions.splice(line(STEP), 0, 0, HOME)
    rows = actions.planned([0, STEP, 15 * STEP, 16 * STEP, 17 * STEP])
    assert np.array(rows)[:, 0] - HOME[0] == pytest.approx([0, 0.02, 0.30, 0.32], abs=1e-6)
