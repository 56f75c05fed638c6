"""What clients of OpenAI's picture API call: `POST /v1/images/generations` and `GET /v1/models`."""

import re
import time
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from adapterhub.errors import SettingError
from adapterhub.runtime.engine import Runtime
from adapterhub.serving.adapters import fitting_adapters
from adapterhub.serving.failures import json_answer
from adapterhub.serving.fields import Fields, read_fields
from adapterhub.serving.gate import tenant_of
from adapterhub.serving.generate import picture_entry
from adapterhub.serving.limits import RequestLimits
from adapterhub.serving.live_jobs import LiveJobs, while_connected
from adapterhub.serving.orders import read_order

IGNORED = ("quality", "style", "background", "moderation", "output_compression", "user", "safety_identifier")
"""What these say has no meaning for a base and its adapters; clients send them all the same."""
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class OpenAiApi:
    """OpenAI's names for what our own API does; `model` is a composition.

    Our own names are read too, so that a client can send `seed` or `steps`.

    Args:
        runtime: What makes pictures.
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

    async def images(self, request: Request) -> Response:
        """Answer with pictures in base64."""
        fields = await read_fields(request, self._limits)
        own = Fields(self._translated(fields), self._limits)
        own_size = self._runtime.default_size
        order = await run_in_threadpool(read_order, own, self._limits, own_size=own_size, plane=self._plane)
        jobs = await self._live.submit(order, tenant=tenant_of(request))

        async def answer() -> Response:
            results = await self._live.results(jobs)
            entries = [await run_in_threadpool(picture_entry, result, order.format) for result in results]
            data = [{"b64_json": entry["data"]} for entry in entries]
            record = results[0].record
            content = {
                "created": int(time.time()),
                "data": data,
                "output_format": order.format,
                "size": f"{record.width}x{record.height}",
            }
            return json_answer(content)

        try:
            return await while_connected(request.receive, answer())
        finally:
            self._live.release(jobs)

    async def models(self, request: Request) -> Response:
        """Answer with the base, and every adapter that fits it."""
        del request
        adapters = await run_in_threadpool(lambda: list(fitting_adapters(self._runtime)))
        created = {self._runtime.base.name: 0} | {one.name: _epoch(one.created) for one in adapters}
        data = [
            {"id": name, "object": "model", "created": when, "owned_by": "adapterhub"}
            for name, when in created.items()
        ]
        return json_answer({"object": "list", "data": data})

    def _translated(self, fields: Fields) -> dict[str, Any]:
        """Return the body in our own names.

        Raises:
            SettingError: It asks for what there is not.
        """
        model = fields.text("model", "").strip()
        table: dict[str, Any] = {"composition": "" if model == self._runtime.base.name else model}
        table["count"] = fields.whole("n", 1)
        table["format"] = fields.text("output_format", "png")
        size = fields.text("size", "auto")
        found = SIZE.fullmatch(size)
        if found is not None:
            table |= {"width": int(found[1]), "height": int(found[2])}
        elif size != "auto":
            raise SettingError("size", ascii(size)[:60], 'it must be like "1024x1024", or "auto"')
        if fields.text("response_format", "b64_json") != "b64_json":
            rule = "pictures are not kept here, so there is no address for them; ask for b64_json"
            raise SettingError("response_format", "url", rule)
        rest = fields.rest()
        if rest.pop("stream", None):
            raise SettingError("stream", True, "progress is told by POST /v1/generate alone")
        for name in (*IGNORED, "partial_images"):
            rest.pop(name, None)
        return rest | table


def _epoch(created: str) -> int:
    """Return seconds since 1970 of a time in ISO 8601."""
    from datetime import datetime

    return int(datetime.fromisoformat(created).timestamp())
