"""What is seen of every request: its id, a line in the log without secrets, and numbers."""

import logging
import re
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapterhub_registry.server.metrics import Metrics

ACCESS = "adapterhub.access"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Observer:
    """Wraps the application.

    The log holds no query, because that of a signed address is a secret, and no header.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._log = logging.getLogger(ACCESS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        identifier = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"request": identifier, "route": "unknown", "caller": "", "limits": {}}
        status, sent, began = 500, 0, time.perf_counter()

        async def note(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                told = {"X-Request-Id": identifier, "X-Content-Type-Options": "nosniff", **state["limits"]}
                added = [(name.lower().encode(), text.encode()) for name, text in told.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        self._metrics.begin()
        try:
            await self._app(scope, receive, note)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.end(state["route"], scope["method"], status, seconds, sent)
            path = scope["path"].encode("ascii", "backslashreplace").decode()
            shown = "".join(letter if letter.isprintable() else "?" for letter in path)[:500]
            who, client = state["caller"] or "-", (scope.get("client") or ("-",))[0]
            self._log.info(
                "%s %s %s %s %d %dB %.1fms %s", client, who, scope["method"], shown, status, sent,
                seconds * 1000, identifier,
            )  # fmt: skip
