"""Clients that do not go on: cut off, so that they hold no connection, and nothing that was begun for it."""

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None

LEAST_BYTES = 4096
"""What must move while a client is waited for: in 30 seconds, the slowest modem moves ten times that."""

logger = logging.getLogger(__name__)


class PatientProtocol(asyncio.Protocol):
    """HTTP on one connection, looked after now and then.

    A client is cut off when it was its turn at two looks one after the other, and less than `LEAST_BYTES`
    moved between them: with half a request, half a body, or an answer that it does not read. While the server
    works on an answer nobody is cut off.

    Args:
        http: What speaks HTTP.
        patience_s: Between two looks.
    """

    def __init__(self, http: H11Protocol, patience_s: float) -> None:
        self._http, self._patience_s = http, patience_s
        self._moved = self._unsent = 0
        self._before: tuple[str, object] = ("", None)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to look."""
        self._http.connection_made(cast("asyncio.Transport", transport))
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._moved += len(data)
        self._http.data_received(data)

    def eof_received(self) -> None:
        """Note that nothing else comes."""
        self._http.eof_received()

    def pause_writing(self) -> None:
        """Wait for the client to take what it was sent."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Go on, because it did."""
        self._moved += LEAST_BYTES
        self._http.resume_writing()

    def _look(self) -> None:
        waits, unsent = self._waits(), _unsent(self._http.transport)
        moved = self._moved + max(0, self._unsent - unsent) if self._before == waits else LEAST_BYTES
        if waits[0] and moved < LEAST_BYTES:
            address = self._http.client or ("-",)
            logger.info("%s was cut off: it did not %s in %g s", address[0], waits[0], self._patience_s)
            self._http.transport.abort()
            return
        self._before, self._moved, self._unsent = waits, 0, unsent
        self._timer = self._http.loop.call_later(self._patience_s, self._look)

    def _waits(self) -> tuple[str, object]:
        """Return what the client is to do, and for which request; nothing while it is the server's turn."""
        cycle, flow = cast("RequestResponseCycle | None", self._http.cycle), self._http.flow
        if cycle is None or cycle.response_complete:
            return "send a request", cycle
        if flow.write_paused:
            return "take the answer", cycle
        if cycle.more_body and not flow.read_paused and not cycle.waiting_for_100_continue:
            return "send the body", cycle
        return "", cycle


def _unsent(transport: asyncio.Transport) -> int:
    """Return how much the client has not taken; some of it, which may be megabytes, the system holds."""
    held = bytearray(4)
    if fcntl is not None and termios is not None:
        with suppress(OSError):  # where the system does not tell
            fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
    return transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)


def patient(patience_s: float) -> Callable[..., asyncio.Protocol]:
    """Return what makes the protocol of each connection, as uvicorn asks for it."""

    def protocol(**words: Any) -> asyncio.Protocol:
        return PatientProtocol(H11Protocol(**words), patience_s)

    return protocol
