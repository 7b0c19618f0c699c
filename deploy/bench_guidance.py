"""`rdt bench guidance`: how exactly each method samples mu(x) e^(beta E(x)) in two dimensions (spec alignment.md 9.1).

Truth is a closed form (8gaussians) or a resampled pool (the others). In every table stand the floor, which is the
distance of two sets of exact samples, and where it is known the oracle, the exact score in the same sampler: what a
learnt method loses beyond them is its own. 5 numbers a row:

    SW2       sliced 2-Wasserstein distance to exact samples, mean over 3 draws, with the floor beside it
    mode tv   total variation of the modes' masses; stray: farther than 5 deviations from every mode
    error     E |grad f - grad E_t|^2 / E |grad E_t|^2 of the guidance, by t
    cost      network evaluations (g: with a gradient) and time a sample; training in seconds of a core
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_pipeline.schema.registry import unknown_name
from deploy.guidance_methods import METHODS, QUICK, Effort, Lab, Learned, oracle
from deploy.guidance_srpo import bench_srpo
from rdt.alignment.toy import TOY_SETS, ToyProblem, guidance_error, sliced_wasserstein, toy_problem

BETAS = (0.0, 3.0, 10.0, 20.0)
ERROR_TIMES = (0.05, 0.2, 0.5, 0.8)
DRAWS = 3  # of which a distance is the mean
MODE_TV_TARGET, SW_TARGET = 0.02, 0.05  # above the floor
SRPO = "srpo"
UNGUIDED = ("cep", "eda")  # methods with a row at beta 0: their behaviour alone


@dataclass(frozen=True)
class Row:
    """One method at one temperature, one seed."""

    set: str
    method: str
    beta: float
    seed: int
    evaluations: str
    microseconds: float  # a sample
    sliced_wasserstein: float
    floor: float
    mode_tv: float | None
    stray: float | None
    guidance_error: dict[str, float] | None  # by t
    train_seconds: float
    train_cpu_seconds: float


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Print the tables, write the picture; returns all rows."""
    sets = _chosen("set", args.sets, TOY_SETS)
    methods = _chosen("method", args.methods, [*METHODS, SRPO])
    effort = QUICK if args.quick else Effort()
    if args.samples:
        effort = replace(effort, samples=args.samples)
    rows: list[Row] = []
    clouds: dict[str, dict[tuple[str, float], torch.Tensor]] = {}
    for name in sets if methods != [SRPO] else ():
        problem = toy_problem(name, effort.pool)
        for seed in range(args.seeds):
            lab = Lab(problem, effort, seed)
            rows += _compare(lab, [method for method in methods if method != SRPO], clouds.setdefault(name, {}))
    figures: dict[str, Any] = {"effort": asdict(effort), "rows": [asdict(row) for row in rows]}
    if SRPO in methods:
        figures["srpo"] = [bench_srpo(effort, seed) for seed in range(args.seeds)]
    if clouds and args.out:
        _draw(clouds, Path(args.out))
    return figures


def _compare(lab: Lab, methods: Sequence[str], clouds: dict[tuple[str, float], torch.Tensor]) -> list[Row]:
    """Train and judge all of them, each row printed when it is known; a few samples of each go into `clouds`."""
    _print_head(lab)
    rows = []
    for beta in BETAS:
        clouds.setdefault(("truth", beta), lab.problem.truth(beta, 2000, torch.Generator().manual_seed(77)))
        makers = {"oracle": oracle}
        for method in methods:
            if beta > 0 or method in UNGUIDED:
                makers |= METHODS[method]
        for label, make in makers.items():
            learned = make(lab, beta)
            if learned is not None:
                row, x = _judge(lab, label, beta, learned)
                _print_row(row)
                rows.append(row)
                clouds.setdefault((label, beta), x[:2000])
    return rows


def _judge(lab: Lab, label: str, beta: float, learned: Learned) -> tuple[Row, torch.Tensor]:
    problem, n = lab.problem, learned.num_samples or lab.effort.samples
    apart, floor, seconds = 0.0, 0.0, 0.0
    masses: list[float] = []
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(1000 * (lab.seed + 1) + draw)
        started = time.perf_counter()
        x = learned.draw(n, generator)
        seconds += time.perf_counter() - started
        truth = problem.truth(beta, n, generator)
        apart += sliced_wasserstein(x, truth) / DRAWS
        floor += sliced_wasserstein(problem.again(beta, n, generator), truth) / DRAWS
        if problem.mixture is not None:
            masses.append(problem.mixture.tilted(beta).mode_tv(x))
    row = Row(
        set=problem.name,
        method=label,
        beta=beta,
        seed=lab.seed,
        evaluations=learned.evaluations,
        microseconds=learned.microseconds + 1e6 * seconds / (DRAWS * n),
        sliced_wasserstein=apart,
        floor=floor,
        mode_tv=sum(masses) / DRAWS if masses else None,
        stray=problem.mixture.stray(x) if problem.mixture is not None else None,
        guidance_error=_errors(problem, beta, learned, lab.effort.samples // 4),
        train_seconds=sum(network.seconds for network in learned.networks),
        train_cpu_seconds=sum(network.cpu_seconds for network in learned.networks),
    )
    return row, x


def _errors(problem: ToyProblem, beta: float, learned: Learned, n: int) -> dict[str, float] | None:
    mixture = problem.mixture
    if mixture is None or learned.energy is None:
        return None
    exact, generator = mixture.energy(beta), torch.Generator().manual_seed(5)
    return {f"{t:g}": guidance_error(learned.energy, exact, mixture, t, n, generator) for t in ERROR_TIMES}


def _print_head(lab: Lab) -> None:
    times = " ".join(f"t={t:<5g}" for t in ERROR_TIMES)
    print(f"\n{lab.problem.name}, seed {lab.seed}")
    print(f"{'method':32s} beta   SW2  (floor)  mode tv   stray  evaluations  us/sample  train s  error at {times}")


def _print_row(row: Row) -> None:
    masses = f"{row.mode_tv:8.4f} {row.stray:7.4f}" if row.mode_tv is not None else f"{'':16s}"
    errors = " ".join(f"{error:7.3f}" for error in (row.guidance_error or {}).values())
    print(
        f"{row.method:32s} {row.beta:4g} {row.sliced_wasserstein:6.3f} ({row.floor:.3f}) {masses}  "
        f"{row.evaluations:12s} {row.microseconds:8.1f} {row.train_cpu_seconds:8.0f}  {errors} {_verdict(row)}"
    )


def _verdict(row: Row) -> str:
    """Whether the row meets the targets, where there are any for it."""
    if row.mode_tv is None or not row.method.startswith(("CEP", "EDA")):
        return ""
    met = row.mode_tv <= MODE_TV_TARGET and row.sliced_wasserstein <= row.floor + SW_TARGET
    return "met" if met else "not met"


def _draw(clouds: dict[str, dict[tuple[str, float], torch.Tensor]], folder: Path) -> None:
    from deploy.plots import point_panels

    folder.mkdir(parents=True, exist_ok=True)
    for name, found in clouds.items():
        labels = [label for label in dict.fromkeys(label for label, _ in found) if "SfBC" not in label]
        columns = [f"beta {beta:g}" for beta in BETAS]
        panels = [[found.get((label, beta)) for beta in BETAS] for label in labels]
        arrays = [[None if x is None else x.numpy() for x in row] for row in panels]
        path = folder / f"guidance_{name}.png"
        path.write_bytes(point_panels(labels, columns, arrays, limit=4.5))
        print(f"picture: {path}")


def _chosen(what: str, text: str | None, known: Any) -> list[str]:
    """Names between commas; all of them where none is given."""
    names = list(known) if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(what, name, known))
    return names
