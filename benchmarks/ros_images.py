#!/usr/bin/env python3
"""Raw pictures over ROS 2 with the shipped Fast DDS profile and without it: how many arrive, and how late.

    .venv/bin/python benchmarks/ros_images.py [--seconds 20] [--json FILE]

Three cameras of 640 x 480 at 30 Hz in one process, one reader of all three in another, best effort, depth 1. Late means
from the stamp in the header to the callback. Not a test: a busy machine loses pictures in both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

from data_pipeline.atomic import write_json
from deploy.graph import ros_environment
from robot_drivers.camera_node import CameraTopicServer
from robot_drivers.messages import Image, Link, quality
from robot_drivers.types import CameraFrame

ROLES = ("external", "left_wrist", "right_wrist")
FPS = 30
SETTLE_S = 3.0  # until publisher and reader know each other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", help="write the figures there too")
    parser.add_argument("--role", choices=["publish", "read"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        {"publish": publish, "read": read}[args.role](args.seconds)
        return
    figures = {}
    for name, with_profile in (("shipped profile", True), ("default transports", False)):
        variables = ros_environment()
        if not with_profile:
            del variables["FASTDDS_DEFAULT_PROFILES_FILE"]
        figures[name] = measure(args.seconds, variables)
        found = figures[name]
        print(
            f"{name:20s} {found['received']} of {found['sent']} pictures ({found['received'] / found['sent']:.1%}), "
            f"late p50 {found['p50_ms']:.2f} p99 {found['p99_ms']:.2f} ms"
        )
    if args.json:
        write_json(args.json, figures)


def measure(seconds: float, variables: dict[str, str]) -> dict[str, float]:
    """Publisher and reader as processes of their own: the transport is chosen when ROS starts."""
    environment = {**os.environ, **variables, "ROS_DOMAIN_ID": "77"}
    words = [sys.executable, __file__, "--seconds", str(seconds), "--role"]
    with subprocess.Popen([*words, "read"], env=environment, stdout=subprocess.PIPE, text=True) as reading:
        done = subprocess.run([*words, "publish"], env=environment, capture_output=True, text=True, check=True)
        said, _ = reading.communicate()
    late = json.loads(said)
    return {
        "sent": int(done.stdout),
        "received": len(late),
        "p50_ms": float(np.percentile(late, 50)) if late else float("nan"),
        "p99_ms": float(np.percentile(late, 99)) if late else float("nan"),
    }


def publish(seconds: float) -> None:
    """Prints how many pictures were sent."""
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with Link("cameras") as link:
        server = CameraTopicServer(link, ROLES)
        time.sleep(SETTLE_S)
        start, rounds = time.monotonic(), round(seconds * FPS)
        for number in range(rounds):
            for role in ROLES:
                server.publish(CameraFrame(role, picture, time.monotonic_ns()))
            time.sleep(max(start + (number + 1) / FPS - time.monotonic(), 0))
        time.sleep(0.5)
    print(rounds * len(ROLES))


def read(seconds: float) -> None:
    """Prints a list of latencies in ms."""
    late: list[float] = []
    with Link("reader") as link:

        def take(message: Image) -> None:
            late.append((time.monotonic_ns() - link.clock.to_monotonic(message.header.stamp)) * 1e-6)

        for role in ROLES:
            link.subscribe(Image, f"cameras/{role}/image_raw", take, quality("best_effort"))
        time.sleep(seconds + 3 * SETTLE_S)
    print(json.dumps(late))


if __name__ == "__main__":
    main()
