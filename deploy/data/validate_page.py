"""The page of `rdt data validate --html`: tables of findings, plots of flagged slots, a picture of each camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.atomic import write_text
from data_pipeline.validate.findings import Finding, Findings, Where, grouped
from data_pipeline.validate.validate import Report, Thumbnail
from deploy import plots
from deploy.doctor import require
from deploy.pages import PACKAGES, Picture, picture, render

MOST_PLOTS = 24  # of a dataset, at most `PLOTS_A_KIND` of each kind of finding
PLOTS_A_KIND = 4
MOST_EXAMPLES = 20  # rows of one kind; --json has all
THUMBNAIL_WIDTH = 320


@dataclass
class Dataset:
    """What the template shows of one report."""

    path: str
    extent: str
    counts: dict[str, int]
    groups: list[Findings]
    plots: list[Picture] = field(default_factory=list)
    cameras: list[Picture] = field(default_factory=list)
    orders: list[tuple[str, Picture, Picture]] = field(default_factory=list)  # camera, as it is, reversed


def check_installed() -> None:
    """Raise `ModuleNotFoundError` that names what the page lacks."""
    require("the page of --html", PACKAGES)


def write_page(path: Path, reports: Sequence[Report]) -> Path:
    """One self-contained file."""
    from deploy.data.validate import extent, summary

    datasets = []
    for report in reports:
        counts = {severity: report.count(severity) for severity in ("error", "warning", "note")}
        dataset = Dataset(report.path, extent(report), counts, grouped(report.findings))
        dataset.plots = _plots(report)
        flagged = {(f.where.episode, f.where.camera) for f in report.findings if f.kind == "colour_order"}
        for thumbnail in report.thumbnails:
            if (thumbnail.episode, thumbnail.camera) in flagged:
                dataset.orders.append((thumbnail.camera, _thumbnail(thumbnail), _thumbnail(thumbnail, True)))
            else:
                dataset.cameras.append(_thumbnail(thumbnail))
        datasets.append(dataset)
    html = render("validate.html.j2", summary=summary(reports), datasets=datasets, most=MOST_EXAMPLES)
    write_text(path, html)
    return path


def _plots(report: Report) -> list[Picture]:
    """Flagged columns over time, each once, with every region that findings mark."""
    marked: dict[tuple[str, str], list[Finding]] = {}
    shown: dict[str, int] = {}
    for finding in report.findings:
        key = (finding.where.episode, finding.where.column)
        if key not in report.series:
            continue
        if key not in marked:
            shown[finding.kind] = shown.get(finding.kind, 0) + 1
            if shown[finding.kind] > PLOTS_A_KIND or len(marked) >= MOST_PLOTS:
                continue
        marked.setdefault(key, []).append(finding)
    pictures = []
    for (episode, column), findings in marked.items():
        series = report.series[episode, column]
        regions = [finding.where.steps for finding in findings if finding.where.steps is not None]
        png = plots.flagged_series(series.values, series.rate_hz, series.unit, regions)
        kinds = ", ".join(dict.fromkeys(finding.kind.replace("_", " ") for finding in findings))
        title = f"{column.replace('_', ' ')}: {kinds}"
        pictures.append(picture(png, f"{column} of {episode} over time", title, f"{episode}. {findings[0].found}"))
    return pictures


def _thumbnail(thumbnail: Thumbnail, swap: bool = False) -> Picture:
    frame = np.ascontiguousarray(thumbnail.frame[..., ::-1]) if swap else thumbnail.frame
    where = Where(episode=thumbnail.episode, camera=thumbnail.camera, steps=(thumbnail.step, thumbnail.step))
    height, width = frame.shape[:2]
    told = "channels reversed" if swap else f"{thumbnail.camera}, {width} x {height}"
    return picture(
        plots.frame_png(frame, THUMBNAIL_WIDTH), str(where), told, f"{thumbnail.episode}, step {thumbnail.step}"
    )
