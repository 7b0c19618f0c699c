"""pytest tests/data_pipeline/schema/test_layout.py

`slots.csv` is the table of spec rdt.md section 7: slot, every name it answers to, unit.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from data_pipeline.schema.layout import NUM_SLOTS, SLOT_INDEX, SLOT_NAMES, SLOT_UNITS, slot_index, slot_range

with Path(__file__).with_name("slots.csv").open(encoding="utf-8") as file:
    TABLE = [(int(row["slot"]), row["names"].split(), row["unit"]) for row in csv.DictReader(file)]


def test_table_covers_all_slots():
    assert [slot for slot, _, _ in TABLE] == list(range(NUM_SLOTS))


@pytest.mark.parametrize(("slot", "names", "unit"), TABLE, ids=[str(slot) for slot, _, _ in TABLE])
def test_every_name_of_the_table_is_known(slot, names, unit):
    assert [slot_index(name) for name in names] == [slot] * len(names)
    assert SLOT_UNITS[slot].startswith(unit)


def test_no_names_beyond_the_table():
    assert set(SLOT_INDEX) == {name for _, names, _ in TABLE for name in names}


def test_canonical_name_is_the_first_with_a_side():
    for slot, names, _ in TABLE:
        sided = [name for name in names if name.startswith(("left_", "right_"))]
        assert SLOT_NAMES[slot] == (sided or names)[0]


def test_unknown_slot_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'right_gripper_open'"):
        slot_index("right_griper_open")


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("right_arm_joint_pos[0:6]", range(0, 6)),
        ("arm_joint_pos", range(0, 10)),
        ("right_gripper_pos[0]", range(10, 11)),
        ("right_arm_joint_vel[0:10]", range(15, 25)),
        ("right_gripper_vel[1:3]", range(26, 28)),
        ("right_eef_pos", range(30, 33)),
        ("right_eef_rot6d", range(33, 39)),
        ("right_eef_vel", range(39, 42)),
        ("right_eef_angvel", range(42, 45)),
        ("left_arm_joint_pos[ 6 : 7 ]", range(56, 57)),
        ("left_gripper_pos[0:5]", range(60, 65)),
        ("left_eef_rot6d", range(83, 89)),
        ("base_vel", range(100, 102)),
        ("base_angvel", range(102, 103)),
        ("gripper_open", range(10, 11)),
        ("left_arm_joint_3_vel", range(68, 69)),
    ],
)
def test_slot_range(text, slots):
    assert slot_range(text) == slots


@pytest.mark.parametrize(
    "text", ["right_arm_joint_pos[0:11]", "right_eef_pos[3]", "base_vel[1:1]", "left_eef_pos[2:1]"]
)
def test_slot_range_refuses_to_leave_its_block(text):
    with pytest.raises(ValueError, match="leaves its block"):
        slot_range(text)


@pytest.mark.parametrize("text", ["right_eef_pos[-1]", "right_eef_pos[0:6:2]", "", "right eef"])
def test_slot_range_refuses_other_syntax(text):
    with pytest.raises(ValueError, match="not a slot block"):
        slot_range(text)


def test_slot_range_names_the_nearest_block():
    with pytest.raises(ValueError, match="did you mean 'right_arm_joint_pos'"):
        slot_range("right_arm_joints_pos[0:6]")
