"""`rdt record`: demonstrations by leader arms, an episode file each.

    s       the arms go to the leader and follow it; the episode begins when they have met
    space   it ends and is kept; the arms hold
    d       it is discarded; the arms hold
    r       after an emergency stop or a fault: reset; the arms hold
    q       the end; an open episode is discarded

The arms follow during an episode only. What the keys do are methods, for whoever has other buttons.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.doctor import require
from deploy.graph import uses_ros
from deploy.keyboard import keyboard
from deploy.operator.viewed import viewed_session
from deploy.realtime.follow import NOBODY
from deploy.realtime.recorder import Recorder, RecordTo, convert_line
from deploy.realtime.spec import default_spec
from deploy.realtime.supervisor import Supervisor
from deploy.run import Processes, ask_before_moving, body_processes, has_to_ask

HELP = "s start, space keep, d discard, r reset, q quit"
POLL_S = 0.05


class Demonstrations:
    """Episodes of a robot that follows a leader."""

    def __init__(self, supervisor: Supervisor, recorder: Recorder, say: Callable[[str], None] = print) -> None:
        self._supervisor, self._recorder, self._say = supervisor, recorder, say
        self.num_kept = 0
        self._is_wanted = self.is_recording = False
        self._is_running = False

    def start(self) -> None:
        """Follow, and record from the moment at which the arms have met the leader. Leaves an emergency stop alone."""
        status = self._supervisor.status()
        if status["mode"] == "fault":
            self._say(f"the arms hold: {status['why']}; r resets")
            return
        if not self._is_wanted:
            self._say("the arms go to the leader")
            self._supervisor.start()
            self._is_wanted = True

    def keep(self) -> None:
        """Hold, and keep the episode."""
        if self._ended("there is no episode to keep"):
            recorded = self._recorder.end(success=True)
            self.num_kept += bool(recorded.path)
            self._say(recorded.words)

    def discard(self) -> None:
        """Hold, and leave nothing of the episode."""
        if self._ended("there is no episode to discard"):
            self._say(self._recorder.discard().words)

    def reset(self) -> None:
        """Leave an emergency stop or a fault; the arms hold."""
        if self._ended(""):
            self._say(self._recorder.discard().words)
        self._supervisor.reset()
        self._say("reset: the arms hold")

    def update(self) -> None:
        """Look at the robot; call it often. Raises `RuntimeError` when one of its processes has ended."""
        self._supervisor.check()
        status = self._supervisor.status()
        runs = status["mode"] == "run"
        if self._is_wanted and self._is_running and not runs:
            self._say(f"the arms hold: {status['why']}")
            self._is_running = False
            self.discard()
            return
        self._is_running = runs and self._is_wanted  # a tick of before the order to stop may still say so
        if self._is_running and not self.is_recording and status["why"].startswith("run"):
            self.is_recording = True  # before it begins: whatever comes between leaves nothing of it
            begun = self._recorder.begin()
            self.is_recording = bool(begun.path)
            self._say(begun.words)
            if not begun.path:
                self._ended("")

    def _ended(self, otherwise: str) -> bool:
        """Stop following. False, and what to say, where nothing was being recorded."""
        was_recording = self.is_recording
        self._supervisor.stop()
        if was_recording:
            self._recorder.pause()
        elif otherwise:
            self._say(otherwise)
        self._is_wanted = self.is_recording = self._is_running = False
        return was_recording


def command(args: argparse.Namespace) -> None:
    require("recording", {"mcap": "mcap", "rosbags": "rosbags"}, extra="mcap")
    robot, leader = (Embodiment.from_yaml(find_config("robots", name)) for name in (args.robot, args.leader))
    if uses_ros(robot) or uses_ros(leader):
        require("a robot on ROS 2 topics", {"rclpy": "rclpy"})
    has_to_ask(robot, args.yes)
    spec = dataclasses.replace(default_spec(robot, NOBODY, {}), leader=leader)
    to = RecordTo(robot, Path(args.out), {"leader": leader.name}, args.pictures)
    with (
        Processes(body_processes(robot, args)),
        viewed_session(spec, args.instruction, page=args.page, rerun=args.rerun, record=to, tell=print) as session,
    ):
        assert session.recorder is not None, "it was asked for"
        demonstrations = Demonstrations(session.supervisor, session.recorder)
        ask_before_moving(robot, args.yes)
        print(HELP)
        with keyboard() as key:
            lead(demonstrations, key)
    print(f"{demonstrations.num_kept} demonstrations kept\nnext: {convert_line(to)}")


def lead(demonstrations: Demonstrations, key: Callable[[float], str]) -> None:
    """Obey keys until q. `key` waits for so many seconds and returns what was pressed, "" for nothing.

    However it ends, Ctrl-C and a process that has ended included, an episode that is still open is discarded.
    """
    obey = {
        "s": demonstrations.start,
        " ": demonstrations.keep,
        "d": demonstrations.discard,
        "r": demonstrations.reset,
    }
    try:
        while (pressed := key(POLL_S)) != "q":
            obey.get(pressed, lambda: None)()
            demonstrations.update()
    finally:
        if demonstrations.is_recording:
            demonstrations.discard()
