"""Xorbs and shards, written by the public description of Xet, and pushes of them over plain HTTP."""

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any

import lz4.frame

from tests.registry.server.conftest import Answer, Served

MAGIC = b"HFRepoMetaData\0" + bytes([85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92])
MAGIC += bytes([205, 209, 74, 169])
BOOKEND = b"\xff" * 32 + bytes(16)


def pack(chunk: bytes, scheme: int) -> bytes:
    """A chunk with what stands before it."""
    grouped = b"".join(chunk[place::4] for place in range(4)) if scheme == 2 else chunk
    packed = lz4.frame.compress(grouped) if scheme else chunk
    lengths = [struct.pack("<I", len(part))[:3] for part in (packed, chunk)]
    return b"\0" + lengths[0] + bytes([scheme]) + lengths[1] + packed


def xorb_bytes(chunks: Sequence[bytes], scheme: int = 1) -> bytes:
    return b"".join(pack(chunk, scheme) for chunk in chunks)


def hash_bytes(text: str) -> bytes:
    return struct.pack("<4Q", *(int(text[at : at + 16], 16) for at in range(0, 64, 16)))


def shard_bytes(files: Sequence[tuple[str, Sequence[tuple[str, int, int, int]]]], flags: int = 3) -> bytes:
    """A shard of files: SHA-256, and terms as (xorb, size, start, end)."""
    records = [MAGIC + struct.pack("<QQ", 2, 0)]
    for sha256, terms in files:
        records.append(bytes(32) + struct.pack("<IIQ", flags << 30, len(terms), 0))
        for xorb, *numbers in terms:
            records.append(hash_bytes(xorb) + struct.pack("<IIII", 0, *numbers))
        records += [bytes(48)] * (len(terms) if flags & 2 else 0)
        if flags & 1:
            records.append(hash_bytes(sha256) + bytes(16))
    return b"".join([*records, BOOKEND, BOOKEND])


def split(content: bytes, size: int = 1000) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Pusher:
    """What a client does to push by Xet, with a grant of its own."""

    def __init__(self, served: Served, adapter: str, *, by: str = "bob") -> None:
        self.served, self.adapter = served, adapter
        found = served.ask("GET", f"/api/models/{adapter}/xet-write-token/main", by=by)
        assert found.status == 200, found
        self.url, self.grant = found.table["casUrl"], found.table["accessToken"]

    def ask(self, method: str, path: str, body: bytes | None = None, *, grant: str | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.grant if grant is None else grant}"}
        return self.served.ask(method, self.url + path, body, headers=headers)

    def send_xorb(self, chunks: Sequence[bytes], scheme: int = 1) -> tuple[str, Answer]:
        """Send a xorb under a name that only this test gives it."""
        packed = xorb_bytes(chunks, scheme)
        name = sha256_of(packed)
        return name, self.ask("POST", f"/v1/xorbs/default/{name}", packed)

    def send_shard(self, files: Any, *, version: int = 2) -> Any:
        """Send a shard, and return the last line of the answer, or the whole."""
        found = self.ask("POST", f"/v{version}/shards", shard_bytes(files))
        return json.loads(found.content.splitlines()[-1]) if version == 2 else found

    def push(self, content: bytes, *, version: int = 2) -> Any:
        """Send all of a file."""
        chunks = split(content)
        name, found = self.send_xorb(chunks)
        assert found.status == 200, found
        return self.send_shard(
            [(sha256_of(content), [(name, len(content), 0, len(chunks))])], version=version
        )
