"""Run: pytest tests/deploy/test_run.py"""

import argparse
import contextlib
import io
import socket

import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.arguments import add_viewing_options, viewing_words
from deploy.cli import main
from deploy.realtime.recorder import Recorded
from deploy.realtime.spec import run_spec
from deploy.run import ask_before_moving, run_trials
from robot_drivers.limits.chain import SIMULATED


class Robot:
    """Told what to do, it writes it down; the person or the simulator judges."""

    def __init__(self, judgements=None):
        self.heard, self._judgements = [], judgements

    def start(self):
        self.heard.append("start")

    def stop(self):
        self.heard.append("stop")

    def next_scene(self):
        self.heard.append("scene")

    def outcome(self):
        return None if self._judgements is None else {"success": self._judgements.pop(0), "scene": len(self.heard)}

    def check(self):
        pass


def test_each_trial_has_a_scene_a_run_and_a_stand():
    robot = Robot([True, False])
    trials = run_trials(robot, 2, 0.0)
    assert robot.heard == ["scene", "start", "stop"] * 2
    assert [trial.success for trial in trials] == [True, False]


class Episodes:
    """Writes down what it is asked to record."""

    def __init__(self, heard, path="x.mcap"):
        self._heard, self._path = heard, path

    def begin(self, *, trial=1):
        self._heard.append(f"begin {trial}")
        return Recorded(self._path, "recording" if self._path else "not recorded: the disk is full")

    def pause(self):
        self._heard.append("pause")

    def end(self, *, success):
        self._heard.append(f"end {success}")
        return Recorded(self._path, "x.mcap: 10 s" if self._path else "not recorded: the disk is full")


def test_a_trial_is_an_episode_from_before_the_start_to_the_stand_with_its_judgement():
    robot = Robot()
    run_trials(robot, 1, 0.0, ask=lambda _: False, sleep=lambda _: None, episodes=Episodes(robot.heard))
    assert robot.heard == ["scene", "begin 1", "start", "stop", "pause", "end False"]


def test_a_recording_that_fails_is_told_and_the_trials_go_on(capsys):
    robot = Robot([True, True])
    trials = run_trials(robot, 2, 0.0, sleep=lambda _: None, episodes=Episodes([], path=""))
    assert [trial.success for trial in trials] == [True, True]
    assert "disk is full" in capsys.readouterr().err


def test_a_person_judges_where_nobody_else_can():
    asked = []
    trials = run_trials(Robot(), 2, 0.0, ask=lambda question: asked.append(question) or len(asked) == 2)
    assert [trial.success for trial in trials] == [False, True]
    assert "trial 2: did it succeed?" in asked[1]


def test_a_robot_that_ends_ends_the_trials():
    robot = Robot([True])
    robot.check = lambda: (_ for _ in ()).throw(RuntimeError("rdt_policy has ended"))
    with pytest.raises(RuntimeError, match="has ended"):
        run_trials(robot, 1, 10.0)


def test_a_real_robot_has_to_be_told_what_to_do(capsys):
    assert main(["run", "piper_pair", "runs/x"]) == 1
    assert "--instruction" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("name", "yes", "asks"), [("piper_pair", False, True), ("piper_pair", True, False), ("sim_bimanual", False, False)]
)
def test_a_person_is_asked_before_a_real_robot_moves(monkeypatch, capsys, name, yes, asks):
    robot = Embodiment.from_yaml(find_config("robots", name))
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    ask_before_moving(robot, yes)
    assert ("press Enter" in capsys.readouterr().out) is asks
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    if asks:
        with pytest.raises(ValueError, match="give --yes to let the arms move"):
            ask_before_moving(robot, yes)
    else:
        ask_before_moving(robot, yes)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "piper_pair", "runs/x", "--instruction", "lift the cup"],
        ["replay", "piper_pair", "x.mcap"],
        ["record", "piper_pair", "--leader", "piper_pair", "--out", "x", "--instruction", "lift the cup"],
    ],
)
def test_without_a_terminal_and_without_yes_nothing_is_started(monkeypatch, tmp_path, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("deploy.demonstrate.require", lambda *_, **__: None)
    monkeypatch.setattr("deploy.realtime.session.Supervisor", lambda *_, **__: pytest.fail("it was started"))
    assert main(words) == 1
    assert "no terminal to ask at: give --yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "sim_bimanual", "x.mcap"],
        ["record", "sim_bimanual", "--leader", "sim_bimanual", "--out", "x", "--instruction", "lift the cup"],
    ],
)
def test_replay_and_record_have_the_page_and_the_limits_of_a_run(monkeypatch, words):
    opened = []

    def open_session(spec, instruction, **options):
        opened.append((spec, options))
        raise RuntimeError("enough")

    for module in ("replay", "demonstrate"):
        monkeypatch.setattr(f"deploy.{module}.require", lambda *_, **__: None)
        monkeypatch.setattr(f"deploy.{module}.Processes", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(f"deploy.{module}.viewed_session", open_session)
    monkeypatch.setattr(
        "deploy.replay.load_episode",
        lambda *_: argparse.Namespace(name="x", num_steps=1, rate_hz=1.0, instructions=("x",)),
    )
    assert main([*words, "--page", "8080", "--rerun", "x.rrd"]) == 1
    ((spec, options),) = opened
    run = run_spec(Embodiment.from_yaml(find_config("robots", "sim_bimanual")), "runs/x", "cpu")
    assert (spec.limits, spec.settings.jump_rad) == (run.limits, run.settings.jump_rad)
    assert spec.limits == SIMULATED
    assert spec.frame_size == run.frame_size == (480, 640)
    assert (options["page"], options["rerun"]) == (8080, "x.rrd")


def test_a_port_that_is_taken_is_told_before_the_arms_wake(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["run", "piper_pair", "runs/x", "--instruction", "lift the cup", "--yes", "--page", str(port)]
        assert main(words) == 1
    assert f"the operator page cannot have port {port}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--page", "8080"], ["--no-page"], ["--no-page", "--rerun", "a.rrd"]])
def test_options_of_those_who_look_reach_the_node_as_they_were_given(words):
    parser = argparse.ArgumentParser()
    add_viewing_options(parser)
    args = parser.parse_args(words)
    assert parser.parse_args(viewing_words(args)) == args
