"""Slow clients hang for a while, harm nobody, and are cut off; whoever goes on is waited for."""

import asyncio
import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from adapterhub_registry.server.app import create_app
from adapterhub_registry.server.patience import patient
from adapterhub_registry.server.people import People
from adapterhub_registry.server.process import _listen  # pyright: ignore[reportPrivateUsage]
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry
from tests.registry.server.test_process import other_answer, started
from tests.registry.server.test_remote import large_weights
from tests.registry.server.xet_format import split

COUNTS = [20, pytest.param(200, marks=pytest.mark.long)]
SIZE = 16 << 20
"""More than the buffers of two sockets hold."""


@pytest.fixture
def token(home: Path, tmp_path: Path) -> str:
    """Of Alice, who has an adapter with a large file."""
    registry = Registry(home)
    People(registry.database).add_user("alice")
    (tmp_path / "w.safetensors").write_bytes(large_weights(SIZE))
    registry.add(tmp_path / "w.safetensors", name="alice/ink", base="mini")
    token = Tokens(registry.database).add("alice")[0]
    registry.close()
    return token


def half_requests(token: str) -> Iterator[bytes]:
    """What slow clients begin with, in turn: nothing, half a head, half a body, an answer that they leave."""
    said = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
    for number in count():
        yield b""
        yield b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "
        for target in (
            "POST /api/models/alice/ink/commit/main",
            f"PUT /v1/adapters/alice/ink/blobs/{number:064x}",
            "POST /api/validate-yaml",
        ):
            yield f"{target} HTTP/1.1\r\n{said}Content-Length: 1000000\r\n\r\n{{".encode()
        yield f"GET /alice/ink/resolve/main/pytorch_lora_weights.safetensors HTTP/1.1\r\n{said}\r\n".encode()


def begin(stack: ExitStack, port: int, token: str, clients: int) -> list[socket.socket]:
    """Connect slow clients; their own buffers are small, so that what they leave stays with the server."""
    found: list[socket.socket] = []
    for _, text in zip(range(clients), half_requests(token), strict=False):
        slow = stack.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        slow.connect(("127.0.0.1", port))
        slow.sendall(text)
        found.append(slow)
    return found


@pytest.mark.parametrize("clients", COUNTS)
def test_others_are_served_while_slow_clients_hang(home: Path, token: str, clients: int) -> None:
    with started(home, "--patience", "600") as (_, port), ExitStack() as stack:
        slow = begin(stack, port, token, clients)
        headers = {"Authorization": f"Bearer {token}"}
        for _ in range(10):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/alice/ink/resolve/main/README.md", headers=headers)
            found = connection.getresponse()
            assert (found.status, found.read() != b"") == (200, True)
            body = json.dumps({"content": "# Ink"})
            connection.request("POST", "/api/validate-yaml", body, headers)
            found = connection.getresponse()
            assert (found.status, found.read() != b"") == (200, True)
            connection.close()
        for client in slow[::6]:  # those that said nothing are still welcome
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time is set forward by hand."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s

    def skip(self, seconds: float) -> None:
        """Let so much time pass, and wait until what was due has been done."""
        passed = threading.Event()

        def forward() -> None:
            self.skipped_s += seconds
            self.call_later(0, lambda: self.call_soon(passed.set))

        self.call_soon_threadsafe(forward)
        assert passed.wait(60)


@contextmanager
def serving_by(clock: Clock, home: Path) -> Iterator[int]:
    """Serve a home with 30 seconds of patience, by that clock."""
    registry = Registry(home)
    app = create_app(registry)
    with _listen("127.0.0.1", 0) as listening:
        words: Any = {"http": patient(30), "log_config": None, "access_log": False}
        server = uvicorn.Server(uvicorn.Config(app, **words))

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: clock) as runner:
                runner.run(server.serve(sockets=[listening]))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
            registry.close()


@pytest.mark.parametrize("clients", COUNTS)
def test_slow_clients_are_cut_off(
    home: Path, token: str, clients: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with serving_by(clock, home) as port, ExitStack() as stack:
        slow = begin(stack, port, token, clients)
        assert other_answer(port) == 200
        clock.skip(31)
        assert all(is_over(client) for client in (*slow[::6], *slow[1::6]))
        for client in slow[2::6]:
            client.sendall(b"drop")  # a drop now and then is too little
        for _ in range(10):  # an answer fills the system's buffers first
            assert other_answer(port) == 200
            clock.skip(31)
        assert all(map(is_over, slow))
        assert other_answer(port) == 200
    lines = [line for line in caplog.messages if "was cut off" in line]
    assert len(lines) == clients
    for what in ("send a request", "send the body", "take the answer"):
        assert f"127.0.0.1 was cut off: it did not {what} in 30 s" in lines
    assert [path for path in (home / "staging").iterdir() if path.is_file()] == []


def read(client: socket.socket, size: int) -> bytes:
    """Read so many bytes, or all that there are."""
    found = bytearray()
    while len(found) < size and (piece := client.recv(min(1 << 16, size - len(found)))):
        found += piece
    return bytes(found)


def is_over(client: socket.socket) -> bool:
    """Read what is left, and say whether the server ended it early."""
    with suppress(ConnectionError):
        return len(read(client, SIZE)) < SIZE
    return True


def test_whoever_goes_on_is_waited_for(home: Path, token: str) -> None:
    clock = Clock()
    with serving_by(clock, home) as port, ExitStack() as stack:
        content = json.dumps({"content": " " * 50_000}).encode()
        sending = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        head = f"POST /api/validate-yaml HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        sending.sendall(head.encode())
        taking = begin(stack, port, token, 6)[-1]
        taken = 0
        for piece in split(content, 5000):
            sending.sendall(piece)
            taken += len(read(taking, 1 << 20))
            assert other_answer(port) == 200
            clock.skip(31)
        assert sending.recv(12) == b"HTTP/1.1 200"
        assert len(read(taking, SIZE - taken)) == SIZE - taken


WITHOUT = """
import asyncio, socket, sys, uvicorn
sys.modules["fcntl"] = sys.modules["termios"] = None
from adapterhub_registry.server.patience import _unsent

async def main():
    one, other = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=one)
    writer.write(bytes(4 << 20))
    print(_unsent(writer.transport), writer.transport.get_write_buffer_size())
    writer.transport.abort()
    other.close()

asyncio.run(main())
"""


def test_without_what_unix_tells_the_buffer_of_the_server_counts() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    counted, held = map(int, done.stdout.split())
    assert counted == held > 0
