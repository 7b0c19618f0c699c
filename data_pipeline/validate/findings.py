"""What a validator says: one finding a fact, with its place, what was expected, what came, and what to change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_pipeline.sources.raw import Fault

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""error: data are lost, or a policy would learn something false. warning: look at it. note: worth knowing."""


@dataclass(frozen=True)
class Where:
    """The place of a finding; what does not apply is empty."""

    dataset: str = ""  # store, folder or YAML, as it was given
    episode: str = ""  # name of the episode or of the file
    column: str = ""  # "state right_arm_joint_0_pos", or a field of the source
    camera: str = ""
    steps: tuple[int, int] | None = None  # the bad region [first, last]

    def __str__(self) -> str:
        parts = [self.episode, self.column, self.camera and f"camera {self.camera}"]
        if self.steps is not None:
            first, last = self.steps
            parts.append(f"step {first}" if first == last else f"steps {first} to {last}")
        return ", ".join(part for part in parts if part) or self.dataset


@dataclass(frozen=True)
class Finding:
    """One fact. `kind` is what a table groups by; kinds of faults keep their names."""

    severity: Severity
    kind: str
    where: Where
    expected: str
    found: str
    advice: str  # what to change

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        told = f"{self.found}; expected {self.expected}" if self.expected else self.found
        return f"{self.where}: {told}"


@dataclass
class Findings:
    """Findings of one kind and severity, for a table."""

    kind: str
    severity: Severity
    members: list[Finding] = field(default_factory=list)

    @property
    def advice(self) -> str:
        return self.members[0].advice


def grouped(findings: Iterable[Finding]) -> list[Findings]:
    """By severity and kind, errors first, then in the order in which they came."""
    groups: dict[tuple[Severity, str], Findings] = {}
    for finding in findings:
        key = (finding.severity, finding.kind)
        groups.setdefault(key, Findings(finding.kind, finding.severity)).members.append(finding)
    return sorted(groups.values(), key=lambda group: SEVERITIES.index(group.severity))


_FAULTS: Mapping[str, tuple[Severity, str]] = {
    "truncated": (
        "error",
        "copy the file again or leave it out; `rdt data repair` saves the rest of a store, RLDS folder or MCAP",
    ),
    "bad_crc": ("error", "copy the file again: a record was damaged on the way"),
    "unreadable": ("error", "copy the file again; if it stays, the record was written wrongly"),
    "missing_file": ("error", "copy the file again, or choose a split without it"),
    "shard_count": ("error", "dataset_info.json and files are of different versions: copy the folder again"),
    "sidecar": ("error", "correct the JSON file of phrasings beside the episodes"),
    "nan": ("error", "find the sensor that dropped out; `faults: {nan: drop_steps}` leaves these steps out"),
    "missing_field": ("error", "correct the path in the YAML, or say `optional: true` in its rule"),
    "wrong_width": ("error", "correct the slice in the YAML; `when: {dim: N}` tells variants apart"),
    "bad_value": ("error", "correct the operations of the rule that the message names"),
    "lengths": ("error", "record all fields with one clock; `faults: {lengths: truncate}` forgives one step"),
    "different_lengths": ("error", "record all fields with one clock"),
    "wrong_length": ("error", "rows and table of episodes differ: copy the dataset again or repair it"),
    "zero_length": ("warning", "leave the empty episode out"),
    "too_short": ("warning", "leave it out, or lower `limits.min_length` if it is a whole task"),
    "timestamps": ("error", "the recorder's clock repeats or goes back: record again, or stamp by step number"),
    "gap": ("warning", "the recorder paused: the parts become episodes of their own"),
    "wrong_rate": ("error", "correct `fps`, or `fps: {from: timestamps}` to believe the stamps"),
    "missing_camera": ("warning", "the view is masked; check the path in `cameras`, or record it"),
    "bad_image": ("error", "pictures were cut short: check disk and network of the recorder"),
    "gripper_range": ("warning", "correct the `range` of the gripper's rule, or say `within` if it is meant"),
    "colour": ("error", "the file's attribute `colour` must be rgb or bgr"),
    "still": ("warning", "nothing moves: leave the episode out"),
    "no_language": ("warning", "write an instruction, or name another field in `language.fields`"),
    "unknown_task": ("error", "task numbers have no text: complete the table of tasks"),
    "bad_statistics": ("error", "compute the statistics anew; this stack never reads them, other tools do"),
    "missing_topic": ("error", "correct the topic in the YAML; the message names the nearest one"),
    "stale": ("warning", "a sensor was slower than `sync: {max_age_s}` allows: look at it, or allow more"),
    "unsafe_file": ("error", "the file holds more than arrays and was not opened: get it from its publisher again"),
    "filtered": ("note", "left out by the YAML's own filter"),
}
"""Kind of fault -> how bad it is, and what to change."""

_STEP = re.compile(r"\bstep (\d+)")


def of_fault(fault: Fault, dataset: str) -> Finding:
    """A reader's or a mapping's fault as a finding. What was used all the same is a warning at most."""
    severity, advice = _FAULTS.get(fault.kind, ("error", "see the message"))
    if not fault.left_out and severity == "error":
        severity = "warning"
    step = _STEP.search(fault.message)
    steps = (int(step[1]), int(step[1])) if step else None
    return Finding(severity, fault.kind, Where(dataset, fault.where, steps=steps), "", fault.message, advice)
