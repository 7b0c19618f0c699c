"""What the documentation writes down is what the code reads.

Run: pytest tests/test_docs.py
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from data_pipeline.mapping import op_syntax
from data_pipeline.mapping.expressions import Condition
from data_pipeline.mapping.mapping import Mapping
from data_pipeline.schema.kinematics import Kinematics
from deploy.cli import build_parser, takes_overrides

ROOT = Path(__file__).parents[1]
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
COMMAND = re.compile(r"^(?:\.venv/bin/)?rdt ([a-z][^#\n]*)", re.MULTILINE)


def blocks(path: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_of_the_documentation_parse(path):
    parser = build_parser()
    for block in [*blocks(path, "sh"), *blocks(path, "")]:
        for line in COMMAND.findall(block.replace("\\\n", " ")):
            words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "3").rstrip("; "))
            args, rest = parser.parse_known_args(words)
            assert not rest or takes_overrides(args), f"{path.name}: rdt {line}"


def test_the_dataset_yaml_of_the_guide_is_one():
    (text,) = blocks(ROOT / "docs/data.md", "yaml")
    mapping = Mapping.from_dict(yaml.safe_load(text))
    assert mapping.state.slots() == {*range(6), 10, *range(50, 56), 60}


def test_the_kinematics_of_the_guide_are_a_robots():
    (text,) = blocks(ROOT / "docs/realtime.md", "yaml")
    kinematics = Kinematics.from_dict(yaml.safe_load(text)["kinematics"]).beside(ROOT / "configs/robots")
    assert all(Path(arm.model).is_file() for arm in kinematics.arms.values())


def test_operations_and_filters_of_the_guide_are_known():
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| `ops` |")]
    assert set(re.findall(r"`(\w+)`", row)) - {"ops"} == set(op_syntax._PARSERS)
    (row,) = [line for line in text.splitlines() if line.startswith("| `filter` |")]
    for condition in re.findall(r'`"(.*?)"`', row):
        Condition.parse(condition, {})
