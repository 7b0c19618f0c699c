"""A policy drives the simulated arms over real ROS 2 topics: `rdt run`, as a user types it.

Run: pytest tests/journeys/test_robot.py
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs the extra `ros2`")
pytest.importorskip("mujoco", reason="needs the extra `sim`")

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.graph import over_topics
from rdt.encoders.condition import ConditionConfig
from rdt.train.checkpoint import save_checkpoint
from rdt.train.config import TrainConfig
from rdt.train.start import network_config
from rdt.visuomotor import VisuomotorPolicy
from robot_drivers.messages import Link, SetBool

PATIENCE_S = 120


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """An untrained policy: it says something, and that is enough to see whether it is done."""
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    config = TrainConfig(preset="rdt_tiny", condition=ConditionConfig(cameras=("external",)), noise_slots="live")
    model = VisuomotorPolicy(network_config(config), config.condition, config.noise_slots)
    save_checkpoint(tmp_path / "checkpoint", model, robot, config)
    return tmp_path / "checkpoint"


def start(checkpoint: Path, *words: str) -> subprocess.Popen:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "deploy.cli", "run", "sim_bimanual", str(checkpoint), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def memory_of(pid: int) -> set[Path]:
    """Shared memory that a process has open."""
    return {Path(name) for name in re.findall(r"/dev/shm/psm_\w+", Path(f"/proc/{pid}/maps").read_text())}


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [pid for child in children for pid in descendants(int(child))]


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


def test_trials_in_the_simulator_are_run_and_judged(checkpoint, tmp_path):
    process = start(checkpoint, "--trials", "1", "--seconds", "2", "--json", str(tmp_path / "outcome.json"))
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "of 1 trials succeeded" in said
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["trials"][0]["task"] == "transfer_right_to_left"
    assert outcome["trials"][0]["seconds"] > 0.5


def test_two_policies_are_compared_in_the_same_scenes(checkpoint, tmp_path):
    words = ("--trials", "2", "--seconds", "1", "--seed", "4", "--json", str(tmp_path / "outcome.json"))
    process = start(checkpoint, "--against", str(checkpoint), *words)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "trial 4/4: failure" in said
    assert said.index("B - A: ") > said.index("trial 4/4")
    trials = json.loads((tmp_path / "outcome.json").read_text())["trials"]
    scenes = [trial["scene"] for trial in trials]
    assert scenes[0] == scenes[1] == scenes[2] - 1 == scenes[3] - 1


def test_a_person_takes_over_by_a_service_and_the_recording_says_who_acted(checkpoint, tmp_path, monkeypatch):
    """The leader shows where the robot itself is: whoever takes over has met it."""
    reader = pytest.importorskip("mcap.reader", reason="needs the extra mcap")
    pytest.importorskip("rosbags", reason="needs the extra mcap")
    robot = over_topics(Embodiment.from_yaml(find_config("robots", "sim_bimanual")))
    (tmp_path / "leader.yaml").write_text(yaml.safe_dump(robot.to_dict()))
    words = ("--leader", str(tmp_path / "leader.yaml"), "--record", str(tmp_path / "recordings"))
    process = start(checkpoint, *words)
    for line in process.stdout:
        if line.startswith("running"):
            break
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with Link("a_person") as link:
        for leads in (True, False):
            time.sleep(1.5)
            assert link.call(SetBool, "/rdt_policy/takeover", SetBool.Request(data=leads), 30.0).success
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    with (tmp_path / "recordings" / "episode_0000.mcap").open("rb") as file:
        found = reader.make_reader(file).iter_messages(topics=["/rdt/actor"])
        actors = [bytes(message.data)[8:].rstrip(b"\0").decode() for *_, message in found]
    assert "operator" in actors  # an untrained policy may be refused before it acts


def test_an_interrupt_leaves_no_process_and_no_memory(checkpoint):
    process = start(checkpoint)
    for line in process.stdout:
        if line.startswith("running"):
            break
    time.sleep(1.0)
    children = descendants(process.pid)
    assert len(children) >= 4  # simulator, policy, control, inference
    memory = set().union(*(memory_of(pid) for pid in children))
    assert memory
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)  # an impatient one
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    until = time.monotonic() + 10  # Python's own tracker of shared memory ends a little after
    while any(is_alive(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in children if is_alive(pid)]
    assert not any(path.exists() for path in memory)
