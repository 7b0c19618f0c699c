"""Run: pytest tests/deploy/serve/test_command.py"""

import signal
import socket
import subprocess
import sys

import pytest

from deploy import doctor
from deploy.cli import main
from deploy.serve.client import RemotePolicy
from deploy.serve.command import contract_of
from deploy.serve.server import is_loopback
from tests.deploy.serve.policies import engine, observation, robot


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_leaves_with_0(checkpoint, number):
    command = [sys.executable, "-m", "deploy.cli", "serve", str(checkpoint), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            address = next(word for word in line.split() if word.startswith("ws://127.0.0.1:"))
            assert "robot aloha_viperx, 5 actions at 50 Hz" in line
            with RemotePolicy(address, robot(), answer_timeout_s=30) as policy:
                assert policy.predict(observation(robot())).horizon == 5
                process.send_signal(number)  # with a client still there
                assert process.wait(30) == 0
        finally:
            process.kill()


def test_the_contract_says_what_the_checkpoint_is(checkpoint):
    contract = contract_of(engine(checkpoint), checkpoint)
    assert (contract.horizon, contract.history, contract.image_size) == (5, 2, 64)
    assert contract.cameras == ("external", "right_wrist", "left_wrist")
    assert contract.robot == robot()
    assert contract.statistics == {}


def test_a_port_that_is_taken_is_one_message(checkpoint, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(checkpoint), "--port", str(port), "--device", "cpu"]) == 1
    assert "address already in use" in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_import_error", lambda module: "" if module == "msgpack" else None)
    assert main(["serve", "nowhere"]) == 1
    assert "rdt serve needs msgpack: pip install 'rdt-stack[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.0.0.5", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("gpu", False)],
)
def test_loopback_is_told_from_the_world(host, loopback):
    assert is_loopback(host) == loopback
