"""Shards: of which chunks of which xorbs the files of a push are made; read record by record.

All records have 48 bytes. After the header come the files: one record that says how many terms follow, the
terms, as many records again if the file says that its terms are verified, and one with its SHA-256. A record
of 32 bytes 255 ends the files; what follows is for servers that keep chunks.
"""

import struct
from collections.abc import Generator
from dataclasses import dataclass

from adapterhub_registry.server.errors import XetFormatError

MAX_BODY = 64 << 20
MAX_FILES = 10_000
MAX_TERMS = 100_000
RECORD = 48
MAGIC = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
VERSION = 2
VERIFIED, DESCRIBED = 1 << 31, 1 << 30
END = b"\xff" * 32


@dataclass(frozen=True)
class Term:
    """Chunks of a xorb that follow one another.

    Attributes:
        xorb: Its name.
        start: The first chunk.
        end: The one after the last.
        size: Bytes of all of them.
    """

    xorb: str
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class ShardFile:
    """A file that is made of terms, one after the other."""

    sha256: str
    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Its bytes, as the terms say."""
        return sum(term.size for term in self.terms)


class ShardReader:
    """Reads a shard that comes in pieces."""

    def __init__(self) -> None:
        self._files: dict[str, ShardFile] = {}
        self._names: dict[bytes, str] = {}
        self._terms = 0
        self._held = bytearray()
        self._is_over = False
        self._parser = self._parse()
        next(self._parser)

    def feed(self, piece: bytes | bytearray) -> None:
        """Take the next piece.

        Raises:
            XetFormatError: It is no shard, or larger than one may be.
        """
        if self._is_over:
            return
        self._held += piece
        whole = len(self._held) - len(self._held) % RECORD
        for position in range(0, whole, RECORD):
            try:
                self._parser.send(bytes(self._held[position : position + RECORD]))
            except StopIteration:
                self._is_over = True
                self._held.clear()
                return
        del self._held[:whole]

    def finish(self) -> list[ShardFile]:
        """Return the files, each digest once.

        Raises:
            XetFormatError: The files did not end.
        """
        if not self._is_over:
            raise XetFormatError("shard", "it ends before its files do")
        return list(self._files.values())

    def _parse(self) -> Generator[None, bytes]:
        """Take one record after the other, until the files end."""
        record = yield
        version: int = struct.unpack_from("<Q", record, 32)[0]
        if not record.startswith(MAGIC) or version != VERSION:
            raise XetFormatError("shard", f"it does not begin as one of version {VERSION} does")
        count = 0
        while not (record := (yield)).startswith(END):
            flags, length = struct.unpack_from("<II", record, 32)
            count, self._terms = count + 1, self._terms + length
            if count > MAX_FILES or self._terms > MAX_TERMS:
                most = f"{MAX_FILES:,} files and {MAX_TERMS:,} terms"
                raise XetFormatError("shard", f"it has more than {most}; push fewer files at a time")
            terms: list[Term] = []
            for _ in range(length):
                terms.append(self._term((yield)))
            for _ in range(length if flags & VERIFIED else 0):
                yield
            if not flags & DESCRIBED:
                raise XetFormatError("shard", "a file has no SHA-256")
            sha256 = hash_text((yield))
            self._files.setdefault(sha256, ShardFile(sha256, tuple(terms)))

    def _term(self, record: bytes) -> Term:
        name = self._names.setdefault(record[:32], hash_text(record))
        size, start, end = struct.unpack_from("<III", record, 36)
        if start >= end:
            raise XetFormatError("shard", f"a term has the chunks {start} to {end}")
        return Term(name, start, end, size)


def hash_text(record: bytes) -> str:
    """Return the hash that a record begins with, as it is written: four little-endian numbers.

    Example:
        >>> hash_text(bytes(range(32)))[:20]
        '07060504030201000f0e'
    """
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", record))
