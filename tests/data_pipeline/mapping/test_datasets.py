"""pytest tests/data_pipeline/mapping/test_datasets.py: every shipped dataset against a record with a known robot."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_pipeline.mapping.explain import explain
from data_pipeline.mapping.mapping import MappedEpisode, Mapping
from data_pipeline.mapping.mixtures import read_mixture
from data_pipeline.schema import rotation
from data_pipeline.schema.registry import configs_dir, find_config
from data_pipeline.schema.types import CAMERA_ROLES
from data_pipeline.sources.raw import Fault
from tests.data_pipeline.mapping import records

SETS = sorted(records.TABLE)
STATELESS = ("nyu_door_opening_surprising_effectiveness", "imperialcollege_sawyer_wrist_cam")
VERSIONS = {"droid": "1.0.0", **dict.fromkeys(("language_table", "fmb", "dobbe"), "0.0.1")}
UNVERSIONED = ("nyu_door_opening_surprising_effectiveness", "cmu_play_fusion")
CONSTANTS = {
    "berkeley_cable_routing": "Route cable through the tight-fitting clip mounted on the table.",
    "nyu_door_opening_surprising_effectiveness": "Open the cabinet door.",
    "dlr_sara_grid_clamp" + records.C: "Place the grid clamp in the grids on the table.",
}


def load(name, fields=None, **overrides):
    return Mapping.from_yaml(find_config("datasets", name), fields, overrides)


def mapped(name, record, **overrides) -> MappedEpisode:
    limits = {"limits": {"min_length": 32}} if name == "agilex" else {}
    results = load(name, records.field_specs(record), **limits, **overrides).apply(record)
    assert [r for r in results if isinstance(r, Fault)] == []
    (episode,) = results
    return episode


def dropped(name, record) -> Fault:
    (fault,) = load(name).apply(record)
    assert isinstance(fault, Fault)
    return fault


def test_every_row_has_its_file_and_every_file_its_row():
    assert {path.stem for path in (configs_dir() / "datasets").glob("*.yaml")} == set(SETS)
    assert len(SETS) == 48


@pytest.mark.parametrize("name", SETS)
def test_the_robot_comes_back(name):
    known = records.robot(seed=len(name))
    episode = mapped(name, records.make_record(name, known)).episode
    states, mask = records.expected_states(name, known)
    np.testing.assert_array_equal(np.flatnonzero(episode.state_mask), np.flatnonzero(mask))
    np.testing.assert_allclose(episode.states, states, atol=1e-6)
    assert episode.rate_hz == records.TABLE[name].hz


@pytest.mark.parametrize("name", SETS)
def test_what_is_to_be_predicted(name):
    known = records.robot(seed=1)
    result = mapped(name, records.make_record(name, known))
    states, actions = result.episode.states, result.episode.actions
    np.testing.assert_array_equal(result.episode.action_mask, result.episode.state_mask)
    if name == "agilex":
        np.testing.assert_allclose(actions, states, atol=1e-6)  # the record commands what it measures
        assert result.episode.action_valid.all()
    elif name in STATELESS:
        np.testing.assert_array_equal(actions[:-1], states[1:])
        np.testing.assert_allclose(actions[-1, 39:45], np.concatenate([known["V"], known["W"]], axis=1)[-1], atol=1e-6)
        assert result.episode.action_valid.all()
    else:
        np.testing.assert_array_equal(actions, np.concatenate([states[1:], states[-1:]]))
        np.testing.assert_array_equal(result.episode.action_valid, [True] * (len(states) - 1) + [False])


@pytest.mark.parametrize("name", SETS)
def test_cameras(name):
    row = records.TABLE[name]
    result = mapped(name, records.make_record(name, records.robot(0)))
    expected = records.camera_paths(row)
    assert set(result.episode.images) == set(result.episode.image_masks) == set(expected) <= set(CAMERA_ROLES)
    for role, path in expected.items():
        frame = result.episode.images[role][3]
        assert frame.shape == (2, 3, 3) and (frame == records.pixel(path)).all()
        assert result.episode.image_masks[role].all()
    extra = list(map(records.full_path, row.extra.split()))
    assert sorted(result.extra_images) == sorted(extra)
    for path in extra:
        assert (result.extra_images[path][0] == records.pixel(path)).all()


@pytest.mark.parametrize("name", SETS)
def test_language(name):
    texts = mapped(name, records.make_record(name, records.robot(0))).episode.instructions
    if name in CONSTANTS:
        assert texts == (CONSTANTS[name],)
    elif name == "agilex":
        assert texts == ("Pick_up the red-cup.",)  # the fine-tuning set's texts are not cleaned of anything
    else:
        says = records.TABLE[name].says
        assert texts == (records.CLEANED if says == records.TEXT else says,)


@pytest.mark.parametrize("name", sorted(set(SETS) - {"agilex", "rh20t", "calvin", "bridgev2", "roboset"}))
def test_versions(name):
    mapping = load(name)
    if mapping.source.format == "rlds":
        version = VERSIONS.get(name, "0.1.0")
        assert mapping.source.glob == (name if name in UNVERSIONED else f"{name}/{version}")
    assert mapping.source.split == "all"


FILTERED = {
    "kuka": {"metadata": {"success": False}},
    "ucsd_pick_and_place_dataset" + records.C: {"metadata": {"episode_metadata/success": False}},
    "droid": {"metadata": {"episode_metadata/file_path": "lab/failure/2023-05-01/trajectory.h5"}},
    "droid_raw": {"metadata": {"episode_metadata/success": False}},
    "roboset": {"name": "roboset/set_12_trial_3.h5"},
}


@pytest.mark.parametrize("name", sorted(FILTERED))
def test_filters_drop(name):
    record = records.make_record(name, records.robot(0))
    changes = dict(FILTERED[name])
    if "metadata" in changes:
        changes["metadata"] = {**record.metadata, **changes["metadata"]}
    assert dropped(name, dataclasses.replace(record, **changes)).kind == "filtered"


def test_roboset_keeps_the_sets_beside_the_dropped_ones():
    record = records.make_record("roboset", records.robot(0))
    for number in (1, 9, 18, 100):
        mapped("roboset", dataclasses.replace(record, name=f"roboset/set_{number}/trial_0"))


def test_bc_z_keeps_success_at_the_first_step():
    record = records.make_record("bc_z", records.robot(0))
    success = record.fields["observation/episode_success"].copy()
    success[1:] = 0
    mapped("bc_z", dataclasses.replace(record, fields={**record.fields, "observation/episode_success": success}))
    success[:] = 0.5
    assert dropped(
        "bc_z", dataclasses.replace(record, fields={**record.fields, "observation/episode_success": success})
    )


def test_the_bimanual_set_keeps_one_instruction():
    name = "utokyo_xarm_bimanual" + records.C
    assert dropped(name, records.make_record(name, records.robot(0), says="Reach a towel.")).kind == "filtered"


def test_droid_drops_episodes_without_a_text():
    assert dropped("droid", records.make_record("droid", records.robot(0), says="")).kind == "no_language"


def test_short_episodes_are_dropped():
    assert dropped("toto", records.make_record("toto", records.robot(0, steps=31))).kind == "too_short"
    assert dropped("agilex", records.make_record("agilex", records.robot(0, steps=127))).kind == "too_short"


def test_rh20t_takes_the_slots_that_a_width_allows():
    known = records.robot(0)
    six = {"/joint": "J6", "/tcp_base": "P u3", "/gripper": "G*110"}
    record = records.make_record("rh20t", known, six)
    (result,) = load("rh20t").apply(record)
    assert np.flatnonzero(result.episode.state_mask).tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(result.episode.states[:, :6], known["J"][:, :6], atol=1e-6)
    without = {path: values for path, values in record.fields.items() if path == "joint"}
    (alone,) = load("rh20t").apply(dataclasses.replace(record, fields=without))
    np.testing.assert_array_equal(alone.episode.states, result.episode.states)
    fault = dropped("rh20t", records.make_record("rh20t", known, {"/joint": "J5"}))
    assert fault.kind == "wrong_width" and "5 numbers" in fault.message and "[6, 7]" in fault.message


def test_rh20t_clips_what_passes_the_stroke_save_under_compat():
    known = records.robot(0)
    known["G"][3] = 2.0
    record = records.make_record("rh20t", known)
    assert mapped("rh20t", record).episode.states[3, 10] == 1
    assert mapped("rh20t", record, compat="rdt").episode.states[3, 10] == pytest.approx(2)


def test_bc_z_under_compat_reads_the_axis_angle_as_euler_angles():
    record = records.make_record("bc_z", records.robot(0))
    wrong = rotation.matrix_from_euler(record.fields["observation/present/axis_angle"])
    found = mapped("bc_z", record, compat="rdt").episode.states[:, 33:39]
    np.testing.assert_allclose(found, rotation.rot6d_from_matrix(wrong), atol=1e-6)


def test_aloha_mobile_under_compat_drives_sideways():
    known = records.robot(0)
    record = records.make_record("aloha_mobile", known)
    as_published = mapped("aloha_mobile", record, compat="rdt").episode
    slots = records.slots_of("0-5 10 15-20 50-55 60 65-70 101-102")  # the published set's
    assert np.flatnonzero(as_published.state_mask).tolist() == slots
    np.testing.assert_allclose(as_published.states[1:, 101], known["B"][:-1, 0], atol=1e-6)


def test_kuka_under_compat_takes_the_base_without_the_rate():
    known = records.robot(0)
    states = mapped("kuka", records.make_record("kuka", known), compat="rdt").episode.states
    np.testing.assert_allclose(states[1:, 100:102], known["B"][:-1] / 10, atol=1e-6)


def test_taco_actions_read_backwards_are_the_states_angles():
    """The recorded action keeps yaw, pitch, roll where the state keeps roll, pitch, yaw."""
    known = records.robot(0)
    record = records.make_record("taco_play", known, {"action/actions": "P Ezyx 2G-1"})
    reads = {"to": "right_eef_rot6d", "from": "action/actions[3:6]"}
    ops = [{"rot": {"in": "euler", "seq": "zyx", "frame": "intrinsic"}}]
    episode = mapped("taco_play", record, action={"mode": "recorded", "rules": [{**reads, "ops": ops}]}).episode
    np.testing.assert_allclose(episode.actions[:, 33:39], episode.states[:, 33:39], atol=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_a_field_that_is_missing_or_too_wide_is_named_before_a_record_is_read(name):
    record = records.make_record(name, records.robot(0))
    specs = records.field_specs(record)
    path = records.full_path(next(iter(records.TABLE[name].fields)))
    renamed = {("x" + key if key == path else key): spec for key, spec in specs.items()}
    with pytest.raises(ValueError, match=rf"{name}.yaml: .*unknown field '{path}'"):
        load(name, renamed)
    narrow = {**specs, path: dataclasses.replace(specs[path], shape=(1,))}
    if record.fields[path].ndim == 2 and name != "rh20t":
        with pytest.raises(ValueError, match=rf"{name}.yaml: .*{path}"):
            load(name, narrow)


def test_the_mixture_has_the_published_shares():
    mixture = read_mixture(configs_dir() / "datasets" / "mixtures" / "rdt_pretrain.yaml")
    assert mixture.weights == {name: row.weight for name, row in records.TABLE.items() if row.weight}
    assert sum(mixture.weights.values()) == 3012 and len(mixture.weights) == 46
    assert mixture.weight_unit == "episode"
    assert round(100 * mixture.share("rh20t"), 2) == 10.99


@pytest.mark.parametrize("name", SETS)
def test_the_table_names_every_slot(name):
    table = explain(load(name))
    lines = [line.split() for line in table.splitlines() if line.startswith("  ")]
    listed = {int(words[0]) for words in lines if words[0].isdigit()}
    assert listed == set(records.slots_of(records.TABLE[name].slots))
