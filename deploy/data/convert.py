"""`rdt data convert`: recordings named by dataset YAMLs -> native stores, one a dataset."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from data_pipeline.atomic import write_json
from data_pipeline.conversion import FOLDER, ConversionReport, convert
from data_pipeline.mapping.mapping import Mapping
from data_pipeline.recordings import MappedRecordings
from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import SLOT_NAMES
from data_pipeline.schema.registry import configs_dir, find_config
from data_pipeline.shards import Profile
from data_pipeline.sources.raw import Fault
from data_pipeline.workers import num_workers
from deploy.data.progress import progress_bar

REPORT = "report.json"
"""Beside the plan of a conversion: all faults, for a program."""


def command(args: argparse.Namespace) -> None:
    profile = Profile(long_side_px=args.long_side, jpeg_quality=args.jpeg_quality)
    overrides = {"compat": args.compat} if args.compat else None
    # everything is opened before anything is converted: a typo in the last name costs no night
    opened = [MappedRecordings(find_config("datasets", name), args.root, overrides) for name in args.configs]
    names = [recordings.mapping.name for recordings in opened]
    if len(set(names)) < len(names):
        raise ValueError(f"two of the dataset YAMLs have one name: {', '.join(names)}")
    robots = [choose_robot(args.robot, recordings.mapping) for recordings in opened]
    for recordings, robot in zip(opened, robots, strict=True):
        name = recordings.mapping.name
        out = Path(args.out) / name if len(opened) > 1 else Path(args.out)
        with progress_bar(name) as progress:
            report = convert(
                recordings,
                out,
                robot,
                robot_type=recordings.mapping.robot,
                profile=profile,
                workers=args.workers or num_workers(),
                engine=args.engine,
                job=args.job,
                max_shards=args.max_shards,
                max_quarantine=args.max_quarantine,
                progress=progress,
            )
        print(summary(name, out, report))
        if report.joined:
            lists = {"skipped": report.skipped, "quarantined": report.quarantined, "noted": report.noted}
            faults = {key: [asdict(fault) for fault in found] for key, found in lists.items()}
            counts = {"episodes": report.num_episodes, "steps": report.num_steps, "shards": report.num_shards}
            write_json(out / FOLDER / REPORT, {**counts, **faults})
    if args.job is not None:
        print("when all jobs are done, the same command without --job joins their shares")
    else:
        print(f"next: rdt data validate {args.out}; rdt data view {out}")


def choose_robot(given: str | None, mapping: Mapping) -> Embodiment | None:
    """The description of the robot that the vectors can be turned back into; None where there is none.

    The one given, else the shipped one of the name that the dataset's YAML says. Raises `ValueError` for a given one
    that has other slots than the dataset fills.
    """
    name = given or mapping.robot
    if given is None and not (configs_dir() / "robots" / f"{name}.yaml").is_file():
        return None
    robot = Embodiment.from_yaml(find_config("robots", name))
    filled = {slot for rules in (mapping.rules_of_state(), mapping.base_rules) for slot in rules.slots()}
    if filled == set(robot.slots):
        return robot
    if given is None:
        return None
    beyond, lacking = _named(set(robot.slots) - filled) or "no slots", _named(filled - set(robot.slots)) or "none"
    raise ValueError(
        f"robot {robot.name!r} has {beyond} that dataset {mapping.name!r} does not fill, and lacks {lacking}: name the "
        "robot that recorded it, or leave --robot out (the store then keeps unified vectors alone)"
    )


def _named(slots: set[int]) -> str:
    return ", ".join(SLOT_NAMES[slot] for slot in sorted(slots))


def summary(name: str, out: Path, report: ConversionReport) -> str:
    """What became of every shard; of each kind of fault the first, in full."""
    before = f", {report.num_shards_before} done before" if report.num_shards_before else ""
    lines = [
        f"{name}: {report.num_episodes} episodes, {report.num_steps} steps from {report.num_shards} shards{before} "
        f"-> {out}"
    ]
    for title, faults in (
        ("not wanted", report.skipped),
        ("left out", report.quarantined),
        ("kept, with a remark", report.noted),
    ):
        kinds: dict[str, list[Fault]] = {}
        for fault in faults:
            kinds.setdefault(fault.kind, []).append(fault)
        lines += [f"  {title}: {len(of)} x {kind}, first {of[0].where}: {of[0].message}" for kind, of in kinds.items()]
    return "\n".join(lines)
