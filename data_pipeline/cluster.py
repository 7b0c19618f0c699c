"""The same jobs on a Ray cluster (extra `cluster`): every node has this package and sees the same disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_RETRIES = 3  # of a job whose node was lost
_AHEAD = 2  # jobs handed over for each core of the cluster


def run_on_ray(
    call: Callable[[Any, Job], Result], shared: Any, jobs: Iterable[Job], workers: int | None = None
) -> Iterator[tuple[Job, Result]]:
    """`call(shared, job)` as Ray tasks of one core each, (job, result) as each is done.

    The cluster is the one that RAY_ADDRESS names, else one that is started here. At most `workers` tasks run at once;
    None: as many as the cluster has cores.
    """
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError:
        raise ModuleNotFoundError("--engine ray needs Ray: pip install 'rdt-stack[cluster]'") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(call)
        sent = ray.put(shared)
        limit = workers or _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        stream = iter(jobs)
        running = {task.remote(sent, job): job for job in itertools.islice(stream, limit)}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(done)
            running |= {task.remote(sent, following): following for following in itertools.islice(stream, 1)}
            yield job, ray.get(done)
    finally:
        if ours:
            ray.shutdown()
