"""The server as a process: where it listens, how it stops, and what its log says."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapterhub_cli.main import main
from adapterhub_registry.server.people import People
from adapterhub_registry.server.process import _listen  # pyright: ignore[reportPrivateUsage]
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry

COMMAND = [sys.executable, "-m", "adapterhub_cli", "serve", "registry", "--port", "0"]


@contextmanager
def started(home: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command until it says where it is; its log goes to `log_of(home)`."""
    with (
        log_of(home).open("w") as log,
        subprocess.Popen([*COMMAND, "--home", str(home), *words], stderr=log, text=True) as process,
    ):
        try:
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", log_of(home).read_text())):
                assert process.poll() is None, log_of(home).read_text()
                time.sleep(0.01)
            yield process, int(found[1])
        finally:
            process.kill()


def log_of(home: Path) -> Path:
    """A file beside the home, because a pipe that nobody reads would stop the server when it is full."""
    return home.with_name(f"{home.name}.log")


def test_it_answers_logs_no_secret_and_ends_what_it_began(home: Path) -> None:
    registry = Registry(home)
    People(registry.database).add_user("alice")
    token, _ = Tokens(registry.database).add("alice")
    name = registry.create("alice/ink")
    with started(home) as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"Authorization": f"Bearer {token}", "X-Request-Id": "first"}
        connection.request("GET", f"/api/models/{name}?secret=word", headers=headers)
        assert connection.getresponse().read()
        # A commit that is half sent when the server is told to stop is answered before it does.
        body = b'{"key": "header", "value": {"summary": "Last"}}\n'
        connection.putrequest("POST", f"/api/models/{name}/commit/main")
        connection.putheader("Authorization", f"Bearer {token}")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:9])
        assert other_answer(port) == 200
        process.send_signal(signal.SIGTERM)
        wait_until_it_refuses(port)
        connection.send(body[9:])
        assert connection.getresponse().status == 200
        connection.close()
        assert process.wait(20) in (0, -signal.SIGTERM)
    log = log_of(home).read_text()
    assert f"alice GET /api/models/{name} 200" in log
    assert "first" in log
    assert f"alice POST /api/models/{name}/commit/main 200" in log
    for secret in (token, token[12:], "secret", "word"):
        assert secret not in log


def other_answer(port: int) -> int:
    """A whole request, so that what was sent before it has arrived."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/healthz")
    found = connection.getresponse()
    found.read()
    connection.close()
    return found.status


def wait_until_it_refuses(port: int) -> None:
    """Knock until nobody opens."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=20).close()
        except ConnectionError:  # refused, or reset while the server closes
            return


def test_others_are_not_let_in_without_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "registry", "--host", "0.0.0.0", "--port", "0"]) == 1  # noqa: S104
    said = capsys.readouterr().err
    assert "no token" in said
    assert "adapterhub admin token add" in said


def test_an_address_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "registry", "--port", str(port)]) == 1
    assert f"127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_answers_are_not_held_back_for_a_receipt() -> None:
    # asyncio turns Nagle's algorithm off in connections whose socket says that it speaks TCP.
    with _listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_the_server_needs_no_torch() -> None:
    program = (
        "import sys; from adapterhub_registry.server import app, process; "
        "sys.exit(str([name for name in ('torch', 'diffusers', 'numpy') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"
