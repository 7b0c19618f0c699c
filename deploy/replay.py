"""`rdt replay`: a recorded episode on a robot, through the processes and limits of `rdt run`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time

import numpy as np

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.doctor import require
from deploy.graph import is_simulated, over_topics, uses_ros
from deploy.realtime.replay import OPENER, load_episode, timeline
from deploy.realtime.session import Session
from deploy.realtime.spec import default_settings
from deploy.realtime.supervisor import RunSpec, Supervisor
from deploy.run import STAND_S, Processes, body_processes


def command(args: argparse.Namespace) -> None:
    robot = Embodiment.from_yaml(find_config("robots", args.robot))
    episode = load_episode(args.recording, robot, args.episode)  # before anything is started
    print(f"{episode.name}: {episode.num_steps} actions at {episode.rate_hz:g} Hz, {episode.instructions[0]!r}")
    spec = RunSpec(
        robot=over_topics(robot),
        open_backend=OPENER,
        backend_options={"path": args.recording, "episode": args.episode},
        settings=dataclasses.replace(default_settings(robot), handover="switch"),
    )
    if uses_ros(robot):
        require("a robot on ROS 2 topics", {"rclpy": "rclpy"})
    with Processes(body_processes(robot, args)), Session(spec, episode.instructions[0]) as session:
        if not args.yes and not is_simulated(robot) and sys.stdin.isatty():
            input("press Enter to let it move, Ctrl-C to leave: ")
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
