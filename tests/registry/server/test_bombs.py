"""Requests that are small to send and large to hold: refused, and the server's memory stays bounded."""

import http.client
import json
import re
import struct
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from adapterhub_registry.server.people import People
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry
from tests.registry.server.conftest import Served
from tests.registry.server.test_process import started
from tests.registry.server.xet_format import MAGIC, Pusher

NAME = "acme/ink"
ALLOWED = 256 << 20
COUNTS = [2, pytest.param(16, marks=pytest.mark.long)]


def head_of(served: Served, path: str, **headers: str) -> None:
    """Send a head that the server may end at once."""
    with suppress(OSError, http.client.HTTPException):
        assert served.ask("GET", path, headers=headers).status in (400, 401, 404, 414, 431, 501)


def ask(served: Served, method: str, path: str, body: Any, status: set[int], *, by: str = "bob") -> None:
    with suppress(OSError):  # cut off while it was still sent
        found = served.ask(method, path, body, by=by)
        assert found.status in status, (path, found)


def commit(served: Served, line: bytes, count: int = 1) -> None:
    ask(served, "POST", f"/api/models/{NAME}/commit/main", line * count, {400, 413, 501})


def nested(size: int) -> bytes:
    """JSON that unfolds to twenty times its size."""
    return b'{"content": [' + b"[]," * (size // 3) + b"[]]}"


def bomb_of(chunk: bytes, size: int) -> bytes:
    """A chunk whose frame of LZ4 holds more than it says."""
    packed = lz4.frame.compress(chunk)
    lengths = [struct.pack("<I", number)[:3] for number in (len(packed), size)]
    return b"\0" + lengths[0] + b"\1" + lengths[1] + packed


def xet(served: Served, path: str, body: bytes) -> None:
    with suppress(OSError):
        found = Pusher(served, NAME).ask("POST", path, body)
        assert found.status in (400, 413) or b'"error"' in found.content, found


def shard(count: int, terms: int) -> bytes:
    """A shard that says it has more than it has, or has many."""
    start = MAGIC + struct.pack("<QQ", 2, 0)
    one = (
        bytes(32)
        + struct.pack("<IIQ", 1 << 30, terms, 0)
        + (bytes(32) + struct.pack("<IIII", 0, 9, 0, 1)) * (terms if terms < 1 << 20 else 9)
    )
    return start + (one + bytes(range(48))) * count


LINE = json.dumps({"key": "deletedFile", "value": {"path": "é" * 4000}}, ensure_ascii=False).encode() + b"\n"
FILE = {"key": "file", "value": {"path": "a.txt", "content": b64encode(bytes(5 << 20)).decode()}}
BOMBS: dict[str, Callable[[Served], None]] = {
    "path": lambda served: head_of(served, "/" + "a/" * 500_000),
    "query": lambda served: head_of(served, "/v1/search?" + "tag=a&" * 200_000),
    "header": lambda served: head_of(served, "/healthz", **{"X-Long": "a" * (4 << 20)}),
    "headers": lambda served: head_of(served, "/healthz", **{f"X-{number}": "a" for number in range(20_000)}),
    "token": lambda served: head_of(served, "/healthz", Authorization="Bearer " + "a" * 60_000),
    "json": lambda served: ask(
        served, "POST", f"/api/models/{NAME}/preupload/main", nested(4 << 20), {400, 413}
    ),
    "json of a stranger": lambda served: ask(
        served, "POST", "/api/validate-yaml", nested((1 << 20) - 99), {400}, by=""
    ),
    "json without end": lambda served: ask(
        served, "POST", f"/v1/adapters/{NAME}/missing", b" " * (64 << 20), {413}
    ),
    "yaml": lambda served: ask(
        served,
        "POST",
        "/api/validate-yaml",
        {
            "content": "---\n"
            + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
            + "---\n"
        },
        {200, 400},
    ),
    "line": lambda served: commit(served, b"[" + b"[]," * (2 << 20)),
    "line without end": lambda served: commit(served, b"x" * (64 << 20)),
    "lines": lambda served: commit(served, LINE, 9_000),
    "empty lines": lambda served: commit(served, b"{}\n", 2_000_000),
    "file in a line": lambda served: commit(served, json.dumps(FILE).encode() + b"\n", 3),
    "xorb of LZ4": lambda served: xet(
        served, f"/v1/xorbs/default/{'1' * 64}", bomb_of(bytes(60 << 20), 128 << 10) + bytes(8)
    ),
    "xorb of many": lambda served: xet(
        served, f"/v1/xorbs/default/{'2' * 64}", bomb_of(bytes(128 << 10), 128 << 10) * 600
    ),
    "xorb of small chunks": lambda served: xet(
        served, f"/v1/xorbs/default/{'3' * 64}", b"\0\1\0\0\0\1\0\0a" * 100_000
    ),
    "shard of terms": lambda served: xet(served, "/v1/shards", shard(1, 2**32 - 1)),
    "shard of many terms": lambda served: xet(served, "/v2/shards", shard(2, 60_000)),
    "shard of files": lambda served: xet(served, "/v1/shards", shard(20_000, 1)),
    "shard without end": lambda served: xet(served, "/v1/shards", bytes(65 << 20)),
}


def memory(process: int, name: str) -> int:
    """What the system says of a process's memory: `VmRSS` now, `VmHWM` at most."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.parametrize("at_once", COUNTS)
def test_no_bomb_takes_much_memory(home: Path, at_once: int) -> None:
    registry = Registry(home)
    People(registry.database).add_user("bob")
    People(registry.database).add_organisation("acme", owner="bob")
    tokens = {"bob": Tokens(registry.database).add("bob")[0]}
    registry.create(NAME)
    with started(home) as (process, port):
        served = Served(registry, f"http://127.0.0.1:{port}", tokens)
        served.ask("GET", f"/api/models/{NAME}", by="bob")
        before, seen = memory(process.pid, "VmRSS"), dict[str, int]()
        with ThreadPoolExecutor(at_once) as pool:
            for name, throw in BOMBS.items():
                for future in [pool.submit(throw, served) for _ in range(at_once)]:
                    future.result()
                seen[name] = (memory(process.pid, "VmHWM") - before) >> 20
        assert max(seen.values()) <= ALLOWED >> 20, seen
        assert served.ask("GET", "/healthz").status == 200
    assert registry.versions(NAME) == []
    assert [path for path in (home / "staging").iterdir() if path.is_file()] == []
    registry.close()
