"""The recorder: a process that writes what a running robot saw, was told and decided, one MCAP file an episode.

It reads the rings as any other reader does, so that the control process does not know of it. Two threads: one takes
what is new from the rings, one encodes and writes. When the disk is slow, pictures are dropped before joint states, and
both are counted. A file appears under its name when its episode ends; until then it is a temporary one, flushed once a
second, from which `rdt data repair` saves what there is if the machine goes down (spec robot_ros2.md section 7).

A disk that is full, or any other error of writing, ends the recording of that episode and is told. The robot goes on.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml

from data_pipeline.atomic import atomic_path, check_writable, write_text
from data_pipeline.frames import encode_jpeg
from data_pipeline.mapping import robot_topics as topics
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.types import ACTORS
from data_pipeline.sources.mcap_writer import McapWriter
from deploy.realtime import records
from deploy.realtime.clock import now_ns
from deploy.realtime.memory import Record, Ring, RingSpec
from deploy.realtime.process import parent_id
from deploy.realtime.records import text
from robot_drivers.limits.bounds import Bounds

Pictures = Literal["jpeg", "raw"]
JPEG_QUALITY = 90
POLL_S = 0.002
FLUSH_S = 1.0
MAX_PICTURES = 32  # pictures that wait for the writer; more are dropped
MAX_WAITING = 100_000  # messages that wait: minutes; more, and the disk is taken for dead
ANSWER_S = 60.0  # for the rest of an episode to reach the disk
ROBOT, DATASET = "robot.yaml", "dataset.yaml"
OUTCOMES = {records.CHUNK: "chunk", records.STALE: "stale", records.FAILED: "failed"}


@dataclass(frozen=True)
class RecordTo:
    """Where and how a running robot is recorded."""

    robot: Embodiment  # as its YAML says it, before its arms are reached over topics
    folder: Path
    notes: Mapping[str, Any] = field(default_factory=dict)  # plain types, stored with each episode
    pictures: Pictures = "jpeg"
    policies: tuple[str, ...] = ()  # whose trials these are; the orders say which one acts, its episodes name it


class Recorded(NamedTuple):
    """What became of an episode."""

    path: str  # empty where nothing was kept
    words: str


class Recorder:
    """The recorder of a running robot, seen from the supervisor's process."""

    def __init__(self, to: RecordTo, rings: Mapping[str, RingSpec]) -> None:
        """Start the process, and say in the folder how its files are read.

        Raises `ValueError` for a folder of another robot, `WriteError` for one that cannot be written.
        """
        self._to, self._lock = to, threading.Lock()
        self._owed = 0  # answers that have not come yet
        _describe(to)
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_main, args=(to, dict(rings), there), name="rdt recorder")
        self._process.start()
        there.close()

    def begin(self, **notes: Any) -> Recorded:
        """An episode begins when this returns, with what was measured and seen last. An open one is discarded."""
        return self._ask("begin", notes)

    def pause(self) -> None:
        """Take nothing more into the episode: the rest is the judgement."""
        self._send("pause", {})

    def end(self, **notes: Any) -> Recorded:
        """Keep the episode; waits until it is on the disk. `notes`: success, say."""
        return self._ask("end", notes)

    def discard(self) -> Recorded:
        """Leave no file of the episode."""
        return self._ask("discard", {})

    def close(self) -> None:
        """End the process; an episode that is open is kept, without a judgement. May be called twice."""
        self._send("close", {})
        self._process.join(ANSWER_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _ask(self, word: str, notes: dict[str, Any]) -> Recorded:
        with self._lock:
            self._send(word, notes)
            self._owed += 1
            until = time.monotonic() + ANSWER_S
            try:
                while self._pipe.poll(max(until - time.monotonic(), 0.0)):
                    answer = Recorded(*self._pipe.recv())
                    self._owed -= 1
                    if not self._owed:  # else it came too late for the question before
                        return answer
                return Recorded("", f"not recorded: no answer from the recorder within {ANSWER_S:g} s")
            except (OSError, EOFError):
                return Recorded("", "not recorded: the recorder's process has ended")

    def _send(self, word: str, notes: dict[str, Any]) -> None:
        try:
            self._pipe.send((word, notes))
        except OSError:  # it has ended, or the pipe is closed: whoever asks for the episode is told
            return


def convert_line(to: RecordTo) -> str:
    """The command that makes a store of a folder's episodes."""
    folder = to.folder
    return (
        f"rdt data convert {folder / DATASET} --root {folder} --robot {folder / ROBOT} --out stores/{_dataset_name(to)}"
    )


class _Discarded(Exception):  # noqa: N818  # no error
    """The episode shall leave no file."""


class BoundedWriter:
    """Jobs of one file, done in their order by a thread. Pictures wait in a limited number."""

    def __init__(self, file: McapWriter) -> None:
        self.error: Exception | None = None
        self.dropped = 0  # pictures
        self._file = file
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(MAX_PICTURES)
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """A job that is not dropped. Past `MAX_WAITING` of them, or after an error, nothing is taken any more."""
        if self.error is None and self._jobs.qsize() > MAX_WAITING:
            self.error = TimeoutError(f"the disk is too slow: {MAX_WAITING} messages wait")
        if self.error is None:
            self._jobs.put(job)

    def put_picture(self, job: Callable[[], None]) -> None:
        if not self._room.acquire(blocking=False):
            self.dropped += 1
            return

        def done() -> None:
            try:
                job()
            finally:
                self._room.release()

        self.put(done)

    def close(self) -> None:
        """Wait for all jobs. Raises what writing raised."""
        self._jobs.put(None)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        flushed = time.monotonic()
        while self.error is None:
            job = self._jobs.get()
            if job is None:
                return
            try:
                job()
                if time.monotonic() - flushed > FLUSH_S:
                    self._file.flush()
                    flushed = time.monotonic()
            except Exception as error:  # of a disk, a picture: it ends this recording, and is told
                self.error = error


class EpisodeTaker:
    """Takes what is new from the rings into one file."""

    def __init__(self, robot: Embodiment, rings: Mapping[str, Ring], file: McapWriter, pictures: Pictures) -> None:
        self._robot, self._rings, self._file, self._pictures = robot, rings, file, pictures
        self.writer = BoundedWriter(file)
        self.lost: dict[str, int] = {}  # ring -> records that were overwritten before they were taken
        self.taken: dict[str, int] = {}
        self._unit = Bounds.of(robot).unit
        self._seen: dict[str, int] = {}  # ring -> number of the last record
        self._decided: dict[str, Any] = {}
        self._ordered: dict[str, Any] = {}
        self._instruction = ""
        self._actor = ACTORS[0]
        self._step_ns = 1e9 / robot.rate_hz
        self._steps = 0
        self.begun_ns = self.until_ns = now_ns()
        self.system_offset_ns = time.time_ns() - self.begun_ns  # one for the episode: its clock never jumps
        for name, ring in rings.items():
            for record in list(ring.new())[-1:]:  # what is known when the episode begins
                self._take(name, record)

    def take(self, now: int) -> None:
        """All that is new, and the steps up to `now`."""
        self.until_ns = now
        for name, ring in self._rings.items():
            for record in ring.new():
                self._take(name, record)
        while (step := self.begun_ns + round(self._steps * self._step_ns)) <= now:
            self._put(self._file.text, topics.INSTRUCTION, self._instruction, self._system(step))
            self._put(self._file.text, topics.ACTOR, self._actor, self._system(step))
            self._steps += 1

    @property
    def policy(self) -> int:
        """Number of the policy that the newest order chose."""
        return self._ordered.get("policy", 0)

    def summary(self) -> dict[str, Any]:
        """What was taken, for the file."""
        seconds = (self.until_ns - self.begun_ns) * 1e-9
        return {
            "seconds": round(seconds, 3),
            "taken": self.taken,
            "dropped_pictures": self.writer.dropped,
            "lost": self.lost,
        }

    def _take(self, name: str, record: Record) -> None:
        before = self._seen.get(name)
        if before is not None and name != "orders" and record.number > before + 1:
            self.lost[name] = self.lost.get(name, 0) + record.number - before - 1
        self._seen[name] = record.number
        self.taken[name] = self.taken.get(name, 0) + 1
        value, log_ns = record.value, self._system(now_ns())
        if name == "states":
            self._joints(topics.MEASURED, value["positions"], int(value["stamp_ns"]), log_ns)
        elif name == "ticks":
            self._tick(value, log_ns)
        elif name == "requests":
            self._decision(log_ns, event="request", number=record.number, stamp_ns=self._system(int(value["stamp_ns"])))
        elif name == "answers":
            self._answer(value, log_ns)
        elif name == "orders":
            self._orders(value, log_ns)
        else:
            self._frame(name.removeprefix("frames of "), value, log_ns)

    def _tick(self, value: np.ndarray, log_ns: int) -> None:
        self._joints(topics.COMMANDED, value["sent"], int(value["target_ns"]), log_ns)
        self._joints(topics.PLANNED, value["wanted"], int(value["target_ns"]), log_ns)
        self._actor = ACTORS[int(value["actor"])]
        decided = {
            "actor": self._actor,
            "mode": text(value["mode"]),
            "why": text(value["why"]),
            "commanded": bool(value["commanded"]),
            "limited": bool(value["limited"]),
            "missed": int(value["missed"]),
        }
        if decided != self._decided:
            self._decided = decided
            self._decision(log_ns, event="tick", stamp_ns=self._system(int(value["stamp_ns"])), **decided)

    def _answer(self, value: np.ndarray, log_ns: int) -> None:
        outcome = int(value["outcome"])
        self._decision(
            log_ns, event="answer", request=int(value["request"]), outcome=OUTCOMES[outcome], why=text(value["why"])
        )
        if outcome == records.CHUNK:
            chunk = records.get_chunk(value)
            rows = self._robot.from_unified(chunk.actions) * self._unit
            names, start_ns = self._robot.native_names, self._system(chunk.start_ns)
            self._put(self._file.trajectory, topics.CHUNKS, names, rows, chunk.rate_hz, start_ns, log_ns)

    def _orders(self, value: np.ndarray, log_ns: int) -> None:
        self._instruction = text(value["instruction"])
        numbers = {name: int(value[name]) for name in ("wanted", "starts", "estop", "resets", "policy", "leads")}
        orders = {**numbers, "instruction": self._instruction}
        if orders != self._ordered:
            self._ordered = orders
            self._decision(log_ns, event="order", **orders)

    def _frame(self, role: str, value: np.ndarray, log_ns: int) -> None:
        frame = records.get_frame(value, role)
        stamp_ns, raw = self._system(frame.stamp_ns), self._pictures == "raw"
        topic = topics.camera_topic(role, raw=raw)
        if raw:
            job = functools.partial(self._file.image, topic, frame.image, stamp_ns, log_ns, role)
        else:
            job = functools.partial(self._encode, topic, frame.image, stamp_ns, log_ns, role)
        self.writer.put_picture(job)

    def _encode(self, topic: str, image: np.ndarray, stamp_ns: int, log_ns: int, role: str) -> None:
        self._file.jpeg(topic, encode_jpeg(image, JPEG_QUALITY), stamp_ns, log_ns, role)

    def _joints(self, topic: str, native: np.ndarray, stamp_ns: int, log_ns: int) -> None:
        """Native units become SI ones. What is not finite was not there."""
        if np.isfinite(native).all():
            names = self._robot.native_names
            self._put(self._file.joint_state, topic, names, native * self._unit, self._system(stamp_ns), log_ns)

    def _decision(self, log_ns: int, **decision: Any) -> None:
        self._put(self._file.text, topics.DECISIONS, json.dumps(decision), log_ns)

    def _put(self, write: Callable[..., None], *args: Any) -> None:
        self.writer.put(functools.partial(write, *args))

    def _system(self, monotonic_ns: int) -> int:
        return monotonic_ns + self.system_offset_ns


class RecorderProcess:
    """Obeys the words that come through a pipe; `run` is the body of the process."""

    def __init__(self, to: RecordTo, rings: Mapping[str, RingSpec], pipe: Connection) -> None:
        self._to, self._pipe = to, pipe
        self._rings = {name: Ring(spec) for name, spec in rings.items() if name != "health"}
        self._parent = parent_id()
        self._closing = False

    def close_soon(self, *_: object) -> None:
        self._closing = True

    def run(self) -> None:
        """Episode after episode, until told to end or the parent has ended."""
        while not self._is_over():
            word, notes = self._heard(0.1)
            while word == "begin":
                word, notes = self._episode(notes)
            if word in ("end", "discard"):
                self._pipe.send(("", "no episode was being recorded"))
        for ring in self._rings.values():
            ring.close()

    def _episode(self, notes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """One episode to its end, answered. Returns the word that begins the next one, or nothing."""
        path = _next_path(self._to.folder)
        word, given, taker = "", dict[str, Any](), None
        try:
            with atomic_path(path) as temporary, McapWriter(temporary) as file:
                taker = EpisodeTaker(self._to.robot, self._rings, file, self._to.pictures)
                self._pipe.send((str(path), "recording"))
                notes = {**_facts(self._to, taker.policy), "started_ns": time.time_ns(), **notes}
                taker.writer.put(functools.partial(file.metadata, notes))
                word, given = self._take_until_told(taker)
                taker.writer.close()
                if word in ("discard", "begin"):
                    raise _Discarded
                file.metadata({**notes, **given, "stopped_ns": time.time_ns(), **taker.summary()})
        except _Discarded:
            answer = Recorded("", "discarded")
        except Exception as error:  # of writing; the robot does not depend on it
            answer = Recorded("", f"not recorded: {error or type(error).__name__}")
            if taker is None:
                self._pipe.send(tuple(answer))
            print(f"rdt: {path.name}: {answer.words}; the robot goes on", file=sys.stderr, flush=True)
            while not word:
                word, given = self._heard(0.1) if not self._is_over() else ("close", {})
                word = "" if word == "pause" else word
        else:
            assert taker is not None
            answer = Recorded(str(path), _told(path, taker.summary()))
        if word in ("end", "discard"):
            self._pipe.send(tuple(answer))
        elif answer.path:  # nobody asked
            print(answer.words, flush=True)
        return (word, given) if word == "begin" else ("", {})

    def _take_until_told(self, taker: EpisodeTaker) -> tuple[str, dict[str, Any]]:
        """The word that ended the episode. Raises what writing raised."""
        paused = False
        while not self._is_over():
            word, notes = self._heard(POLL_S)
            if not paused:
                taker.take(now_ns())
            if word == "pause":
                paused = True
            elif word:
                return word, notes
            if taker.writer.error is not None:
                raise taker.writer.error
        return "close", {}

    def _heard(self, seconds: float) -> tuple[str, dict[str, Any]]:
        try:
            word, notes = self._pipe.recv() if self._pipe.poll(seconds) else ("", {})
        except (OSError, EOFError):
            word, notes = "close", {}
        self._closing = self._closing or word == "close"
        return word, notes

    def _is_over(self) -> bool:
        return self._closing or os.getppid() != self._parent


def _main(to: RecordTo, rings: Mapping[str, RingSpec], pipe: Connection) -> None:
    """The body of the process. It never outranks the tick."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor ends it
    os.nice(5)
    process = RecorderProcess(to, rings, pipe)
    signal.signal(signal.SIGTERM, process.close_soon)
    process.run()


def _facts(to: RecordTo, policy: int) -> dict[str, Any]:
    """What is known of an episode when it begins; `policy` is the number of the one that acts."""
    others = [name for number, name in enumerate(to.policies) if number != policy]
    return {
        "robot": to.robot.name,
        "robot_yaml": to.robot.to_dict(),
        "action_offset_steps": to.robot.action_offset_steps,
        **({"checkpoint": to.policies[policy]} if to.policies else {}),
        **({"compared_with": others[0]} if others else {}),
        **to.notes,
    }


def _describe(to: RecordTo) -> None:
    """The robot, and the dataset YAML that reads the recordings, beside them."""
    check_writable(to.folder)
    path = to.folder / ROBOT
    if path.exists() and Embodiment.from_yaml(path) != to.robot:
        raise ValueError(f"{to.folder} holds recordings of a robot that differs from this one: choose another folder")
    write_text(path, yaml.safe_dump(to.robot.to_dict(), sort_keys=False, default_flow_style=None, width=120))
    if not (to.folder / DATASET).exists():  # a person may have changed it
        text_of = topics.dataset_yaml(to.robot, _dataset_name(to), raw=to.pictures == "raw")
        write_text(to.folder / DATASET, text_of)


def _dataset_name(to: RecordTo) -> str:
    return to.folder.resolve().name


def _next_path(folder: Path) -> Path:
    """episode_0000.mcap, episode_0001.mcap, ...: one after the last that is there."""
    numbers = [int(found[1]) for path in folder.iterdir() if (found := re.fullmatch(r"episode_(\d+)\.mcap", path.name))]
    return folder / f"episode_{max(numbers, default=-1) + 1:04d}.mcap"


def _told(path: Path, summary: Mapping[str, Any]) -> str:
    pictures = sum(count for name, count in summary["taken"].items() if name.startswith("frames"))
    missing = [f"{summary['dropped_pictures']} pictures dropped"] if summary["dropped_pictures"] else []
    missing += [f"{count} of {name} lost" for name, count in summary["lost"].items()]
    rest = "; " + ", ".join(missing) if missing else ""
    return f"{path}: {summary['seconds']:.1f} s, {pictures} pictures{rest}"
