"""Jobs: what `Runtime.submit` gives back, to wait for, to watch and to cancel, from any thread or task."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image

from adapterhub.errors import DeadlineError, JobCancelledError
from adapterhub.runtime.request import Request
from adapterhub.runtime.result import GenerationResult

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        done: Steps made so far.
        steps: All of them.
        preview: How the picture looked when the last preview was made, noise and all; None before.
    """

    done: int
    steps: int
    preview: Image.Image | None = None


class Job:
    """One picture that was asked for; `await` it, or call `result`.

    Any number of threads, and of tasks of any event loops, may wait for one job.

    Attributes:
        request: What was asked for, with seed, size and composition filled in.
        tenant: For whom.
        deadline_s: After how many seconds it is too late; None for never.
        preview_every: A preview is made every so many steps; 0 for none.
    """

    def __init__(
        self,
        request: Request,
        *,
        tenant: str = "",
        deadline_s: float | None = None,
        preview_every: int = 0,
        on_cancel: "Callable[[Job], None]",
    ) -> None:
        self.request = request
        self.tenant = tenant
        self.deadline_s = deadline_s
        self.preview_every = preview_every
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._state: State = "queued"
        self._outcome: GenerationResult | Exception | None = None
        self._cancelled: JobCancelledError | None = None
        self._progress: Progress | None = None
        self._submitted = time.monotonic()
        self._started: float | None = None

    @property
    def state(self) -> State:
        """`queued`, `running`, `done`, `failed` or `cancelled`."""
        return self._state

    @property
    def is_ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self._state not in ("queued", "running")

    @property
    def wait_seconds(self) -> float:
        """How long it was in the queue, or has been there."""
        return (time.monotonic() if self._started is None else self._started) - self._submitted

    def result(self, timeout_s: float | None = None) -> GenerationResult:
        """Wait for the picture.

        Args:
            timeout_s: How long; None for as long as it takes.

        Raises:
            TimeoutError: It takes longer; the job goes on.
            JobCancelledError: It was cancelled, or its runtime was closed.
            DeadlineError: Its deadline passed.
            AdapterHubError: As `Runtime.generate`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.is_ended, timeout_s):
                raise TimeoutError(f"the job is {self._state} after {timeout_s} s more; it goes on")
        return self._ended()

    def __await__(self) -> Generator[None, None, GenerationResult]:
        """Wait for the picture, as `result`; if the task that waits is cancelled, the job is."""
        return self._wait().__await__()

    def progress(self) -> "ProgressStream":
        """Return the job's progress, to be iterated by `for` or `async for` until it has ended.

        It gives what is newest; who is slow misses steps, and never keeps the job waiting. How the job ended
        says `result`.
        """
        return ProgressStream(self)

    def cancel(self) -> bool:
        """Cancel it: at once if it is queued, else at the end of its step.

        Others of its batch go on.

        Returns:
            Whether it will end as cancelled; False if it has ended already.
        """
        return self.ask_to_end()

    def ask_to_end(self, reason: str = "") -> bool:
        """As `cancel`, for a reason that is not the user's."""
        with self._changed:
            if self.is_ended:
                return self._state == "cancelled"
            self._cancelled = self._cancelled or JobCancelledError(reason)
        self._on_cancel(self)
        return True

    def begin(self) -> bool:
        """Have it run, unless it is cancelled or late; return whether it runs. The worker calls this."""
        if self.end_if_due():
            return False
        with self._changed:
            self._state = "running"
            self._started = self._started or time.monotonic()
            self._notify()
        return True

    def advance(self, done: int, preview: Image.Image | None) -> None:
        """Say that a step was made. The worker calls this."""
        with self._changed:
            if preview is None and self._progress is not None:
                preview = self._progress.preview
            self._progress = Progress(done, self.request.steps, preview)
            self._notify()

    def end_if_due(self) -> bool:
        """End it if it was cancelled or is late; return whether it has ended. The worker calls this."""
        late = self.deadline_s is not None and time.monotonic() - self._submitted >= self.deadline_s
        if late and self.deadline_s is not None:
            done = self._progress.done if self._progress else 0
            self.end(DeadlineError(self.deadline_s, done, self.request.steps))
        elif self._cancelled is not None:
            self.end(self._cancelled)
        return self.is_ended

    def end(self, outcome: GenerationResult | Exception) -> None:
        """End it with a picture or an error, unless it has ended. The worker calls this.

        A job that was told that it will be cancelled is.
        """
        with self._changed:
            if self.is_ended:
                return
            outcome = self._cancelled or outcome
            if self._started is None:
                self._started = time.monotonic()
            self._outcome = outcome
            if isinstance(outcome, Exception):
                self._state = "failed" if self._cancelled is None else "cancelled"
            else:
                self._state = "done"
            self._notify()

    def newest(self, seen: Progress | None) -> Progress | None:
        """Return the progress, or None if it was seen already."""
        progress = self._progress
        return None if progress is seen else progress

    def wait_for_news(self, seen: Progress | None) -> None:
        """Wait until there is other progress than what was seen, or the job has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self.newest(seen) or self.is_ended)

    async def wait_for_news_async(self, seen: Progress | None) -> None:
        """Wait as `wait_for_news`, in an event loop."""
        with self._waking() as woken:
            while not (self.newest(seen) or self.is_ended):
                await woken.wait()
                woken.clear()

    async def _wait(self) -> GenerationResult:
        try:
            with self._waking() as woken:
                while not self.is_ended:
                    await woken.wait()
                    woken.clear()
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self._ended()

    def _ended(self) -> GenerationResult:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        if self._outcome is None:
            raise AssertionError("a job that has ended has a result or an error")
        return self._outcome

    @contextmanager
    def _waking(self) -> Iterator[asyncio.Event]:
        """Give an event that is set in this event loop whenever something changes."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed with its tasks still waiting
                loop.call_soon_threadsafe(event.set)

        with self._changed:
            self._listeners.append(wake)
        try:
            yield event
        finally:
            with self._changed:
                self._listeners.remove(wake)

    def _notify(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()


class ProgressStream:
    """The progress of one job, for `for` and for `async for`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seen: Progress | None = None

    def __iter__(self) -> "ProgressStream":
        return self

    def __next__(self) -> Progress:
        self._job.wait_for_news(self._seen)
        news = self._job.newest(self._seen)
        if news is None:
            raise StopIteration
        self._seen = news
        return news

    def __aiter__(self) -> "ProgressStream":
        return self

    async def __anext__(self) -> Progress:
        await self._job.wait_for_news_async(self._seen)
        news = self._job.newest(self._seen)
        if news is None:
            raise StopAsyncIteration
        self._seen = news
        return news
