"""Run: pytest tests/deploy/test_cli.py"""

import subprocess
import sys

import pytest

from deploy.cli import COMMANDS, build_parser, main

HEAVY = ("torch", "numpy", "mujoco", "matplotlib", "scipy", "h5py", "transformers")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from deploy.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in result.stdout


def test_every_command_is_listed_and_has_a_handler():
    text = build_parser().format_help()
    for name, handler in COMMANDS.items():
        assert f"\n    {name}" in text
        assert handler.endswith(":command")


@pytest.mark.parametrize(
    "argv", [["fly"], ["quickstart"], ["quickstart", "--out", "x", "--demos", "0"], ["doctor", "--fast"]]
)
def test_wrong_use_leaves_with_2(argv, capsys):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert "usage: rdt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["robot", "explain", "aloha_viperks"], "did you mean 'aloha_viperx'"),
        (["train", "quickstar"], "did you mean 'quickstart'"),
        (["train", "quickstart", "--stepps", "3"], "did you mean 'steps'"),
        (["train", "quickstart", "--device", "cudda"], "unknown device"),
        (["eval", "nowhere", "--env", "sim_handover", "--out", "unused"], "there is no nowhere"),
        (["eval", "nowhere", "--env", "sim_handovr", "--out", "unused"], "sim_handover"),
        (["quickstart", "--out", "unused", "--config", "nothing"], "config"),
        (["bench", "infer", "--device", "tpuu"], "unknown device"),
    ],
)
def test_a_mistake_is_one_message_and_1(argv, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["--debug", "robot", "explain", str(tmp_path / "none.yaml")])


def test_an_interrupt_is_one_message(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.doctor.command", interrupt)
    assert main(["doctor"]) == 1
    assert "interrupted" in capsys.readouterr().err


def test_robot_explain_shows_slots_and_both_gripper_conversions(capsys):
    assert main(["robot", "explain", "agilex_cobot_magic"]) == 0
    text = capsys.readouterr().out
    assert "left_gripper_joint_0_pos" in text
    assert "state x 0.208733" in text
    assert "action x 0.0840357" in text


def test_robot_list_names_the_shipped_robots(capsys):
    assert main(["robot", "list"]) == 0
    assert {"sim_bimanual", "aloha_viperx"} <= set(capsys.readouterr().out.split())


def test_doctor_finds_what_the_tests_need(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "torch device" in text
    assert "rendering" in text
