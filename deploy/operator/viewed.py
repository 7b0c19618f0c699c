"""A session with those who look at it: the page, a log for rerun. Said once for `rdt run` and the policy's node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.operator.page import OperatorPage, Orders
from deploy.operator.rerun_log import RerunLog, check_installed
from deploy.operator.watch import Watch
from deploy.realtime.recorder import RecordTo
from deploy.realtime.session import Session
from deploy.realtime.supervisor import RunSpec


@contextmanager
def viewed_session(
    spec: RunSpec,
    instruction: str,
    *,
    page: int | None,
    rerun: str | None,
    record: RecordTo | None = None,
    tell: Callable[[str], object],
    buttons: Callable[[Session], Orders] = lambda session: session.supervisor,
    closing: threading.Event | None = None,
) -> Iterator[Session]:
    """A session that is ready and holds; `tell` gets the page's address.

    `page` is its port, 0 for any free one, None for no page; `rerun` a file to write; `record` where episodes go. A
    port that is taken raises `ValueError`, a missing extra `ModuleNotFoundError`, both before the arms wake. Page and
    log outlive the session: they show how the arms come to a stand. `closing` is as in `Session`.
    """
    with ExitStack() as viewers, ExitStack() as opened:  # the arms come to a stand first, whatever a disk does
        server = None if page is None else viewers.enter_context(OperatorPage(page))
        if rerun is not None:
            check_installed()
        session = opened.enter_context(Session(spec, instruction, record, closing))
        if rerun is not None:
            viewers.enter_context(RerunLog(Path(rerun), session.supervisor))
        if server is not None:
            server.open(Watch(session.supervisor, session.camera_problems), buttons(session))
            tell(f"operator page: {server.address}")
        yield session
