"""Blobs that come over several attempts: a file that outlives its writer, until all of it is there."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from adapterhub_registry.blobs import CHUNK_BYTES, DirectoryBlobs, Draft
from adapterhub_registry.errors import BusyError, DigestMismatchError, OutputError
from adapterhub_registry.files import begin_to_flush
from adapterhub_registry.hashes import IncomingHasher
from adapterhub_registry.staging import lock_file

FOLDER = "partial"
KEPT_S = 86_400
"""How long what came is kept without more of it coming."""
TRIES = 3


class Partial:
    """The part of a blob that is here; see `open_partial`.

    Attributes:
        size: Bytes that are here.
    """

    def __init__(self, blobs: DirectoryBlobs, path: Path, file: BinaryIO) -> None:
        self._blobs, self._path, self._file = blobs, path, file
        self._hasher = IncomingHasher()
        self.size = os.fstat(file.fileno()).st_size

    def start_at(self, position: int) -> None:
        """Go on at a position, at most `size`: what is before it is read once, what is behind it dropped."""
        self._file.truncate(position)
        self._file.seek(0)
        self._hasher, self.size = IncomingHasher(), 0
        while piece := self._file.read(CHUNK_BYTES):
            self._hasher.update(piece)
            self.size += len(piece)

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, which must stay as they are until the next; what was taken outlives us."""
        self._hasher.update(piece)
        start, view = self.size, memoryview(piece)
        self.size += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as exc:  # told apart from what ends a connection
            raise OutputError(self._path, exc.strerror or str(exc)) from exc
        begin_to_flush(self._file, start, self.size - start)

    def keep(self, expected: str, *, source: str) -> None:
        """Make a blob of all that came.

        Raises:
            DigestMismatchError: It has another digest; it was removed.
            OutputError: The disk is full or cannot be written.
        """
        found = self._hasher.sha256
        if found != expected:
            self._path.unlink(missing_ok=True)
            raise DigestMismatchError(expected, found, source)
        self._blobs.remember(self._hasher)
        self._blobs.keep(Draft(self._path, self._file, found, self.size, is_link=False))
        self._path.unlink(missing_ok=True)  # the store had it already


@contextmanager
def open_partial(blobs: DirectoryBlobs, home: Path, name: str) -> Generator[Partial]:
    """Open what is here of a blob, alone; say `start_at` before anything is written.

    Args:
        blobs: Where the blob goes.
        home: On the same file system.
        name: Of the file: two names are two attempts.

    Raises:
        BusyError: Another writer has it open.
        OutputError: The disk is full or cannot be written; so do the methods of what is opened.
    """
    path = home / FOLDER / name
    try:
        path.parent.mkdir(exist_ok=True)
        for _ in range(TRIES):
            # Without a buffer: what is written is there at once, whoever dies.
            with path.open("ab+", buffering=0) as file:
                if lock_file(file, path):
                    yield Partial(blobs, path, file)
                    return
            if path.exists():
                break
        raise BusyError(name)
    except OSError as exc:
        raise OutputError(path, exc.strerror or str(exc)) from exc


def partial_size(home: Path, name: str) -> int:
    """Return how many bytes are here."""
    try:
        return (home / FOLDER / name).stat().st_size
    except FileNotFoundError:
        return 0


def sweep_partials(home: Path) -> None:
    """Remove what nobody went on with for a day."""
    for path in (home / FOLDER).glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - KEPT_S:
                path.unlink()
