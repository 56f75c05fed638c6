"""The server as a process: where it listens, and how it stops."""

import logging
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import uvicorn

from adapterhub_registry.server.app import create_app
from adapterhub_registry.server.errors import AddressError
from adapterhub_registry.server.patience import patient
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry

STOP_S = 30
"""How long requests that are being answered have, once the server is told to stop."""
BACKLOG = 2048


def serve(
    home: Path | None,
    *,
    host: str,
    port: int,
    requests_per_minute: int | None,
    patience_s: float,
    on_ready: Callable[[str], None],
) -> None:
    """Serve a registry until the process is told to stop; requests that are being answered end first.

    Args:
        home: Of the registry; None means that of the environment.
        host: The address to listen at.
        port: Likewise; 0 takes a free one.
        requests_per_minute: Of one user, or one address without a token; None for any number.
        patience_s: After so long, clients that do not go on are cut off.
        on_ready: Called with the server's address once clients can reach it.

    Raises:
        AddressError: The address is taken, or not this machine's, or open to others while there is no token.
        HomeError, DatabaseError, OutputError: The home cannot be used.
    """
    registry = Registry(home)
    try:
        if not is_local(host) and not Tokens(registry.database).any():
            reason = (
                "others can reach that address, and there is no token that tells them apart. Make one with: "
                "adapterhub admin user add NAME; adapterhub admin token add NAME"
            )
            raise AddressError(host, port, reason)
        with _listen(host, port) as listening:
            _log_to_stderr()
            config = uvicorn.Config(
                create_app(registry, requests_per_minute=requests_per_minute),
                http=cast("Any", patient(patience_s)),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_S,
                h11_max_incomplete_event_size=64 << 10,
            )
            name = f"[{host}]" if ":" in host else host
            on_ready(f"http://{name}:{listening.getsockname()[1]}")
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        registry.close()


def is_local(host: str) -> bool:
    """Say whether only this machine reaches an address.

    Example:
        >>> is_local("127.0.0.1"), is_local("::1"), is_local("localhost"), is_local("0.0.0.0")
        (True, True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Unless the protocol is said, asyncio leaves Nagle's algorithm on: 40 ms for an answer in two pieces.
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as exc:
        raise AddressError(host, port, exc.strerror or str(exc)) from exc
    return listening


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (
        ("adapterhub", logging.INFO),
        ("adapterhub_registry", logging.INFO),
        ("uvicorn", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
