"""The emergency stop of the policy's node over real topics of this machine; the session is a stand-in.

Run: pytest tests/deploy/test_node.py
"""

import os
import time

import pytest

pytest.importorskip("rclpy", reason="needs the extra `ros2`")

import rclpy
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from deploy.node import PolicyNode
from robot_drivers.messages import quality
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

    def status(self):
        return {"mode": "hold", "why": ""}


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
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
