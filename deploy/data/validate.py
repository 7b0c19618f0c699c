"""`rdt data validate`: what is wrong with stores, recordings and dataset YAMLs, and what to change.

Leaves with 1 when something is an error: data are lost, or a policy would learn something false.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.atomic import write_json
from data_pipeline.validate.findings import SEVERITIES, grouped
from data_pipeline.validate.validate import Report, validate
from deploy.data.validate_page import check_installed, write_page

_EXAMPLES = 2  # of each kind; --json and --html have all
_WIDTH = 110


def command(args: argparse.Namespace) -> int:
    if args.html:
        check_installed()
    reports: list[Report] = []
    for path in args.paths:
        reports += validate(path, root=args.root, max_episodes=args.max_episodes, progress=_progress)
    for report in reports:
        print(describe(report))
    print(summary(reports))
    if args.json:
        write_json(args.json, to_json(reports))
    if args.html:
        print(f"page: {write_page(Path(args.html), reports)}")
    return 1 if any(report.count("error") for report in reports) else 0


def describe(report: Report) -> str:
    """A table of one report, a row a kind of finding, the worst first."""
    lines = [f"{report.path}: {extent(report)}"]
    for group in grouped(report.findings):
        lines.append(f"  {group.severity:8s} {group.kind:17s} {len(group.members):4d}  {_wrapped(group.members[0])}")
        lines += [f"{'':34s}{_wrapped(finding)}" for finding in group.members[1:_EXAMPLES]]
        if len(group.members) > _EXAMPLES:
            lines.append(f"{'':34s}and {len(group.members) - _EXAMPLES} more")
        lines.append(f"{'':34s}-> {_wrapped(group.advice)}")
    return "\n".join(lines if report.findings else [*lines, "  nothing to say"])


def extent(report: Report) -> str:
    """What was looked at, in words."""
    parts = [report.kind]
    looked = _counted(report.num_looked, "episode")
    if report.kind not in ("store", "lerobot"):  # how many there are is known only when all are read
        parts.append(f"{looked} of {_counted(report.num_episodes, 'file')}")
    elif report.num_looked < report.num_episodes:
        parts.append(f"{looked} looked at of {report.num_episodes}")
    else:
        parts.append(looked)
    parts.append(_counted(report.num_steps, "step"))
    if report.rates_hz:
        low, high = report.rates_hz[0], report.rates_hz[-1]
        parts.append(f"{low:g} Hz" if low == high else f"{low:g} to {high:g} Hz")
    return ", ".join(parts)


def summary(reports: Sequence[Report]) -> str:
    """One line over all."""
    counts = {severity: sum(report.count(severity) for report in reports) for severity in SEVERITIES}
    looked = sum(report.num_looked for report in reports)
    told = ", ".join(_counted(count, severity) for severity, count in counts.items())
    return f"{_counted(looked, 'episode')} in {_counted(len(reports), 'dataset')}: {told}"


def to_json(reports: Sequence[Report]) -> dict[str, Any]:
    """All findings, for a program."""
    datasets = [
        {
            "path": report.path,
            "kind": report.kind,
            "episodes": report.num_episodes,
            "looked_at": report.num_looked,
            "steps": report.num_steps,
            "rates_hz": list(report.rates_hz),
            "findings": [finding.to_dict() for finding in report.findings],
        }
        for report in reports
    ]
    totals = {f"{severity}s": sum(report.count(severity) for report in reports) for severity in SEVERITIES}
    return {"datasets": datasets, **totals}


def _progress(items: Iterable, count: int, name: str) -> Iterable:
    return tqdm(items, total=count, desc=f"check {name}", disable=count < 2 or not sys.stderr.isatty(), leave=False)


def _wrapped(what: object) -> str:
    """In the last column of the table."""
    return textwrap.fill(str(what), _WIDTH, subsequent_indent=" " * 36, break_on_hyphens=False)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
