"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest

# No test process may load OpenGL: its LLVM and the one that a torch optimizer brings do not live together
# (robot_drivers/sim/render.py). Tests of the OpenGL back ends draw in child processes that choose for themselves.
os.environ.setdefault("RDT_RENDERER", "raycast")

# small models are fastest on one thread, and two that wait for a busy core would spin
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell starts background jobs deaf to Ctrl-C, and their children inherit it: tests of interrupts need ears
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
REAL_TIME = (
    "deploy/operator/",
    "deploy/realtime/",
    "deploy/serve/",
    "deploy/test_bench_loop.py",
    "deploy/test_demonstrate.py",
    "deploy/test_node.py",
    "deploy/test_robot_check.py",
    "deploy/test_ros_package.py",
    "deploy/test_run.py",
    "deploy/test_trials.py",
    "journeys/test_robot.py",
    "robot_drivers/",
)
"""Where the clock counts: control processes, emulated buses, sockets. These run one after the other."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).as_posix().startswith(REAL_TIME):
            item.add_marker("real_time")
