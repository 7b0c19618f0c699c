"""A running robot in rerun's format (extra `viz`): an .rrd file that its viewer opens, while it grows or later.

    cameras/<role>            pictures, at most ten a second
    joints/measured           and joints/commanded, every tick, in unified units (rad, opening)
    joints/chunk              the actions of each new chunk, at the times that they are meant for
    mode                      text, where it changes

One time line, `time` in seconds since the first tick. Like the page it only reads rings; what it cannot keep up with is
left out.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.frames import encode_jpeg
from deploy.doctor import require
from deploy.realtime import records
from deploy.realtime.records import text
from deploy.realtime.supervisor import Supervisor

EVERY_S = 0.1
QUALITY = 80  # of a JPEG


def check_installed() -> None:
    """Raise `ModuleNotFoundError` that names the extra where rerun is missing."""
    require("`--rerun`", {"rerun": "rerun-sdk"}, extra="viz")


class RerunLog:
    """Writes until `close`. Use it as a context manager."""

    def __init__(self, path: Path, supervisor: Supervisor) -> None:
        """A file that is there is replaced."""
        check_installed()
        import rerun as rr

        self._rr = rr
        self._robot = supervisor.spec.robot
        self._recording = rr.RecordingStream("rdt")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._recording.save(path)
        for name in ("measured", "commanded", "chunk"):
            lines = rr.SeriesLines(names=[f"{joint} {name}" for joint in self._robot.native_names])
            self._recording.log(f"joints/{name}", lines, static=True)
        self._ticks, self._answers = supervisor.ring("ticks"), supervisor.ring("answers")
        self._frames = {role: supervisor.ring(f"frames of {role}") for role in self._robot.cameras}
        self._first_ns: int | None = None
        self._mode = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="rerun log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._closing.set()
        self._thread.join()
        self._write()
        for ring in (self._ticks, self._answers, *self._frames.values()):
            ring.close()
        self._recording.flush()
        self._recording.disconnect()

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep_writing(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._write()

    def _write(self) -> None:
        ticks = [record.value for record in self._ticks.new()]
        if not ticks:
            return
        if self._first_ns is None:
            self._first_ns = int(ticks[0]["stamp_ns"])
        stamps = np.array([tick["stamp_ns"] for tick in ticks])
        measured, _ = self._robot.to_unified(np.array([tick["measured"] for tick in ticks]), "state")
        commanded, _ = self._robot.to_unified(np.array([tick["wanted"] for tick in ticks]), "action")
        self._send_rows("measured", stamps, measured)
        self._send_rows("commanded", stamps, commanded)
        for record in self._answers.new():
            if record.value["outcome"] == records.CHUNK:
                chunk = records.get_chunk(record.value)
                steps = np.arange(len(chunk.actions)) * (1e9 / chunk.rate_hz)
                self._send_rows("chunk", chunk.start_ns + steps, chunk.actions)
        for tick in ticks:
            if (mode := text(tick["mode"])) != self._mode:
                self._mode = mode
                words = self._rr.TextLog.columns(text=[f"{mode}: {text(tick['why'])}"])
                self._send("mode", tick["stamp_ns"], words)
        for role, ring in self._frames.items():
            frame = next(iter(list(ring.new())[-1:]), None)
            if frame is not None:
                jpeg = encode_jpeg(records.get_frame(frame.value, role).image, QUALITY)
                picture = self._rr.EncodedImage.columns(blob=[jpeg], media_type=["image/jpeg"])
                self._send(f"cameras/{role}", frame.value["stamp_ns"], picture)

    def _send_rows(self, name: str, stamps_ns: np.ndarray, unified: np.ndarray) -> None:
        """Rows (times, 128) of the robot's own slots."""
        rows = unified[:, self._robot.slots].astype(np.float64)
        columns = self._rr.Scalars.columns(scalars=rows.reshape(-1)).partition(lengths=[rows.shape[1]] * len(rows))
        self._send(f"joints/{name}", stamps_ns, columns)

    def _send(self, entity: str, stamps_ns: Any, columns: Any) -> None:
        seconds = (np.atleast_1d(stamps_ns) - self._first_ns) * 1e-9
        times = [self._rr.TimeColumn("time", duration=seconds)]
        self._rr.send_columns(entity, indexes=times, columns=columns, recording=self._recording)
