"""The key by which a person takes over from a policy, and gives back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.keyboard import keyboard

KEY = "t"
HELP = f"{KEY} takes over: the arms go to the leader slowly and follow it; {KEY} again gives back"


class Takeover:
    """Watches the keyboard while a policy runs."""

    def __init__(self, lead: Callable[[bool], None], say: Callable[[str], object] = print) -> None:
        """`lead` tells the robot whether a person leads; its `ValueError` is what the robot will not do, and why."""
        self._lead, self._say = lead, say
        self._leads = False
        self.count = 0  # how often a person took over since the run began

    @contextmanager
    def waiting(self) -> Iterator[Callable[[float], object]]:
        """For one run, which the policy begins: a function that waits for so many seconds and obeys the key.

        Where there is no terminal it only waits.
        """
        self._leads, self.count = False, 0
        if not sys.stdin.isatty():
            yield time.sleep
            return
        with keyboard(end="") as key:

            def wait(seconds: float) -> None:
                until = time.monotonic() + seconds
                while (left := until - time.monotonic()) > 0:
                    if key(left) == KEY:
                        self.press()

            yield wait

    def press(self) -> None:
        """The person takes over, or gives back."""
        try:
            self._lead(not self._leads)
        except ValueError as error:
            self._say(str(error))
            return
        self._leads = not self._leads
        self.count += self._leads
        self._say("you lead" if self._leads else "the policy acts")
