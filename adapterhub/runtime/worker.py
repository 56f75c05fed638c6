"""The one thread that makes the pictures of jobs, in batches that are fair between tenants."""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import torch
from PIL import Image

from adapterhub.errors import (
    AdapterHubError,
    PictureMemoryError,
    QueueFullError,
    RuntimeClosedError,
    SettingError,
)
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.draw import OnStep, Step
from adapterhub.runtime.fair_queue import FairQueue
from adapterhub.runtime.jobs import Job
from adapterhub.runtime.planner import Choice, can_join
from adapterhub.runtime.request import Request
from adapterhub.runtime.result import GenerationResult
from adapterhub.runtime.schedule import Composite
from adapterhub_registry.record import GenerationRecord

logger = logging.getLogger(__name__)

Made = list[tuple[Image.Image, GenerationRecord]]
CLOSED = "its runtime was closed"
TURN_STEPS = 30
"""A tenant's turn brings one picture of so many steps."""


@dataclass(frozen=True)
class Studio:
    """Where a worker makes pictures: what it uses of a runtime.

    Attributes:
        lock: To be held while any of the others is called.
        activate: Returns what acts on a request: one of those given, if it is equal, else it joins them.
        batches: Returns the rows of each batch that requests under these plans are made in, and its plane.
        make: Makes one such batch.
        device: Its name.
    """

    lock: AbstractContextManager[None]
    activate: Callable[[Request, list[ActivePlan]], ActivePlan]
    batches: Callable[[Sequence[Request], Sequence[ActivePlan]], list[tuple[list[int], Choice]]]
    make: Callable[[Sequence[Request], Sequence[ActivePlan], Choice, OnStep], Made]
    device: str


@dataclass(frozen=True)
class Limits:
    """How many jobs there may be.

    Attributes:
        max_batch: Made together.
        queue: Waiting.
        tenant: Of one tenant, waiting; None for as many as in all.

    Raises:
        SettingError: One of them is below 1.
    """

    max_batch: int = 8
    queue: int = 256
    tenant: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                label = name if name == "max_batch" else f"{name}_limit"
                raise SettingError(label, value, "it must be at least 1")


class Worker:
    """Makes the pictures of jobs in a thread of its own, which starts with the first one.

    Args:
        studio: Where.
        limits: How many jobs there may be.
        size: Width and height of a picture that a tenant's turn brings.
    """

    def __init__(self, studio: Studio, limits: Limits, *, size: int) -> None:
        turn = cost(Request("", steps=TURN_STEPS, width=size, height=size))
        self._studio = studio
        self._max_batch = limits.max_batch
        self._queue = FairQueue[Job](turn, limit=limits.queue, tenant_limit=limits.tenant)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._taken: list[Job] = []
        self._fitting: dict[int, int] = {}
        self._batch_seconds = 1.0

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            QueueFullError: There is no room.
            RuntimeClosedError: The worker was closed.
        """
        with self._changed:
            if self._is_closed:
                raise RuntimeClosedError
            if len(self._queue) >= self._queue.limit:
                raise QueueFullError(self._queue.limit, self._batch_seconds)
            if self._queue.waiting(job.tenant) >= self._queue.tenant_limit:
                raise QueueFullError(self._queue.tenant_limit, self._batch_seconds, job.tenant)
            self._queue.put(job, tenant=job.tenant, cost=cost(job.request))
            if self._thread is None:
                # A daemon, so that a program that forgot to close its runtime can end, in order, by `close`.
                self._thread = threading.Thread(target=self._work, name="adapterhub-worker", daemon=True)
                atexit.register(self.close)
                self._thread.start()
            self._changed.notify_all()

    def withdraw(self, job: Job) -> None:
        """Take a job that was cancelled out of the queue; one that runs ends at the end of its step."""
        with self._changed:
            was_queued = self._queue.remove(job)
        if was_queued:
            job.end_if_due()

    def close(self) -> None:
        """Cancel all jobs, and wait until the thread has ended."""
        with self._changed:
            self._is_closed = True
            jobs = [*self._queue, *self._taken]
            self._changed.notify_all()
        for job in jobs:
            job.ask_to_end(CLOSED)
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or len(self._queue) > 0)
                if self._is_closed:
                    return
            self._serve()

    def _serve(self) -> None:
        """Take jobs for one batch, and make them."""
        started = time.monotonic()
        known: list[ActivePlan] = []
        try:
            with self._studio.lock:
                self._end_late()
                with self._changed:
                    if not self._is_closed:
                        self._taken = self._queue.take(self._max_batch, _are_compatible)
                ready, plans = self._activated(known)
            self._make(ready, plans)
        except Exception as exc:
            logger.exception("a batch of %d jobs failed", len(self._taken))
            for job in self._taken:
                job.end(exc)
        for active in known:
            active.release()
        with self._changed:
            self._taken = []
        self._batch_seconds = max(time.monotonic() - started, 1.0)

    def _activated(self, known: list[ActivePlan]) -> tuple[list[Job], list[ActivePlan]]:
        """Return the jobs with what acts on them; one whose adapters cannot be read or do not fit fails."""
        ready: list[Job] = []
        plans: list[ActivePlan] = []
        for job in self._taken:
            try:
                plans.append(self._studio.activate(job.request, known))
            except Exception as exc:  # noqa: BLE001 - it is raised where the job is waited for
                _fail(job, exc)
            else:
                ready.append(job)
        return ready, plans

    def _make(self, jobs: Sequence[Job], plans: Sequence[ActivePlan]) -> None:
        if not jobs:
            return
        with self._studio.lock:
            batches = self._studio.batches([job.request for job in jobs], plans)
        size = self._fitting.get(_pixels(jobs[0]), self._max_batch)
        for rows, choice in batches:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                self._draw([jobs[row] for row in part], [plans[row] for row in part], choice)

    def _draw(self, jobs: Sequence[Job], plans: Sequence[ActivePlan], choice: Choice) -> None:
        """Make the pictures of one batch. If that fails it is made again in halves, down to single ones."""
        with self._studio.lock:
            live = [row for row, job in enumerate(jobs) if job.begin()]
            jobs, plans = [jobs[row] for row in live], [plans[row] for row in live]
            if not jobs:
                return
            error = self._try(jobs, plans, choice)
        if error is None:
            return
        if len(jobs) == 1:
            _fail(jobs[0], error)
            return
        half = len(jobs) // 2
        if isinstance(error, PictureMemoryError):
            self._fitting[_pixels(jobs[0])] = len(jobs) - half
        self._make(jobs[:half], plans[:half])
        self._make(jobs[half:], plans[half:])

    def _try(self, jobs: Sequence[Job], plans: Sequence[ActivePlan], choice: Choice) -> Exception | None:
        """Make the pictures of one batch, and end its jobs; return what went wrong."""

        def after_step(step: Step) -> None:
            self._end_late()
            for row, job in enumerate(jobs):
                if not job.end_if_due():
                    job.advance(step.done, _preview(job, step, row))
            if all(job.is_ended for job in jobs):
                raise _NobodyWaitsError

        requests = [job.request for job in jobs]
        try:
            made = self._studio.make(requests, plans, choice, after_step)
        except _NobodyWaitsError:
            return None
        except Exception as exc:  # noqa: BLE001 - it is raised where the jobs are waited for
            if not _is_out_of_memory(exc):
                return exc
            # Made anew: the traceback holds the batch's tensors.
            error = PictureMemoryError(requests[0].width or 0, requests[0].height or 0, self._studio.device)
        else:
            for job, (image, record) in zip(jobs, made, strict=True):
                job.end(GenerationResult([image], [record]))
            return None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return error

    def _end_late(self) -> None:
        """End the jobs that wait and are late."""
        with self._changed:
            for job in self._queue:
                if job.end_if_due():
                    self._queue.remove(job)


class _NobodyWaitsError(Exception):
    """All jobs of a batch have ended."""


def cost(request: Request) -> int:
    """Return what a completed request costs: steps by pixels, for each prediction.

    Example:
        >>> cost(Request("a star", steps=4, width=64, height=32))
        8192
    """
    plan = request.composition
    predictions = len(plan.single) if isinstance(plan, Composite) else 1
    return request.steps * (request.width or 0) * (request.height or 0) * predictions


def _are_compatible(first: Job, other: Job) -> bool:
    one, two = first.request, other.request
    return one.shared == two.shared and can_join(one.composition, two.composition, asked=one.plane)


def _pixels(job: Job) -> int:
    return (job.request.width or 0) * (job.request.height or 0)


def _preview(job: Job, step: Step, row: int) -> Image.Image | None:
    is_asked_for = job.preview_every > 0 and step.done % job.preview_every == 0 and step.done < step.steps
    return step.preview(row) if is_asked_for else None


def _fail(job: Job, error: Exception) -> None:
    if not isinstance(error, AdapterHubError):
        logger.error("a job failed", exc_info=error)
    job.end(error)


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out; but for CUDA's, torch's errors have no type of their own."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
