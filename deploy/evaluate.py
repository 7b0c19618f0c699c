"""`rdt eval`: closed loop in the embedded simulator, on scenes and phrasings that training never saw.

Every task of an environment is asked for in the phrasings of training, then in held-out ones, from the same
scenes; the control says nothing about which task is meant. Success is strict (`robot_drivers/sim/tasks.py`) and
stands beside the benchmark's own reward.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data_pipeline.atomic import check_writable, remove_leftovers, write_json
from data_pipeline.schema.types import Observation
from data_pipeline.workers import num_workers, run_ordered
from deploy.action_buffer import Handover
from deploy.device import choose_device
from deploy.doctor import require, versions
from deploy.engine import InferenceEngine
from deploy.intervals import paired_difference_interval, wilson_interval
from deploy.loop import LoopSettings
from deploy.realtime.spec import default_settings
from deploy.rollout import Outcome, Trial, run_trials
from deploy.video import find_ffmpeg
from rdt.alignment.state_policy import is_state_policy
from rdt.diffusion.guidance import Jacobian
from rdt.diffusion.solver import DEFAULT_SAMPLER
from rdt.train.checkpoint import load_checkpoint
from robot_drivers.sim.render import settle_backend
from robot_drivers.sim.scene import CONTROL_HZ, load_scene
from robot_drivers.sim.tasks import (
    CONTROL_INSTRUCTION,
    ENVIRONMENTS,
    EVALUATION_SEED,
    SEEDS_PER_RUN,
    TASKS,
    Environment,
    lookup,
)

LOCKSTEP = 25
"""Robots side by side in one worker: enough to share a pass of the network, few enough to show progress."""

VIDEOS_PER_TASK = 2


@dataclass(frozen=True)
class Settings:
    """What to evaluate."""

    environment: str
    episodes: int  # of each task, in each kind of phrasing
    seed: int
    device: str = "auto"
    sampler: str = DEFAULT_SAMPLER
    sampling_steps: int | None = None  # None: those of the checkpoint
    handover: Handover = "switch"  # from plan to plan
    latency_ms: int = 0  # from an observation to its chunk, in simulated time
    jacobian: Jacobian = "network"  # of the guidance by which "rtc" samples


@dataclass(frozen=True)
class _Job:
    checkpoint: Path
    settings: Settings
    trials: tuple[Trial, ...]


def command(args: argparse.Namespace) -> None:
    if is_state_policy(args.checkpoint):
        from deploy.evaluate_states import command as evaluate_states

        return evaluate_states(args)
    settings = Settings(
        args.env,
        args.episodes,
        args.seed,
        args.device,
        args.sampler,
        args.sampling_steps,
        args.handover,
        args.latency_ms,
        args.jacobian,
    )
    out = Path(args.out)
    if (out / "report.json").exists():
        raise ValueError(f"{out} holds a report already: give another --out")
    report = evaluate(Path(args.checkpoint), settings, out)
    write_json(out / "report.json", report)
    print(summary(report))
    print(f"\n{out / 'report.json'}, videos in {out / 'rollouts'}")


def evaluate(checkpoint: Path, settings: Settings, out: Path, workers: int | None = None) -> dict[str, Any]:
    """Run every episode, write the videos to `out/rollouts`, and return what `report.json` holds."""
    started = time.perf_counter()
    environment = lookup(ENVIRONMENTS, settings.environment)
    # what is missing fails here at once, not in a worker or after the last episode
    engine = _engine(checkpoint, settings)
    require("evaluation", {"scipy": "scipy"})
    find_ffmpeg()
    for task in environment.tasks:
        load_scene(TASKS[task].scene)
    renderer = settle_backend()
    check_writable(out)
    remove_leftovers(out / "rollouts")
    trials = make_trials(environment, settings, out / "rollouts")
    first = _Job(checkpoint, settings, ())
    (_, latency), *_ = run_ordered(_measure_latency, [first], 1)  # as the episodes run: one thread, nothing beside it
    outcomes = run_in_workers(checkpoint, settings, trials, workers)
    trained = [o for o in outcomes if o.trial.phrasing == "trained"]
    return {
        **_rates(trained),
        "tasks": {task: _task_report(task, outcomes) for task in environment.tasks},
        "control": _control_report(environment, outcomes),
        "environment": settings.environment,
        "episodes": settings.episodes,
        "seed": settings.seed,
        "sampler": settings.sampler,
        "sampling_steps": settings.sampling_steps or engine.policy.config.num_inference_timesteps,
        "handover": settings.handover,
        "latency_ms": settings.latency_ms,
        "jacobian": settings.jacobian if settings.handover == "rtc" else None,
        "faults": sum(o.fault is not None for o in outcomes),
        "wall_seconds": round(time.perf_counter() - started, 3),
        "train_seconds": None,
        "action_latency_ms": latency,
        "parameters": sum(parameter.numel() for parameter in engine.model.parameters()),
        "checkpoint": str(checkpoint),
        "renderer": renderer,
        "versions": versions(),
    }


def run_in_workers(
    checkpoint: Path, settings: Settings, trials: Sequence[Trial], workers: int | None = None, title: str = "evaluate"
) -> list[Outcome]:
    """Run trials in as many worker processes as there are cores, or in `workers`, under a progress line."""
    jobs = [_Job(checkpoint, settings, tuple(trials[i : i + LOCKSTEP])) for i in range(0, len(trials), LOCKSTEP)]
    outcomes: list[Outcome] = []
    with tqdm(total=len(trials), desc=title, unit="episode", dynamic_ncols=True, leave=None) as bar:
        for job, results in run_ordered(_run_job, jobs, min(workers or num_workers(), len(jobs))):
            outcomes.extend(results)
            bar.update(len(job.trials))
    return outcomes


def make_trials(environment: Environment, settings: Settings, videos: Path) -> list[Trial]:
    """The same scenes for every task and phrasing; phrasings in turn; videos of the first scenes."""
    seeds = [EVALUATION_SEED + settings.seed * SEEDS_PER_RUN + i for i in range(settings.episodes)]
    trials = []
    for name in environment.tasks:
        task = TASKS[name]
        for phrasing, sentences in (("trained", task.instructions), ("held_out", task.held_out_instructions)):
            for i, seed in enumerate(seeds):
                video = videos if phrasing == "trained" and i < VIDEOS_PER_TASK else None
                sentence = sentences[i % len(sentences)]
                trials.append(Trial(environment.name, name, sentence, phrasing, seed, video))
    if len(environment.tasks) > 1 and len({TASKS[name].scene for name in environment.tasks}) == 1:
        first = environment.tasks[0]
        trials += [Trial(environment.name, first, CONTROL_INSTRUCTION, "control", seed) for seed in seeds]
    return trials


def _measure_latency(job: _Job, calls: int = 100) -> dict[str, float]:
    """Milliseconds from one observation to its chunk, batch 1; ten calls before that are not counted."""
    engine = _engine(job.checkpoint, job.settings)
    observation = _blank_observation(engine)
    times = []
    for _ in range(10 + calls):
        started = time.perf_counter()
        engine.predict(observation)
        times.append(1e3 * (time.perf_counter() - started))
    p50, p99 = np.percentile(times[10:], [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def summary(report: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = []
    for name, task in report["tasks"].items():
        unseen = task["held_out_phrasings"]
        for label, cell in (("", task), (" (unseen words)", unseen)):
            low, high = cell["success_interval_95"]
            lines.append(
                f"{name + label:42s} strict {cell['success_rate']:6.1%} [{low:.1%}, {high:.1%}]   "
                f"benchmark {cell['benchmark_success_rate']:6.1%}   other task {_percent(cell['wrong_task_rate'])}"
            )
        low, high = unseen["difference_interval_95"]
        lines.append(f"{'  unseen - trained words, same scenes':42s} {100 * low:+.1f} to {100 * high:+.1f} points")
    if report["control"]:
        did = ", ".join(f"{name} {rate:.1%}" for name, rate in report["control"]["did"].items())
        lines.append(f"control {report['control']['instruction']!r}: {did}")
    latency = report["action_latency_ms"]
    lines.append(f"one inference: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms")
    return "\n".join(lines)


def _run_job(job: _Job) -> list[Outcome]:
    engine = _engine(job.checkpoint, job.settings)
    torch.manual_seed(job.trials[0].seed)  # for samplers that draw fresh noise in each step
    handover = job.settings.handover
    loop = replace(
        default_settings(engine.robot),  # as `rdt run` has them
        cameras=engine.cameras,
        history=engine.image_history,
        handover=handover,
        execute_steps=1 if handover == "ensemble" else LoopSettings.execute_steps,  # it averages a chunk a step
    )
    return run_trials(engine, job.trials, loop, round(job.settings.latency_ms * 1e-3 * CONTROL_HZ))


@functools.lru_cache(maxsize=1)
def _engine(checkpoint: Path, settings: Settings) -> InferenceEngine:
    device = choose_device(settings.device)
    loaded = load_checkpoint(checkpoint, device)
    loaded.model.policy.set_sampler(settings.sampler, settings.sampling_steps)
    guided = settings.handover == "rtc"
    return InferenceEngine(loaded, device, settings.seed, guided=guided, jacobian=settings.jacobian)


def _rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    successes, benchmark = sum(o.success for o in outcomes), sum(o.benchmark_success for o in outcomes)
    return {
        "success_rate": successes / len(outcomes),
        "success_interval_95": list(wilson_interval(successes, len(outcomes))),
        "benchmark_success_rate": benchmark / len(outcomes),
    }


def _cell(task: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    others = any(name != task for o in outcomes for name in ENVIRONMENTS[o.trial.environment].tasks)
    wrong = sum(any(name != task for name in o.did) for o in outcomes)
    return {
        **_rates(outcomes),
        "wrong_task_rate": wrong / len(outcomes) if others else None,
        "episodes": len(outcomes),
        "instructions": list(dict.fromkeys(o.trial.instruction for o in outcomes)),
    }


def _task_report(task: str, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    own = [o for o in outcomes if o.trial.task == task]
    trained, held_out = ([o for o in own if o.trial.phrasing == phrasing] for phrasing in ("trained", "held_out"))
    first_arm = TASKS[task].first_arm
    return {
        **_cell(task, trained),
        "first_touch_rate": sum(o.first_touch == first_arm for o in trained) / len(trained) if first_arm else None,
        "held_out_phrasings": {
            **_cell(task, held_out),
            "difference_interval_95": list(
                paired_difference_interval([o.success for o in trained], [o.success for o in held_out])
            ),
        },
    }


def _control_report(environment: Environment, outcomes: Iterable[Outcome]) -> dict[str, Any] | None:
    control = [o for o in outcomes if o.trial.phrasing == "control"]
    if not control:
        return None
    return {
        "instruction": CONTROL_INSTRUCTION,
        "episodes": len(control),
        "did": {name: sum(name in o.did for o in control) / len(control) for name in environment.tasks},
    }


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"


def _blank_observation(engine: InferenceEngine) -> Observation:
    """An observation of the right shapes: grey pictures and a robot at zero."""
    robot, size = engine.robot, engine.model.condition.vision.image_size
    state, mask = robot.to_unified(np.zeros(robot.num_native))
    return Observation(
        state=state,
        state_mask=mask,
        images={role: np.full((1, size, size, 3), 127, np.uint8) for role in engine.cameras},
        image_masks={role: np.array([True]) for role in engine.cameras},
        instruction=CONTROL_INSTRUCTION,
        control_hz=robot.rate_hz,
        stamp_ns=0,
    )
