"""Run: pytest tests/deploy/test_takeover.py"""

import os

import pytest

from deploy.takeover import Takeover


class Terminal:
    """A pipe that says it is one."""

    def __init__(self, descriptor, is_terminal=True):
        self._descriptor, self._is_terminal = descriptor, is_terminal

    def fileno(self):
        return self._descriptor

    def isatty(self):
        return self._is_terminal


@pytest.fixture
def pressed(monkeypatch):
    there, here = os.pipe()
    monkeypatch.setattr("sys.stdin", Terminal(there))
    yield here
    os.close(there)
    os.close(here)


def test_the_key_takes_over_and_gives_back_and_is_counted(pressed):
    heard, said = [], []
    takeover = Takeover(heard.append, said.append)
    os.write(pressed, b"xt tt")
    with takeover.waiting() as wait:
        wait(0.1)
    assert heard == [True, False, True]
    assert said == ["you lead", "the policy acts", "you lead"]
    assert takeover.count == 2
    os.write(pressed, b"t")
    with takeover.waiting() as wait:  # the next run begins with the policy
        wait(0.1)
    assert (heard[3:], takeover.count) == ([True], 1)


def test_what_the_robot_will_not_do_is_said_and_changes_nothing(pressed):
    def refuse(leads):
        raise ValueError(f"not {leads}")

    said = []
    takeover = Takeover(refuse, said.append)
    os.write(pressed, b"tt")
    with takeover.waiting() as wait:
        wait(0.1)
    assert said == ["not True", "not True"]
    assert takeover.count == 0


def test_without_a_terminal_it_only_waits(monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal(-1, is_terminal=False))
    with Takeover(pytest.fail).waiting() as wait:
        wait(0.0)
