"""HTTP to one registry, by the standard library: tries again what was cut off, and waits when told to."""

import http.client
import json
import re
import selectors
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from adapterhub_registry.errors import RemoteError

TIMEOUT_S = 60
PIECE_BYTES = 1 << 20
TRIES = 6
"""In a row, without a byte that came through."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 60.0
MOST_IDLE_S = 30.0
"""Routers forget connections that are idle for long, and say so to nobody."""
AGAIN = (408, 429, 502, 503, 504)
AGENT = "adapterhub"
TOKEN = re.compile(r"[!-~]+")
"""What can stand in a header, as one word."""


class CutError(Exception):
    """A connection ended before its time; what came before that came."""


@dataclass(frozen=True)
class Reply:
    """What came back: the status, headers by lower-case names, and the body if it was read."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def table(self) -> dict[str, Any]:
        """The JSON object that the body is; empty if it is none."""
        try:
            found: Any = json.loads(self.content)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


class Connection:
    """A registry over HTTP; safe to use from many threads.

    Args:
        name: What the user calls it, for errors.
        url: `http://host[:port][/path]`, or `https://`.
        token: Sent with every request; empty for none.

    Raises:
        RemoteError: The URL is none, or the token is.
    """

    def __init__(self, name: str, url: str, token: str) -> None:
        self._name = name
        parts = urlsplit(url)
        try:
            self._host, self._port, is_fine = parts.hostname or "", parts.port, bool(parts.hostname)
        except ValueError:
            is_fine = False
        if not is_fine or parts.query or parts.fragment or parts.username is not None:
            raise RemoteError(
                name, f'"{url}" is no URL of a registry; write https://host, without a name in it'
            )
        self._is_tls, self._path = parts.scheme == "https", parts.path.rstrip("/")
        self._headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if token and not TOKEN.fullmatch(token):
            reason = "the token for it holds a space, a line break or another sign that no token has"
            raise RemoteError(name, f"{reason}; copy it again, as one word")
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        weakref.finalize(self, _close, self._idle)

    def ask(
        self,
        method: str,
        path: str,
        table: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request and read the whole answer; sent again if it is cut off, so it must bear that.

        Raises:
            RemoteError: The registry cannot be reached.
        """
        body = None if table is None else json.dumps(table).encode()
        sent = {**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})}

        def once() -> Reply:
            return self._once(method, path, body, sent)

        return self.patiently(once, lambda: 0)

    def upload(
        self, path: str, file: BinaryIO, start: int, size: int, on_bytes: Callable[[int], None]
    ) -> Reply:
        """Send the rest of a file from a position on, once; `on_bytes` gets the bytes of each piece.

        Raises:
            CutError: The connection ended.
        """
        headers = {**self._headers, "Content-Length": str(size - start)}
        if size:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        with self._borrowed() as connection:
            connection.putrequest("PUT", self._path + path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            file.seek(start)
            # Refused before all was sent, the answer says why.
            with suppress(BrokenPipeError, ConnectionResetError):
                while piece := file.read(PIECE_BYTES):
                    connection.send(piece)
                    on_bytes(len(piece))
            reply = _read(connection.getresponse())
        moved = self._moved(reply)
        return self.upload(moved, file, start, size, lambda _: None) if moved else reply

    def download(self, path: str, start: int, take: Callable[[int, memoryview], None]) -> Reply:
        """Read a file from a position on, once; `take` gets the position and the bytes of each piece.

        A piece stays as it is until `take` has got the next one. The answer may begin at 0 all the same, and
        then so do the pieces; of a refusal, there are none.

        Raises:
            CutError: The connection ended before the file did.
        """
        headers = {**self._headers, **({"Range": f"bytes={start}-"} if start else {})}
        with self._borrowed() as connection:
            connection.request("GET", self._path + path, headers=headers)
            found = connection.getresponse()
            if found.status not in (200, 206):
                reply = _read(found)
            else:
                reply, position = _reply(found, b""), start if found.status == 206 else 0
                end = None if found.length is None else position + found.length
                buffer, other = memoryview(bytearray(PIECE_BYTES)), memoryview(bytearray(PIECE_BYTES))
                while count := _fill(found, buffer):
                    take(position, buffer[:count])
                    position += count
                    buffer, other = other, buffer
                if end is not None and position < end:
                    raise http.client.IncompleteRead(b"", end - position)
        moved = self._moved(reply)
        return self.download(moved, start, take) if moved else reply

    def patiently(self, once: Callable[[], Reply], progress: Callable[[], int]) -> Reply:
        """Do something until it is answered for good, waiting longer each time that nothing comes through.

        Args:
            once: Does it.
            progress: Says how far it came; each step forward begins the tries anew.

        Raises:
            RemoteError: It was cut off too often.
        """
        tries, before, wait_s = 0, progress(), FIRST_WAIT_S
        while True:
            why, asked_s = "", 0.0
            try:
                reply = once()
                if reply.status not in AGAIN and not _is_busy(reply):
                    return reply
                why, asked_s = _message(reply), _asked_wait(reply)
            except CutError as exc:
                why = str(exc)
                if _is_nobody(exc.__cause__):
                    raise RemoteError(self._name, f"nobody answers at {self._address} ({why})") from exc
            now = progress()
            tries, wait_s = (1, FIRST_WAIT_S) if now > before else (tries + 1, wait_s * 2)
            before = max(before, now)
            if tries >= TRIES or asked_s > LONGEST_WAIT_S:
                raise RemoteError(self._name, f"{self._address} was tried {tries} times ({why})")
            time.sleep(max(asked_s, min(wait_s, LONGEST_WAIT_S)))

    @property
    def _address(self) -> str:
        port = "" if self._port is None else f":{self._port}"
        return f"{'https' if self._is_tls else 'http'}://{self._host}{port}{self._path}"

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        with self._borrowed() as connection:
            connection.request(method, self._path + path, body, {**self._headers, **headers})
            reply = _read(connection.getresponse())
        moved = self._moved(reply)
        return self._once(method, moved, body, headers) if moved else reply

    def _moved(self, reply: Reply) -> str:
        """Return where else on this server it is; the token goes nowhere else."""
        place = reply.headers.get("location", "")
        if reply.status != 307 or not place.startswith("/") or place.startswith("//"):
            return ""
        return place.removeprefix(self._path)

    @contextmanager
    def _borrowed(self) -> Generator[http.client.HTTPConnection]:
        """Lend a connection to one user at a time; of one that was cut, nobody knows what would come."""
        connection = self._reused() or self._new()
        try:
            yield connection
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            _close(self._idle)  # the others may be as dead
            raise CutError(str(exc) or type(exc).__name__) from exc
        except BaseException:
            connection.close()
            raise
        self._idle.append((connection, time.monotonic()))

    def _reused(self) -> http.client.HTTPConnection | None:
        """Return a connection that was in use a moment ago and that the other end has not closed, if any."""
        while True:
            try:
                connection, used = self._idle.pop()
            except IndexError:
                return None
            is_young = time.monotonic() - used < MOST_IDLE_S
            if is_young and connection.sock is not None and not _has_news(connection.sock):
                return connection
            connection.close()

    def _new(self) -> http.client.HTTPConnection:
        if not self._is_tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=context)


def _has_news(idle: socket.socket) -> bool:
    """Say whether something came on a connection on which nothing was asked: its end."""
    with selectors.DefaultSelector() as selector:
        selector.register(idle, selectors.EVENT_READ)
        return bool(selector.select(0))


def _close(idle: list[tuple[http.client.HTTPConnection, float]]) -> None:
    while idle:
        with suppress(IndexError):  # another thread was faster
            idle.pop()[0].close()


def _fill(found: http.client.HTTPResponse, buffer: memoryview) -> int:
    """Read until a buffer is full or the body ends, so that few large pieces come."""
    count = 0
    while count < len(buffer) and (read := found.readinto(buffer[count:])):
        count += read
    return count


def _reply(found: http.client.HTTPResponse, content: bytes) -> Reply:
    return Reply(found.status, {name.lower(): value for name, value in found.getheaders()}, content)


def _read(found: http.client.HTTPResponse) -> Reply:
    return _reply(found, found.read())


def _is_busy(reply: Reply) -> bool:
    return reply.status == 409 and reply.table.get("code") == "busy"


def _asked_wait(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) < 7 else 0.0


def _message(reply: Reply) -> str:
    return str(reply.table.get("error") or f"status {reply.status}")


def _is_nobody(error: BaseException | None) -> bool:
    """Say whether there is nobody to wait for: no such host, no listener, a certificate that is none."""
    return isinstance(error, ConnectionRefusedError | socket.gaierror | ssl.SSLCertVerificationError)
