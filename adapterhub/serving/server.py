"""Listen, serve, and stop in order."""

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from adapterhub.runtime.engine import Runtime
from adapterhub.serving.errors import AddressError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GLANCE_S = 0.1
"""How often uvicorn, and so this module, looks whether it should stop."""


def bind(host: str, port: int) -> socket.socket:
    """Take an address; nobody can connect before `serve` listens at it.

    Args:
        host: A name or an address.
        port: 0 for any that is free.

    Raises:
        AddressError: It is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as exc:
        raise AddressError(host, port, _reason(exc)) from exc
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as exc:
        taken.close()
        raise AddressError(host, port, _reason(exc)) from exc
    return taken


def url_of(taken: socket.socket) -> str:
    """Return the address of a socket as a browser takes it."""
    host, port = taken.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(
    app: Any, runtime: Runtime, taken: socket.socket, *, on_ready: Callable[[], None] | None = None
) -> None:
    """Serve until SIGINT or SIGTERM; then cancel all jobs, tell their clients, and close the runtime.

    Args:
        app: From `make_app`.
        runtime: Its runtime.
        taken: From `bind`; closed in the end.
        on_ready: Called when clients can connect.
    """
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    server = uvicorn.Server(config)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        server.should_exit = True

    # uvicorn has handlers of its own, and raises the signal again when it is done: it ends here.
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        asyncio.run(_serve(server, runtime, taken, on_ready))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _serve(
    server: uvicorn.Server, runtime: Runtime, taken: socket.socket, on_ready: Callable[[], None] | None
) -> None:
    serving = asyncio.create_task(server.serve(sockets=[taken]))
    while not (server.should_exit or serving.done()):
        await asyncio.sleep(GLANCE_S)
        if server.started and on_ready is not None:
            on_ready()
            on_ready = None
    # uvicorn waits for answers that are on their way, and these wait for their jobs.
    await asyncio.to_thread(runtime.close)
    await serving


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
