"""What a running robot does, as plain numbers for whoever looks at it.

A thread of the supervisor's process reads the rings ten times a second and keeps the last seconds. Rings have readers
that nobody waits for: however slow this one is, no tick is later for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_pipeline.frames import encode_jpeg
from data_pipeline.schema.layout import SLOT_UNITS
from data_pipeline.schema.types import ACTORS, ActionChunk
from deploy.realtime import records
from deploy.realtime.clock import now_ns
from deploy.realtime.memory import Record
from deploy.realtime.records import text
from deploy.realtime.supervisor import Supervisor

SAMPLE_S = 0.1
WINDOW_S = 10.0  # of what percentiles are taken
DRAWN_S, DRAWN_STEP_S = 5.0, 0.05  # length and distance of the points that are drawn
MOST_LATENCIES, MOST_EVENTS = 100, 20
QUALITY = 80  # of a JPEG
NS = 1e-9


class Watch:
    """Reads a supervisor's rings, through readers of its own, until `close`."""

    def __init__(self, supervisor: Supervisor, camera_problems: Callable[[], Mapping[str, str]] = dict) -> None:
        """`camera_problems` says what is wrong with which camera: role -> words."""
        self.robot = supervisor.spec.robot
        self._supervisor, self._camera_problems = supervisor, camera_problems
        self._rings = {name: supervisor.ring(name) for name in ("ticks", "answers", "health", "orders")}
        self._frames = {role: supervisor.ring(f"frames of {role}") for role in self.robot.cameras}
        self._lock = threading.Lock()  # of the rings, which may be closed, and of all that is kept below
        self._late_ms: deque[tuple[int, float, bool]] = deque()  # stamp of a tick, how late it was, whether limited
        self._drawn: deque[tuple[int, np.ndarray, np.ndarray]] = deque()  # stamp, measured and commanded, unified units
        self._latencies_ms: deque[float] = deque(maxlen=MOST_LATENCIES)
        self._events: deque[dict[str, str]] = deque(maxlen=MOST_EVENTS)
        self._chunk: ActionChunk | None = None
        self._requests = 0
        self._last = ("", "")  # mode and why
        self._ended = ""  # which process, in words
        self._seen: dict[str, tuple[int, Record | None]] = {}  # role -> when it was looked at, and its newest frame
        self._jpegs: dict[str, tuple[int, bytes]] = {}  # role -> number of the frame, and its picture
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, name="operator watch", daemon=True)
        self._thread.start()

    def state(self) -> dict[str, Any]:
        """The state as JSON has it; times in ms or s as the names say, None where there is nothing yet.

        joints      `times_s` from the newest tick, so at most 0; `measured` and `commanded` have a row for each time,
                    in unified units (rad, opening), None where there was none; `chunk` is the newest one on the same
                    time line, whatever became of it

        Raises `RuntimeError` after `close`.
        """
        with self._lock:
            if self._closing.is_set():
                raise RuntimeError("the robot's session has ended")
            self._read()
            now = now_ns()
            state: dict[str, Any] = {"robot": self.robot.name, **self._mode()}
            orders = self._rings["orders"].newest()
            state["instruction"] = "" if orders is None else text(orders.value["instruction"])
            state["ticks"] = self._ticks(now)
            state["inference"] = self._inference(now)
            state["cameras"] = self._cameras(now)
            state["events"] = list(self._events)
            state["joints"] = self._joints()
            return state

    def jpeg(self, role: str) -> bytes | None:
        """The newest picture of a camera; None before its first one. Raises `KeyError` for a role it has not."""
        with self._lock:
            if self._closing.is_set():
                return None
            record = self._frame(role, now_ns())
        if record is None:
            return None
        kept = self._jpegs.get(role)
        if kept is None or kept[0] != record.number:  # once for all who look
            kept = record.number, encode_jpeg(records.get_frame(record.value, role).image, QUALITY)
            self._jpegs[role] = kept
        return kept[1]

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        with self._lock:
            for ring in (*self._rings.values(), *self._frames.values()):
                ring.close()
            self._rings.clear()
            self._frames.clear()

    def _keep_reading(self) -> None:
        while not self._closing.wait(SAMPLE_S):
            with self._lock:
                self._read()

    def _read(self) -> None:
        """Take in what is new."""
        for record in self._rings["ticks"].new():
            self._take_tick(record.value)
        for record in self._rings["answers"].new():
            if record.value["outcome"] == records.CHUNK:
                self._chunk = records.get_chunk(record.value)
        for record in self._rings["health"].new():
            if record.value["requests"] > self._requests:
                self._requests = int(record.value["requests"])
                self._latencies_ms.append(float(record.value["latency_ns"]) * 1e-6)

    def _take_tick(self, tick: np.ndarray) -> None:
        stamp = int(tick["stamp_ns"])
        self._late_ms.append((stamp, float(tick["lateness_ns"]) * 1e-6, bool(tick["limited"])))
        while self._late_ms[0][0] < stamp - WINDOW_S / NS:
            self._late_ms.popleft()
        if not self._drawn or stamp >= self._drawn[-1][0] + DRAWN_STEP_S / NS:
            measured, _ = self.robot.to_unified(tick["measured"], "state")
            commanded, _ = self.robot.to_unified(tick["wanted"], "action")
            self._drawn.append((stamp, measured[self.robot.slots], commanded[self.robot.slots]))
        while self._drawn[0][0] < stamp - DRAWN_S / NS:
            self._drawn.popleft()
        mode, why = text(tick["mode"]), text(tick["why"])
        words = mode, "" if mode == "run" else why  # in run the words are those of limits, tick by tick
        if words != self._last:
            self._last = words
            self._note(*words)

    def _note(self, mode: str, why: str) -> None:
        self._events.append({"at": time.strftime("%H:%M:%S"), "mode": mode, "why": why})

    def _mode(self) -> dict[str, Any]:
        try:
            self._supervisor.check()
        except RuntimeError as error:
            if not self._ended:
                self._ended = str(error)
                self._note("fault", self._ended)
            return {"mode": "fault", "why": str(error), "actor": "nobody", "ended": True}
        newest = self._rings["ticks"].newest()
        if newest is None:
            return {"mode": "starting", "why": "", "actor": "nobody", "ended": False}
        mode, why = text(newest.value["mode"]), text(newest.value["why"])
        actor = ACTORS[int(newest.value["actor"])]
        return {"mode": mode, "why": "" if why == mode else why, "actor": actor, "ended": False}

    def _ticks(self, now: int) -> dict[str, Any]:
        newest = self._rings["ticks"].newest()
        return {
            "age_ms": None if newest is None else _age_ms(now, newest.value),
            "late_ms": _percentiles([late for _, late, _ in self._late_ms]),
            "missed": 0 if newest is None else int(newest.value["missed"]),
            "limited": sum(limited for _, _, limited in self._late_ms),
            "window_s": WINDOW_S,
        }

    def _inference(self, now: int) -> dict[str, Any]:
        newest = self._rings["health"].newest()
        if newest is None:
            return {"age_ms": None, "latency_ms": None, "requests": 0, "failures": 0, "why": "starting"}
        value = newest.value
        return {
            "age_ms": _age_ms(now, value),
            "latency_ms": _percentiles(self._latencies_ms),
            "requests": int(value["requests"]),
            "failures": int(value["failures"]),
            "why": text(value["why"]),
        }

    def _cameras(self, now: int) -> dict[str, Any]:
        problems, found = dict(self._camera_problems()), {}
        for role in self._frames:
            newest = self._frame(role, now)
            age = None if newest is None else _age_ms(now, newest.value)
            found[role] = {"age_ms": age, "problem": problems.get(role, "")}
        return found

    def _frame(self, role: str, now: int) -> Record | None:
        """The newest frame, copied at most once in `SAMPLE_S` however many look."""
        looked_ns, record = self._seen.get(role, (0, None))
        if now - looked_ns > SAMPLE_S / NS:
            record = self._frames[role].newest()
            self._seen[role] = now, record
        return record

    def _joints(self) -> dict[str, Any]:
        slots = self.robot.slots
        joints: dict[str, Any] = {
            "names": list(self.robot.native_names),
            "units": [SLOT_UNITS[slot].split(" ")[0] for slot in slots],
            "times_s": [round((stamp - self._drawn[-1][0]) * NS, 3) for stamp, _, _ in self._drawn],
            "measured": [_row(measured) for _, measured, _ in self._drawn],
            "commanded": [_row(commanded) for _, _, commanded in self._drawn],
            "chunk": None,
        }
        if self._chunk is not None and self._drawn:
            steps = np.arange(len(self._chunk.actions))
            times = (self._chunk.start_ns - self._drawn[-1][0]) * NS + steps / self._chunk.rate_hz
            joints["chunk"] = {
                "times_s": times.round(3).tolist(),
                "rows": [_row(row) for row in self._chunk.actions[:, slots]],
            }
        return joints


def _row(values: np.ndarray) -> list[float] | None:
    """As JSON has numbers; None for a row that is none."""
    return values.astype(np.float64).round(4).tolist() if np.isfinite(values).all() else None


def _age_ms(now: int, value: np.ndarray) -> float:
    return round((now - int(value["stamp_ns"])) * 1e-6, 1)


def _percentiles(values: Any) -> list[float] | None:
    """The 50th and the 99th; None of nothing."""
    return np.percentile(list(values), [50, 99]).round(2).tolist() if len(values) else None
