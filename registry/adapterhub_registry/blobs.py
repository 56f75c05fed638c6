"""Content-addressed files: a blob's name is the SHA-256 of its bytes, and it is there whole or not at all."""

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from adapterhub_registry.errors import BlobMissingError, DigestMismatchError, InputError, OutputError
from adapterhub_registry.files import begin_to_flush, share_bytes
from adapterhub_registry.hashes import FileHashes, Hasher, IncomingHasher, hash_file
from adapterhub_registry.staging import linked_draft, new_draft

CHUNK_BYTES = 1 << 20
REMEMBERED = 256
"""Blobs that came in last, whose hashes need not be taken again when a version is made of them."""


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


@dataclass(frozen=True)
class Draft:
    """A file in staging that was hashed on its way there.

    Attributes:
        path: Where it lies.
        file: The open file.
        sha256: Of its bytes.
        size: Its bytes.
        is_link: Whether it is a second name of the file that it was made of, which others may write to.
        problem: Why it is no link, if it should be one.
    """

    path: Path
    file: BinaryIO
    sha256: str
    size: int
    is_link: bool
    problem: str = ""


class DirectoryBlobs:
    """Blobs in a directory.

    blobs/sha256/ab/cd/abcd...   one read-only file a digest
    staging/                     drafts, on the same file system; a blob takes its name last
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hashes: dict[str, FileHashes] = {}

    @property
    def root(self) -> Path:
        """The directory that holds all."""
        return self._root

    def open(self, sha256: str) -> BinaryIO:
        """Open a blob to be read.

        Raises:
            BlobMissingError: It is not there.
        """
        try:
            return self.path(sha256).open("rb")
        except OSError as exc:
            raise BlobMissingError(sha256, str(self._root)) from exc

    def path(self, sha256: str) -> Path:
        """Return where the blob lies, or would lie."""
        return self._root / "blobs" / "sha256" / sha256[:2] / sha256[2:4] / sha256

    def has(self, sha256: str) -> bool:
        """Say whether the blob is there."""
        return self.path(sha256).is_file()

    def hashes(self, sha256: str) -> FileHashes:
        """Return the hashes of a blob that is weights; it is read for them, unless it came in just now.

        Raises:
            WeightsError: It is no safetensors file.
            OSError: It cannot be read.
        """
        return self._hashes.get(sha256) or hash_file(self.path(sha256), known=sha256)

    def remember(self, hasher: IncomingHasher) -> None:
        """Keep the hashes of what came in, if it is weights, until others have come in."""
        if not hasher.is_weights:
            return
        if len(self._hashes) >= REMEMBERED:
            for sha256 in list(self._hashes)[: REMEMBERED // 2]:
                self._hashes.pop(sha256, None)  # another thread may have been here
        self._hashes[hasher.sha256] = hasher.hashes()

    def read(self, sha256: str) -> Iterator[bytes]:
        """Yield the blob's bytes in pieces, unverified.

        Raises:
            BlobMissingError: It is not there.
        """
        with self.open(sha256) as file:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")

    def write(
        self,
        pieces: Iterable[bytes],
        *,
        expected: str | None = None,
        source: str = "",
        replace: bool = False,
    ) -> tuple[str, int]:
        """Store bytes and return (digest, size); storing what is there already changes nothing.

        With `replace` the blob gets these bytes in any case, as a file of its own, in one step.

        Raises:
            DigestMismatchError: The bytes do not have the expected digest.
            OutputError: The disk is full or cannot be written.
        """
        with self.receive() as reception:
            for piece in pieces:
                reception.write(piece)
            return reception.keep(expected=expected, source=source, replace=replace)

    @contextmanager
    def receive(self) -> Generator["Reception"]:
        """Open a blob that comes in piece by piece; what is not kept leaves nothing behind.

        Raises:
            OutputError: The disk is full or cannot be written; so do the methods of what is opened.
        """
        staging = self._root / "staging"
        try:
            with new_draft(staging) as (draft, file):
                yield Reception(self, draft, file)
        except OSError as exc:
            raise OutputError(staging, exc.strerror or str(exc)) from exc

    @contextmanager
    def draft(self, source: Path, hasher: Hasher, *, link: bool = False) -> Generator[Draft]:
        """Take a file into staging, to be kept or not, and hash it on the way, the one time that it is read.

        The draft is a clone where the file system has such, else a copy; with `link` a second name of the
        file, or a copy that says why it is none.

        Raises:
            InputError: The file cannot be read.
            OutputError: The disk is full or cannot be written.
        """
        try:
            with ExitStack() as stack:
                yield self._take(stack, source, hasher, link)
        except OSError as exc:
            raise OutputError(self._root / "staging", exc.strerror or str(exc)) from exc

    def keep(self, draft: Draft) -> None:
        """Make a draft a blob; a blob that is there already stays as it is.

        Raises:
            OutputError: The disk is full or cannot be written.
        """
        target = self.path(draft.sha256)
        if target.exists():
            return
        try:
            os.fsync(draft.file.fileno())
            if not draft.is_link:
                draft.path.chmod(0o444)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(draft.path, target)
            sync_directory(target.parent)
        except OSError as exc:
            raise OutputError(draft.path.parent, exc.strerror or str(exc)) from exc

    def unlink_outside(self, sha256: str) -> None:
        """Make the blob a file of its own, where it is linked to one that belongs to somebody else.

        Raises:
            DigestMismatchError: It is damaged; nothing has changed.
            BlobMissingError, OutputError: It is not there, or the disk is full.
        """
        self.write(self.read(sha256), expected=sha256, source=str(self.path(sha256)), replace=True)

    def _take(self, stack: ExitStack, source: Path, hasher: Hasher, link: bool) -> Draft:
        staging, problem = self._root / "staging", ""
        if link:
            try:
                path, file = stack.enter_context(linked_draft(staging, source))
            except OSError as exc:
                problem = exc.strerror or str(exc)
            else:
                for piece in _pieces(path):
                    hasher.update(piece)
                return Draft(path, file, hasher.sha256, hasher.size, is_link=True)
        path, file = stack.enter_context(new_draft(staging))
        is_clone = _clone(source, file)
        for piece in _pieces(path if is_clone else source):
            hasher.update(piece)
            if not is_clone:
                file.write(piece)
        file.flush()
        return Draft(path, file, hasher.sha256, hasher.size, is_link=False, problem=problem)

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob."""
        root = self._root / "blobs" / "sha256"
        for path in sorted(root.glob("??/??/*")):
            yield path.name


class Reception:
    """A blob that is coming in; see `DirectoryBlobs.receive`.

    Attributes:
        size: Bytes so far.
    """

    def __init__(self, blobs: DirectoryBlobs, draft: Path, file: BinaryIO) -> None:
        self._blobs, self._draft, self._file = blobs, draft, file
        self._hasher = IncomingHasher()
        self.size = 0

    def write(self, piece: bytes | bytearray) -> None:
        """Take the next bytes, which must stay as they are until the next."""
        self._hasher.update(piece)
        self._file.write(piece)
        begin_to_flush(self._file, self.size, len(piece))
        self.size += len(piece)

    def keep(
        self, *, expected: str | None = None, source: str = "", replace: bool = False
    ) -> tuple[str, int]:
        """Make a blob of what came in, and return (digest, size); see `DirectoryBlobs.write`.

        Raises:
            DigestMismatchError: The bytes do not have the expected digest.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        found = self._hasher.sha256
        if expected is not None and found != expected:
            raise DigestMismatchError(expected, found, source)
        self._blobs.remember(self._hasher)
        target = self._blobs.path(found)
        if replace or not target.exists():
            self._draft.chmod(0o444)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._draft, target)
            sync_directory(target.parent)
        return found, self.size


def read_pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces."""
    with path.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")


def _pieces(path: Path) -> Iterator[memoryview]:
    """Yield a file's bytes in one buffer, which the next piece overwrites; `InputError` if that fails."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]
    except OSError as exc:
        raise InputError(path, exc.strerror or str(exc)) from exc


def _clone(source: Path, target: BinaryIO) -> bool:
    try:
        with source.open("rb") as file:
            return share_bytes(file, target)
    except OSError as exc:
        raise InputError(source, exc.strerror or str(exc)) from exc


def digest_of(pieces: Iterable[bytes]) -> str:
    """Return the hex SHA-256 of bytes in pieces."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Write a directory's names to the disk, so that they outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
