"""The emergency stop of the policy's node over real topics of this machine; the session is a stand-in.

Run: pytest tests/deploy/test_node.py
"""

import os
import signal
import threading
import time

import pytest

pytest.importorskip("rclpy", reason="needs the extra `ros2`")

import rclpy
import yaml
from rclpy.executors import MultiThreadedExecutor
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from deploy import node as module
from deploy.node import NUM_THREADS, PolicyNode
from deploy.realtime.recorder import Recorded
from deploy.realtime.supervisor import RunSpec
from robot_drivers.messages import Link, quality
from tests.deploy.realtime.parts import blind_robot, wait_for
from tests.robots import bimanual


class Session:
    """Notes its orders."""

    def __init__(self):
        self.supervisor = self
        self.orders = []
        self.alive = True

    def estop(self):
        self.orders.append("estop")

    def reset(self):
        self.orders.append("reset")

    def choose(self, number):
        self.orders.append(f"choose {number}")

    def lead(self, leads):
        self.orders.append(f"lead {leads}")

    def status(self):
        return {"mode": "hold", "why": ""}


@pytest.fixture
def domain(monkeypatch):
    """Topics of this test alone."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def node(domain):
    rclpy.init()
    node = PolicyNode(bimanual(), None, "")
    node.session = Session()
    yield node
    node.destroy_node()
    rclpy.shutdown()


@pytest.mark.parametrize("latched", [True, False])
def test_a_button_on_a_topic_stops_and_forbids_the_reset_while_it_is_pressed(node, latched):
    button = node.create_publisher(Bool, "/estop", quality("reliable", latched=latched))
    until = time.monotonic() + 20
    while not node.session.orders:
        button.publish(Bool(data=True))
        rclpy.spin_once(node, timeout_sec=0.1)
        assert time.monotonic() < until, "the button was not heard"
    assert set(node.session.orders) == {"estop"}
    answer = node._set_estop(SetBool.Request(data=False), SetBool.Response())
    assert not answer.success
    assert "release the button" in answer.message
    while node._is_pressed:
        button.publish(Bool(data=False))
        rclpy.spin_once(node, timeout_sec=0.1)
        assert time.monotonic() < until, "the button was not heard"
    assert node._set_estop(SetBool.Request(data=False), SetBool.Response()).success
    assert node.session.orders[-1] == "reset"


@pytest.mark.parametrize("other", [True, False])
def test_a_service_chooses_which_of_two_policies_acts(node, other):
    assert node._set_against(SetBool.Request(data=other), SetBool.Response()).success
    assert node.session.orders == [f"choose {int(other)}"]


@pytest.mark.parametrize("leads", [True, False])
def test_a_service_takes_over_and_gives_back(node, leads):
    assert node._take_over(SetBool.Request(data=leads), SetBool.Response()).success
    assert node.session.orders == [f"lead {leads}"]


class SlowDisk:
    """An episode that ends when it may."""

    def __init__(self):
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def end(self, *, success):
        self.asked.set()
        self.may_answer.wait(60)
        return Recorded("x.mcap", "x.mcap: 1 s")


@pytest.mark.parametrize("way", ["topic", "service"])
def test_an_emergency_stop_is_heard_while_an_episode_reaches_the_disk(node, way):
    disk = node.session.recorder = SlowDisk()
    executor = MultiThreadedExecutor(NUM_THREADS)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    try:
        with Link("operator") as link:
            asking = threading.Thread(
                target=link.call, args=(SetBool, "/rdt_policy/end_episode", SetBool.Request(data=True), 60.0)
            )
            asking.start()
            assert disk.asked.wait(30)
            if way == "topic":
                button = link.publish_on(Bool, "/estop", quality("reliable", latched=True))
                button.publish(Bool(data=True))
                wait_for(lambda: "estop" in node.session.orders)
            else:
                with Link("another_operator") as other:
                    assert other.call(Trigger, "/rdt_policy/estop", timeout_s=30.0).success
            assert not disk.may_answer.is_set()
            disk.may_answer.set()
            asking.join()
    finally:
        disk.may_answer.set()
        executor.shutdown()
        spinning.join(5.0)


@pytest.fixture
def run_main(domain, tmp_path, monkeypatch):
    """The node's command with toy parts, which a signal ends in any case; returns its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    parts = "tests.deploy.realtime.parts"
    options = {"opening": 3.0, "told": str(tmp_path / "told")}
    spec = RunSpec(blind_robot(), f"{parts}:open_slowly", options, open_arm=f"{parts}:open_motor")
    monkeypatch.setattr(module, "run_spec", lambda *_: spec)
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(blind_robot().to_dict()))

    def run(*words, seconds):
        end = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
        end.start()
        try:
            return module.main(["--robot", str(tmp_path / "robot.yaml"), "--policy", "x", "--no-page", *words])
        finally:
            end.cancel()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_node_whose_callback_raises_fails(run_main, monkeypatch):
    def ill(self):
        raise RuntimeError("nobody spins any more")

    monkeypatch.setattr(PolicyNode, "_diagnose", ill)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    assert run_main(seconds=20.0) == 1


def test_a_node_that_is_told_to_end_while_the_network_loads_does_not_wait_for_it(run_main, capfd):
    assert run_main("--active", seconds=2.0) == 0
    assert "told to end before the robot's processes were ready" in capfd.readouterr().err
