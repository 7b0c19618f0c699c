"""`rdt replay`: a recorded episode on a robot, through the processes and limits of `rdt run`."""

from __future__ import annotations

import argparse
import time

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.doctor import require
from deploy.graph import uses_ros
from deploy.operator.viewed import viewed_session
from deploy.realtime.replay import OPENER, load_episode, timeline
from deploy.realtime.spec import default_spec
from deploy.realtime.supervisor import Supervisor
from deploy.run import STAND_S, Processes, ask_before_moving, body_processes, has_to_ask


def command(args: argparse.Namespace) -> None:
    robot = Embodiment.from_yaml(find_config("robots", args.robot))
    has_to_ask(robot, args.yes)
    episode = load_episode(args.recording, robot, args.episode)  # before anything is started
    print(f"{episode.name}: {episode.num_steps} actions at {episode.rate_hz:g} Hz, {episode.instructions[0]!r}")
    spec = default_spec(robot, OPENER, {"path": args.recording, "episode": args.episode}, "switch")
    if uses_ros(robot):
        require("a robot on ROS 2 topics", {"rclpy": "rclpy"})
    with (
        Processes(body_processes(robot, args)),
        viewed_session(spec, episode.instructions[0], page=args.page, rerun=args.rerun, tell=print) as session,
    ):
        ask_before_moving(robot, args.yes)
        measured = np.array(session.supervisor.status()["measured"])
        steps = len(timeline(robot, robot.to_unified(measured)[0], episode))
        print(
            f"{steps / episode.rate_hz:.1f} s, of which {(steps - episode.num_steps) / episode.rate_hz:.1f} s approach"
        )
        play(session.supervisor, (steps + 1) / episode.rate_hz)
    print("replayed to its end")


def play(supervisor: Supervisor, seconds: float) -> None:
    """Run for so long, then come to a stand. Raises `RuntimeError` with the reason where the robot stopped before."""
    supervisor.start()
    until, ran = time.monotonic() + seconds, False
    while time.monotonic() < until:
        supervisor.check()
        status = supervisor.status()
        if ran and status["mode"] != "run":
            raise RuntimeError(f"it stopped on the way: {status['why']}")
        ran = ran or status["mode"] == "run"
        time.sleep(0.02)
    supervisor.stop()
    time.sleep(STAND_S)
