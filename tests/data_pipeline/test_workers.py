"""Run: pytest tests/data_pipeline/test_workers.py"""

import itertools
import os
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from data_pipeline.workers import run_as_completed, run_ordered


def square(number: int) -> int:
    time.sleep(0.05 * (number % 3))  # later jobs may be done first
    return number * number


def fail(number: int) -> int:
    if number == 2:
        raise ValueError("job 2 is bad")
    return number


def environment(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def test_results_come_in_the_order_of_the_jobs():
    assert list(run_ordered(square, range(7), 2)) == [(n, n * n) for n in range(7)]


def times(shared: int, number: int) -> int:
    return shared * square(number)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_as_they_are_done_and_all_jobs_share_one_thing(workers):
    assert sorted(run_as_completed(times, 10, range(7), workers)) == [(n, 10 * n * n) for n in range(7)]


def test_an_endless_stream_may_be_left():
    found = []
    for job, _ in run_ordered(square, itertools.count(), 2):
        found.append(job)
        if job == 3:
            break
    assert found == [0, 1, 2, 3]


def test_an_error_of_a_job_reaches_the_caller():
    with pytest.raises(ValueError, match="job 2 is bad"):
        list(run_ordered(fail, range(5), 2))


def test_workers_have_one_thread_and_the_parent_keeps_its_environment():
    before = os.environ.get("OMP_NUM_THREADS")
    assert [result for _, result in run_ordered(environment, range(2), 1)] == ["1", "1"]
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_an_interrupt_leaves_no_worker_behind(tmp_path):
    """A real Ctrl-C on a process group, as a terminal sends it."""
    script = tmp_path / "endless.py"
    script.write_text(
        textwrap.dedent("""
        import itertools, os, sys, time
        from data_pipeline.workers import run_ordered

        def work(job):
            print("worker", os.getpid(), flush=True)
            time.sleep(60)

        if __name__ == "__main__":
            try:
                list(run_ordered(work, itertools.count(), 2))
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        """)
    )
    path = os.pathsep.join([str(Path.cwd()), str(tmp_path)])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    workers = [int(process.stdout.readline().split()[1]) for _ in range(2)]
    os.killpg(process.pid, 2)
    rest, _ = process.communicate(timeout=30)
    assert "interrupted" in rest
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def linger(number: int) -> int:
    if number == 1:
        time.sleep(0.5)
        raise ValueError("job 1 is bad")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        with suppress(SystemExit):  # the order to leave is lost, as in a library that catches everything
            time.sleep(0.1)
    return number


@pytest.mark.timeout(30)
def test_a_worker_that_missed_the_order_to_leave_is_told_again():
    with pytest.raises(ValueError, match="job 1 is bad"):
        list(run_as_completed(add_nothing, 0, range(2), 2))


def add_nothing(nothing: int, number: int) -> int:
    return nothing + linger(number)
