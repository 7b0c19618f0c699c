"""Samples -> batches, as a pure function of the step: whoever makes them, wherever a run was resumed.

Batch `step` holds the samples `step * batch_size` ... of the stream, dealt to the ranks in turn; what is changed in
each follows from (seed, sample). All state is the step.

Batches are made ahead, in a thread or in `workers` processes, where pictures are decoded and resized. Workers are
forked, on purpose: they share the stores' tables and decoded pictures with this process instead of reading them anew,
and nothing of what they hold or call knows CUDA. Their pictures come back through memory that both processes see; the
words are turned into tokens here, where the text encoder is.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import mmap
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader

from data_pipeline.mixture import Place
from data_pipeline.schema.types import ActionChunk, Observation
from data_pipeline.stream import BadSample, Drawn, SampleStream, UnreadableError
from data_pipeline.transforms.dropout import Conditions
from data_pipeline.transforms.randomise import Randomisation
from rdt.batch import Batch, each_tensor
from rdt.encoders.collate import Collated, Collator
from rdt.encoders.condition import ConditionEncoder

_AHEAD = 2  # batches that each worker makes ahead
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # options of malloc.h
_LOG = logging.getLogger(__name__)


class BatchLoader:
    """`loader(step)` is the batch of that step; steps in order cost no waiting."""

    def __init__(
        self,
        stream: SampleStream,
        encoder: ConditionEncoder,
        batch_size: int,
        *,
        randomisation: Randomisation | None = None,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        with_state_norm: bool = False,
        labels: Sequence[np.ndarray] | None = None,
        max_bad_fraction: float = 0.01,
        bad_window: int = 10_000,
    ) -> None:
        """`batch_size` counts the samples of all ranks together; this rank takes each `world_size`-th of them.
        `with_state_norm` reads the states of each sample's whole episode, for the errors of `metrics.py`. `labels` are
        a number an episode, (episodes,) for each store of the stream.

        Samples that cannot be read are replaced, see `SampleStream`. More than `max_bad_fraction` of the last
        `bad_window` samples, but never a single one, end the loading.
        """
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(f"{world_size} ranks cannot share batches of {batch_size} samples evenly, rank {rank}")
        self._encoder = encoder
        self._steps = _Steps(
            stream, encoder.collator, batch_size, rank, world_size, randomisation, with_state_norm, labels
        )
        self._workers = workers
        self._tolerated = max(1.0, max_bad_fraction * bad_window)
        self._bad_window = bad_window
        self._handed_out = 0
        self._recent: deque[tuple[int, BadSample]] = deque()  # with the count of samples before its batch
        self._warned: set[tuple[str, str, int]] = set()
        self._made: _WorkerBatches | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: tuple[int, Future[tuple[Batch, tuple[BadSample, ...]]]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, on the CPU, in pinned memory where there is a GPU.

        Raises `ValueError` when too many samples cannot be read.
        """
        ahead, self._ahead = self._ahead, None
        if ahead and ahead[0] == step:
            future = ahead[1]
        else:
            if ahead:
                wait([ahead[1]])
            if (
                self._workers
            ):  # here and not in the thread: what belongs to the forking thread alone lives on in a child
                self._end_workers()
                self._made = _WorkerBatches(self._steps, step, self._workers)
            future = self._thread.submit(self._make, step)
        batch, bad = future.result()
        self._ahead = (step + 1, self._thread.submit(self._make, step + 1))
        self._report(bad, len(batch.sample_index))
        return batch

    @property
    def bad_samples(self) -> tuple[BadSample, ...]:
        """Those among the last `bad_window` samples."""
        return tuple(bad for _, bad in self._recent)

    def close(self) -> None:
        """End the thread and the workers."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._end_workers()

    def _make(self, step: int) -> tuple[Batch, tuple[BadSample, ...]]:
        made = self._made.next() if self._made else self._steps.make(step, self._steps.buffer())
        batch = Batch(
            observation=self._encoder.with_words(made.collated),
            actions=torch.from_numpy(made.actions),
            action_mask=torch.from_numpy(made.action_mask),
            action_valid=torch.from_numpy(made.action_valid),
            store=torch.from_numpy(made.store),
            label=None if made.label is None else torch.from_numpy(made.label),
            state_norm=None if made.state_norm is None else torch.from_numpy(made.state_norm),
            sample_index=torch.from_numpy(made.sample_index),
            num_substituted=len({bad.index for bad in made.bad}),
        )
        if torch.cuda.is_available():
            return each_tensor(batch, torch.Tensor.pin_memory), made.bad
        if self._workers:  # the pictures' memory is wanted back
            images = torch.from_numpy(made.collated.images.copy())
            batch = replace(batch, observation=replace(batch.observation, images=images))
        return batch, made.bad

    def _end_workers(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None

    def _report(self, bad: tuple[BadSample, ...], num_samples: int) -> None:
        """Say which samples were bad, each once, and stop where they are too many."""
        for sample in bad:
            key = (sample.store, sample.episode, sample.place.step)
            if key not in self._warned:
                self._warned.add(key)
                _LOG.warning("sample %d cannot be read and is replaced: %s", sample.index, sample)
        self._recent.extend((self._handed_out, sample) for sample in bad)
        self._handed_out += num_samples
        while self._recent and self._recent[0][0] < self._handed_out - self._bad_window:
            self._recent.popleft()
        if len(self._recent) > self._tolerated:
            raise ValueError(
                f"{len(self._recent)} of the last {min(self._handed_out, self._bad_window)} samples could not be read, "
                f"{self._tolerated:g} of {self._bad_window} are tolerated: make anew the episodes that were named, or "
                f"raise data.max_bad_fraction. The last was {self._recent[-1][1]}"
            )


@dataclass(frozen=True)
class _Made:
    """A batch before its words, and what could not be read for it."""

    collated: Collated
    actions: np.ndarray  # float32 (batch, horizon, 128)
    action_mask: np.ndarray  # float32 (batch, 128)
    action_valid: np.ndarray  # bool (batch, horizon)
    store: np.ndarray  # int64 (batch,)
    label: np.ndarray | None  # float32 (batch,)
    state_norm: np.ndarray | None  # float32 (batch, 128)
    sample_index: np.ndarray  # int64 (batch,)
    bad: tuple[BadSample, ...]


@dataclass(frozen=True)
class _Steps:
    """All that making a batch takes."""

    stream: SampleStream
    collator: Collator
    batch_size: int
    rank: int
    world_size: int
    randomisation: Randomisation | None
    with_state_norm: bool
    labels: Sequence[np.ndarray] | None

    def buffer(self) -> np.ndarray:
        """For the pictures of one batch."""
        return self.collator.buffer(self.batch_size // self.world_size)

    def make(self, step: int, images: np.ndarray) -> _Made:
        """The batch of a step, pictures in `images`. An error names its sample."""
        indices = range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world_size)
        chunks: list[ActionChunk] = []
        valid: list[np.ndarray] = []
        places: list[Place] = []
        bad: list[BadSample] = []

        def observations() -> Iterator[Observation | Conditions]:
            for index in indices:
                drawn, shown = self._draw(index)
                bad.extend(drawn.bad)
                chunks.append(drawn.sample.action_chunk)
                valid.append(drawn.sample.action_valid)
                places.append(drawn.place)
                yield shown

        collated = self.collator(observations(), images)
        return _Made(
            collated=collated,
            actions=np.stack([chunk.actions for chunk in chunks]),
            action_mask=np.stack([chunk.mask for chunk in chunks]).astype(np.float32),
            action_valid=np.stack(valid),
            store=np.array([place.store for place in places]),
            label=None if self.labels is None else self._labels(self.labels, places),
            state_norm=self._state_norms(places) if self.with_state_norm else None,
            sample_index=np.array(indices),
            bad=tuple(bad),
        )

    @staticmethod
    def _labels(labels: Sequence[np.ndarray], places: Sequence[Place]) -> np.ndarray:
        return np.array([labels[place.store][place.episode] for place in places], dtype=np.float32)

    def _state_norms(self, places: Sequence[Place]) -> np.ndarray:
        return np.stack([self.stream.state_norm(place) for place in places]).astype(np.float32)

    def _draw(self, index: int) -> tuple[Drawn, Observation | Conditions]:
        """A sample, and what the network is shown of it."""
        try:
            drawn = self.stream.draw(index)
            place, seen = drawn.place, drawn.sample.observation
            if self.randomisation is None:
                return drawn, seen
            return drawn, self.randomisation(seen, index, place.store, lambda: self.stream.state_deviation(place))
        except UnreadableError:
            raise
        except Exception as error:
            raise RuntimeError(f"{self.stream.describe(index)}: {type(error).__name__}: {error}") from error


class _WorkerBatches:
    """Batches from `step` on, made by processes; pictures come back in a ring of memory shared with them."""

    def __init__(self, steps: _Steps, step: int, workers: int) -> None:
        size = workers * _AHEAD + 1  # those that are being made, and the one that is being read
        self._ring = [_shared_like(steps.buffer()) for _ in range(size)]
        loader: DataLoader = DataLoader(
            _Tasks(steps, self._ring),  # type: ignore[arg-type]
            sampler=((s, (s - step) % size) for s in itertools.count(step)),  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=_AHEAD,
            multiprocessing_context="fork",
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own: the global one is the training's
        )
        # workers inherit that they do not hear Ctrl-C: it is for the trainer, who ends a step first
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self._batches = iter(loader)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    def next(self) -> _Made:
        """The next batch. Its pictures last until the next call. Raises `RuntimeError` when a worker was killed."""
        made, place = next(self._batches)
        if isinstance(made, UnreadableError):
            raise made
        return replace(made, collated=replace(made.collated, images=self._ring[place]))

    def close(self) -> None:
        """End the workers now. Left to the garbage collector, torch may wait for them in vain."""
        self._batches._shutdown_workers()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Tasks:
    """What a worker does: make the batch of a step in one place of the ring."""

    steps: _Steps
    ring: list[np.ndarray]

    def __getitem__(self, task: tuple[int, int]) -> tuple[_Made | UnreadableError, int]:
        step, place = task
        try:
            made = self.steps.make(step, self.ring[place])
        except UnreadableError as error:  # as a value, so that its message stays its own
            return error, place
        nothing = np.empty(0, dtype=np.uint8)  # the pictures are there already
        return replace(made, collated=replace(made.collated, images=nothing)), place


def _shared_like(array: np.ndarray) -> np.ndarray:
    """Memory that forked processes see too; it needs no room in /dev/shm."""
    return np.frombuffer(mmap.mmap(-1, array.nbytes), dtype=array.dtype).reshape(array.shape)


def _as_it_is(made: object) -> object:
    return made


def _start_worker(_: int) -> None:
    """End when the parent has ended, leave its objects alone so that they stay shared, and keep memory that was freed.

    Frames of a sample then go where those of the last one were: fresh pages cost more than a copy does (glibc).
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    gc.freeze()
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in ((_M_TRIM_THRESHOLD, 2**28), (_M_MMAP_THRESHOLD, 2**25)):
            mallopt(option, size)


def _end_with(parent: int) -> None:
    """torch's own watch ends in waiting for a reader of the last batches, when the parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
