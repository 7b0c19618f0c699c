#!/usr/bin/env python3
"""Success after a few demonstrations, from scratch and from a policy that was pre-trained on the other tasks.

    .venv/bin/python benchmarks/few_demonstrations.py [--folder runs/few] [--jobs 2]       from the repository's root

For each seed: `rdt train pretrain_sim`; then for each number of demonstrations `rdt train finetune_sim` from it and
with fresh weights, the same demonstrations and the same steps; then `rdt eval --env sim_transfer` on scenes that no
training saw. Seeds change the demonstrations, the weights, the order of the data and the scenes. Strict success in the
phrasings of training counts. What is finished is not made again, so an interrupted table goes on.

FOLDER/results.json, FOLDER/table.md and FOLDER/few_demonstrations.png are written at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_pipeline.atomic import write_bytes, write_json
from deploy.intervals import wilson_interval
from deploy.plots import Curve, rate_curves

ENVIRONMENT = "sim_transfer"
STARTS = {"from scratch": "scratch", "pre-trained on the other tasks": "pretrained"}


@dataclass(frozen=True)
class Run:
    """One fine-tuning."""

    start: str  # of STARTS
    demonstrations: int
    seed: int

    def folder(self, root: Path) -> Path:
        return root / f"{STARTS[self.start]}_{self.demonstrations}_seed{self.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="runs/few", help="of all runs; kept")
    parser.add_argument("--demonstrations", type=int, nargs="+", default=[1, 5, 20, 50], metavar="K")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="0 to N - 1")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="of each evaluation")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs side by side, one thread each")
    args = parser.parse_args()
    root, seeds = Path(args.folder), range(args.seeds)
    root.mkdir(parents=True, exist_ok=True)
    runs = [Run(start, k, seed) for seed in seeds for k in args.demonstrations for start in STARTS]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: pretrain(root, seed), seeds))
        rates = list(pool.map(lambda run: success_rate(root, run, args.episodes), runs))
    results = [{**asdict(run), "success_rate": rate} for run, rate in zip(runs, rates, strict=True)]
    write_json(root / "results.json", {"episodes": args.episodes, "runs": results})
    table = to_table(dict(zip(runs, rates, strict=True)), args.episodes)
    (root / "table.md").write_text(table, encoding="utf-8")
    print(table)
    write_bytes(root / "few_demonstrations.png", to_picture(dict(zip(runs, rates, strict=True)), args.episodes))


def pretrain(root: Path, seed: int) -> None:
    """The policy that knows the other tasks."""
    rdt("train", "pretrain_sim", *seeded(seed), "--out", pretrained(root, seed), "--resume", "auto")


def success_rate(root: Path, run: Run, episodes: int) -> float:
    """Strict success of one fine-tuning, trained and evaluated where that is not done yet."""
    out = run.folder(root)
    report = out / "eval" / "report.json"
    if not report.is_file():
        start = "null" if STARTS[run.start] == "scratch" else pretrained(root, run.seed) / "checkpoint"
        count = ("--demonstrations.per_task", str(run.demonstrations))
        rdt("train", "finetune_sim", "--start_from", start, *count, *seeded(run.seed), "--out", out, "--resume", "auto")
        where = ("--env", ENVIRONMENT, "--episodes", str(episodes), "--seed", str(run.seed))
        rdt("eval", out / "checkpoint", *where, "--out", out / "eval")
    return float(json.loads(report.read_text(encoding="utf-8"))["success_rate"])


def pretrained(root: Path, seed: int) -> Path:
    return root / f"pretrain_seed{seed}"


def seeded(seed: int) -> tuple[str, ...]:
    return ("--seed", str(seed), "--demonstrations.seed", str(seed))


def rdt(*words: str | Path) -> None:
    """Run a command of `rdt` on one thread; the terminal gets its words, and what it said only if it fails."""
    command = [str(Path(sys.executable).with_name("rdt")), *map(str, words)]
    print(" ".join(["rdt", *command[1:]]), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")


def to_table(rates: dict[Run, float], episodes: int) -> str:
    """A row a number of demonstrations: mean, Wilson's interval of all episodes together, the seeds one by one."""
    seeds = sorted({run.seed for run in rates})
    lines = [
        "| demonstrations | " + " | ".join(STARTS) + " | difference over seeds |",
        "|---" * (len(STARTS) + 2) + "|",
    ]
    for k in sorted({run.demonstrations for run in rates}):
        of = {start: np.array([rates[Run(start, k, seed)] for seed in seeds]) for start in STARTS}
        cells = [cell(of[start], episodes) for start in STARTS]
        scratch, tuned = of.values()
        lines.append(f"| {k} | {' | '.join(cells)} | {difference(tuned - scratch)} |")
    return "\n".join(lines) + "\n"


def cell(rates: np.ndarray, episodes: int) -> str:
    low, high = interval(rates, episodes)
    each = ", ".join(f"{100 * rate:.0f}" for rate in rates)
    return f"{100 * rates.mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({each})"


def interval(rates: Iterable[float], episodes: int) -> tuple[float, float]:
    """Of all episodes together; how far seeds differ stands beside it."""
    counts = [round(rate * episodes) for rate in rates]
    return wilson_interval(sum(counts), episodes * len(counts))


def difference(gains: np.ndarray) -> str:
    """Mean gain in points with Student's 95 % interval over the seeds, which share their demonstrations."""
    from scipy.stats import t

    mean = 100 * gains.mean()
    if len(gains) < 2:
        return f"{mean:+.1f}"
    half = 100 * t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return f"{mean:+.1f} ± {half:.1f} points"


def to_picture(rates: dict[Run, float], episodes: int) -> bytes:
    """Success over demonstrations, a line for each start."""
    seeds = sorted({run.seed for run in rates})
    counts = sorted({run.demonstrations for run in rates})
    curves = []
    for start in STARTS:
        of = [np.array([rates[Run(start, k, seed)] for seed in seeds]) for k in counts]
        curves.append(Curve(start, counts, [rate.mean() for rate in of], [interval(rate, episodes) for rate in of]))
    return rate_curves(curves, "demonstrations")


if __name__ == "__main__":
    main()
