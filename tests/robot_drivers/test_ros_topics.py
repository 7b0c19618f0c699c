"""Arms and cameras over real topics of this machine.

Run: pytest tests/robot_drivers/test_ros_topics.py
"""

import os
import time
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the extra `ros2`")
from std_msgs.msg import Header

from data_pipeline.schema.embodiment import Arm, Embodiment
from data_pipeline.schema.registry import find_config
from deploy.graph import over_topics
from robot_drivers import ros_topics
from robot_drivers.arm_node import ArmTopicServer
from robot_drivers.camera_node import CameraTopicServer
from robot_drivers.drivers import open_arm, open_camera
from robot_drivers.errors import DriverError
from robot_drivers.messages import Link, joint_state
from robot_drivers.types import ArmCommand, ArmState, CameraFrame

PATIENCE_S = 20.0
NAMES = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
AHEAD_NS = 5_000_000_000  # of a publisher whose clock is wrong


@pytest.fixture(autouse=True)
def domain(monkeypatch):
    """Nobody else's topics."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def robot() -> Embodiment:
    return over_topics(Embodiment.from_yaml(find_config("robots", "sim_bimanual")))


class Motor:
    def __init__(self) -> None:
        self.positions = np.arange(7) / 10

    def state(self) -> ArmState:
        return ArmState(self.positions.copy(), time.monotonic_ns())

    def command(self, command: ArmCommand) -> None:
        self.positions = command.positions.copy()


@pytest.fixture
def body(robot):
    """Motors and a camera behind topics, as a driver's node has them."""
    with Link("body", namespace=robot.name) as link:
        motors = {side: Motor() for side in robot.arms}
        yield link, motors, ArmTopicServer(link, robot, motors), CameraTopicServer(link, robot.cameras)


def until(what: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < patience, "it did not come about"
        meanwhile()
        time.sleep(0.02)


def opened(robot: Embodiment, side: str, server: ArmTopicServer, monkeypatch) -> ros_topics.TopicArm:
    """An arm is opened only when its first state has come: somebody has to publish meanwhile."""
    import threading

    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.02):
            server.publish()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        return open_arm(robot, side)
    finally:
        stop.set()
        thread.join()


def test_states_come_and_commands_go_by_name(robot, body, monkeypatch):
    _, motors, server, _ = body
    arm = opened(robot, "left", server, monkeypatch)
    np.testing.assert_allclose(arm.state().positions, motors["left"].positions)
    assert abs(time.monotonic_ns() - arm.state().stamp_ns) < 5e9
    wanted = np.linspace(-0.3, 0.3, 7)

    def command_again() -> None:
        arm.command(ArmCommand(wanted, time.monotonic_ns()))
        server.obey()

    until(lambda: np.allclose(motors["left"].positions, wanted), command_again)
    np.testing.assert_allclose(motors["right"].positions, np.arange(7) / 10)
    arm.close()


def test_a_state_without_a_joint_is_left_out_and_the_old_one_ages(robot, body, monkeypatch):
    link, _, server, _ = body
    arm = opened(robot, "left", server, monkeypatch)
    before = arm.state()
    wrong = link.publish_on(ros_topics.JointState, "left/joint_states", ros_topics.quality())
    until(
        lambda: "are missing" in arm._problem,
        lambda: wrong.publish(joint_state(("waist",), np.zeros(1), link.clock.to_stamp(time.monotonic_ns()))),
    )
    assert arm.state().stamp_ns == before.stamp_ns
    arm.close()


def test_a_publisher_whose_clock_is_ahead_grows_old_like_any_other_when_it_dies(robot, body, monkeypatch):
    link, _, server, _ = body
    arm = opened(robot, "left", server, monkeypatch)
    ahead = link.publish_on(ros_topics.JointState, "left/joint_states", ros_topics.quality())
    there = np.full(7, 0.123)

    def publish() -> None:
        ahead.publish(joint_state(NAMES, there, link.clock.to_stamp(time.monotonic_ns() + AHEAD_NS)))

    until(lambda: np.allclose(arm.state().positions, there), publish)
    assert arm.state().stamp_ns <= time.monotonic_ns()
    until(lambda: time.monotonic_ns() - arm.state().stamp_ns > 200_000_000, lambda: None)
    arm.close()


def test_an_arm_that_nobody_publishes_is_one_message(robot, monkeypatch):
    monkeypatch.setattr(ros_topics, "FIRST_MESSAGE_S", 0.2)
    monkeypatch.setattr(ros_topics.TopicArm.wait, "__defaults__", (0.2,))
    with pytest.raises(DriverError, match="no joint state of the left arm came on /sim_bimanual/left/joint_states"):
        open_arm(robot, "left")


def test_a_command_with_a_number_that_is_none_is_refused(robot, body):
    link, motors, server, _ = body
    before = motors["left"].positions.copy()
    commands = link.publish_on(ros_topics.JointState, "left/command", ros_topics.quality("reliable"))
    until(
        lambda: server.refused > 0,
        lambda: commands.publish(joint_state(NAMES, np.full(7, np.nan), link.clock.to_stamp(0))),
    )
    server.obey()
    np.testing.assert_array_equal(motors["left"].positions, before)


def test_pictures_come_with_their_stamps(robot, body):
    _, _, _, cameras = body
    camera = open_camera(robot, "external")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    stamp = time.monotonic_ns()
    until(lambda: camera.frame() is not None, lambda: cameras.publish(CameraFrame("external", image, stamp)))
    np.testing.assert_array_equal(camera.frame().image, image)
    assert abs(camera.frame().stamp_ns - stamp) < 1000
    camera.close()


def test_pictures_from_the_future_are_as_old_as_their_arrival(robot, body):
    _, _, _, cameras = body
    camera = open_camera(robot, "external")
    image = np.zeros((4, 4, 3), np.uint8)
    until(
        lambda: camera.frame() is not None,
        lambda: cameras.publish(CameraFrame("external", image, time.monotonic_ns() + AHEAD_NS)),
    )
    assert camera.frame().stamp_ns <= time.monotonic_ns()
    camera.close()


def test_a_message_that_is_no_picture_is_looked_at_once_and_the_last_picture_ages(robot, body, monkeypatch):
    link, _, _, cameras = body
    camera = open_camera(robot, "external")
    image = np.full((4, 4, 3), 9, np.uint8)
    until(
        lambda: camera.frame() is not None,
        lambda: cameras.publish(CameraFrame("external", image, time.monotonic_ns())),
    )
    looked_at, picture = [], ros_topics.picture
    monkeypatch.setattr(ros_topics, "picture", lambda message: looked_at.append(message) or picture(message))
    wrong = link.publish_on(ros_topics.Image, "cameras/external/image_raw", ros_topics.quality())
    stamp = link.clock.to_stamp(time.monotonic_ns())

    def publish() -> None:
        wrong.publish(ros_topics.Image(header=Header(stamp=stamp), encoding="yuv422"))
        camera.frame()

    until(lambda: any(message.encoding == "yuv422" for message in looked_at), publish)
    frames = [camera.frame() for _ in range(5)]
    assert len({id(message) for message in looked_at}) == len(looked_at)
    for frame in frames:
        np.testing.assert_array_equal(frame.image, image)
    camera.close()


def test_a_connection_with_a_wrong_word_is_named(robot):
    arm = robot.arms["left"]
    wrong = Arm("ros_topics", arm.joints, arm.gripper, {"state": "/a", "comand": "/b"})
    with pytest.raises(ValueError, match="comand"):
        ros_topics.open_arm(Embodiment("x", 10, {"left": wrong}), "left", time.monotonic_ns)
