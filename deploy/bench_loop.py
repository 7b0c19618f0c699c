"""`rdt bench loop`: how evenly the control process ticks, what it adds to a policy's latency, how fast it stops.

Lateness is compared with a process that only sleeps to its deadlines, beside it in the same run. Real processes and
real rings throughout, with a motor that obeys at once and a policy that answers at once; the seams are rehearsed in
lockstep. Targets are those of spec robot_ros2.md section 9. Not measured: ROS 2, a bus, a network's forward pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy import bench_loop_parts as parts
from deploy.loop import LoopSettings
from deploy.realtime.clock import FIFO_PRIORITY, now_ns
from deploy.realtime.memory import Ring
from deploy.realtime.records import text
from deploy.realtime.supervisor import RunSpec, Supervisor
from deploy.two_ways import TwoWays, rehearse, robot_at
from robot_drivers.bimanual import Bimanual
from robot_drivers.types import CameraFrame

FRAME = (480, 640)
CAMERA_HZ = 30.0
EXECUTE_STEPS = 5  # of 20 ms: more than a picture is old, so that chunks come in order
NUM_STOPS = 5
RATES_HZ = (25.0, 50.0)
LATENCIES_MS = (50, 100, 170, 300)
HANDOVERS = {  # name -> how chunks are spliced, and the Jacobian of the guidance
    "switch": ("switch", "network"),
    "blend": ("blend", "network"),
    "ensemble": ("ensemble", "network"),
    "rtc": ("rtc", "network"),
    "rtc, identity": ("rtc", "identity"),
}


class Lateness(NamedTuple):
    """How late a loop woke, in ms, and how many ticks it lost."""

    p50: float
    p99: float
    largest: float
    lost: int


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns its figures by name, in ms unless the name says otherwise."""
    figures: dict[str, Any] = {"hz": args.hz, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    print(f"{args.hz} Hz, {figures['cores']} cores, load {figures['load']:.1f} before it began\n")
    with tempfile.TemporaryDirectory() as folder:
        silence = Path(folder) / "silence"
        with session(args.hz, silence, busy=True) as supervisor:
            late = measure_lateness(supervisor, args.hz, args.seconds)
        figures["lateness"] = {how: {name: row._asdict() for name, row in loops.items()} for how, loops in late.items()}
        _print_lateness(late)
        with session(args.hz, silence, busy=False) as supervisor:
            figures["overhead"] = measure_overhead(supervisor, args.seconds)
            figures["emergency_stop"] = measure_stops(supervisor)
            figures["state_loss"] = measure_state_loss(supervisor, silence)
    _print_delays(figures)
    figures["limits"] = {"as shipped": measure_limits(args.hz), "with the workspace": measure_limits(args.hz, True)}
    _print_limits(figures["limits"])
    figures["seams"] = measure_seams()
    _print_seams(figures["seams"])
    return figures


@contextmanager
def session(hz: float, silence: Path, *, busy: bool) -> Iterator[Supervisor]:
    """Real processes that run, three cameras of 640 x 480 at 30 Hz, a chunk asked for every 100 ms."""
    robot = parts.bench_robot(silence)
    spec = RunSpec(
        robot=robot,
        open_arm="deploy.bench_loop_parts:open_motor",
        open_backend="deploy.bench_loop_parts:open_policy",
        backend_options={"busy": busy},
        settings=LoopSettings(tick_hz=hz, interpolation="cubic", handover="blend", execute_steps=EXECUTE_STEPS),
        frame_size=FRAME,
    )
    stopping = threading.Event()
    with Supervisor(spec) as supervisor:
        supervisor.wait_until_ready()
        pictures = [
            threading.Thread(target=_film, args=(supervisor, role, stopping), daemon=True) for role in robot.cameras
        ]
        for thread in pictures:
            thread.start()
        try:
            yield supervisor
        finally:
            stopping.set()
            for thread in pictures:
                thread.join()


def measure_lateness(supervisor: Supervisor, hz: float, seconds: float) -> dict[str, dict[str, Lateness]]:
    """Of the control process and of a bare loop at the same time: with FIFO scheduling where allowed, and without.

    Priority -> {"control", "bare"}. Without it both processes are put back among the others.
    """
    context = multiprocessing.get_context("spawn")
    beats = Ring.create(parts.BARE, 1024)
    closing = context.Event()
    bare = context.Process(target=parts.run_bare_loop, args=(hz, beats.spec, closing), name="rdt bare loop")
    bare.start()
    ticks = supervisor.ring("ticks")
    control_id, bare_id = supervisor.process_id("control"), bare.pid
    assert control_id is not None and bare_id is not None
    found = {}
    try:
        _run(supervisor)
        _wait_for(lambda: beats.newest() is not None)
        if os.sched_getscheduler(control_id) == os.SCHED_FIFO:
            found["FIFO"] = _lateness_of({"control": ticks, "bare": beats}, seconds)
        for process_id in (control_id, bare_id):
            os.sched_setscheduler(process_id, os.SCHED_OTHER, os.sched_param(0))
        found["without FIFO"] = _lateness_of({"control": ticks, "bare": beats}, seconds)
        if "FIFO" in found:
            os.sched_setscheduler(control_id, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    finally:
        closing.set()
        bare.join()
        ticks.close()
        beats.close()
    return found


def measure_overhead(supervisor: Supervisor, seconds: float) -> dict[str, float]:
    """From the tick that asks for a chunk to the tick that carries it, with a policy that answers at once."""
    _run(supervisor)
    rings = {name: supervisor.ring(name) for name in ("requests", "answers", "ticks")}
    seen = _gather(rings, seconds)
    for ring in rings.values():
        ring.close()
    asked = {record.number: int(record.value["stamp_ns"]) for record in seen["requests"]}
    stamps = np.array([int(record.value["stamp_ns"]) for record in seen["ticks"]])
    delays = []
    for answer in (record.value for record in seen["answers"]):
        carried = int(np.searchsorted(stamps, int(answer["stamp_ns"]), side="right"))
        if int(answer["request"]) in asked and carried < len(stamps):
            delays.append((stamps[carried] - asked[int(answer["request"])]) * 1e-6)
    p50, p99 = np.percentile(delays, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "chunks": len(delays)}


def measure_stops(supervisor: Supervisor) -> dict[str, float]:
    """The worst of several emergency stops in motion: until the arms brake, in ticks and ms, and until they stand."""
    worst = {"ticks": 0, "to_braking": 0.0, "to_stand": 0.0}
    for _ in range(NUM_STOPS):
        _run(supervisor)
        ticks = supervisor.ring("ticks")
        ordered = now_ns()
        supervisor.estop()
        _wait_for(lambda: supervisor.status()["mode"] == "fault")
        time.sleep(0.4)
        rows = [record.value for record in ticks.new() if record.value["stamp_ns"] >= ordered]
        ticks.close()
        stopped = stop_of(rows, ordered)
        worst = {name: max(worst[name], stopped[name]) for name in worst}
        supervisor.reset()
        _wait_for(lambda: supervisor.status()["mode"] == "hold")
    return worst


def stop_of(rows: list[np.ndarray], ordered_ns: int) -> dict[str, float]:
    """What ticks since an order say: ticks up to the one that obeys, ms until then, ms until the arms stand."""
    modes = [text(row["mode"]) for row in rows]
    first = modes.index("fault")
    moved = np.abs(np.diff([row["measured"] for row in rows], axis=0)).max(axis=1) > 1e-9  # told at k, there at k + 1
    last = int(np.flatnonzero(moved).max(initial=0))
    return {
        "ticks": first + 1,
        "to_braking": (int(rows[first]["stamp_ns"]) - ordered_ns) * 1e-6,
        "to_stand": (int(rows[last]["stamp_ns"]) - ordered_ns) * 1e-6,
    }


def measure_state_loss(supervisor: Supervisor, silence: Path) -> dict[str, float]:
    """From the last joint state to the tick that holds."""
    _run(supervisor)
    ticks, states = supervisor.ring("ticks"), supervisor.ring("states")
    silence.touch()
    time.sleep(0.8)
    last = states.newest()
    assert last is not None
    lost = int(last.value["stamp_ns"])
    rows = [record.value for record in ticks.new()]
    held = next(int(row["stamp_ns"]) for row in rows if row["stamp_ns"] > lost and not row["commanded"])
    ticks.close()
    states.close()
    silence.unlink()
    return {"to_hold": (held - lost) * 1e-6}


def measure_limits(hz: float, workspace: bool = False) -> dict[str, float] | None:
    """CPU time of this process for one command of 14 entries through all limits; None where Pinocchio is missing."""
    if workspace and importlib.util.find_spec("pinocchio") is None:
        return None
    now = 0
    silence = Path("/nonexistent")
    robot = parts.bench_robot(silence)
    robot = parts.with_kinematics(robot) if workspace else robot
    arms = {s: parts.ObedientMotor(parts.RAISED[robot.arm_slice(s)], silence, lambda: now) for s in robot.arms}
    body = Bimanual(robot, arms, rate_hz=hz)
    costs = []
    for k in range(2000):
        now = round(k * 1e9 / hz)
        goal = parts.RAISED + parts.wave(np.array(k / hz)) * (np.arange(14) % 7 < 6)
        started = time.thread_time_ns()
        changes = body.command(goal, now + round(1e9 / hz))
        costs.append((time.thread_time_ns() - started) * 1e-6)
        assert not changes, changes
    p50, p99 = np.percentile(costs, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def measure_seams() -> list[dict[str, Any]]:
    """Largest jumps of velocity (rad/s) and acceleration (rad/s^2) at hand-overs, in lockstep, before the limits."""
    rows = []
    for hz, (name, (handover, jacobian)), latency_ms in itertools.product(RATES_HZ, HANDOVERS.items(), LATENCIES_MS):
        execute = 1 if handover == "ensemble" else 12  # an ensemble speaks about every step
        settings = LoopSettings(handover=handover, execute_steps=execute)  # type: ignore[arg-type]
        run = rehearse(TwoWays(robot_at(hz), jacobian), latency_ms, settings)  # type: ignore[arg-type]
        jump = run.seam()
        rows.append(
            {
                "hz": hz,
                "handover": name,
                "latency_ms": latency_ms,
                "velocity": jump.velocity,
                "acceleration": jump.acceleration,
                "gaps": run.loop.counters.exhausted,
            }
        )
    return rows


def lateness(late_ns: np.ndarray, missed: np.ndarray) -> Lateness:
    """Of the ticks in the order they came; `missed` counts up."""
    p50, p99 = np.percentile(late_ns, [50, 99]) * 1e-6
    return Lateness(float(p50), float(p99), float(late_ns.max() * 1e-6), int(missed[-1] - missed[0]))


def _lateness_of(rings: dict[str, Ring], seconds: float) -> dict[str, Lateness]:
    seen = _gather(rings, seconds)
    return {
        name: lateness(
            np.array([int(record.value["lateness_ns"]) for record in records]),
            np.array([int(record.value["missed"]) for record in records]),
        )
        for name, records in seen.items()
    }


def _gather(rings: dict[str, Ring], seconds: float) -> dict[str, list]:
    """All that is written from now on for so long, read before the rings go round."""
    for ring in rings.values():
        list(ring.new())
    seen: dict[str, list] = {name: [] for name in rings}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
        for name, ring in rings.items():
            seen[name] += ring.new()
    return seen


def _film(supervisor: Supervisor, role: str, stopping: threading.Event) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    while not stopping.wait(1 / CAMERA_HZ):
        supervisor.push_frame(CameraFrame(role, picture, now_ns()))


def _run(supervisor: Supervisor) -> None:
    """Start, and let the motion come about."""
    supervisor.start()
    _wait_for(lambda: supervisor.status()["mode"] == "run" and max(supervisor.status()["measured"]) > 0.02)
    time.sleep(0.4)


def _wait_for(what: Callable[[], bool], patience_s: float = 30.0) -> None:
    until = time.monotonic() + patience_s
    while not what():
        if time.monotonic() > until:
            raise RuntimeError("the control process did not come to what was to be measured")
        time.sleep(0.02)


def _print_lateness(found: dict[str, dict[str, Lateness]]) -> None:
    print("lateness of a tick, in ms, beside a policy process that computes all the time")
    print(f"{'':30s}{'p50':>8s}{'p99':>8s}{'max':>8s}{'lost':>6s}   target")
    for priority, loops in found.items():
        for name, row in loops.items():
            target = ""
            if name == "control":
                bound = 1.0 if priority == "FIFO" else 1.3 * loops["bare"].p99
                target = f"p99 <= {bound:.2f}: {_verdict(row.p99 <= bound)}, none lost: {_verdict(row.lost == 0)}"
            print(
                f"  {name + ', ' + priority:28s}{row.p50:8.2f}{row.p99:8.2f}{row.largest:8.2f}{row.lost:6d}   {target}"
            )
    if "FIFO" not in found:
        print("  FIFO scheduling was refused: `rdt doctor` and docs/realtime.md say how to allow it")


def _print_delays(figures: dict[str, Any]) -> None:
    over, stop, loss = figures["overhead"], figures["emergency_stop"], figures["state_loss"]
    rows = [
        ("request to command, no forward pass, p50", over["p50"], "ms", over["p50"] <= 10, "<= 10 ms"),
        ("request to command, no forward pass, p99", over["p99"], "ms", over["p99"] <= 25, "<= 25 ms"),
        ("emergency stop to braking", stop["ticks"], "ticks", stop["ticks"] <= 2, "<= 2 ticks"),
        ("emergency stop to braking", stop["to_braking"], "ms", None, ""),
        ("emergency stop to a stand", stop["to_stand"], "ms", None, "the joints' own deceleration"),
        ("last joint state to hold", loss["to_hold"], "ms", loss["to_hold"] <= 110, "<= 110 ms"),
    ]
    print(f"\ndelays, three cameras of 640 x 480 ({over['chunks']} chunks, the worst of {NUM_STOPS} stops)")
    for name, value, unit, met, target in rows:
        print(f"  {name:44s}{value:8.1f} {unit:6s} {target}{'' if met is None else ': ' + _verdict(met)}")


def _print_limits(found: dict[str, dict[str, float] | None]) -> None:
    print("\nlimits on one command, 14 entries, CPU time in ms")
    for name, row in found.items():
        if row is None:
            print(f"  {name:28s}not measured: pip install 'rdt-stack[workspace]'")
        else:
            told = f"p99 <= 0.2: {_verdict(row['p99'] <= 0.2)}"
            print(f"  {name:28s}{row['p50']:8.3f}{row['p99']:8.3f}   {told}")


def _print_seams(rows: list[dict[str, Any]]) -> None:
    print("\nlargest jump at a hand-over before the limits, rad/s (rad/s^2), by latency; a toy with two ways")
    print(f"{'':24s}" + "".join(f"{latency:>14d} ms" for latency in LATENCIES_MS))
    for (hz, name), group in itertools.groupby(rows, key=lambda row: (row["hz"], row["handover"])):
        cells = (f"{row['velocity']:.2f} ({row['acceleration']:.0f})" for row in group)
        print(f"  {hz:.0f} Hz {name:16s}" + "".join(f"{cell:>17s}" for cell in cells))
    gaps = sum(row["gaps"] for row in rows)
    print(f"  plans that ended before the next one came: {gaps} (target 0): {_verdict(gaps == 0)}")


def _verdict(met: bool) -> str:
    return "met" if met else "NOT MET"
