"""Connections to a registry: used again while they live, and not once the other end has closed them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from adapterhub_registry.connection import Connection
from adapterhub_registry.errors import RemoteError
from adapterhub_registry.remotes import open_remote

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def answering(asked: list[int], *, per_connection: int) -> Iterator[str]:
    """Answer so many requests on each connection, and write down the number of the connection for each."""

    def serve() -> None:
        for number in range(1000):
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                for _ in range(per_connection):
                    if not connection.recv(65536):
                        break
                    asked.append(number)
                    connection.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(("per_connection", "expected"), [(3, [0, 0, 0]), (1, [0, 1, 2])])
def test_a_connection_is_used_again_unless_it_was_closed(per_connection: int, expected: list[int]) -> None:
    asked: list[int] = []
    with answering(asked, per_connection=per_connection) as url:
        connection = Connection("team", url, "")
        for _ in range(3):
            assert connection.ask("GET", "/").status == 200
    assert asked == expected


def test_remotes_of_one_registry_share_their_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert open_remote("team", url) is open_remote("team", url)
        assert open_remote("team", url) is not open_remote("other", url)


@pytest.mark.parametrize("token", ["ahub_one\nahub_two", "my token", "gehört", "a\r\nHost: b"])
def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    with pytest.raises(RemoteError, match=r"team.*copy it again, as one word") as raised:
        Connection("team", "http://127.0.0.1:1", token)
    assert token not in str(raised.value)
