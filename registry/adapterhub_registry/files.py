"""Writing files so that they are there whole or not at all."""

import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

from adapterhub_registry.errors import OutputError

FICLONE = 0x40049409
"""Of linux/fs.h."""
SYNC_FILE_RANGE_WRITE = 2
"""Likewise."""


def write_atomically(path: Path, data: bytes, *, mode: int | None = None, durable: bool = True) -> None:
    """Write `data` to `path`, replacing what was there in one step.

    The bytes go to a temporary sibling, which only its owner can read, are flushed to the disk, and take the
    name last. The file gets the permissions `mode`, or those that new files get. What is not `durable` is not
    flushed: it may be damaged after the machine stops, and its reader has to notice.

    Raises:
        OutputError: The file cannot be written (no such directory, no permission, disk full); an older file
            of that name is unchanged and nothing else is left behind.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(target, b"ink")
        >>> target.read_bytes()
        b'ink'
    """
    draft: str | None = None
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(draft, 0o666 & ~umask() if mode is None else mode)  # noqa: PTH101
        os.replace(draft, path)
    except BaseException as exc:  # an interrupt leaves no draft behind either
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise OutputError(path, exc.strerror or str(exc)) from exc
        raise


def readable_stem(text: str) -> str:
    """Return a file name without suffix that tells what a text says, at most 40 characters.

    Example:
        >>> readable_stem("A red heart, please!")
        'a-red-heart-please'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "picture"


def make_directory(path: Path) -> None:
    """Create a directory and its parents; one that is there already is fine.

    Raises:
        OutputError: It cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(path, exc.strerror or str(exc)) from exc


def link_file(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, or a copy where the file system has no links.

    Raises:
        OutputError: Neither works.
    """
    if target.exists():
        return
    make_directory(target.parent)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        try:
            os.link(source, draft)
        except OSError:
            shutil.copyfile(source, draft)
        os.replace(draft, target)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise OutputError(target, exc.strerror or str(exc)) from exc


def share_bytes(source: BinaryIO, target: BinaryIO) -> bool:
    """Give a new file the bytes of another without a copy, and say whether the file system can.

    It takes no time and no room on btrfs, XFS, bcachefs and their like, and writing to one file never changes
    the other; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    try:
        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
    except OSError:
        return False
    return True


def begin_to_flush(file: BinaryIO, start: int, size: int) -> None:
    """Let the system begin to write part of a file to the disk, so that a flush has less to wait for.

    Nothing is waited for and nothing is promised; where the system has no such call, nothing happens.
    """
    call = _sync_file_range()
    if call is not None:
        call(file.fileno(), start, size, SYNC_FILE_RANGE_WRITE)  # what goes wrong, the flush tells


def umask() -> int:
    """Return the permissions that new files do not get."""
    # Linux tells it without the race of setting it; elsewhere the usual value stands in.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0o022
    for line in status.splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        found = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return found
