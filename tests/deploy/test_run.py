"""Run: pytest tests/deploy/test_run.py"""

import argparse
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.arguments import add_viewing_options, viewing_words
from deploy.cli import main
from deploy.graph import NodeProcess
from deploy.realtime.recorder import ANSWER_S, Recorded
from deploy.realtime.spec import run_spec
from deploy.run import Processes, RosEpisodes, RosOrders, ask_before_moving, run_trials
from robot_drivers.limits.chain import SIMULATED
from tests.deploy.realtime.parts import blind_robot, runs, wait_for


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


def test_an_episode_of_a_node_is_waited_for_longer_than_the_node_waits_for_its_disk():
    waited = []

    def ask(service, flag=None, timeout_s=10.0):
        waited.append(timeout_s)
        return SimpleNamespace(success=True, message="x.mcap")

    episodes = RosEpisodes(SimpleNamespace(ask=ask))
    episodes.begin()
    episodes.end(success=True)
    assert min(waited) > ANSWER_S


def test_a_scene_is_laid_out_while_nobody_repeats_the_last_target_of_the_one_before(monkeypatch):
    pytest.importorskip("rclpy", reason="needs the extra `ros2`")
    asked = []

    def ask(self, service, flag=None, timeout_s=10.0):
        asked.append(service)
        return SimpleNamespace(success=True, message="")

    monkeypatch.setattr(RosOrders, "ask", ask)
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    with RosOrders(robot, SimpleNamespace(check=lambda: None)) as orders:
        orders.next_scene()
        del asked[:]
        orders.next_scene()
    assert asked == ["/rdt_policy/reset", "/sim_bimanual/reset", "/rdt_policy/reset"]


def test_the_end_of_processes_is_deaf_to_signals(tmp_path):
    """SIGTERM is as Ctrl-C in `rdt`: in the middle of an ending it would leave processes behind."""
    told = tmp_path / "told"
    slow_to_end = f"""
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.0), os._exit(0)))
open({str(told)!r}, "w").close()
time.sleep(60)
"""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        processes = Processes([NodeProcess("slow", "timeit", ("-n1", "-r1", slow_to_end))])
        process = processes._running[0][1]
        wait_for(told.exists)
        impatient = [threading.Timer(0.3, os.kill, (os.getpid(), number)) for number in (signal.SIGTERM, signal.SIGINT)]
        for timer in impatient:
            timer.start()
        processes.close()
        assert process.returncode == 0
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("words", "exit_code"), [([], 0), (["--trials", "1", "--seconds", "60"], 1)])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_impatience_leaves_no_process_of_a_session(tmp_path, first, words, exit_code):
    """Signals while it ends, which takes a while: the network is asked something that it thinks about for long."""
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(blind_robot().to_dict()))
    program = f"""
import sys
from deploy.cli import main
from deploy.realtime import spec
from deploy.realtime.supervisor import RunSpec

def toy(robot, *_):
    parts = "tests.deploy.realtime.parts"
    return RunSpec(robot, parts + ":open_leaning", {{"seconds": 4.0}}, open_arm=parts + ":open_motor")

if __name__ == "__main__":
    spec.run_spec = toy
    sys.exit(main(["run", {str(tmp_path / "robot.yaml")!r}, "x", "--instruction", "lean", "--yes", "--no-page",
                   *{words!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    assert "is ready" in process.stdout.readline()
    time.sleep(1.0)  # it has begun to think
    children = [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) >= 2
    for number in (first, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.3)
    process.stdout.read()
    assert process.wait(60) == exit_code
    wait_for(lambda: not any(runs(child) for child in children))
