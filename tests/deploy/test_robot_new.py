"""A robot YAML from URDFs: what they say is taken, what they do not say is asked, and nothing else.

Run: pytest tests/deploy/test_robot_new.py
"""

from __future__ import annotations

import builtins
import sys

import pytest
import yaml

from data_pipeline.schema.embodiment import Embodiment
from deploy.cli import main
from deploy.robot_new import Answers, Question
from deploy.urdf import read_urdf

pytest.importorskip("yourdfpy")

REVOLUTE = '<limit lower="-1.5" upper="2.0" effort="10" velocity="3.0"/>'


def urdf(*joints: tuple[str, str, str]) -> str:
    """A chain of (name, type, inner XML), written from its tip to its base, as files may be."""
    links = "".join(f'<link name="l{i}"/>' for i in range(len(joints) + 1))
    rows = [
        f'<joint name="{name}" type="{kind}"><parent link="l{i}"/><child link="l{i + 1}"/><axis xyz="0 0 1"/>{inner}'
        "</joint>"
        for i, (name, kind, inner) in enumerate(joints)
    ]
    return f'<robot name="tiny">{links}{"".join(reversed(rows))}</robot>'


ARM = (
    ("mount", "fixed", ""),
    ("base_turn", "revolute", REVOLUTE),
    ("roll", "continuous", '<limit effort="5" velocity="2.0"/>'),
    ("finger_left", "prismatic", '<limit lower="0.0" upper="0.035" effort="5" velocity="0.1"/>'),
    (
        "finger_right",
        "prismatic",
        '<limit lower="0" upper="0.035" effort="5" velocity="0.1"/><mimic joint="finger_left"/>',
    ),
)
ANSWERS = {
    "side": "left",
    "rate_hz": 25,
    "driver": "piper",
    "acceleration_limit": 6.0,
    "limits.roll": [-2.0, 2.0],
    "connection.left": {"can": "can_left"},
    "gripper.right": [0.0, 0.07],
    "cameras": {"external": "realsense", "left_wrist": {"source": "v4l2", "connection": {"device": "/dev/video0"}}},
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "other"):
        (tmp_path / f"{name}.urdf").write_text(urdf(*ARM))
    (tmp_path / "answers.yaml").write_text(yaml.safe_dump(ANSWERS))
    return tmp_path


def test_a_chain_is_read_from_the_base_outwards(files):
    joints = read_urdf(files / "one.urdf")
    assert [joint.name for joint in joints] == ["base_turn", "roll", "finger_left"]
    assert (joints[0].low, joints[0].high, joints[0].velocity) == (-1.5, 2.0, 3.0)
    assert joints[1].low != joints[1].low  # nan: a continuous joint has none
    assert [joint.is_gripper for joint in joints] == [False, False, True]


def test_a_pair_of_urdfs_becomes_a_robot(files, capsys):
    words = ["robot", "new", "--urdf", "one.urdf", "other.urdf", "--name", "pair", "--answers", "answers.yaml"]
    assert main(words) == 0
    robot = Embodiment.from_yaml(files / "pair.yaml")
    assert (robot.name, robot.rate_hz, list(robot.arms)) == ("pair", 25, ["left", "right"])
    left, right = robot.arms["left"], robot.arms["right"]
    assert [joint.name for joint in left.joints] == ["base_turn", "roll"]
    assert left.joints[0].limits == (-1.5, 2.0)
    assert left.joints[1].limits == (-2.0, 2.0)
    assert [joint.velocity_limit for joint in left.joints] == [1.5, 1.0]  # half of the URDF's
    assert left.joints[0].acceleration_limit == 6.0
    assert left.gripper.state_range == (0.0, 0.035)  # the URDF's
    assert right.gripper.state_range == (0.0, 0.07)  # the answer's
    assert left.connection == {"can": "can_left"}
    assert right.connection == {}
    assert robot.cameras["left_wrist"].connection == {"device": "/dev/video0"}
    assert main(["robot", "explain", "pair.yaml"]) == 0
    assert "left_base_turn" in capsys.readouterr().out


def test_only_what_the_urdf_does_not_say_is_asked(files, monkeypatch):
    asked = []

    def answer(question):
        asked.append(question)
        return {0: "both", 2: "viperx"}.get(len(asked) - 1, "")

    monkeypatch.setattr(builtins, "input", answer)
    assert main(["robot", "new", "--urdf", "one.urdf", "--name", "twins", "--out", "r.yaml"]) == 0
    assert [question.split(" [")[0].split(":")[0] for question in asked][:4] == [
        "which arms this URDF describes (left, right, both",
        "steps a second of recordings and action chunks",
        "driver of the arms (viperx, piper, ur5e, ros_topics, sim)",
        "how fast joints may gain speed, in rad/s^2",
    ]
    assert sum("base_turn" in question for question in asked) == 0
    assert sum("limits of roll" in question for question in asked) == 2
    robot = Embodiment.from_yaml("r.yaml")
    assert robot.rate_hz == 50
    assert robot.arms["left"].joints[1].limits == (-3.14159, 3.14159)
    assert robot.arms["left"].driver == "viperx"


def test_both_arms_in_one_urdf_are_told_by_their_names(files):
    both = [(f"{side}_{name}", "revolute", REVOLUTE) for side in ("right", "left") for name in ("a", "b")]
    (files / "both.urdf").write_text(urdf(*both))
    (files / "few.yaml").write_text("{driver: ur5e}")
    assert main(["robot", "new", "--urdf", "both.urdf", "--name", "both", "--answers", "few.yaml"]) == 0
    robot = Embodiment.from_yaml("both.yaml")
    assert robot.native_names == ("left_left_a", "left_left_b", "right_right_a", "right_right_b")
    assert robot.arms["left"].gripper is None


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, "does not say 'driver' (driver of the arms"),
        ({"driver": "piper", "rate": 25}, "answers: unknown key 'rate': did you mean 'rate_hz'"),
        ({"driver": "piper", "sides": "middle"}, "sides must be left, right or both, got 'middle'"),
        ({"driver": "piper", "cameras": ["a"]}, "cameras must be a mapping"),
        ({"driver": "piper", "gripper.right": [1, 1]}, "must be two different numbers"),
    ],
)
def test_what_cannot_be_a_robot_is_said_and_nothing_is_written(files, capsys, answers, words):
    (files / "bad.yaml").write_text(yaml.safe_dump(answers))
    assert (
        main(["robot", "new", "--urdf", "one.urdf", "--name", "bad", "--out", "no.yaml", "--answers", "bad.yaml"]) == 1
    )
    assert words in capsys.readouterr().err
    assert not (files / "no.yaml").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.urdf", "<robot", "a.urdf is no URDF"),
        ("a.urdf.xacro", "<robot/>", "is a macro"),
        ("a.urdf", urdf(("mount", "fixed", "")), "no joint that turns"),
        ("none.urdf", None, "there is no file none.urdf"),
    ],
)
def test_files_that_are_no_arm_are_named(files, capsys, name, content, words):
    if content is not None:
        (files / name).write_text(content)
    assert main(["robot", "new", "--urdf", name, "--name", "x", "--answers", "answers.yaml"]) == 1
    assert words in capsys.readouterr().err


def test_a_file_that_exists_is_kept(files, capsys):
    (files / "x.yaml").write_text("mine")
    assert main(["robot", "new", "--urdf", "one.urdf", "--name", "x", "--answers", "answers.yaml"]) == 1
    assert "x.yaml exists" in capsys.readouterr().err
    assert (files / "x.yaml").read_text() == "mine"


def test_nobody_at_the_terminal_is_told_of_answers_files():
    def nobody(question):
        raise EOFError

    with pytest.raises(ValueError, match=r"give an --answers file with 'driver'"):
        Answers({}, nobody).get(Question("driver", "who drives it"))


def test_the_reader_is_asked_for_by_name(monkeypatch, files):
    monkeypatch.setitem(sys.modules, "yourdfpy", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rdt-stack\[urdf\]'"):
        read_urdf(files / "one.urdf")
