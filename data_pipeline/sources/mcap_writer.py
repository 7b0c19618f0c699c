"""Writing MCAP files of ROS 2 messages without ROS (extra `mcap`): what any ROS tool opens.

Messages are serialised by the type store of rosbags, which needs no installed ROS; velocity and effort of a joint state
are filled, since readers expect them (spec robot_ros2.md section 7). Log time is when a message was received, publish
time its header's stamp; both are ns since 1970.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

METADATA = "rdt"
"""Name of the metadata records that this stack writes and reads: values are JSON, later records replace earlier."""

CHUNK_BYTES = 1 << 20  # spec section 7: 1 to 4 MiB


class McapWriter:
    """One file. Use it as a context manager: it has its summary when that is left without an error."""

    def __init__(self, path: str | Path) -> None:
        """Raises `ModuleNotFoundError` without mcap and rosbags, `OSError` where nothing can be written."""
        try:
            from mcap.writer import Writer
            from rosbags.typesys import Stores, get_typestore
        except ImportError:
            raise ModuleNotFoundError(
                "writing MCAP files needs the packages mcap and rosbags: pip install 'rdt-stack[mcap]'"
            ) from None
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._file = Path(path).open("wb")  # noqa: SIM115  # closed by `__exit__`
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES)
        self._writer.start(profile="ros2", library="rdt-stack")
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self.num_messages = 0

    def joint_state(
        self, topic: str, names: Sequence[str], positions: np.ndarray, stamp_ns: int, log_ns: int, frame_id: str = ""
    ) -> None:
        """Positions float64 (names,) in rad or m, grippers in their own unit."""
        zeros = np.zeros(len(names))
        content = {
            "header": self._header(stamp_ns, frame_id),
            "name": list(names),
            "position": np.ascontiguousarray(positions, np.float64),
            "velocity": zeros,
            "effort": zeros,
        }
        self._write(topic, "sensor_msgs/msg/JointState", content, stamp_ns, log_ns)

    def trajectory(
        self, topic: str, names: Sequence[str], rows: np.ndarray, rate_hz: float, stamp_ns: int, log_ns: int
    ) -> None:
        """Rows (points, names) as of `joint_state`, one every `1 / rate_hz` seconds from `stamp_ns` on."""
        nothing = np.zeros(0)
        points = []
        for i, row in enumerate(np.ascontiguousarray(rows, np.float64)):
            seconds, nanoseconds = divmod(round(i * 1e9 / rate_hz), 1_000_000_000)
            points.append(
                self._message(
                    "trajectory_msgs/msg/JointTrajectoryPoint",
                    positions=row,
                    velocities=nothing,
                    accelerations=nothing,
                    effort=nothing,
                    time_from_start=self._message("builtin_interfaces/msg/Duration", sec=seconds, nanosec=nanoseconds),
                )
            )
        content = {"header": self._header(stamp_ns), "joint_names": list(names), "points": points}
        self._write(topic, "trajectory_msgs/msg/JointTrajectory", content, stamp_ns, log_ns)

    def jpeg(self, topic: str, encoded: bytes, stamp_ns: int, log_ns: int, frame_id: str = "") -> None:
        """A picture that is a JPEG already."""
        data = np.frombuffer(encoded, np.uint8)
        content = {"header": self._header(stamp_ns, frame_id), "format": "jpeg", "data": data}
        self._write(topic, "sensor_msgs/msg/CompressedImage", content, stamp_ns, log_ns)

    def image(self, topic: str, image: np.ndarray, stamp_ns: int, log_ns: int, frame_id: str = "") -> None:
        """A picture as it is, RGB uint8 (height, width, 3)."""
        height, width = image.shape[:2]
        content = {
            "header": self._header(stamp_ns, frame_id),
            "height": height,
            "width": width,
            "encoding": "rgb8",
            "is_bigendian": 0,
            "step": 3 * width,
            "data": np.ascontiguousarray(image).reshape(-1),
        }
        self._write(topic, "sensor_msgs/msg/Image", content, stamp_ns, log_ns)

    def text(self, topic: str, text: str, log_ns: int) -> None:
        self._write(topic, "std_msgs/msg/String", {"data": text}, log_ns, log_ns)

    def metadata(self, values: Mapping[str, Any]) -> None:
        """Values of plain types, which `McapSource` hands on with the episode; those that are None are left out."""
        plain = {name: json.dumps(value) for name, value in values.items() if value is not None}
        self._writer.add_metadata(METADATA, plain)

    def flush(self) -> None:
        """What was written so far can be read from the disk, or be recovered, whatever happens to this process."""
        self._writer.flush()

    def __enter__(self) -> McapWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            with self._file:
                self._writer.finish()
            return
        with contextlib.suppress(OSError):  # the error on its way says what is wrong
            self._file.close()

    def _write(self, topic: str, kind: str, content: Mapping[str, Any], stamp_ns: int, log_ns: int) -> None:
        data = bytes(self._types.serialize_cdr(self._message(kind, **content), kind))
        self._writer.add_message(self._channel(topic, kind), log_ns, data, stamp_ns, self.num_messages)
        self.num_messages += 1

    def _channel(self, topic: str, kind: str) -> int:
        if topic not in self._channels:
            if kind not in self._schemas:
                text, _ = self._types.generate_msgdef(kind, ros_version=2)
                self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", text.encode())
            self._channels[topic] = self._writer.register_channel(topic, "cdr", self._schemas[kind])
        return self._channels[topic]

    def _header(self, stamp_ns: int, frame_id: str = "") -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = self._message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _message(self, kind: str, **fields: Any) -> Any:
        return self._types.types[kind](**fields)
