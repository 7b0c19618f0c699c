"""`rdt record`: demonstrations by leader arms, an episode file each.

    s       the arms go to the leader and follow it; the episode begins when they have met
    space   it ends and is kept; the arms hold
    f       it ends and is kept as a failure; the arms hold
    d       it is discarded; the arms hold
    r       after an emergency stop or a fault: reset; the arms hold
    q       the end; an open episode is discarded

The arms follow during an episode only. A robot on ROS 2 topics, or such a leader, has services for the same orders
(`Services`): a foot switch, a button on the leader.
"""

from __future__ import annotations

import argparse
import dataclasses
import queue
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.doctor import require
from deploy.graph import uses_ros
from deploy.keyboard import keyboard
from deploy.operator.viewed import viewed_session
from deploy.realtime.follow import NOBODY
from deploy.realtime.recorder import ANSWER_S, Recorder, RecordTo, convert_line
from deploy.realtime.spec import default_spec
from deploy.realtime.supervisor import Supervisor
from deploy.run import Processes, ask_before_moving, body_processes, has_to_ask

HELP = "s start, space keep, f keep as a failure, d discard, r reset, q quit"
NODE_NAME = "rdt_record"
POLL_S = 0.05


class Demonstrations:
    """Episodes of a robot that follows a leader.

    Each order returns what there is to say of it, and raises `ValueError` with the reason where it cannot be obeyed.
    """

    def __init__(self, supervisor: Supervisor, recorder: Recorder, say: Callable[[str], object] = print) -> None:
        """`say` hears what nobody asked for."""
        self._supervisor, self._recorder, self.say = supervisor, recorder, say
        self.num_kept = 0
        self._is_wanted = self.is_recording = False
        self._is_running = False

    def start(self) -> str:
        """Follow, and record from the moment at which the arms have met the leader. Leaves an emergency stop alone."""
        status = self._supervisor.status()
        if status["mode"] == "fault":
            raise ValueError(f"the arms hold: {status['why']}; reset them first")
        if self._is_wanted:
            return "the arms follow the leader already"
        self._supervisor.start()
        self._is_wanted = True
        return "the arms go to the leader"

    def keep(self, success: bool = True) -> str:
        """Hold, and keep the episode with its judgement."""
        if not self._ended():
            raise ValueError("there is no episode to keep")
        recorded = self._recorder.end(success=success)
        self.num_kept += bool(recorded.path)
        if not recorded.path:
            raise ValueError(recorded.words)
        return recorded.words

    def discard(self) -> str:
        """Hold, and leave nothing of the episode."""
        if not self._ended():
            raise ValueError("there is no episode to discard")
        return self._recorder.discard().words

    def reset(self) -> str:
        """Leave an emergency stop or a fault; the arms hold, and an episode that is open is discarded."""
        discarded = f"{self._recorder.discard().words}; " if self._ended() else ""
        self._supervisor.reset()
        return f"{discarded}reset: the arms hold"

    def update(self) -> None:
        """Look at the robot; call it often. Raises `RuntimeError` when one of its processes has ended."""
        self._supervisor.check()
        status = self._supervisor.status()
        runs = status["mode"] == "run"
        if self._is_wanted and self._is_running and not runs:
            was_recording = self._ended()
            self.say(f"the arms hold: {status['why']}")
            if was_recording:
                self.say(self._recorder.discard().words)
            return
        self._is_running = runs and self._is_wanted  # a tick of before the order to stop may still say so
        if self._is_running and not self.is_recording and status["why"].startswith("run"):
            self.is_recording = True  # before it begins: whatever comes between leaves nothing of it
            begun = self._recorder.begin()
            self.is_recording = bool(begun.path)
            self.say(begun.words)
            if not begun.path:
                self._ended()

    def _ended(self) -> bool:
        """Stop following; whether an episode was being recorded."""
        was_recording = self.is_recording
        self._supervisor.stop()
        if was_recording:
            self._recorder.pause()
        self._is_wanted = self.is_recording = self._is_running = False
        return was_recording


class Services:
    """The orders as services of a node `rdt_record`. `with` closes it.

    `~/begin_episode`, `~/discard_episode`, `~/reset` are std_srvs/Trigger, `~/end_episode` is SetBool: did it succeed?
    They are obeyed by the thread that calls `obey`, between keys, and answered with what there is to say.
    """

    def __init__(self, demonstrations: Demonstrations) -> None:
        from robot_drivers.messages import Link, SetBool, Trigger

        self._demonstrations = demonstrations
        self._waiting: queue.SimpleQueue[tuple[Callable[[], str], Future[str]]] = queue.SimpleQueue()
        self._link = Link(NODE_NAME)
        orders = {
            "begin_episode": demonstrations.start,
            "discard_episode": demonstrations.discard,
            "reset": demonstrations.reset,
        }
        for name, order in orders.items():
            self._link.node.create_service(Trigger, f"~/{name}", self._trigger(order))

        def end(request: Any, answer: Any) -> Any:
            return self._wait(lambda: demonstrations.keep(request.data), answer)

        self._link.node.create_service(SetBool, "~/end_episode", end)

    def obey(self) -> None:
        """What was asked since the last call."""
        while not self._waiting.empty():
            order, answer = self._waiting.get()
            if not answer.set_running_or_notify_cancel():
                continue  # who asked has been told that it was not obeyed
            try:
                words = order()
            except ValueError as error:
                answer.set_exception(error)
            except BaseException:
                answer.set_exception(RuntimeError("`rdt record` ends"))
                raise
            else:
                answer.set_result(words)
                self._demonstrations.say(words)

    def close(self) -> None:
        while not self._waiting.empty():
            self._waiting.get()[1].cancel()
        self._link.close()

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _trigger(self, order: Callable[[], str]) -> Callable[[Any, Any], Any]:
        return lambda _, answer: self._wait(order, answer)

    def _wait(self, order: Callable[[], str], answer: Any) -> Any:
        """Have an order obeyed by the other thread, and fill the answer."""
        done: Future[str] = Future()
        self._waiting.put((order, done))
        try:
            answer.success, answer.message = True, done.result(ANSWER_S + 5.0)  # the recorder waits so long itself
        except Exception as error:
            done.cancel()
            answer.success, answer.message = False, str(error) or "`rdt record` does not answer"
        return answer


def command(args: argparse.Namespace) -> None:
    require("recording", {"mcap": "mcap", "rosbags": "rosbags"}, extra="mcap")
    robot, leader = (Embodiment.from_yaml(find_config("robots", name)) for name in (args.robot, args.leader))
    on_topics = uses_ros(robot) or uses_ros(leader)
    if on_topics:
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
        with ExitStack() as opened:
            services = opened.enter_context(Services(demonstrations)) if on_topics else None
            if services:
                print(f"services: /{NODE_NAME}/begin_episode, end_episode, discard_episode, reset")
            # for services it goes on where there are no more keys
            key = opened.enter_context(keyboard(end="" if services else "q"))
            lead(demonstrations, key, services)
    print(f"{demonstrations.num_kept} demonstrations kept\nnext: {convert_line(to)}")


def lead(demonstrations: Demonstrations, key: Callable[[float], str], services: Services | None = None) -> None:
    """Obey keys, and services between them, until q. `key` is that of `keyboard`.

    However it ends, Ctrl-C and a process that has ended included, an episode that is still open is discarded.
    """
    obey = {
        "s": demonstrations.start,
        " ": demonstrations.keep,
        "f": lambda: demonstrations.keep(success=False),
        "d": demonstrations.discard,
        "r": demonstrations.reset,
    }
    try:
        while (pressed := key(POLL_S)) != "q":
            if pressed in obey:
                try:
                    demonstrations.say(obey[pressed]())
                except ValueError as error:
                    demonstrations.say(str(error))
            if services:
                services.obey()
            demonstrations.update()
    finally:
        if demonstrations.is_recording:
            demonstrations.say(demonstrations.discard())
