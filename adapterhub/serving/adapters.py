"""What there is to ask for: `GET /v1/adapters` and `GET /v1/runtime`."""

from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from adapterhub import __version__
from adapterhub.errors import FieldError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.schedule import METHOD_NAMES
from adapterhub.runtime.schedulers import SCHEDULERS
from adapterhub.serving.failures import json_answer
from adapterhub.serving.limits import RequestLimits
from adapterhub_registry.publication import Adapter
from adapterhub_registry.search import Filters

PAGE = 100
MOST = 1000
"""Adapters in lists that have no pages."""


class AdaptersApi:
    """Tells what there is.

    Args:
        runtime: Whose base and registry.
        limits: What one request may ask for.
    """

    def __init__(self, runtime: Runtime, limits: RequestLimits) -> None:
        self._runtime = runtime
        self._limits = limits

    async def adapters(self, request: Request) -> Response:
        """Answer with a page of adapters: `q` has words, `limit` and `after` choose the page."""
        asked = request.query_params
        limit = asked.get("limit", str(PAGE))
        if not limit.isdecimal():
            raise FieldError("limit", limit[:60], "a whole number")
        words, after = asked.get("q", ""), asked.get("after") or None
        return json_answer(await run_in_threadpool(self._page, words, int(limit), after))

    async def runtime(self, request: Request) -> Response:
        """Answer with the base, its schedulers and methods, and the limits."""
        del request
        base, size = self._runtime.base, self._runtime.default_size
        limits = {
            "pixels": self._limits.most_pixels(size),
            "steps": self._limits.steps,
            "count": self._limits.count,
            "body_bytes": self._limits.body_bytes,
        }
        content = {
            "version": __version__,
            "base": base.name,
            "architecture": base.architecture,
            "size": size,
            "schedulers": list(SCHEDULERS),
            "methods": list(METHOD_NAMES),
            "limits": limits,
        }
        return json_answer(content)

    def _page(self, words: str, limit: int, after: str | None) -> dict[str, Any]:
        page = self._runtime.registry.search(words, limit=limit, after=after)
        return {"adapters": [self._entry(adapter) for adapter in page], "next": page.next}

    def _entry(self, adapter: Adapter) -> dict[str, Any]:
        versions = self._runtime.registry.versions(adapter.name)
        newest = next((one for one in reversed(versions) if one.number == adapter.latest), versions[-1])
        return {
            "name": adapter.name,
            "title": adapter.title,
            "description": adapter.description,
            "kind": adapter.kind,
            "tags": list(adapter.tags),
            "versions": [one.number for one in versions if one.state == "published"],
            "aliases": dict(adapter.aliases),
            "latest": adapter.latest,
            "trigger_words": list(newest.trigger_words),
            "recommended_weight": newest.manifest.recommended_weight or None,
            "architecture": newest.architecture,
            "fits": newest.architecture == self._runtime.base.architecture,
        }


def fitting_adapters(runtime: Runtime) -> Iterator[Adapter]:
    """Yield the adapters whose newest version fits a runtime's base, by name, `MOST` of them at most."""
    yield from runtime.registry.search(filters=Filters(architecture=runtime.base.architecture), limit=MOST)
