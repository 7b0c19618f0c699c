"""Keys of a terminal as they are pressed, for whoever stands beside a robot."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def keyboard(end: str = "q") -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed, without Enter; `end` is what the end of the input is taken for, "" for nothing.

    Yields a function that waits for so many seconds and returns what was pressed, "" for nothing.
    """
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor) if os.isatty(descriptor) else None

    def key(seconds: float) -> str:
        if not select.select([descriptor], [], [], seconds)[0]:
            return ""
        pressed = os.read(descriptor, 1)
        if not pressed and not end:
            time.sleep(seconds)
        return pressed.decode(errors="ignore") if pressed else end

    try:
        if before is not None:
            tty.setcbreak(descriptor)
        yield key
    finally:
        if before is not None:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
