"""Run: pytest tests/deploy/test_run.py"""

import argparse
import contextlib
import io
import json
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
from deploy.realtime.recorder import ANSWER_S
from deploy.realtime.spec import run_spec
from deploy.run import Processes, RosEpisodes, RosOrders, ask_before_moving
from robot_drivers.limits.chain import SIMULATED
from tests.deploy.realtime.parts import blind_robot, runs, wait_for


def test_policies_are_compared_by_trials(capsys):
    words = ["run", "piper_pair", "runs/x", "--against", "runs/y", "--instruction", "lift the cup", "--yes"]
    assert main(words) == 1
    assert "how many pairs of them with --trials N" in capsys.readouterr().err


def test_a_policy_that_is_corrected_is_not_compared(capsys):
    words = ["run", "piper_pair", "runs/x", "--against", "runs/y", "--trials", "2", "--leader", "piper_pair"]
    assert main([*words, "--instruction", "lift the cup", "--yes"]) == 1
    assert "give --against or --leader" in capsys.readouterr().err


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
        orders.same_scene()
    assert asked[:3] == ["/rdt_policy/reset", "/sim_bimanual/reset", "/rdt_policy/reset"]
    assert asked[3:] == ["/rdt_policy/reset", "/sim_bimanual/repeat", "/rdt_policy/reset"]


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


def test_two_policies_of_a_robot_without_ros_are_compared_by_the_person_who_watches(tmp_path):
    """The first one leans up and the second one down: the recordings prove who acted."""
    reader = pytest.importorskip("mcap.reader", reason="needs the extra mcap")
    decoder = pytest.importorskip("mcap_ros2.decoder", reason="needs the extra mcap")
    pytest.importorskip("rosbags", reason="needs the extra mcap")
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(blind_robot().to_dict()))
    words = ["--against", "runs/down", "--trials", "2", "--seconds", "2.5", "--json", str(tmp_path / "found.json")]
    program = f"""
import sys
from deploy.cli import main
from deploy.realtime import spec
from deploy.realtime.inference import BackendSpec
from deploy.realtime.supervisor import RunSpec

def toy(robot, *_):
    parts = "tests.deploy.realtime.parts"
    down = BackendSpec(parts + ":open_leaning", {{"step_rad": -0.01}})
    return RunSpec(robot, parts + ":open_leaning", against=down, open_arm=parts + ":open_motor")

if __name__ == "__main__":
    spec.run_spec = toy
    sys.exit(main(["run", {str(tmp_path / "robot.yaml")!r}, "runs/up", "--instruction", "lean", "--yes", "--no-page",
                   "--record", {str(tmp_path / "recordings")!r}, *{words!r}]))
"""
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        input="y\nn\ny\ny\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    blind, _, told = process.stdout.partition("trial 4/4: success")
    assert "runs/up" not in blind
    assert "runs/down" not in blind
    assert "A was runs/up, in trials" in told
    trials = json.loads((tmp_path / "found.json").read_text())["trials"]
    assert [trial["success"] for trial in trials] == [True, False, True, True]
    for trial in trials:
        with (tmp_path / "recordings" / f"episode_000{trial['number'] - 1}.mcap").open("rb") as file:
            found = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
            notes = {key: json.loads(text) for one in found.iter_metadata() for key, text in one.metadata.items()}
            wanted = [message.position[0] for *_, message in found.iter_decoded_messages(topics=["/rdt/planned"])]
        assert notes["checkpoint"] == trial["policy"] != notes["compared_with"]
        assert (notes["trial"], notes["success"]) == (trial["number"], trial["success"])
        assert (wanted[-1] > wanted[0]) is (trial["policy"] == "runs/up")
