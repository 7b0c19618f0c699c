"""What `rdt doctor` looks for is what pyproject.toml declares.

Run: pytest tests/deploy/test_doctor.py
"""

import re
from pathlib import Path

import pytest

from deploy import doctor

tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_LISTED = {
    "dev",  # of those who work on the stack
    "gpu",  # in SPEED: picked up where installed
    "ros2-jazzy",  # the same packages as ros2, in other versions
}


def packages(requirements: list[str]) -> set[str]:
    """Names without versions; what an extra of a package brings counts as a package of its own."""
    found = set()
    for requirement in requirements:
        name, extra = re.match(r"([\w.-]+)(?:\[(\w+)\])?", requirement).groups()
        found |= {name, f"{name}-{extra}"} if extra else {name}
    return found


def test_the_core_is_what_the_project_depends_on():
    assert set(doctor.CORE) == packages(PROJECT["dependencies"])


def test_the_extras_are_those_of_the_project():
    declared = {name: packages(rows) for name, rows in PROJECT["optional-dependencies"].items()}
    assert packages(PROJECT["optional-dependencies"]["ros2-jazzy"]) == declared["ros2"]
    assert declared["gpu"] <= set(doctor.SPEED)
    listed = {name: set(names) for name, names in doctor.EXTRAS.items()}
    assert listed == {name: names for name, names in declared.items() if name not in NOT_LISTED}


def test_a_robots_own_ros_is_not_told_to_mix_with_wheels(monkeypatch, capsys):
    advice = "rdt-stack[ros2]"
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    doctor.command(None)
    assert advice in capsys.readouterr().out
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: name)
    doctor.command(None)
    assert advice not in capsys.readouterr().out
