"""`POST /v1/generate`: pictures in our own names, at once or with progress as server-sent events."""

import base64
import io
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from adapterhub.errors import AdapterHubError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.jobs import Job
from adapterhub.runtime.result import GenerationResult
from adapterhub.serving.failures import describe, json_answer
from adapterhub.serving.fields import read_fields
from adapterhub.serving.gate import tenant_of
from adapterhub.serving.limits import RequestLimits
from adapterhub.serving.live_jobs import LiveJobs, progress_of, while_connected
from adapterhub.serving.orders import FORMATS, Order, read_order
from adapterhub_registry.record import picture_with_record

logger = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"
PREVIEW_QUALITY = 80


class GenerateApi:
    """Our own way to ask for pictures.

    Args:
        runtime: What makes them.
        live: Its jobs.
        limits: What one request may ask for.
        plane: For requests that name none.
    """

    def __init__(
        self, runtime: Runtime, live: LiveJobs, limits: RequestLimits, *, plane: str | None = None
    ) -> None:
        self._runtime = runtime
        self._live = live
        self._limits = limits
        self._plane = plane

    async def generate(self, request: Request) -> ASGIApp:
        """Answer with pictures and their records."""
        fields = await read_fields(request, self._limits)
        own_size = self._runtime.default_size
        order = await run_in_threadpool(
            read_order, fields, self._limits, own_size=own_size, plane=self._plane
        )
        jobs = await self._live.submit(order, tenant=tenant_of(request))
        if EVENT_STREAM in request.headers.get("accept", ""):
            return EventStream(self._live, jobs, self._events(order, jobs))
        try:
            return await while_connected(request.receive, self._answer(order, jobs))
        finally:
            self._live.release(jobs)

    async def _answer(self, order: Order, jobs: Sequence[Job]) -> Response:
        return json_answer(await self._pictures(order, jobs))

    async def _pictures(self, order: Order, jobs: Sequence[Job]) -> dict[str, Any]:
        results = await self._live.results(jobs)
        pictures = [await run_in_threadpool(picture_entry, result, order.format) for result in results]
        return {"format": order.format, "pictures": pictures}

    async def _events(self, order: Order, jobs: Sequence[Job]) -> AsyncGenerator[bytes, None]:
        shown: dict[int, Image.Image | None] = {}
        try:
            async with aclosing(progress_of(jobs)) as news:
                async for item in news:
                    if item is None:
                        yield b": still here\n\n"
                        continue
                    place, progress = item
                    entry: dict[str, Any] = {"picture": place, "done": progress.done, "steps": progress.steps}
                    if progress.preview is not shown.get(place):
                        shown[place] = progress.preview
                        entry["preview"] = await run_in_threadpool(_preview, progress.preview)
                    yield _event("progress", entry)
            yield _event("done", await self._pictures(order, jobs))
        except Exception as exc:  # the client is told here: the status was sent long ago
            if not isinstance(exc, AdapterHubError):
                logger.error("a stream failed", exc_info=exc)
            yield _event("error", describe(exc))


class EventStream:
    """An answer that tells events as they come, and lets its jobs go when it ends, however that may be."""

    def __init__(self, live: LiveJobs, jobs: Sequence[Job], events: AsyncGenerator[bytes, None]) -> None:
        self._live = live
        self._jobs = jobs
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events."""

        async def write() -> None:
            headers = {"Content-Type": EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            raw = Response(headers=headers).raw_headers
            raw = [(name, value) for name, value in raw if name != b"content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        del scope
        try:
            with suppress(ClientDisconnect):  # nobody is left to tell
                await while_connected(receive, write())
        finally:
            await self._events.aclose()
            self._live.release(self._jobs)


def picture_entry(result: GenerationResult, format_name: str) -> dict[str, Any]:
    """Return what an answer says of one picture.

    Raises:
        PictureFormatError: The format cannot hold its record.
    """
    data = picture_with_record(result.images[0], result.record, FORMATS[format_name])
    return {
        "data": base64.b64encode(data).decode(),
        "seed": result.record.seed,
        "record": json.loads(result.record.to_json()),
    }


def _preview(picture: Image.Image | None) -> str | None:
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
