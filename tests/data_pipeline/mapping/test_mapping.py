"""pytest tests/data_pipeline/mapping/test_mapping.py: what a YAML may say, and what becomes of a record."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import yaml

from data_pipeline.frames import JpegFrames, encode_jpeg
from data_pipeline.mapping.explain import explain
from data_pipeline.mapping.mapping import MappedEpisode, Mapping
from data_pipeline.sources.raw import Fault, FieldSpec, RawEpisode

STEPS = 12
ARM = {
    "schema": 1,
    "name": "arm",
    "source": {"format": "rlds"},
    "fps": 10,
    "state": [
        {"to": "right_arm_joint_pos[0:3]", "from": "joints"},
        {"to": "right_gripper_pos[0]", "from": "grip", "ops": ["invert01"]},
    ],
    "action": {"mode": "next_state"},
    "cameras": {"external": "top", "right_wrist": None, "left_wrist": None},
    "language": {"constant": "move the block"},
    "limits": {"min_length": 2},
}
SPECS = {
    "joints": FieldSpec("array", (3,)),
    "grip": FieldSpec("array", (1,)),
    "top": FieldSpec("image", (2, 2, 3), "uint8"),
    "task": FieldSpec("text"),
}


def arm(**changes):
    raw = copy.deepcopy(ARM)
    for path, value in changes.items():
        target, *rest = path.split("__")
        if rest:
            raw.setdefault(target, {})[rest[0]] = value
        elif value is None:
            raw.pop(target)
        else:
            raw[target] = value
    return raw


def record(steps=STEPS, **changes):
    rng = np.random.default_rng(0)
    fields = {"joints": rng.normal(size=(steps, 3)), "grip": rng.uniform(0, 1, (steps, 1))}
    frames = rng.integers(0, 255, (steps, 2, 2, 3), dtype=np.uint8)
    fields |= changes.pop("fields", {})
    base = RawEpisode("file/0", steps, fields, {"top": frames})
    return dataclasses.replace(base, **changes)


def outcome(raw, rec):
    results = Mapping.from_dict(raw).apply(rec)
    episodes = [r for r in results if isinstance(r, MappedEpisode)]
    return episodes, [r for r in results if isinstance(r, Fault)]


def one(raw, rec) -> MappedEpisode:
    (episode,), faults = outcome(raw, rec)
    assert faults == []
    return episode


def refused(raw, rec) -> Fault:
    episodes, (fault,) = outcome(raw, rec)
    assert episodes == []
    return fault


def rule(**changes):
    return [{"to": "right_arm_joint_pos[0:3]", "from": "joints", **changes}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schemas": 1}, "unknown key 'schemas': did you mean 'schema'"),
        ({"schema": 2}, "schema must be 1"),
        ({"fps": None}, "needs fps"),
        ({"fps": 0}, "fps must be a number above 0"),
        ({"fps": {"from": "clock"}}, "did you mean 'timestamps'"),
        ({"source": {"format": "hdf"}}, "did you mean 'hdf5'"),
        ({"source": {"format": "rlds", "color": "bgr"}}, "did you mean 'colour'"),
        ({"source": {"format": "rlds", "colour": "gbr"}}, "did you mean"),
        ({"compat": "rdt2"}, "did you mean 'rdt'"),
        ({"state": rule(to="right_arm_joint_pos[0:4]", **{"from": "joints[0:3]"})}, r"state\[0\].*gives 3.*expected 4"),
        ({"state": rule(to="right_arm_joint_pos[0:11]")}, r"state\[0\].*leaves its block"),
        ({"state": rule(to="right_arm_joint_poss")}, "did you mean 'right_arm_joint_pos'"),
        ({"state": rule(to="reserved_45")}, "reserved"),
        ({"state": rule(ops=["invert"])}, "did you mean 'invert01'"),
        ({"state": rule(ops=[{"unit": "mm"}])}, "slots hold rad, the operations give m"),
        ({"state": rule(ops=["invert01"])}, "slots hold rad, the operations give ratio"),
        ({"state": rule(ops=[{"scale": [1, 2]}])}, "gives 2 numbers"),
        ({"state": rule(to="right_eef_rot6d")}, "end the ops in rot"),
        ({"state": rule(to="right_eef_rot6d", take=[0, 1, 2], ops=[{"rot": {"in": "quat"}}])}, "4 numbers, got 3"),
        ({"state": rule(op=[])}, "did you mean"),
        ({"state": rule(take=[0, 1, 2], **{"from": "joints[0:3]"})}, "use one of them"),
        ({"state": rule(take="012")}, "list of indices"),
        ({"state": rule(**{"from": "joints[a:b]"})}, "is not a slice"),
        ({"state": rule(**{"from": "const:x"})}, "must hold numbers"),
        ({"state": rule(when={"dims": 3})}, "dim: numbers a step"),
        ({"state": rule(sync={"how": "cubic", "max_age_s": 1})}, "unknown how 'cubic'"),
        ({"state": rule(sync={"how": "linear"})}, "needs max_age_s"),
        ({"state": rule(within=[1, 0])}, r"within takes \[low, high\]"),
        ({"state": rule(optional="yes")}, "must be true or false"),
        ({"state": rule(compat={"rdt2": {}})}, "did you mean 'rdt'"),
        ({"state": rule() + rule(to="right_arm_joint_2_pos")}, r"state\[0\].*state\[1\].*both write slot 2"),
        ({"state": {}}, "state rules are needed"),
        ({"state": {"to": "x"}}, "state must be a list"),
        ({"action": {"mode": "recorded"}}, "rules are needed by mode recorded"),
        ({"action": {"mode": "next_state", "rules": rule()}}, "rules are not used by mode next_state"),
        ({"action": {"mode": "next_states"}}, "did you mean 'next_state'"),
        ({"action": {"mode": "next_state", "shift": 1}}, "no meaning in mode next_state"),
        ({"action": {"mode": "previous_action_as_state", "rules": rule()}}, "state rules are not used"),
        ({"base": {"rules": [{"to": "right_arm_joint_0_pos", "from": "x[0]"}]}}, "both write slot 0"),
        ({"base": {"rules": [], "lag": -1}}, "lag is a number of steps"),
        ({"cameras": {"outside": "top"}}, "unknown key 'outside'"),
        ({"cameras": {"external": 3}}, "must be a path or null"),
        ({"language": {}}, "either fields or a constant"),
        ({"language": {"fields": ["a"], "choose": "randomly"}}, "did you mean 'random'"),
        ({"language": {"fields": ["a"], "decode": "utf32"}}, "unknown decode"),
        ({"language": {"fields": []}}, "list of paths"),
        ({"language": {"fields": ["a"], "replace": {1: "b"}}}, "texts in quotes"),
        ({"language": {"fields": ["a"], "full_stop": "no"}}, "must be true or false"),
        ({"filter": ["grip >> 3"]}, "unknown operator '>>'"),
        ({"filter": "len > 3"}, "list of conditions"),
        ({"limits": {"min_lenght": 3}}, "did you mean 'min_length'"),
        ({"limits": {"min_length": 0}}, "from 1 on"),
        ({"faults": {"nan": "drop"}}, "did you mean 'drop_steps'"),
        ({"faults": {"nans": "drop_steps"}}, "did you mean 'nan'"),
        ({"defs": ["a"]}, "NAME: path"),
        ({"state": rule(to="right_eef_pos", ops=[{"delta_to_absolute": {"base": "right_eef_pos"}}])}, "needs a state"),
    ],
)  # fmt: skip
def test_a_yaml_is_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(arm(**changes)))
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        Mapping.from_yaml(path)


@pytest.mark.parametrize(
    ("changes", "specs", "message"),
    [
        ({}, {"joints": FieldSpec("array", (4,))}, r"state\[0\].*'joints' gives 4 numbers.*expected 3"),
        ({}, {"joints": FieldSpec("text")}, r"state\[0\].*must hold numbers, it is text"),
        ({"state": rule(**{"from": "joint"})}, {}, "unknown field 'joint': did you mean 'joints'"),
        ({"state": rule(**{"from": "joints[1:5]"})}, {}, r"leaves its field of 3|gives 4"),
        ({"state": rule(take=[0, 1, 3])}, {}, "index 3 of a field of 3"),
        ({"cameras": {"external": "tops"}}, {}, "did you mean 'top'"),
        ({"cameras": {"external": "grip"}}, {"grip": FieldSpec("array", (1,))}, "unknown|must hold pictures"),
        ({"language": {"fields": ["tasks"]}}, {}, "did you mean 'task'"),
        ({"language": {"fields": ["grip"]}}, {}, "must be text for utf8"),
        ({"filter": ["observation/x > 1"]}, {}, "unknown field 'observation/x'"),
    ],
)
def test_fields_are_checked_before_a_record_is_read(changes, specs, message):
    with pytest.raises(ValueError, match=message):
        Mapping.from_dict(arm(**changes), {**SPECS, **specs})


def test_what_the_source_cannot_tell_passes():
    fields = {**SPECS, "joints": FieldSpec("array", (None,))}
    raw = arm(
        language={"fields": ["episode_metadata/task", "sidecar:text"]},
        filter=["episode_metadata/ok == true", "success == true", "len > 3", 'name matches "a"'],
        state=[*rule(), {"to": "right_eef_pos", "from": "pose", "optional": True}],
    )
    assert Mapping.from_dict(raw, fields).paths() == ("joints", "pose")


def test_a_wrong_width_at_the_record_says_field_got_expected():
    fault = refused(arm(), record(fields={"joints": np.zeros((STEPS, 4))}))
    assert fault.kind == "wrong_width"
    assert "state[0]" in fault.message and "'joints' gives 4" in fault.message and "expected 3" in fault.message


def test_short_names_stand_for_paths():
    raw = arm(
        defs={"js": "/joint_states", "cam": "/top/compressed"},
        fps={"from": "timestamps", "field": "cam", "resample": 10},
        state=rule(**{"from": "js/position[0:3]"}, sync={"how": "linear", "max_age_s": 0.05}),
        cameras={"external": "cam"},
    )
    mapping = Mapping.from_dict(raw)
    assert mapping.paths() == ("/joint_states/position",)
    assert mapping.rate.clock == mapping.cameras.roles["external"] == "/top/compressed"
    assert mapping.syncs()["/joint_states/position"].max_age_s == 0.05


def test_one_field_is_synchronised_one_way():
    sync = {"how": "linear", "max_age_s": 0.05}
    raw = arm(
        state=[
            {"to": "right_arm_joint_0_pos", "from": "joints[0]", "sync": sync},
            {"to": "right_arm_joint_1_pos", "from": "joints[1]", "sync": {**sync, "how": "previous"}},
        ]
    )
    with pytest.raises(ValueError, match="synchronised in two ways"):
        Mapping.from_dict(raw).syncs()


def test_constants_and_taken_columns():
    raw = arm(state=[*rule(take=[2, 0, -2]), {"to": "right_gripper_open", "from": "const:0.5"}])
    rec = record()
    states = one(raw, rec).episode.states
    np.testing.assert_allclose(states[:, :3], rec.fields["joints"][:, [2, 0, 1]], atol=1e-6)
    assert (states[:, 10] == 0.5).all()


def test_an_optional_field_leaves_its_slots_empty():
    raw = arm(state=[*rule(), {"to": "right_eef_pos", "from": "pose", "optional": True}])
    assert np.flatnonzero(one(raw, record()).episode.state_mask).tolist() == [0, 1, 2]
    fault = refused(arm(state=[*rule(), {"to": "right_eef_pos", "from": "pose"}]), record())
    assert fault.kind == "missing_field" and "'pose'" in fault.message


@pytest.mark.parametrize("shift", [-1, 0, 2])
def test_recorded_actions_move_by_the_shift(shift):
    command = np.random.default_rng(1).normal(size=(STEPS, 3))
    raw = arm(action={"mode": "recorded", "rules": rule(**{"from": "command"}), "shift": shift})
    result = one(raw, record(fields={"command": command}))
    wanted = np.arange(STEPS) + shift
    np.testing.assert_allclose(result.episode.actions[:, :3], command[wanted.clip(0, STEPS - 1)], atol=1e-6)
    np.testing.assert_array_equal(result.episode.action_valid, (wanted >= 0) & (wanted < STEPS))
    assert np.flatnonzero(result.episode.action_mask).tolist() == [0, 1, 2]


def test_the_base_is_in_the_state_late_and_in_the_action_at_once():
    drive = np.random.default_rng(1).normal(size=(STEPS, 2))
    base = {"rules": [{"to": "base_vel", "from": "drive"}], "source": "action", "lag": 2}
    raw = arm(action={"mode": "recorded", "rules": rule()}, base=base)
    episode = one(raw, record(fields={"drive": drive})).episode
    np.testing.assert_allclose(episode.states[2:, 100:102], drive[:-2], atol=1e-6)
    assert not episode.states[:2, 100:102].any()
    np.testing.assert_allclose(episode.actions[:, 100:102], drive, atol=1e-6)
    measured = one(
        arm(action=raw["action"], base={**base, "source": "state", "lag": 0}), record(fields={"drive": drive})
    )
    np.testing.assert_allclose(measured.episode.states[:, 100:102], drive, atol=1e-6)
    assert not measured.episode.action_mask[100:102].any()


def test_relative_commands_become_absolute():
    delta = np.random.default_rng(1).normal(size=(STEPS, 3))
    to_absolute = {"delta_to_absolute": {"base": "right_arm_joint_pos[0:3]"}}
    raw = arm(action={"mode": "recorded", "rules": rule(**{"from": "delta"}, ops=[to_absolute])})
    rec = record(fields={"delta": delta})
    np.testing.assert_allclose(one(raw, rec).episode.actions[:, :3], rec.fields["joints"] + delta, atol=1e-6)
    raw["state"] = raw["state"][1:]
    with pytest.raises(ValueError, match="needs state slot right_arm_joint_0_pos"):
        Mapping.from_dict(raw)


def test_numbers_that_are_not_finite():
    joints = record().fields["joints"].copy()
    joints[[3, 7]] = np.nan
    rec = record(fields={"joints": joints})
    fault = refused(arm(), rec)
    assert fault.kind == "nan" and "2 of 12 steps, first at step 3" in fault.message
    (result,), (noted,) = outcome(arm(faults={"nan": "drop_steps"}), rec)
    assert noted.kind == "nan" and result.steps.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    np.testing.assert_array_equal(result.episode.images["external"][3], rec.images["top"][4])
    np.testing.assert_array_equal(result.episode.actions[:-1], result.episode.states[1:])


def test_a_quaternion_of_length_zero_is_a_bad_value():
    raw = arm(state=[{"to": "right_eef_rot6d", "from": "q", "ops": [{"rot": {"in": "quat"}}]}])
    assert refused(raw, record(fields={"q": np.zeros((STEPS, 4))})).kind == "bad_value"


def test_a_still_start_is_cut():
    joints = np.zeros((STEPS, 3))
    joints[5:, 1] = np.linspace(0.02, 1, STEPS - 5)
    rec = record(fields={"joints": joints, "grip": np.zeros((STEPS, 1))})
    result = one(arm(limits={"min_length": STEPS, "still_lead_eps": 0.01}), rec)
    assert result.steps.tolist() == list(range(4, STEPS))
    assert refused(arm(limits={"min_length": 2, "still_lead_eps": 2}), rec).kind == "still"


def test_a_gripper_outside_its_range_is_told_and_kept():
    rec = record(fields={"grip": np.linspace(-1, 1, STEPS)[:, None]})
    (result,), (fault,) = outcome(arm(), rec)
    assert fault.kind == "gripper_range" and "right_gripper_joint_0_pos" in fault.where and "0 .. 2" in fault.message
    assert result.episode.states[:, 10].max() == 2
    known = [*rule(), {"to": "right_gripper_open", "from": "grip", "within": [-1, 1]}]
    assert one(arm(state=known), rec).episode.states[:, 10].min() == -1


def test_a_missing_camera():
    (result,), (fault,) = outcome(arm(), record(images={}))
    assert fault.kind == "missing_camera" and dict(result.episode.images) == {}
    assert refused(arm(faults={"missing_camera": "quarantine"}), record(images={})).kind == "missing_camera"


def jpegs(steps):
    return JpegFrames([encode_jpeg(np.full((8, 8, 3), (step % 200, 20, 240), np.uint8)) for step in range(steps)])


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_jpegs_stay_what_they_are(colour):
    frames = jpegs(STEPS)
    result = one(arm(source={"format": "rlds", "colour": colour}), record(images={"top": frames}))
    ours = result.episode.images["external"]
    assert isinstance(ours, JpegFrames) and ours.encoded == frames.encoded
    np.testing.assert_array_equal(ours[5], frames[5] if colour == "rgb" else frames[5][..., ::-1])


def test_what_a_file_says_of_its_colours_counts():
    rec = record(metadata={"colour": "rgb"})
    result = one(arm(source={"format": "rlds", "colour": "bgr"}), rec)
    np.testing.assert_array_equal(result.episode.images["external"][2], rec.images["top"][2])
    assert refused(arm(), record(metadata={"colour": "gbr"})).kind == "colour"


def test_a_broken_picture_is_masked_and_many_are_too_many():
    steps = 120
    frames = jpegs(steps)
    frames.encoded[7] = frames.encoded[7][:-20]
    rec = record(steps, images={"top": frames})
    (result,), (fault,) = outcome(arm(), rec)
    mask = result.episode.image_masks["external"]
    assert fault.kind == "bad_image" and np.flatnonzero(~mask).tolist() == [7]
    assert (result.episode.images["external"][7] == 127).all()
    np.testing.assert_array_equal(result.episode.images["external"][8], frames[8])
    assert refused(arm(faults={"bad_image": "quarantine"}), rec).kind == "bad_image"
    frames.encoded[9] = b"no picture"
    assert refused(arm(), rec).kind == "bad_image"


def test_lengths_that_differ():
    rec = record(fields={"joints": np.zeros((STEPS - 1, 3))})
    fault = refused(arm(), rec)
    assert fault.kind == "lengths" and "12 steps" in fault.message and "joints 11" in fault.message
    (result,), (noted,) = outcome(arm(faults={"lengths": "truncate"}), rec)
    assert noted.kind == "lengths" and result.episode.num_steps == STEPS - 1
    shorter = record(fields={"joints": np.zeros((STEPS - 2, 3))})
    assert refused(arm(faults={"lengths": "truncate"}), shorter).kind == "lengths"


def stamped(stamps, **changes):
    return record(len(stamps), stamps_ns=np.asarray(stamps, dtype=np.int64), **changes)


def test_a_gap_splits_the_episode():
    stamps = np.arange(20) * 100_000_000
    stamps[8:] += 400_000_000
    rec = stamped(stamps)
    (first, second), (fault,) = outcome(arm(), rec)
    assert fault.kind == "gap"
    assert first.steps.tolist() == list(range(8)) and second.steps.tolist() == list(range(8, 20))
    assert (first.episode.name, second.episode.name) == ("file/0#0", "file/0#1")
    np.testing.assert_array_equal(first.episode.actions[-1], first.episode.states[-1])  # nothing crosses the gap
    np.testing.assert_array_equal(second.episode.images["external"][0], rec.images["top"][8])
    assert refused(arm(faults={"gap": "quarantine"}), rec).kind == "gap"


class ListedFrames(list):
    """Frames of another coding, that keeps its bytes as well."""

    encoded = property(lambda self: [b"\x89PNG\r\n\x1a\n ... IEND\xaeB`\x82"] * 249 + [b"\x89PNG\r\n\x1a\n cut"])


@pytest.mark.parametrize("frames", [jpegs(250), ListedFrames(np.zeros((250, 4, 4, 3), np.uint8))], ids=["jpeg", "png"])
def test_a_broken_picture_is_seen_after_a_split(frames):
    if isinstance(frames, JpegFrames):
        frames.encoded[249] = frames.encoded[249][:-5]
    stamps = np.arange(250) * 100_000_000
    stamps[100:] += 10**9
    (first, second), faults = outcome(arm(), stamped(stamps, images={"top": frames}))
    assert [fault.kind for fault in faults] == ["gap", "bad_image"]
    assert first.episode.image_masks["external"].all()
    assert np.flatnonzero(~second.episode.image_masks["external"]).tolist() == [149]
    assert (second.episode.images["external"][149] == 127).all()


def test_a_mapping_travels_to_another_process():
    mapping = Mapping.from_dict(arm(filter=["len > 3"], state=rule(sync={"how": "linear", "max_age_s": 1})))
    assert pickle.loads(pickle.dumps(mapping)) == mapping


def test_a_part_that_is_too_short_is_left_out_alone():
    stamps = np.arange(20) * 100_000_000
    stamps[19:] += 10**9
    (kept,), faults = outcome(arm(limits={"min_length": 5}), stamped(stamps))
    assert kept.episode.num_steps == 19 and [f.kind for f in faults] == ["gap", "too_short"]


def test_clocks():
    even = np.arange(200) * 100_000_000
    assert one(arm(), stamped(even)).episode.rate_hz == 10
    assert refused(arm(fps=12), stamped(even)).kind == "wrong_rate"
    repeated = even.copy()
    repeated[50] = repeated[49]
    (result,), (fault,) = outcome(arm(), stamped(repeated))
    assert fault.kind == "timestamps" and 50 not in result.steps and result.episode.num_steps == 199
    repeated[60:66] = repeated[59]
    assert refused(arm(), stamped(repeated)).kind == "timestamps"


def test_the_rate_of_a_record_is_its_own_where_fps_says_so():
    own = {"from": "timestamps", "field": "clock"}
    seconds = record(fields={"clock": np.arange(STEPS) / 25})
    assert one(arm(fps=own), seconds).episode.rate_hz == pytest.approx(25)
    nanoseconds = record(fields={"clock": np.arange(STEPS) * 50_000_000})
    assert one(arm(fps=own), nanoseconds).episode.rate_hz == pytest.approx(20)
    assert refused(arm(fps=own), record()).kind == "wrong_rate"


def test_what_a_file_says_of_its_rate_is_compared():
    assert one(arm(), record(metadata={"rate_hz": 10.5})).episode.rate_hz == 10
    fault = refused(arm(), record(metadata={"rate_hz": 50.0}))
    assert fault.kind == "wrong_rate" and "10 Hz" in fault.message and "50 Hz" in fault.message


def test_an_empty_record():
    assert refused(arm(), record(0)).kind == "too_short"


def test_filters():
    assert one(arm(filter=["grip <= 1 at all", "len >= 12", "joints[0] < 100 at last"]), record())
    fault = refused(arm(filter=["len > 12"]), record())
    assert fault.kind == "filtered" and "len > 12" in fault.message


def test_what_an_explanation_says():
    raw = arm(
        base={"rules": [{"to": "base_vel", "from": "drive"}]},
        action={"mode": "recorded", "rules": rule(**{"from": "command"})},
        state=[
            *rule(sync={"how": "linear", "max_age_s": 0.05}),
            {"to": "right_eef_rot6d", "from": "q", "ops": [{"rot": {"in": "quat"}}], "optional": True},
            {"to": "right_gripper_open", "from": "grip", "compat": {"rdt": {"ops": ["invert01"]}}},
        ],
        filter=["len > 3"],
        notes="Made up.",
        robot="toy",
    )
    text = explain(Mapping.from_dict(raw))
    for part in (
        "arm (toy): rlds",
        "joints[2] (linear, at most 0.05 s old)",
        "q -> rot(quat, xyzw) number 5 if there is one",
        "drive[1] of step t - 1, 0 at first",
        "action (recorded, shift 0):",
        "'Move the block.'",
        "keep when: len > 3",
        "read differently under compat: rdt: state[2]",
        "notes: Made up.",
    ):
        assert part in text, part


def test_who_acts_is_kept_with_the_action_that_he_gave():
    words = np.array(["policy"] * 6 + ["", "nobody"] + ["operator"] * 4, dtype=object)
    found = one(arm(actor="who"), record(fields={"who": words})).episode
    assert found.actor_of_step.tolist() == [1] * 5 + [0, 0] + [2] * 5  # an action is the state that follows
    assert one(arm(actor="who"), record()).episode.actor_of_step is None
    assert one(arm(), record(fields={"who": words})).episode.actor_of_step is None


def test_an_actor_that_nobody_knows_is_refused():
    fault = refused(arm(actor="who"), record(fields={"who": np.array(["robot"] * STEPS, dtype=object)}))
    assert fault.kind == "bad_value"
    assert "who says ['robot'], expected ['nobody', 'policy', 'operator']" in fault.message
    with pytest.raises(ValueError, match=r"actor: .*'task'"):
        Mapping.from_dict(arm(actor="tusk"), SPECS)
