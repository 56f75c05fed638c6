"""Xorbs between their arrival and the files that are made of them, and what is known of them for half a day.

    xet/NAMESPACE/USER/GENERATION/XORB.raw      its bytes, unpacked, until all of them are in blobs
    xet/NAMESPACE/USER/GENERATION/XORB.json     the sizes of its chunks, and where they lie
    xet/NAMESPACE/USER/GENERATION/blobs         the blobs that they lie in, one a line

Clients remember for weeks which xorbs an address took, and send them to it no more. So the generation is a
part of the address, and clients forget when there is another. Each user has generations of their own in each
namespace: what others sent cannot be referred to, and other bytes than the name says harm nobody else.
"""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import RawIOBase
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from adapterhub_registry.blobs import CHUNK_BYTES, DirectoryBlobs
from adapterhub_registry.errors import OutputError
from adapterhub_registry.files import write_atomically
from adapterhub_registry.server.errors import RefusalError, XetFormatError, XorbMissingError
from adapterhub_registry.server.shards import Term
from adapterhub_registry.server.signing import HOLDS_S
from adapterhub_registry.server.xorbs import XorbReader
from adapterhub_registry.staging import new_draft

FOLDER = "xet"
XORB = re.compile(r"[0-9a-f]{64}")
MAX_XORBS = 5_000
FRESH_S = 43_200
"""How long a generation is given out. Uploads wait for their commit for a day, so its blobs are there."""
LEFT_S = 2 * HOLDS_S
"""Nobody may write to a generation that was given out so long ago."""
SWEPT_S = 86_400
RETIRED, BLOBS = "retired", "blobs"


@dataclass(frozen=True)
class Run:
    """Chunks that lie one after the other: the first of them, and a place in a blob, or in the raw file."""

    first: int
    blob: str
    offset: int


@dataclass(frozen=True)
class Xorb:
    """What is known of a xorb: the sizes of its chunks, and where they lie."""

    sizes: tuple[int, ...]
    runs: tuple[Run, ...]

    @property
    def is_raw(self) -> bool:
        """Whether it has a file of its own still."""
        return any(not run.blob for run in self.runs)

    def extents(self, start: int, end: int) -> Iterator[tuple[str, int, int]]:
        """Yield blob, offset and length of what chunks are made of."""
        ends = [*(run.first for run in self.runs[1:]), len(self.sizes)]
        for run, last in zip(self.runs, ends, strict=True):
            low, high = max(start, run.first), min(end, last)
            if low < high:
                before = sum(self.sizes[run.first : low])
                yield run.blob, run.offset + before, sum(self.sizes[low:high])


@dataclass(frozen=True)
class Placed:
    """Chunks of a xorb that are in a blob."""

    term: Term
    blob: str
    offset: int


class StagedXorbs:
    """The xorbs that one user sent for one namespace, in one generation; an object serves one request.

    Args:
        home: Of the registry.
        blobs: Likewise.
        namespace: Of the adapter that they are for.
        user: Who sends.
        generation: As the address says it; it was signed.
    """

    def __init__(self, home: Path, blobs: DirectoryBlobs, namespace: str, user: str, generation: str) -> None:
        self._home, self._blobs = home, blobs
        self._folder = home / FOLDER / namespace / user / generation
        self._load: Callable[[str], Xorb] = lru_cache(64)(self._read_index)

    def has(self, name: str) -> bool:
        """Say whether a xorb arrived.

        Raises:
            RefusalError: It is no name of one.
        """
        if not XORB.fullmatch(name):
            raise RefusalError(400, "a xorb is named by 64 hexadecimal digits")
        return self._index(name).exists()

    @contextmanager
    def receive(self, name: str) -> Generator["XorbReception"]:
        """Open a xorb that comes in piece by piece; what is not kept leaves nothing behind.

        Raises:
            OutputError: The disk is full or cannot be written; so do the methods of what is opened.
        """
        staging = self._home / "staging"
        try:
            with new_draft(staging) as (draft, file):
                yield XorbReception(self, name, draft, file)
        except OSError as exc:
            raise OutputError(staging, exc.strerror or str(exc)) from exc

    def raw_bytes(self) -> int:
        """Return how much of what came for the namespace is in no blob yet.

        Raises:
            RefusalError: There are too many xorbs in this one.
        """
        if len(list(self._folder.glob("*.json"))) >= MAX_XORBS:
            raise RefusalError(400, f"more than {MAX_XORBS:,} xorbs in half a day; try again tomorrow")
        total = 0
        for path in self._folder.parents[1].glob("*/*/*.raw"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def read(self, term: Term) -> Iterator[bytes]:
        """Yield the bytes of a term, unverified.

        Raises:
            XorbMissingError: The xorb is not here.
            XetFormatError: It has not these chunks.
        """
        xorb = self._load(term.xorb)
        if term.end > len(xorb.sizes) or sum(xorb.sizes[term.start : term.end]) != term.size:
            raise XetFormatError("shard", f"the chunks {term.start} to {term.end} of {term.xorb} are others")
        if xorb.is_raw:
            try:
                raw = self._raw(term.xorb).open("rb", buffering=0)
            except FileNotFoundError:  # another push of the same user settled it meanwhile
                xorb = self._read_index(term.xorb)
            else:
                with raw:
                    yield from _bytes(raw, sum(xorb.sizes[: term.start]), term.size)
                return
        for blob, offset, length in xorb.extents(term.start, term.end):
            try:
                with self._blobs.path(blob).open("rb", buffering=0) as file:
                    yield from _bytes(file, offset, length)
            except FileNotFoundError as exc:
                raise XorbMissingError(term.xorb) from exc

    def settle(self, placed: Iterable[Placed]) -> None:
        """Forget the bytes of xorbs that are in blobs now, all of them.

        Raises:
            OutputError: The disk is full or cannot be written.
        """
        by_name: dict[str, list[Placed]] = {}
        for item in placed:
            by_name.setdefault(item.term.xorb, []).append(item)
        for name, items in by_name.items():
            xorb = self._load(name)
            runs = _cover(xorb.sizes, items) if xorb.is_raw else None
            if runs is not None:
                with (self._folder / BLOBS).open("a") as file:
                    file.writelines(f"{sha256}\n" for sha256 in sorted({run.blob for run in runs}))
                self._write_index(name, Xorb(xorb.sizes, runs))
                self._raw(name).unlink(missing_ok=True)

    def retire(self) -> None:
        """Give this generation to nobody any more, because what clients remember of it is wrong."""
        with suppress(OSError):
            (self._folder / RETIRED).touch()

    def keep(self, name: str, draft: Path, sizes: list[int]) -> None:
        """Give a xorb its name; it is there once its index is."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.replace(draft, self._raw(name))
        except OSError as exc:
            raise OutputError(self._folder, exc.strerror or str(exc)) from exc
        self._write_index(name, Xorb(tuple(sizes), (Run(0, "", 0),)))

    def _read_index(self, name: str) -> Xorb:
        try:
            table = json.loads(self._index(name).read_bytes())
        except FileNotFoundError as exc:
            raise XorbMissingError(name) from exc
        return Xorb(tuple(table["sizes"]), tuple(Run(*run) for run in table["runs"]))

    def _write_index(self, name: str, xorb: Xorb) -> None:
        runs = [[run.first, run.blob, run.offset] for run in xorb.runs]
        write_atomically(self._index(name), json.dumps({"sizes": xorb.sizes, "runs": runs}).encode())

    def _index(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _raw(self, name: str) -> Path:
        return self._folder / f"{name}.raw"


class XorbReception:
    """A xorb that is coming in; see `StagedXorbs.receive`.

    Attributes:
        size: Its bytes so far, unpacked.
    """

    def __init__(self, staged: StagedXorbs, name: str, draft: Path, file: BinaryIO) -> None:
        self._staged, self._name, self._draft, self._file = staged, name, draft, file
        self._reader = XorbReader()
        self.size = 0

    def write(self, piece: bytes | bytearray) -> None:
        """Take the next bytes, as they were sent.

        Raises:
            XetFormatError: It is no xorb.
        """
        for chunk in self._reader.feed(piece):
            self._file.write(chunk)
            self.size += len(chunk)

    def keep(self) -> None:
        """Keep what came in, if it is whole.

        Raises:
            XetFormatError: It is not.
        """
        self._reader.finish()
        self._file.flush()
        self._staged.keep(self._name, self._draft, self._reader.sizes)


def current_generation(home: Path, blobs: DirectoryBlobs, namespace: str, user: str) -> str:
    """Return the generation that a user sends a namespace's xorbs to now; what is too old is removed.

    Raises:
        OutputError: The disk is full or cannot be written.
    """
    folder, moment = home / FOLDER / namespace / user, time.time()
    try:
        found = [
            path
            for path in sorted(folder.glob("*"))
            if _born(path) > moment - FRESH_S and _is_usable(path, blobs, moment)
        ]
        current = found[-1] if found else folder / f"{int(moment):010x}{secrets.token_hex(4)}"
        current.mkdir(parents=True, exist_ok=True)
        os.utime(current)  # it was given out now
    except OSError as exc:
        raise OutputError(folder, exc.strerror or str(exc)) from exc
    for path in (home / FOLDER).glob("*/*/*"):
        with suppress(OSError):
            age = moment - path.stat().st_mtime
            if path != current and age > (LEFT_S if path.parent == folder else SWEPT_S):
                shutil.rmtree(path)
    return current.name


def _born(path: Path) -> float:
    try:
        return int(path.name[:10], 16)
    except ValueError:
        return 0


def _is_usable(path: Path, blobs: DirectoryBlobs, moment: float) -> bool:
    """Say whether what clients remember of a generation is so, and nothing is left of broken pushes."""
    if (path / RETIRED).exists():
        return False
    for raw in path.glob("*.raw"):
        with suppress(FileNotFoundError):  # it was settled meanwhile
            if raw.stat().st_mtime < moment - LEFT_S:
                return False
    listed = path / BLOBS
    return not listed.exists() or all(blobs.has(sha256) for sha256 in set(listed.read_text().split()))


def _bytes(file: RawIOBase, offset: int, length: int) -> Iterator[bytes]:
    file.seek(offset)
    while length and (piece := file.read(min(length, CHUNK_BYTES))):
        length -= len(piece)
        yield piece


def _cover(sizes: tuple[int, ...], items: list[Placed]) -> tuple[Run, ...] | None:
    """Return where all chunks lie; None if some are in no blob."""
    ends = [0, *accumulate(sizes)]
    runs: list[Run] = []
    position = 0
    for item in sorted(items, key=lambda item: item.term.start):
        if item.term.start > position:
            return None
        if item.term.end > position:
            before = ends[position] - ends[item.term.start]
            runs.append(Run(position, item.blob, item.offset + before))
            position = item.term.end
    return tuple(runs) if position == len(sizes) else None
