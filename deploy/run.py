"""`rdt run`: a policy on a robot. Processes are those of `graph.py` for a robot on ROS 2, a `Session` for any other.

Trials are judged: by the simulator for its own robot, else by the person who watches. With `--record` each of them is
an episode in a file of its own, or the whole run where there are no trials. Ctrl-C brings the arms to a stand, ends
all processes and returns.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data_pipeline.atomic import write_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.arguments import viewing_words
from deploy.doctor import require
from deploy.graph import POLICY_NAME, NodeProcess, node_graph, ros_environment, uses_ros
from deploy.intervals import wilson_interval
from deploy.realtime import supervisor
from deploy.realtime.process import undisturbed
from deploy.realtime.recorder import ANSWER_S, Recorded, RecordTo, convert_line
from robot_drivers.sim.tasks import ENVIRONMENTS, TASKS, lookup

_PR_SET_PDEATHSIG = 1  # of prctl(2)
READY_S = 300.0
STATUS_S = 2.0
ENDING_S = sum(supervisor.ENDING_S.values()) + 10.0
"""For a node to end in, its session first; one that records has `ANSWER_S` more."""

FORGET_S = 0.1
"""A reset has reached the control process, and its last command the simulated motors."""

STAND_S = 0.5
"""After the order to stop, the way to a stand belongs to the episode."""


class Orders(Protocol):
    """What a person can tell a running robot."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def next_scene(self) -> None:
        """Another scene, where the robot is simulated; else the person has made one."""
        ...

    def outcome(self) -> dict[str, Any] | None:
        """What the simulator saw; None where a person has to say."""
        ...

    def check(self) -> None:
        """Raise `RuntimeError` when the robot runs no more."""
        ...


class Episodes(Protocol):
    """What is recorded; `deploy.realtime.recorder.Recorder` is one. What goes wrong stands in the answer's words."""

    def begin(self, *, trial: int = 1) -> Recorded: ...

    def pause(self) -> None: ...

    def end(self, *, success: bool) -> Recorded: ...


@dataclass(frozen=True)
class Trial:
    """How one episode ended."""

    number: int
    success: bool
    details: dict[str, Any]


def command(args: argparse.Namespace) -> None:
    robot = Embodiment.from_yaml(find_config("robots", args.robot))
    instruction = args.instruction or _own_instruction(robot, args)
    record = _record_to(robot, args)
    has_to_ask(robot, args.yes)
    with _opened(robot, args, instruction, record) as (orders, episodes):
        print(f"robot {robot.name!r} is ready and holds; it will be told {instruction!r}")
        ask_before_moving(robot, args.yes)
        if args.trials is None:
            if episodes:
                print(episodes.begin().words)
            _run_until_interrupted(orders)
            trials = []
        else:
            trials = run_trials(orders, args.trials, args.seconds, episodes=episodes)
    if record:
        print(f"next: {convert_line(record)}")
    if not trials:
        return
    successes = sum(trial.success for trial in trials)
    low, high = wilson_interval(successes, len(trials))
    print(f"{successes} of {len(trials)} trials succeeded: {successes / len(trials):.1%} [{low:.1%}, {high:.1%}]")
    if args.json:
        rows = [{"number": trial.number, "success": trial.success, **trial.details} for trial in trials]
        write_json(args.json, {"success_rate": successes / len(trials), "interval_95": [low, high], "trials": rows})


def ask_before_moving(robot: Embodiment, yes: bool) -> None:
    """Return when a person has agreed, at once where nobody has to. Raises `ValueError` without a terminal."""
    if has_to_ask(robot, yes):
        input("press Enter to let it move, Ctrl-C to leave: ")


def has_to_ask(robot: Embodiment, yes: bool) -> bool:
    """Whether a person has to agree before the robot moves: a real one, without --yes.

    Raises `ValueError` where there is no terminal to ask at; better before anything is started.
    """
    if yes or robot.is_simulated:
        return False
    if not sys.stdin.isatty():
        raise ValueError("no terminal to ask at: give --yes to let the arms move")
    return True


def run_trials(
    orders: Orders,
    count: int,
    seconds: float,
    ask: Callable[[str], bool] | None = None,
    sleep=time.sleep,
    episodes: Episodes | None = None,
) -> list[Trial]:
    """Episode after episode: a scene, the policy for so long, a stand, a judgement, which is stored with it."""
    ask = ask or _ask
    trials = []
    for number in range(1, count + 1):
        orders.next_scene()
        if episodes:
            _tell(episodes.begin(trial=number))
        orders.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            orders.check()
            sleep(0.05)
        outcome = orders.outcome()
        orders.stop()
        if episodes:
            sleep(STAND_S)
            episodes.pause()
        success = ask(f"trial {number}: did it succeed? [y/n] ") if outcome is None else bool(outcome["success"])
        trials.append(Trial(number, success, outcome or {}))
        print(f"trial {number}/{count}: {'success' if success else 'failure'}")
        if episodes:
            print(episodes.end(success=success).words)
    return trials


def _record_to(robot: Embodiment, args: argparse.Namespace) -> RecordTo | None:
    if args.record is None:
        return None
    require("recording", {"mcap": "mcap", "rosbags": "rosbags"}, extra="mcap")
    return RecordTo(robot, Path(args.record), {"checkpoint": args.policy}, args.pictures)


def _tell(recorded: Recorded) -> None:
    """What went wrong, if it did."""
    if not recorded.path:
        print(f"rdt: {recorded.words}", file=sys.stderr)


@contextmanager
def _opened(
    robot: Embodiment, args: argparse.Namespace, instruction: str, record: RecordTo | None
) -> Iterator[tuple[Orders, Episodes | None]]:
    """The robot, ready and holding."""
    if not uses_ros(robot):
        from deploy.operator.viewed import viewed_session
        from deploy.realtime.spec import run_spec

        spec = run_spec(robot, args.policy, args.device, args.handover)
        with viewed_session(spec, instruction, page=args.page, rerun=args.rerun, record=record, tell=print) as session:
            yield _SessionOrders(session), session.recorder
        return
    require("a robot on ROS 2 topics", {"rclpy": "rclpy"})
    graph = node_graph(
        robot,
        args.robot,
        args.policy,
        policy_options=(
            *("--device", args.device, "--instruction", instruction, "--active"),
            *(["--handover", args.handover] if args.handover else []),
            *viewing_words(args),
            *(("--record", args.record, "--pictures", args.pictures) if record else ()),
        ),
        sim_options=(
            "--environment",
            args.env,
            "--seed",
            str(args.seed),
            *(["--task", args.task] if args.task else []),
        ),
    )
    with (
        Processes(graph, ENDING_S + ANSWER_S if record else ENDING_S) as processes,
        RosOrders(robot, processes) as orders,
    ):
        yield orders, RosEpisodes(orders) if record else None


def body_processes(robot: Embodiment, args: argparse.Namespace) -> list[NodeProcess]:
    """What a robot needs besides its session here: the simulator's node where it is simulated, else nothing."""
    scene = ("--environment", args.env, "--seed", str(args.seed))
    return node_graph(robot, args.robot, "", policy_options=(), sim_options=scene)[:-1]  # without the policy's node


class Processes:
    """The processes of a graph. Leaving ends them in reverse: the mind before the body."""

    def __init__(self, graph: Sequence[NodeProcess], ending_s: float = ENDING_S) -> None:
        self._ending_s = ending_s  # of each; then it is killed
        environment = {**ros_environment(), **os.environ}  # what the user has set stands
        os.environ.update(environment)
        self._running: list[tuple[NodeProcess, subprocess.Popen]] = []
        try:
            for node in graph:
                words = [sys.executable, "-m", node.module, *node.arguments]
                # a session of its own: Ctrl-C reaches this process alone, which ends the others in their order
                process = subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=_end_with_parent)
                self._running.append((node, process))
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise `RuntimeError` when one has ended."""
        for node, process in self._running:
            if process.poll() is not None:
                raise RuntimeError(f"{node.name} has ended (exit code {process.returncode}): the arms hold")

    def close(self) -> None:
        """End them all, each in its time."""
        with undisturbed():
            for node, process in reversed(self._running):
                process.terminate()
                try:
                    process.wait(self._ending_s)
                except subprocess.TimeoutExpired:
                    print(f"rdt: {node.name} did not end within {self._ending_s:g} s and was killed", file=sys.stderr)
                    process.kill()
                    process.wait()
            self._running.clear()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end_with_parent() -> None:
    """In a child, on Linux: SIGTERM, to come to a stand by, when this process is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class RosOrders:
    """Orders by services of the policy's node and, for the simulated robot, of the simulator's. `with` closes it."""

    def __init__(self, robot: Embodiment, processes: Processes) -> None:
        """Returns when the policy's node is active."""
        from robot_drivers.messages import Link

        self._processes = processes
        self._simulated = robot.is_simulated
        self._untouched = True  # nobody has moved in the simulator's first scene
        self._robot = robot.name
        self._link = Link("rdt_run")
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        self._trigger(f"/{POLICY_NAME}/start")

    def stop(self) -> None:
        self._trigger(f"/{POLICY_NAME}/stop")

    def next_scene(self) -> None:
        if self._simulated and not self._untouched:
            time.sleep(STAND_S)  # the way to a stand belongs to the scene before
            self._trigger(f"/{POLICY_NAME}/reset")  # before it: arms that hold repeat their last target, there too
            time.sleep(FORGET_S)
            self._trigger(f"/{self._robot}/reset")
            self._trigger(f"/{POLICY_NAME}/reset")  # after it: what was seen of the scene before is forgotten
        self._untouched = False

    def outcome(self) -> dict[str, Any] | None:
        return json.loads(self.ask(f"/{self._robot}/outcome").message) if self._simulated else None

    def check(self) -> None:
        self._processes.check()

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> RosOrders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            self.check()
            try:
                if self.ask(f"/{POLICY_NAME}/stop", timeout_s=1.0).success:
                    return
            except TimeoutError:
                pass
            time.sleep(0.2)
        raise RuntimeError(f"{POLICY_NAME} was not ready after {READY_S:g} s")

    def _trigger(self, service: str) -> None:
        answer = self.ask(service)
        if not answer.success:
            raise RuntimeError(f"{service}: {answer.message}")

    def ask(self, service: str, flag: bool | None = None, timeout_s: float = 10.0) -> Any:
        """The answer of a Trigger, or with a flag of a SetBool: `success` and `message`."""
        from robot_drivers.messages import SetBool, Trigger

        if flag is None:
            return self._link.call(Trigger, service, timeout_s=timeout_s)
        return self._link.call(SetBool, service, SetBool.Request(data=flag), timeout_s=timeout_s)


class RosEpisodes:
    """The episodes of a policy's node, which counts them as its trials."""

    def __init__(self, orders: RosOrders) -> None:
        self._orders = orders

    def begin(self, *, trial: int = 1) -> Recorded:
        return self._ask("begin_episode")

    def pause(self) -> None:
        self._ask("pause_episode")

    def end(self, *, success: bool) -> Recorded:
        return self._ask("end_episode", success)

    def _ask(self, word: str, flag: bool | None = None) -> Recorded:
        answer = self._orders.ask(
            f"/{POLICY_NAME}/{word}", flag, timeout_s=ANSWER_S + 5.0
        )  # the node waits so long itself
        return Recorded(answer.message if answer.success else "", answer.message)


class _SessionOrders:
    """Orders to a session in this process."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def start(self) -> None:
        self._session.supervisor.start()

    def stop(self) -> None:
        self._session.supervisor.stop()

    def next_scene(self) -> None:
        self._session.supervisor.reset()

    def outcome(self) -> None:
        return None

    def check(self) -> None:
        self._session.supervisor.check()


def _run_until_interrupted(orders: Orders) -> None:
    orders.start()
    print("running; Ctrl-C brings it to a stand")
    try:
        while True:
            orders.check()
            time.sleep(0.1)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one would leave the way to a stand half done
            signal.signal(number, signal.SIG_IGN)
        print("\nstopping")
        orders.stop()
        time.sleep(STAND_S)


def _own_instruction(robot: Embodiment, args: argparse.Namespace) -> str:
    """A phrasing of the simulated task. Raises `ValueError` for a robot that nobody told what to do."""
    if not robot.is_simulated:
        raise ValueError("say what the robot shall do: --instruction 'pick up the cup'")
    environment = lookup(ENVIRONMENTS, args.env)
    return TASKS[args.task or environment.tasks[0]].instructions[0]


def _ask(question: str) -> bool:
    while (answer := input(question).strip().lower()[:1]) not in ("y", "n"):
        pass
    return answer == "y"
