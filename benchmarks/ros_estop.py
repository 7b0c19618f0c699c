#!/usr/bin/env python3
"""From an operator's emergency stop over ROS 2 to the tick that obeys it: by the topic `/estop` and by the service.

    .venv/bin/python benchmarks/ros_estop.py [--stops 50] [--hz 200] [--json FILE]

The policy's node in this process with its control and inference processes, arms in motion; the operator is a process of
its own. Late means from just before the message is handed to ROS to the stamp of the first tick in mode `fault`, on the
one monotonic clock of the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import MultiThreadedExecutor
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from data_pipeline.atomic import write_json
from data_pipeline.schema.embodiment import Embodiment
from deploy import bench_loop_parts as parts
from deploy.graph import POLICY_NAME, ros_environment
from deploy.loop import LoopSettings
from deploy.node import NUM_THREADS, PolicyNode
from deploy.realtime.records import text
from deploy.realtime.supervisor import RunSpec, Supervisor
from robot_drivers.messages import Link, quality

PATIENCE_S = 10.0
WAYS = ("topic", "service")
NUM_READERS = 2  # of the button, in the node: for a latched and for a plain writer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--hz", type=float, default=200.0)
    parser.add_argument("--json", help="write the figures there too")
    parser.add_argument("--operator", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.operator:
        operate()
        return
    os.environ.update({**ros_environment(), "ROS_DOMAIN_ID": "78"})
    figures = {}
    words = [sys.executable, __file__, "--operator"]
    with (
        tempfile.TemporaryDirectory() as folder,
        node(args.hz, Path(folder) / "silence") as supervisor,
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as operator,
    ):
        for way in WAYS:
            late = [stop(supervisor, operator, way) for _ in range(args.stops)]
            p50, p99 = np.percentile(late, [50, 99])
            figures[way] = {"p50_ms": p50, "p99_ms": p99, "worst_ms": max(late)}
            print(f"{way:8s} {args.stops} stops: p50 {p50:.2f} p99 {p99:.2f} worst {max(late):.2f} ms", flush=True)
        assert operator.stdin is not None
        operator.stdin.close()
    if args.json:
        write_json(args.json, figures)


@contextmanager
def node(hz: float, silence: Path) -> Iterator[Supervisor]:
    """The node with a session of motors that obey and a policy that answers, no cameras."""
    robot = Embodiment.from_dict({**parts.bench_robot(silence).to_dict(), "cameras": {}})
    spec = RunSpec(
        robot=robot,
        open_arm="deploy.bench_loop_parts:open_motor",
        open_backend="deploy.bench_loop_parts:open_policy",
        backend_options={"busy": False},
        settings=LoopSettings(tick_hz=hz, interpolation="cubic", handover="blend"),
    )
    rclpy.init(signal_handler_options=rclpy.SignalHandlerOptions.NO)
    policy = PolicyNode(robot, spec, "wave")
    executor = MultiThreadedExecutor(NUM_THREADS)
    executor.add_node(policy)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    try:
        policy.trigger_configure()
        policy.trigger_activate()
        assert policy.session is not None, "the node could not be configured: see above"
        yield policy.session.supervisor
    finally:
        policy.end_session()
        executor.shutdown(timeout_sec=1.0)
        spinning.join(2.0)
        rclpy.try_shutdown()


def stop(supervisor: Supervisor, operator: subprocess.Popen, way: str) -> float:
    """One stop in motion, ms; afterwards the arms hold again, ready to start."""
    wait_for(lambda: _started(supervisor))
    ticks = supervisor.ring("ticks")
    list(ticks.new())  # of the stop before
    time.sleep(0.2 + 0.01 * np.random.default_rng().random())  # anywhere between two ticks
    ordered_ns = tell(operator, way)
    wait_for(lambda: supervisor.status()["mode"] == "fault")
    stamps = [int(record.value["stamp_ns"]) for record in ticks.new() if text(record.value["mode"]) == "fault"]
    ticks.close()
    tell(operator, "release")
    wait_for(lambda: _held(supervisor))
    return (min(stamps) - ordered_ns) * 1e-6


def tell(operator: subprocess.Popen, word: str) -> int:
    """The time just before the operator did it, ns."""
    assert operator.stdin is not None and operator.stdout is not None
    operator.stdin.write(word + "\n")
    operator.stdin.flush()
    return int(operator.stdout.readline())


def operate() -> None:
    """Do what is read, say when. Begins once the node is known: a message to nobody is heard at the next discovery."""
    with Link("operator") as link:
        button = link.publish_on(Bool, "/estop", quality("reliable", latched=True))
        service = link.node.create_client(Trigger, f"/{POLICY_NAME}/estop")
        wait_for(lambda: button.get_subscription_count() >= NUM_READERS and service.service_is_ready())
        for line in sys.stdin:
            word, now_ns = line.strip(), time.monotonic_ns()
            if word == "service":
                answer = service.call_async(Trigger.Request())
                wait_for(answer.done)
            else:
                button.publish(Bool(data=word == "topic"))
            print(now_ns, flush=True)


def wait_for(condition) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{condition} has not come within {PATIENCE_S:g} s")
        time.sleep(0.002)


def _started(supervisor: Supervisor) -> bool:
    status = supervisor.status()
    if status["mode"] != "run":
        supervisor.start()
        time.sleep(0.05)
    return status["mode"] == "run" and status["why"] in ("", "run")


def _held(supervisor: Supervisor) -> bool:
    if supervisor.status()["mode"] != "hold":
        supervisor.reset()
        time.sleep(0.05)
    return supervisor.status()["mode"] == "hold"


if __name__ == "__main__":
    main()
