"""What the processes of a robot have in common: who began them, and how they end without being disturbed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def parent_id() -> int:
    """The process that began this one, even where it has ended since: `os.getppid` names another one then."""
    parent = multiprocessing.parent_process()
    return os.getppid() if parent is None or parent.pid is None else parent.pid


@contextmanager
def undisturbed() -> Iterator[None]:
    """Deaf to SIGINT and SIGTERM, which would leave an ending half done. Signals reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)
