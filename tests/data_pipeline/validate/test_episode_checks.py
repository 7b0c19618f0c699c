"""Checks of one episode: each finds what was planted, and none speaks of a clean one.

Run: pytest tests/data_pipeline/validate/test_episode_checks.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.frames import JpegFrames, encode_frames
from data_pipeline.schema.embodiment import Arm, Embodiment, Joint
from data_pipeline.validate.cameras import check_cameras, look
from data_pipeline.validate.clocks import check_clock, check_robot_rate
from data_pipeline.validate.following import check_following, follow
from data_pipeline.validate.language import check_instructions
from data_pipeline.validate.motion import check_jumps, check_motion
from data_pipeline.validate.records import Columns, Record, of_episode
from data_pipeline.validate.units import check_limits, check_rotations, check_units, check_velocities
from tests.data_pipeline.validate.demonstrations import (
    BLOCKS,
    RATE_HZ,
    ROTATION,
    STEPS,
    changed,
    columns,
    demonstration,
    pictures,
    record,
)

JOINTS, VELOCITIES, GRIPPER, POSITION = BLOCKS
CHECKS = (
    check_units,
    check_rotations,
    check_velocities,
    check_motion,
    check_jumps,
    check_clock,
    check_instructions,
)


def findings(one: Record):
    found = [finding for check in CHECKS for finding in check(one)]
    seen, more = look(one)
    following = follow(one)
    return [
        *found,
        *more,
        *check_cameras(seen, {one.name: frozenset(one.images)}),
        *check_following([following] if following else []),
    ]


def kinds(one: Record) -> set[str]:
    return {finding.kind for finding in findings(one)}


def planted(kind: str, block: str, change) -> Record:
    return of_episode(changed(demonstration(), kind, block, change))


def put(values: np.ndarray, step: int, value: float, column: int = 0) -> np.ndarray:
    values = np.array(values)
    values[step, column] = value
    return values


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("steps, delay", [(90, 1), (300, 4), (48, 0)])
def test_clean_demonstrations_are_silent(seed, steps, delay):
    noisy = demonstration(seed=seed, steps=steps, delay=delay)
    noise = np.random.default_rng(seed).normal(0, 1e-3, noisy.states.shape) * noisy.state_mask
    assert findings(of_episode(noisy)) == []
    assert findings(of_episode(replace(noisy, states=(noisy.states + noise).astype(np.float32)))) == []


def staircase(values: np.ndarray, every: int) -> np.ndarray:
    return values[np.arange(len(values)) // every * every]


VARIANTS = {
    "a sensor slower than the recording": lambda v: staircase(v, 3),
    "a sensor ten times slower": lambda v: staircase(v, 10),
    "coarse encoders": lambda v: np.round(v * 400) / 400,
    "half precision": lambda v: v.astype(np.float16).astype(np.float32),
    "few steps a second": lambda v: v[::4],
    "a long rest": lambda v: np.concatenate([v, np.repeat(v[-1:], 400, axis=0)]),
    "one short reach between long rests": lambda v: np.concatenate(
        [np.repeat(v[:1], 300, axis=0), v[:66:3], np.repeat(v[65:66], 300, axis=0)]
    ),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", VARIANTS)
def test_what_real_recorders_do_is_no_warning(name, seed):
    episode = demonstration(seed=seed, steps=200)
    mask = np.array(episode.state_mask)
    mask[15:25] = False  # velocities of such signals would have to be made anew
    states, actions = (VARIANTS[name](values) * mask for values in (episode.states, episode.actions))
    rate = RATE_HZ / 4 if name == "few steps a second" else RATE_HZ
    one = replace(episode, states=states, actions=actions, images={}, state_mask=mask, action_mask=mask, rate_hz=rate)
    assert [finding for finding in findings(of_episode(one)) if finding.severity != "note"] == []


def test_a_gripper_that_is_open_or_closed():
    binary = changed(demonstration(steps=200), "state", GRIPPER, lambda v: (v > 0.5).astype(float))
    assert findings(of_episode(binary)) == []


UNITS = {
    "joints in degrees": ("state", JOINTS, np.degrees, "angle_units", "degrees"),
    "actions in degrees": ("action", JOINTS, np.degrees, "angle_units", "degrees"),
    "joints in mrad": ("state", JOINTS, lambda v: v * 1000, "angle_units", "milliradians"),
    "velocity in deg/s": ("state", VELOCITIES, np.degrees, "angle_units", "deg/s"),
    "position in mm": ("state", POSITION, lambda v: v * 1000, "position_units", "mm"),
    "position in cm": ("state", POSITION, lambda v: v * 100, "position_units", "cm"),
    "raw gripper": ("state", GRIPPER, lambda v: v * 4.79, "gripper_units", "raw"),
    "gripper a little out": ("state", GRIPPER, lambda v: v * 1.3, "gripper_range", "opening"),
    "rotation as euler": ("state", ROTATION, lambda v: v * 0.5, "rotation", "right angles"),
    "rotation of rows": ("state", ROTATION, lambda v: v + 0.2, "rotation", "right angles"),
    "velocity per step": ("state", VELOCITIES, lambda v: v / RATE_HZ, "velocity_scale", "derivative"),
}


@pytest.mark.parametrize("kind, block, change, found, told", UNITS.values(), ids=UNITS)
def test_wrong_units(kind, block, change, found, told):
    one = planted(kind, block, change)
    mine = [finding for finding in findings(one) if finding.kind == found]
    assert mine and all(told in finding.expected and finding.where.column.startswith(kind) for finding in mine)
    assert all(finding.advice for finding in mine)


def test_joint_limits_of_the_robot():
    arm = Arm("fake", (Joint("a", "arm_joint_0_pos", limits=(-1.7, 1.7)),))
    robot = Embodiment("tiny", RATE_HZ, {"right": arm})
    assert not list(check_robot_rate(record(), robot))
    (finding,) = check_robot_rate(record(), replace(robot, rate_hz=50.0))
    assert (finding.kind, finding.found) == ("robot_rate", "20 Hz")
    assert not list(check_limits(record(), robot))
    (finding,) = check_limits(planted("state", JOINTS, lambda v: v + 2), robot)
    assert finding.kind == "joint_limits" and "tiny" in finding.expected


def test_a_robot_that_never_moves():
    still = planted("state", JOINTS, lambda v: v[:1])
    assert "still" not in kinds(still)  # the hand moves
    episode = demonstration()
    (finding,) = check_motion(of_episode(replace(episode, states=np.repeat(episode.states[:1], STEPS, axis=0))))
    assert (finding.kind, finding.where.steps) == ("still", (0, STEPS - 1))


def test_a_still_start_is_a_note():
    episode = demonstration()
    states = np.concatenate([np.repeat(episode.states[:1], 50, axis=0), episode.states[: STEPS - 50]])
    (finding,) = check_motion(of_episode(replace(episode, states=states)))
    assert (finding.severity, finding.kind) == ("note", "still_start")
    assert finding.where.steps[1] in range(48, 56)


@pytest.mark.parametrize("step", [1, 40, 88])
def test_a_spike_is_found_where_it_is(step):
    spiky = planted("state", JOINTS, lambda v: put(v, step, v[step, 0] + 0.9))
    (finding,) = check_jumps(spiky)
    assert finding.kind == "spike" and finding.where.steps[0] in (step - 1, step)
    assert finding.where.column == "state right_arm_joint_0_pos"


def test_a_wrap_is_no_spike():
    def wrap(values):
        angle = np.linspace(2.6, 4.0, len(values))
        return np.column_stack([np.where(angle > np.pi, angle - 2 * np.pi, angle), values[:, 1:]])

    (finding,) = check_jumps(planted("state", JOINTS, wrap))
    assert finding.kind == "wrap_around"


def raw_record(**changes) -> Record:
    steps = np.arange(STEPS)
    values = columns(**{"qpos[0]": np.sin(steps / 9), "qpos[1]": np.cos(steps / 11)})
    fields = {"name": "a", "state": values, "action": Columns(np.zeros((STEPS, 0))), "texts": ("go there",)}
    return Record(**{**fields, **changes})


def test_columns_of_unknown_unit_may_be_switches():
    steps = np.arange(STEPS)
    switch = columns(a=np.sin(steps / 9), b=(steps > 40).astype(float))
    assert findings(raw_record(state=switch)) == []
    spiky = columns(a=np.sin(steps / 9) + 2.0 * (steps == 30), b=(steps > 40).astype(float))
    (finding,) = findings(raw_record(state=spiky))
    assert (finding.kind, finding.where.column) == ("spike", "state a")
    (finding,) = findings(raw_record(texts=()))
    assert (finding.kind, finding.severity) == ("no_language", "note")


def test_unknown_units_are_not_judged():
    degrees = columns(**{"qpos[0]": 100 * np.sin(np.arange(STEPS) / 9)})
    assert kinds(raw_record(state=degrees)) == set()
    wrapped = columns(**{"a": np.where(np.arange(STEPS) < 50, 175.0, -179.0) + np.arange(STEPS) / 50})
    assert kinds(raw_record(state=wrapped)) == {"wrap_around"}


EVEN = np.round(np.arange(STEPS) * 1e9 / RATE_HZ).astype(np.int64)
CLOCKS = {
    "repeats": (np.repeat(EVEN[:45], 2), "timestamps"),
    "backwards": (put(EVEN[:, None], 40, EVEN[20])[:, 0].astype(np.int64), "timestamps"),
    "pause": (EVEN + np.where(np.arange(STEPS) > 50, 10**9, 0), "gap"),
    "wrong rate": (EVEN * 2, "wrong_rate"),
    "five per cent slow": ((EVEN * 1.05).astype(np.int64), "clock_drift"),
    "slows down": ((EVEN * (1 + 0.1 * np.arange(STEPS) / STEPS)).astype(np.int64), "clock_drift"),
    "jitter": (EVEN + np.random.default_rng(0).integers(-20_000_000, 20_000_000, STEPS), "jitter"),
}


@pytest.mark.parametrize("stamps, kind", CLOCKS.values(), ids=CLOCKS)
def test_clocks(stamps, kind):
    one = replace(record(), stamps_ns=stamps)
    assert kind in {finding.kind for finding in check_clock(one)}


def test_good_stamps_are_silent():
    rng = np.random.default_rng(0)
    for stamps in (EVEN, EVEN + rng.integers(-2_000_000, 2_000_000, STEPS), EVEN + 10**18):
        assert not list(check_clock(replace(record(), stamps_ns=stamps)))
    assert not list(check_clock(replace(record(), rate_hz=None, stamps_ns=EVEN * 3)))


TEXTS = {
    (): "no_language",
    ("",): "no_language",
    ("open the door", " "): "no_language",
    ("TODO",): "placeholder",
    ("task 3",): "placeholder",
    ("xxx",): "placeholder",
    ("pick_up_cup",): "placeholder",
}


@pytest.mark.parametrize("texts", TEXTS)
def test_instructions(texts):
    assert {finding.kind for finding in check_instructions(replace(record(), texts=texts))} == {TEXTS[texts]}


@pytest.mark.parametrize("text", ["Pick up the test tube.", "wave", "task: put it back", "拿起杯子"])
def test_sentences_are_no_placeholders(text):
    assert not list(check_instructions(replace(record(), texts=(text,))))


def following(**changes):
    ones = [follow(of_episode(demonstration(f"e{seed}", seed, steps=200, **changes))) for seed in range(3)]
    return list(check_following([one for one in ones if one]))


def test_actions_that_come_late():
    (finding,) = following(delay=1, action_offset_steps=5)
    assert finding.kind == "action_lag" and "state[t + 1]" in finding.found
    assert following(delay=3, action_offset_steps=1) == []  # the arm trails
    (finding,) = following(delay=14, action_offset_steps=0)
    assert finding.kind == "action_lag" and "state[t + 14]" in finding.found


def test_actions_behind_the_state():
    def late(seed):
        episode = demonstration(f"e{seed}", seed, steps=200, delay=0)
        return replace(episode, actions=np.concatenate([episode.actions[:3], episode.actions[:-3]]))

    (finding,) = check_following([follow(of_episode(late(seed))) for seed in range(3)])
    assert finding.kind == "action_lag" and "state[t - 3]" in finding.found


def test_actions_in_other_units_or_as_differences():
    degrees = of_episode(changed(demonstration(steps=200), "action", JOINTS, np.degrees))
    found = list(check_following([follow(degrees)]))
    assert {finding.kind for finding in found} == {"action_units"} and "degrees" in found[0].found
    delta = of_episode(
        changed(demonstration(steps=200), "action", POSITION, lambda v: np.diff(v, axis=0, append=v[-1:]))
    )
    assert {finding.kind for finding in check_following([follow(delta)])} == {"action_is_delta"}


def with_pictures(frames) -> Record:
    return record(images={"external": frames})


def test_black_flat_and_frozen_cameras():
    frames = pictures(STEPS)
    assert kinds(with_pictures(np.zeros_like(frames))) >= {"camera_black"}
    assert kinds(with_pictures(np.full_like(frames, 128))) >= {"camera_flat"}
    hung = np.array(frames)
    hung[30:70] = hung[30]
    for given in (hung, encode_frames(hung)):
        (finding,) = [one for one in findings(with_pictures(given)) if one.kind == "camera_frozen"]
        assert finding.where.steps[0] in (29, 30) and finding.where.steps[1] == 69


def test_a_camera_that_is_black_for_a_while_or_has_no_pictures():
    frames = pictures(STEPS)
    frames[60:] = 0
    assert {(one.kind, one.severity) for one in findings(with_pictures(frames))} == {
        ("camera_black", "note"),
        ("camera_frozen", "warning"),
    }
    mask = np.arange(STEPS) % 3 == 0
    (finding,) = findings(record(image_masks={"external": mask}))
    assert (finding.kind, finding.severity) == ("missing_pictures", "note") and "60 of 90" in finding.found


def test_a_wrist_camera_of_a_resting_arm_may_stand_still():
    still = np.repeat(pictures(1), STEPS, axis=0)
    assert "camera_frozen" not in kinds(record(images={"left_wrist": still}))
    assert "camera_frozen" in kinds(record(images={"right_wrist": still}))


def test_pictures_that_do_not_decode():
    encoded = list(encode_frames(pictures(STEPS)).encoded)
    cut = [*encoded[:40], encoded[40][:-30], *encoded[41:]]
    (finding,) = findings(with_pictures(JpegFrames(cut)))
    assert (finding.kind, finding.severity, finding.where.steps) == ("bad_image", "error", (40, 40))
    garbled = [encoded[0][:30] + b"\xff\xd9", *encoded[1:]]
    assert kinds(with_pictures(JpegFrames(garbled))) == {"bad_image"}


def seen_of(episodes):
    records = [of_episode(episode) for episode in episodes]
    seen = [camera for one in records for camera in look(one)[0]]
    return list(check_cameras(seen, {one.name: frozenset(one.images) for one in records}))


def test_cameras_of_several_episodes():
    episodes = [demonstration(f"e{seed}", seed) for seed in range(4)]
    assert seen_of(episodes) == []
    (missing,) = seen_of([*episodes, demonstration("e9", 9, images={})])
    assert missing.kind == "missing_camera" and missing.where.episode == "e9"
    (size,) = seen_of([*episodes, demonstration("e9", 9, images={"external": pictures(STEPS)[:, :20]})])
    assert size.kind == "camera_size" and "32 x 20" in size.found
    swapped = demonstration("e9", 9, images={"external": pictures(STEPS)[..., ::-1]})
    (colour,) = seen_of([*episodes, swapped])
    assert (colour.kind, colour.severity, colour.where.episode) == ("colour_order", "warning", "e9")
    everything = [replace(one, images={"external": one.images["external"][..., ::-1]}) for one in episodes]
    (colour,) = seen_of(everything)
    assert (colour.kind, colour.severity) == ("colour_order", "note") and "heuristic" in colour.found
