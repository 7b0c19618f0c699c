"""Worker processes that leave with their parent: one core each, and an interrupt ends them all.

Conversion uses them for speed. Simulation and rendering run in them besides, and training in the parent, because
software OpenGL and Triton do not live in one process (`robot_drivers/sim/render.py`).
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_one
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

UNWINDING_S = 60  # a job that has not unwound by then is killed, and what it left half-written stays


def num_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int, shared: Any = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes of one thread each. Leaving it by an exception ends them at once.

    `shared` goes to each of them once. Raises `RuntimeError` when a worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker, initargs=(shared,))
    with _environment(OMP_NUM_THREADS="1"):
        try:
            yield pool
        except BaseException as error:
            _end(list(pool._processes.values()))
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError(
                    "a worker process was killed, most often because memory ran out: close other programs and "
                    "repeat the command"
                ) from None
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def run_ordered(call: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """`call` jobs in worker processes and give (job, result) in the order of the jobs.

    Jobs are drawn as workers become free, so the stream may be endless; leaving the loop ends the workers.
    """
    stream = iter(jobs)
    with worker_pool(workers) as pool:
        waiting: deque[tuple[Job, Future[Result]]] = deque()
        for job in itertools.islice(stream, 2 * workers):
            waiting.append((job, _submit(pool, call, job)))
        while waiting:
            job, future = waiting.popleft()
            result = future.result()
            for following in itertools.islice(stream, 1):
                waiting.append((following, _submit(pool, call, following)))
            yield job, result


def run_as_completed(
    call: Callable[[Any, Job], Result], shared: Any, jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """`call(shared, job)` in worker processes, (job, result) as each is done; one worker: in this process, in order."""
    if workers == 1:
        yield from ((job, call(shared, job)) for job in jobs)
        return
    stream = iter(jobs)
    with worker_pool(workers, shared) as pool:
        running = {_submit(pool, _with_shared, (call, job)): job for job in itertools.islice(stream, 2 * workers)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                for following in itertools.islice(stream, 1):
                    running[_submit(pool, _with_shared, (call, following))] = following
                yield running.pop(future), future.result()


def _with_shared(call_and_job: tuple[Callable[[Any, Job], Result], Job]) -> Result:
    call, job = call_and_job
    return call(_shared, job)


def _submit(pool: ProcessPoolExecutor, call: Callable[[Job], Result], job: Job) -> Future[Result]:
    """Hand over a job. A worker that starts here is born deaf to Ctrl-C, which reaches the whole process group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_run, call, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(processes: Sequence[BaseProcess]) -> None:
    """Tell workers to leave until all have: a signal that comes just before a process falls asleep does not wake it."""
    deadline = time.monotonic() + UNWINDING_S
    while (alive := [process for process in processes if process.is_alive()]) and time.monotonic() < deadline:
        for process in alive:
            process.terminate()
        wait_for_one([process.sentinel for process in alive], timeout=0.2)
    for process in alive:
        process.kill()


def _run(call: Callable[[Job], Result], job: Job) -> Result:
    global _in_job
    try:
        # inside another `try`, because `_leave` may raise at any line where `_in_job` is set, the last one included
        try:
            _in_job = True
            return call(job)
        finally:
            _in_job = False
    except SystemExit:
        os._exit(1)  # the pool would take this for the job's answer, and go on with the next one


def _prepare_worker(shared: Any) -> None:
    """Clean up when the parent says so, and when it is there no more."""
    global _shared
    _shared = shared
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


_in_job = False
_unwinding = False
_shared: Any = None


def _leave(*_: object) -> None:
    """Unwind the job in hand once, so that it removes its temporary files; leave at once where there is none."""
    global _unwinding
    if not _in_job:
        os._exit(1)
    if not _unwinding:
        _unwinding = True
        sys.exit(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
