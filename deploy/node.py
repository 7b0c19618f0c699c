"""The policy as a ROS 2 lifecycle node: a robot's session with topics, services and diagnostics.

    python -m deploy.node --robot sim_bimanual --policy CHECKPOINT [--start]

    unconfigured -> inactive    configure: processes start, the network warms up; the arms hold
    inactive -> active          activate: services obey; still the arms hold
    ~/start, ~/stop, ~/reset, ~/estop   std_srvs/Trigger         ~/set_estop   std_srvs/SetBool
    ~/set_against              std_srvs/SetBool: the policy of `--against` acts from the next start on, or the first one
    ~/takeover                 std_srvs/SetBool: a person leads (`--leader`), or gives back to the policy
    ~/begin_episode, ~/pause_episode, ~/discard_episode   Trigger; ~/end_episode   SetBool: did it succeed? (`--record`)
    ~/instruction               std_msgs/String, in              ~/estopped    std_msgs/Bool, latched, out
    /estop                      std_msgs/Bool, in: a button; true stops, and nothing is reset until it says false
    /diagnostics                diagnostic_msgs/DiagnosticArray, twice a second
    http://127.0.0.1:PORT/      the operator page (`deploy/operator/page.py`), while configured

Control runs in a process of its own (`deploy/realtime/control.py`): this one may be slow. An emergency stop is obeyed
in every state of the life cycle in which there are arms.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.action_buffer import Handover
from deploy.arguments import add_viewing_options, policies_of
from deploy.graph import POLICY_NAME
from deploy.operator.viewed import viewed_session
from deploy.realtime.recorder import Recorded, Recorder, RecordTo
from deploy.realtime.session import Session
from deploy.realtime.spec import run_spec
from deploy.realtime.supervisor import RunSpec
from robot_drivers.messages import quality

DIAGNOSTICS_S = 0.5
NUM_THREADS = 3  # one for each group of callbacks: orders, episodes, all others
LEVELS = {"run": DiagnosticStatus.OK, "hold": DiagnosticStatus.OK, "stopping": DiagnosticStatus.WARN}


class PolicyNode(LifecycleNode):
    """Holds a `Session` while it is configured."""

    def __init__(
        self,
        robot: Embodiment,
        spec: RunSpec,
        instruction: str,
        *,
        page: int | None = None,
        rerun: str | None = None,
        record: RecordTo | None = None,
    ) -> None:
        """`page`, `rerun` and `record` are those of `viewed_session`."""
        super().__init__(POLICY_NAME)
        self.closing = threading.Event()  # set, and the node opens no session any more
        orders, episodes = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        # Orders to the arms wait for each other alone: not for a disk, nor for a change of the life cycle.
        self._robot, self._spec = robot, spec
        self._page, self._rerun = page, rerun
        self._record, self._num_episodes = record, 0
        self._opened = ExitStack()  # the session, and those who look at it
        self.declare_parameter("instruction", instruction)
        self.session: Session | None = None
        self._lock = threading.Lock()
        self._is_active = False
        self._mode = ""
        self._is_pressed = False
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", quality("reliable", 10))
        self._estopped = self.create_publisher(Bool, "~/estopped", quality("reliable", latched=True))
        self.create_subscription(String, "~/instruction", self._instruct, quality("reliable"))
        for latched in (True, False):  # a latched reader hears what was said before it came, but no plain writer
            self.create_subscription(
                Bool, "/estop", self._hear_button, quality("reliable", latched=latched), callback_group=orders
            )
        for name, order in (("start", self._start), ("stop", self._stop), ("reset", self._reset)):
            self.create_service(Trigger, f"~/{name}", self._service(order), callback_group=orders)
        self.create_service(Trigger, "~/estop", self._service(self._estop), callback_group=orders)
        self.create_service(SetBool, "~/set_estop", self._set_estop, callback_group=orders)
        self.create_service(SetBool, "~/set_against", self._set_against, callback_group=orders)
        self.create_service(SetBool, "~/takeover", self._take_over, callback_group=orders)
        for name, order in (("begin", self._begin), ("pause", self._pause), ("discard", self._discard)):
            self.create_service(Trigger, f"~/{name}_episode", self._service(order), callback_group=episodes)
        self.create_service(SetBool, "~/end_episode", self._end, callback_group=episodes)
        self.create_timer(DIAGNOSTICS_S, self._diagnose)

    # life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        instruction = self.get_parameter("instruction").get_parameter_value().string_value
        viewed = viewed_session(
            self._spec,
            instruction,
            page=self._page,
            rerun=self._rerun,
            record=self._record,
            tell=self.get_logger().info,
            buttons=lambda session: _Buttons(self, session),
            closing=self.closing,
        )
        try:
            session = self._opened.enter_context(viewed)
        except Exception as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        with self._lock:
            self.session = session
        if self.closing.is_set():  # `end_session` may have come before there was one
            self.end_session()
            return TransitionCallbackReturn.FAILURE
        self._estopped.publish(Bool(data=False))
        if self._is_pressed:
            self._estop(session)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._is_active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._is_active = False
        if self.session:
            self.session.supervisor.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.end_session()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.end_session()
        return TransitionCallbackReturn.SUCCESS

    def end_session(self) -> None:
        """Bring the arms to a stand and end the processes."""
        with self._lock:
            self.session = None
            opened = self._opened.pop_all()
        self._is_active = False
        opened.close()

    # orders

    def _start(self, session: Session) -> str:
        if not self._is_active:
            raise ValueError("the node is not active: activate it first")
        session.supervisor.start()
        return "running"

    def _stop(self, session: Session) -> str:
        session.supervisor.stop()
        return "stopping"

    def _reset(self, session: Session) -> str:
        if self._is_pressed:
            raise ValueError("the topic /estop still says true: release the button first")
        session.supervisor.reset()
        self._estopped.publish(Bool(data=False))
        return "holding"

    def _estop(self, session: Session) -> str:
        session.supervisor.estop()
        self._estopped.publish(Bool(data=True))
        return "emergency stop"

    def _set_against(self, request: Any, answer: Any) -> Any:
        def choose(session: Session) -> str:
            session.supervisor.choose(int(request.data))
            return "chosen"

        return self._service(choose)(request, answer)

    def _take_over(self, request: Any, answer: Any) -> Any:
        def lead(session: Session) -> str:
            session.supervisor.lead(request.data)
            return "a person leads" if request.data else "the policy acts"

        return self._service(lead)(request, answer)

    # episodes

    def _begin(self, session: Session) -> str:
        self._num_episodes += 1
        return _words(_recorder(session).begin(trial=self._num_episodes))

    def _pause(self, session: Session) -> str:
        _recorder(session).pause()
        return "paused"

    def _discard(self, session: Session) -> str:
        return _recorder(session).discard().words

    def _end(self, request: Any, answer: Any) -> Any:
        return self._service(lambda session: _words(_recorder(session).end(success=request.data)))(request, answer)

    def _service(self, order: Callable[[Session], str]) -> Callable[[Any, Any], Any]:
        def serve(_: Any, answer: Any) -> Any:
            session = self.session
            try:
                if session is None:
                    raise ValueError("the node is not configured: there are no arms")
                answer.success, answer.message = True, order(session)
            except ValueError as error:
                answer.success, answer.message = False, str(error)
            return answer

        return serve

    def _set_estop(self, request: Any, answer: Any) -> Any:
        return self._service(self._estop if request.data else self._reset)(request, answer)

    def _hear_button(self, message: Bool) -> None:
        self._is_pressed = bool(message.data)
        if self._is_pressed and self.session:
            self._estop(self.session)

    def _instruct(self, message: String) -> None:
        if self.session:
            self.session.supervisor.instruct(message.data)

    # what it says

    def _diagnose(self) -> None:
        session = self.session
        if session is None:
            return
        found = session.status()
        if not session.supervisor.alive:
            found |= {"mode": "fault", "why": "a process of the session has ended"}
        if found["mode"] != self._mode:
            self._mode = found["mode"]
            why = f" ({found['why']})" if found["why"] and found["why"] != self._mode else ""
            self.get_logger().info(f"{self._mode}{why}")
        status = DiagnosticStatus(
            level=LEVELS.get(found["mode"], DiagnosticStatus.ERROR),
            name=f"{POLICY_NAME}: {self._robot.name}",
            message=f"{found['mode']}: {found['why']}",
            values=[KeyValue(key=key, value=str(value)) for key, value in found.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


class _Buttons:
    """The buttons of the operator page: they obey the rules of the services, and the topics tell of them."""

    def __init__(self, node: PolicyNode, session: Session) -> None:
        self._node, self._session = node, session

    def start(self) -> None:
        self._node._start(self._session)

    def stop(self) -> None:
        self._node._stop(self._session)

    def estop(self) -> None:
        self._node._estop(self._session)

    def reset(self) -> None:
        self._node._reset(self._session)

    def instruct(self, instruction: str) -> None:
        self._session.supervisor.instruct(instruction)


def _recorder(session: Session) -> Recorder:
    if session.recorder is None:
        raise ValueError("this node does not record: start it with --record DIR")
    return session.recorder


def _words(recorded: Recorded) -> str:
    """Raises `ValueError` where nothing is kept."""
    if not recorded.path:
        raise ValueError(recorded.words)
    return recorded.words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or the end of its control process; returns 0 when the arms came to a stand."""
    parser = argparse.ArgumentParser(description="The policy of a robot as a ROS 2 lifecycle node.")
    parser.add_argument("--robot", required=True, help="robot YAML, by name or path")
    parser.add_argument("--policy", required=True, help="a checkpoint folder, or ws://HOST:PORT of `rdt serve`")
    parser.add_argument("--against", metavar="OTHER", help="a second one, to compare it with")
    parser.add_argument("--leader", metavar="ROBOT", help="robot YAML of arms with which a person takes over")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--instruction", default="", help="what the policy is told at first")
    parser.add_argument("--handover", choices=get_args(Handover), help="from plan to plan; else the robot's default")
    parser.add_argument("--active", action="store_true", help="configure and activate at once")
    parser.add_argument("--start", action="store_true", help="and let the arms move")
    add_viewing_options(parser)
    parser.add_argument("--record", metavar="DIR", help="episodes are recorded there, by services")
    parser.add_argument("--pictures", choices=["jpeg", "raw"], default="jpeg", help="as recorded")
    args = parser.parse_args(remove_ros_args(sys.argv if arguments is None else ["", *arguments])[1:])
    robot = Embodiment.from_yaml(find_config("robots", args.robot))
    leader = None if args.leader is None else Embodiment.from_yaml(find_config("robots", args.leader))
    spec = run_spec(robot, args.policy, args.device, args.handover, args.against, leader)
    rclpy.init(signal_handler_options=rclpy.SignalHandlerOptions.NO)
    record = None
    if args.record:
        notes = {} if leader is None else {"leader": leader.name}
        record = RecordTo(robot, Path(args.record), notes, args.pictures, policies_of(args))
    node = PolicyNode(robot, spec, args.instruction, page=args.page, rerun=args.rerun, record=record)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.closing.set())
    executor = MultiThreadedExecutor(NUM_THREADS)
    executor.add_node(node)
    spinning = threading.Thread(target=_spin, args=(executor,), daemon=True)
    spinning.start()
    failed = False
    try:
        if args.active or args.start:
            failed = node.trigger_configure() is not TransitionCallbackReturn.SUCCESS and not node.closing.is_set()
            if node.session:
                node.trigger_activate()
            if args.start and node.session:
                node.session.supervisor.start()
        while not node.closing.wait(0.1) and not failed:  # an error in a callback ends the spinning: nobody would hear
            failed = not spinning.is_alive() or (node.session is not None and not node.session.supervisor.alive)
    finally:
        node.closing.set()
        node.end_session()
        executor.shutdown(timeout_sec=1.0)
        spinning.join(2.0)
        node.destroy_node()
        rclpy.try_shutdown()
    return int(failed)


def _spin(executor: MultiThreadedExecutor) -> None:
    try:
        executor.spin()
    except (ExternalShutdownException, KeyboardInterrupt):
        return


if __name__ == "__main__":
    raise SystemExit(main())
