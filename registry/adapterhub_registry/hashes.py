"""The hashes under which other tools know a file of weights, all from one pass over it."""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from adapterhub_registry.safetensors_header import MAX_HEADER_BYTES, read_header

CHUNK = 1 << 20
THREADS_WORTH = 1 << 16
"""Bytes that take longer to hash than to hand to a thread."""
_LEGACY_START, _LEGACY_SIZE = 1 << 20, 1 << 16
_FIRST = 9
"""A file of weights begins with the length of its header, in 8 bytes, and the header with a brace."""


@dataclass(frozen=True)
class FileHashes:
    """Hashes in lower-case hexadecimal digits.

    Attributes:
        sha256: Of the whole file.
        data_sha256: Of the tensors' bytes alone: kohya's `sshs_model_hash`; header edits do not change it.
        autov1: First 8 digits of the SHA-256 of 64 KiB at 1 MiB (`sshs_legacy_hash`); of fewer bytes, or of
            none, in a shorter file.
        crc32: Of the whole file; empty if it was not asked for.
    """

    sha256: str
    data_sha256: str
    autov1: str
    crc32: str = ""

    @property
    def autov2(self) -> str:
        """First 10 digits of the file's SHA-256."""
        return self.sha256[:10]

    @property
    def autov3(self) -> str:
        """First 12 digits of the data's SHA-256; A1111's `Lora hashes`."""
        return self.data_sha256[:12]


class Hasher:
    """Hashes a file as its bytes go by.

    Args:
        data_start: Where the tensors' bytes begin; None for a file that is no weights, of which only the
            SHA-256 is taken.
        crc32: Whether to take the CRC-32 too.
        known: The SHA-256 of the whole, where it is known; it is not taken again then.
    """

    def __init__(self, data_start: int | None = None, *, crc32: bool = False, known: str = "") -> None:
        self._start = data_start
        self._whole, self._data, self._legacy = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._crc = 0 if crc32 else None
        self._known = known
        self.size = 0

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        for step in self._steps(memoryview(piece)):
            step()

    @property
    def sha256(self) -> str:
        """Of what has gone by."""
        return self._known or self._whole.hexdigest()

    def hashes(self) -> FileHashes:
        """Return all hashes of what has gone by."""
        crc = "" if self._crc is None else f"{self._crc:08x}"
        return FileHashes(self.sha256, self._data.hexdigest(), self._legacy.hexdigest()[:8], crc)

    def _steps(self, view: memoryview) -> Iterator[Callable[[], object]]:
        """Yield what there is to do with the next bytes, which can be done side by side."""
        if not self._known:
            yield partial(self._whole.update, view)
        if self._start is not None:
            yield partial(self._data.update, view[max(self._start - self.size, 0) :])
            self._legacy.update(self._between(view, _LEGACY_START, _LEGACY_START + _LEGACY_SIZE))
        if self._crc is not None:
            self._crc = zlib.crc32(view, self._crc)
        self.size += len(view)

    def _between(self, view: memoryview, start: int, end: int) -> memoryview:
        return view[max(start - self.size, 0) : max(end - self.size, 0)]


class IncomingHasher(Hasher):
    """Hashes what comes in, be it weights or not, in threads while the caller goes on.

    A piece must stay as it is until the next one is taken, or a hash asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first = b""
        self._running: list[Future[object]] = []

    @property
    def is_weights(self) -> bool:
        """Whether it began as a safetensors file does."""
        return self._start is not None

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, once those before are done with."""
        self._wait()
        view = memoryview(piece)
        if len(self._first) < _FIRST:
            self._first += view[: _FIRST - len(self._first)]
            self._start = _data_start(self._first)
        if len(view) < THREADS_WORTH:
            super().update(view)
        else:
            self._running = [_threads().submit(step) for step in self._steps(view)]

    @property
    def sha256(self) -> str:
        """Of what has gone by."""
        self._wait()
        return super().sha256

    def _wait(self) -> None:
        for future in self._running:
            future.result()
        self._running = []


def hash_file(path: Path, *, crc32: bool = False, known: str = "") -> FileHashes:
    """Hash a safetensors file.

    Args:
        path: The file.
        crc32: Whether to take the CRC-32 too.
        known: Its SHA-256, of a blob, which has its name from it.

    Raises:
        WeightsError: It is no safetensors file.
        OSError: It cannot be read.
    """
    hasher = Hasher(read_header(path).data_start, crc32=crc32, known=known)
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.hashes()


def _data_start(first: bytes) -> int | None:
    """Return where the tensors begin in a file that begins so; None if it can be no file of weights."""
    length = int.from_bytes(first[:8], "little")
    return 8 + length if first[8:] == b"{" and 1 < length <= MAX_HEADER_BYTES else None


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that all share."""
    return ThreadPoolExecutor(os.cpu_count(), "hashing")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # no thread lives on in a child
