"""Content-addressed files: a blob's name is the SHA-256 of its bytes, and it is there whole or not at all."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from adapterhub_registry.errors import BlobMissingError, DigestMismatchError, OutputError

CHUNK_BYTES = 1 << 20


class BlobStore(Protocol):
    """What the registry and its remotes need of a place for blobs; digests are 64 hex digits."""

    def has(self, sha256: str) -> bool:
        """Say whether the blob is there."""
        ...

    def read(self, sha256: str) -> Iterator[bytes]:
        """Yield the blob's bytes in pieces, unverified; `BlobMissingError` if it is not there."""
        ...

    def write(
        self, pieces: Iterable[bytes], *, expected: str | None = None, source: str = ""
    ) -> tuple[str, int]:
        """Store bytes and return (digest, size).

        With `expected`, bytes of another digest raise `DigestMismatchError` and nothing is kept.
        """
        ...


class DirectoryBlobs:
    """Blobs in a directory.

    blobs/sha256/ab/cd/abcd...   one read-only file a digest
    staging/                     drafts, on the same file system; a blob takes its name last
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, sha256: str) -> Path:
        """Return where the blob lies, or would lie."""
        return self._root / "blobs" / "sha256" / sha256[:2] / sha256[2:4] / sha256

    def has(self, sha256: str) -> bool:
        """Say whether the blob is there."""
        return self.path(sha256).is_file()

    def read(self, sha256: str) -> Iterator[bytes]:
        """Yield the blob's bytes in pieces, unverified.

        Raises:
            BlobMissingError: It is not there.
        """
        try:
            file = self.path(sha256).open("rb")
        except OSError as exc:
            raise BlobMissingError(sha256, str(self._root)) from exc
        with file:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")

    def write(
        self, pieces: Iterable[bytes], *, expected: str | None = None, source: str = ""
    ) -> tuple[str, int]:
        """Store bytes and return (digest, size); storing what is there already changes nothing.

        Raises:
            DigestMismatchError: The bytes do not have the expected digest.
            OutputError: The disk is full or cannot be written.
        """
        staging = self._root / "staging"
        draft = staging / uuid.uuid4().hex
        digest, size = hashlib.sha256(), 0
        try:
            staging.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as file:
                for piece in pieces:
                    digest.update(piece)
                    size += len(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            found = digest.hexdigest()
            if expected is not None and found != expected:
                raise DigestMismatchError(expected, found, source)
            target = self.path(found)
            if not target.exists():
                draft.chmod(0o444)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(draft, target)
                _sync_directory(target.parent)
        except OSError as exc:
            raise OutputError(staging, exc.strerror or str(exc)) from exc
        finally:
            draft.unlink(missing_ok=True)
        return found, size

    def write_file(self, path: Path) -> tuple[str, int]:
        """Store a file's bytes and return (digest, size)."""
        return self.write(read_pieces(path), source=str(path))

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob."""
        root = self._root / "blobs" / "sha256"
        for path in sorted(root.glob("??/??/*")):
            yield path.name


def read_pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces."""
    with path.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")


def digest_of(pieces: Iterable[bytes]) -> str:
    """Return the hex SHA-256 of bytes in pieces."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
