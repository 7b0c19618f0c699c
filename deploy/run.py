"""`rdt run`: a policy on a robot. Processes are those of `graph.py` for a robot on ROS 2, a `Session` for any other.

Trials are judged (`trials.py`): by the simulator for its own robot, else by the person who watches. With `--against`
they compare two policies (`comparison.py`). With `--record` each of them is an episode in a file of its own, or the
whole run where there are no trials. Ctrl-C brings the arms to a stand, ends all processes and returns.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from data_pipeline.atomic import write_json
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.arguments import policies_of, viewing_words
from deploy.comparison import compare
from deploy.doctor import require
from deploy.graph import POLICY_NAME, NodeProcess, node_graph, ros_environment, uses_ros
from deploy.realtime import supervisor
from deploy.realtime.process import undisturbed
from deploy.realtime.recorder import ANSWER_S, Recorded, RecordTo, convert_line
from deploy.takeover import HELP as TAKEOVER_HELP
from deploy.takeover import Takeover
from deploy.trials import STAND_S, Episodes, Orders, report, run_trials, summary
from robot_drivers.sim.tasks import ENVIRONMENTS, TASKS, lookup

_PR_SET_PDEATHSIG = 1  # of prctl(2)
READY_S = 300.0
ENDING_S = sum(supervisor.ENDING_S.values()) + 10.0
"""For a node to end in, its session first; one that records has `ANSWER_S` more."""

FORGET_S = 0.1
"""A reset has reached the control process, and its last command the simulated motors."""


def command(args: argparse.Namespace) -> None:
    robot = Embodiment.from_yaml(find_config("robots", args.robot))
    instruction = args.instruction or _own_instruction(robot, args)
    if args.against and not args.trials:
        raise ValueError("two policies are compared by trials: say how many pairs of them with --trials N")
    leader = None if args.leader is None else Embodiment.from_yaml(find_config("robots", args.leader))
    if args.against and leader:
        raise ValueError("a policy that is corrected is not compared: give --against or --leader")
    record = _record_to(robot, args, leader)
    has_to_ask(robot, args.yes)
    told: tuple[str, dict[str, Any]] | None = None  # what the trials say, in words and as plain types
    with _opened(robot, args, instruction, record, leader) as (orders, episodes):
        print(f"robot {robot.name!r} is ready and holds; it will be told {instruction!r}")
        takeover = Takeover(orders.lead) if leader else None
        if takeover:
            print(TAKEOVER_HELP)
        ask_before_moving(robot, args.yes)
        if args.trials is None:
            if episodes:
                print(episodes.begin().words)
            _run_until_interrupted(orders, takeover)
        elif args.against:
            seed = secrets.randbits(32)
            found = compare(orders, policies_of(args), args.trials, args.seconds, seed, episodes=episodes)
            told = found.summary(), found.report()
        else:
            trials = run_trials(orders, args.trials, args.seconds, episodes=episodes, takeover=takeover)
            told = summary(trials), report(trials)
    if record:
        print(f"next: {convert_line(record)}")
    if told is None:
        return
    words, plain = told
    print(words)
    if args.json:
        write_json(args.json, plain)


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


def _record_to(robot: Embodiment, args: argparse.Namespace, leader: Embodiment | None) -> RecordTo | None:
    if args.record is None:
        return None
    require("recording", {"mcap": "mcap", "rosbags": "rosbags"}, extra="mcap")
    notes = {} if leader is None else {"leader": leader.name}
    return RecordTo(robot, Path(args.record), notes, args.pictures, policies_of(args))


@contextmanager
def _opened(
    robot: Embodiment,
    args: argparse.Namespace,
    instruction: str,
    record: RecordTo | None,
    leader: Embodiment | None,
) -> Iterator[tuple[Orders, Episodes | None]]:
    """The robot, ready and holding."""
    if not uses_ros(robot):
        from deploy.operator.viewed import viewed_session
        from deploy.realtime.spec import run_spec

        if leader and uses_ros(leader):
            require("leader arms on ROS 2 topics", {"rclpy": "rclpy"})
        spec = run_spec(robot, args.policy, args.device, args.handover, args.against, leader)
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
            *(["--against", args.against] if args.against else []),
            *(["--leader", args.leader] if leader else []),
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

    def choose(self, number: int) -> None:
        self._trigger(f"/{POLICY_NAME}/set_against", bool(number))

    def lead(self, leads: bool) -> None:
        answer = self.ask(f"/{POLICY_NAME}/takeover", leads)
        if not answer.success:
            raise ValueError(answer.message)

    def next_scene(self) -> None:
        if not self._untouched:
            self._change_scene("reset")
        self._untouched = False

    def same_scene(self) -> None:
        self._change_scene("repeat")

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

    def _change_scene(self, how: str) -> None:
        if self._simulated:
            time.sleep(STAND_S)  # the way to a stand belongs to the scene before
            self._trigger(f"/{POLICY_NAME}/reset")  # before it: arms that hold repeat their last target, there too
            time.sleep(FORGET_S)
            self._trigger(f"/{self._robot}/{how}")
            self._trigger(f"/{POLICY_NAME}/reset")  # after it: what was seen of the scene before is forgotten

    def _trigger(self, service: str, flag: bool | None = None) -> None:
        answer = self.ask(service, flag)
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

    def choose(self, number: int) -> None:
        self._session.supervisor.choose(number)

    def lead(self, leads: bool) -> None:
        self._session.supervisor.lead(leads)

    def next_scene(self) -> None:
        self._session.supervisor.reset()

    def same_scene(self) -> None:
        self.next_scene()

    def outcome(self) -> None:
        return None

    def check(self) -> None:
        self._session.supervisor.check()


def _run_until_interrupted(orders: Orders, takeover: Takeover | None) -> None:
    orders.start()
    print("running; Ctrl-C brings it to a stand")
    try:
        with takeover.waiting() if takeover else nullcontext(time.sleep) as wait:
            while True:
                orders.check()
                wait(0.1)
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
