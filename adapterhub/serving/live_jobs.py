"""The jobs of requests that are not answered yet: submitted all or none, and cancelled if nobody waits."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from adapterhub.errors import QueueFullError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.jobs import Job, Progress
from adapterhub.runtime.result import GenerationResult
from adapterhub.serving.metrics import Metrics
from adapterhub.serving.orders import Order

Answer = TypeVar("Answer")
PULSE_S = 15.0
"""After so long without news a stream says that it lives; proxies cut silent ones, often after a minute."""


class LiveJobs:
    """The jobs that somebody waits for; for one event loop."""

    def __init__(self, runtime: Runtime, metrics: Metrics) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._since: dict[Job, float] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._since))

    async def submit(self, order: Order, *, tenant: str = "") -> list[Job]:
        """Submit the jobs of an order; `release` them, whatever happens.

        Raises:
            QueueFullError: There is no room for all of them; none is left in the queue.
            AdapterHubError: As `Runtime.submit`.
        """
        jobs: list[Job] = []
        now = time.monotonic()
        try:
            # A thread, because the registry is read; it is waited for even if the request is cancelled.
            await run_in_threadpool(self._submit, order, tenant, jobs)
        except BaseException as exc:
            for job in jobs:
                job.cancel()
            if isinstance(exc, QueueFullError):
                self._metrics.count("refused")
            raise
        self._since |= dict.fromkeys(jobs, now)
        return jobs

    async def results(self, jobs: Sequence[Job]) -> list[GenerationResult]:
        """Wait for all pictures.

        Raises:
            AdapterHubError: What went wrong with the first that failed.
        """
        results: list[GenerationResult] = []
        for job in jobs:
            results.append(await job)
            self._metrics.time(job.wait_seconds, time.monotonic() - self._since[job])
        return results

    def release(self, jobs: Sequence[Job]) -> None:
        """Forget jobs; those that have not ended are cancelled, because nobody waits for them."""
        for job in jobs:
            job.cancel()
            self._metrics.count(job.state if job.is_ended else "cancelled")
            del self._since[job]

    def _submit(self, order: Order, tenant: str, jobs: list[Job]) -> None:
        for request in order.requests:
            job = self._runtime.submit(
                request,
                tenant=tenant,
                deadline_s=order.deadline_s,
                preview_every=order.preview_every,
            )
            jobs.append(job)


async def progress_of(jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Progress] | None, None]:
    """Yield a job's place and its newest progress, until all jobs have ended; None where all were silent.

    Who is slow misses steps.
    """
    news: asyncio.Queue[tuple[int, Progress] | None] = asyncio.Queue(1)

    async def follow(place: int, job: Job) -> None:
        async for progress in job.progress():
            await news.put((place, progress))

    async def follow_all() -> None:
        await asyncio.gather(*(follow(place, job) for place, job in enumerate(jobs)))
        await news.put(None)

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(follow_all())]
    try:
        while True:
            tasks[1:] = [asyncio.create_task(news.get())]
            while not (await asyncio.wait(tasks[1:], timeout=PULSE_S))[0]:
                yield None
            item = tasks[1].result()
            if item is None:
                return
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Do what a client waits for; if it goes away, stop.

    Args:
        receive: Of the request, whose body was read.
        work: What to do.

    Raises:
        ClientDisconnect: It went away.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
