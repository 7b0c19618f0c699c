"""`rdt rl`: experts of Gymnasium tasks by Tianshou's algorithms, and the data that they make.

    RUN/rl.yaml                        the resolved config
    RUN/curve.json, curve.png          returns of the deterministic policy over the steps of training
    RUN/actors/step_0050000.safetensors   who acted then: `rdt.alignment.actors.load_actor` needs torch alone
    FILE.hdf5                          of `rdt rl collect`: D4RL's layout, for `data_pipeline.sources.transitions`

A run is not resumed: begun again, it starts from its first step. Files are whole or not there.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from tqdm import tqdm

from data_pipeline.atomic import check_writable, read_json, write_bytes, write_json, write_text
from data_pipeline.schema.registry import find_config, read_yaml
from data_pipeline.schema.types import Transition
from data_pipeline.sources.transitions import joined, write_d4rl
from deploy.doctor import require
from deploy.plots import Line, lines
from deploy.rl_table import table
from rdt.alignment.actors import load_actor, run_episodes, save_actor, transition_of, uniform
from rdt.alignment.rl_config import RLConfig
from rdt.train.config import config_as, differences, plain_config

if TYPE_CHECKING:  # importing it takes seconds
    from rdt.alignment.tianshou_bridge import Evaluation

CONFIG_FILE, CURVE_FILE, ACTORS = "rl.yaml", "curve.json", "actors"
COLLECTION_SEED = 2_000_000
"""First seed of collected episodes, apart from those of training and of evaluations."""


def command(args: argparse.Namespace) -> None:
    {"train": _train_command, "collect": _collect_command, "table": _table_command}[args.rl_command](args)


def load_rl(path: str | Path, overrides: Sequence[str] = ()) -> RLConfig:
    """Read a YAML file and apply `--a.b value` overrides. Raises `ValueError` that names the file and the key."""
    return config_as(RLConfig, read_yaml(path), overrides, where=str(path))


def train(config: RLConfig) -> Path:
    """Run it, unless it is done; returns the folder. Raises `ValueError` where that holds another run."""
    require("reinforcement learning", {"tianshou": "tianshou", "gymnasium": "gymnasium", "mujoco": "mujoco"}, "rl")
    import gymnasium

    from rdt.alignment.tianshou_bridge import training

    out = Path(config.folder)
    check_writable(out)
    if _is_done(config, out):
        print(f"{out} is done: {CURVE_FILE} has all of its {config.steps} steps")
        return out
    rows: list[dict[str, Any]] = []
    with tqdm(total=config.steps, desc=f"{config.algorithm} {config.task}", unit="step", smoothing=0.05) as bar:

        def watch(collector: Any) -> None:
            collector.set_on_step_hook(lambda _, rows: bar.update(len(rows)))

        for evaluation in training(config, partial(gymnasium.make, config.task), prepare=watch):
            rows.append(_row(evaluation))
            bar.set_postfix_str(f"return {rows[-1]['mean']:.1f}")
            _keep(config, out, rows, evaluation)
    return out


def run_of(folder: str | Path) -> tuple[RLConfig, list[dict[str, Any]]]:
    """Config and curve of a run. Raises `ValueError` for a folder that holds none."""
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} holds no {CONFIG_FILE}: give a folder that `rdt rl train` has written")
    curve = read_json(folder / CURVE_FILE, "train it again")
    return load_rl(folder / CONFIG_FILE), curve["evaluations"]


def actor_files(folder: str | Path) -> dict[int, Path]:
    """The kept actors of a run by their step, in order."""
    files = sorted((Path(folder) / ACTORS).glob("step_*.safetensors"))
    return {int(path.stem.removeprefix("step_")): path for path in files}


def collect(
    folder: str | Path, at: Sequence[str], episodes: int, seed: int, noise: float = 0.0, deterministic: bool = False
) -> Transition:
    """Episodes of each of a run's actors named in `at`: steps of training, `last`, or `random` for no actor at all.

    `infos["trained_steps"]` says of each row who acted; 0 is random.
    """
    require("reinforcement learning", {"gymnasium": "gymnasium", "mujoco": "mujoco"}, "rl")
    import gymnasium

    config, _ = run_of(folder)
    chosen = [_chosen(actor_files(folder), name) for name in at]
    envs = [gymnasium.make(config.task) for _ in range(min(episodes, 10))]
    parts = []
    for index, (step, path) in enumerate(chosen):
        if path is None:
            space = envs[0].action_space
            act = uniform(space.low, space.high)  # type: ignore[attr-defined]
        else:
            actor = load_actor(path)
            act = actor.deterministic() if deterministic else actor.noisy(noise)
        first = COLLECTION_SEED + seed * 10_000 + index * episodes
        rollouts = run_episodes(act, envs, range(first, first + episodes))
        returns = [rollout.total for rollout in rollouts]
        who = f"step {step}" if path else "random"
        print(f"{who:14s} {episodes} episodes, return {np.mean(returns):.1f} +- {np.std(returns):.1f}")
        part = transition_of(rollouts, config.task)
        parts.append(replace(part, infos={"trained_steps": np.full(part.num_rows, step)}))
    for env in envs:
        env.close()
    return joined(parts, config.task)


def _train_command(args: argparse.Namespace) -> None:
    out = train(load_rl(find_config("rl", args.config), args.overrides))
    _, rows = run_of(out)
    best = max(rows, key=lambda row: row["mean"])
    print(f"return {rows[-1]['mean']:.1f} +- {rows[-1]['std']:.1f}; best {best['mean']:.1f} at step {best['steps']}")
    print(f"{out}; next: rdt rl collect {out} --out {out / 'data.hdf5'}, or rdt rl table {out.parent}")


def _collect_command(args: argparse.Namespace) -> None:
    out = Path(args.out)
    if out.exists():
        raise ValueError(f"{out} exists already: give another --out")
    check_writable(out.parent)
    transition = collect(args.run, args.at, args.episodes, args.seed, args.noise, args.deterministic)
    config, _ = run_of(args.run)
    write_d4rl(out, transition, {"task": config.task, "actors": ",".join(args.at), "episodes": args.episodes})
    print(f"{out}: {transition.num_rows} rows, {int(transition.ends().sum())} episodes")


def _table_command(args: argparse.Namespace) -> None:
    folders = sorted({path.parent for given in args.runs for path in Path(given).rglob(CONFIG_FILE)})
    if not folders:
        raise ValueError(f"no {CONFIG_FILE} under {', '.join(args.runs)}: give folders of `rdt rl train`")
    rows = table([run_of(folder) for folder in folders])
    for row in rows:
        print(row)
    if args.json:
        write_json(args.json, [plain_config(row) for row in rows])
    if args.png:
        require("a picture", {"matplotlib": "matplotlib"})
        write_bytes(args.png, lines([Line(row.label, row.steps, row.means) for row in rows], "steps", "return"))


def _is_done(config: RLConfig, out: Path) -> bool:
    """Note the resolved config; a run of the same that was interrupted is cleared away."""
    file, now = out / CONFIG_FILE, plain_config(config)
    if file.is_file():
        if changed := differences(read_yaml(file), now):
            raise ValueError(f"{out} holds a run of other settings ({', '.join(changed)}): use another out")
        if (out / CURVE_FILE).is_file() and run_of(out)[1][-1]["steps"] >= config.steps:
            return True
        print(f"{out} was interrupted: it begins again")
        shutil.rmtree(out / ACTORS, ignore_errors=True)
        (out / CURVE_FILE).unlink(missing_ok=True)
    write_text(file, yaml.safe_dump(now, sort_keys=False))
    return False


def _row(evaluation: Evaluation) -> dict[str, Any]:
    returns = evaluation.returns
    return {
        "steps": evaluation.steps,
        "updates": evaluation.updates,
        "seconds": round(evaluation.seconds, 1),
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "returns": returns.tolist(),
        "lengths": [len(rollout) for rollout in evaluation.rollouts],
        "losses": {key: value for key, value in evaluation.losses.items() if np.isfinite(value)},
    }


def _keep(config: RLConfig, out: Path, rows: list[dict[str, Any]], evaluation: Evaluation) -> None:
    """The actor where one is due, then the curve."""
    if (len(rows) - 1) % config.checkpoint_every == 0 or evaluation.steps >= config.steps:
        save_actor(evaluation.actor, out / ACTORS / f"step_{evaluation.steps:08d}.safetensors")
    heads = {"task": config.task, "algorithm": config.algorithm, "seed": config.seed}
    write_json(out / CURVE_FILE, {**heads, "evaluations": rows})
    if _can_draw():
        line = Line(config.algorithm, [row["steps"] for row in rows], [row["mean"] for row in rows])
        write_bytes(out / "curve.png", lines([line], "steps", "return"))


def _can_draw() -> bool:
    try:
        require("a picture", {"matplotlib": "matplotlib"})
    except ModuleNotFoundError:
        return False
    return True


def _chosen(files: dict[int, Path], name: str) -> tuple[int, Path | None]:
    if name == "random":
        return 0, None
    if name == "last":
        return list(files.items())[-1]
    if not name.isdecimal() or int(name) not in files:
        raise ValueError(f"no actor of step {name!r} was kept: there are {', '.join(map(str, files))}, last and random")
    return int(name), files[int(name)]
