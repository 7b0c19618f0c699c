"""Cameras as ROS 2 topics: what a real driver's node does for any `Camera`.

cameras/<role>/image_raw   Image (rgb8) out
"""

from __future__ import annotations

from collections.abc import Iterable

from robot_drivers.messages import Image, Link, image_message, quality
from robot_drivers.types import CameraFrame


class CameraTopicServer:
    """Publishes frames. Its owner calls `publish`."""

    def __init__(self, link: Link, roles: Iterable[str]) -> None:
        self._link = link
        self._publishers = {
            role: link.publish_on(Image, f"cameras/{role}/image_raw", quality("best_effort")) for role in roles
        }

    def publish(self, frame: CameraFrame) -> None:
        stamp = self._link.clock.to_stamp(frame.stamp_ns)
        self._publishers[frame.role].publish(image_message(frame.image, stamp, f"camera_{frame.role}"))
