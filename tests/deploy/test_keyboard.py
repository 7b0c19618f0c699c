"""Run: pytest tests/deploy/test_keyboard.py"""

import os

from deploy.keyboard import keyboard


def test_keys_come_one_by_one_and_the_end_of_the_input_is_the_end(monkeypatch):
    there, here = os.pipe()
    os.write(here, b"s d")
    os.close(here)
    with os.fdopen(there) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        with keyboard() as key:
            assert [key(0.1) for _ in range(4)] == ["s", " ", "d", "q"]


def test_the_end_of_the_input_may_be_nothing(monkeypatch):
    there, here = os.pipe()
    os.write(here, b"s")
    os.close(here)
    with os.fdopen(there) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        with keyboard(end="") as key:
            assert [key(0.01) for _ in range(3)] == ["s", "", ""]
