"""Drafts: files that are being written, locked by their writer, so that a dead writer's can be told."""

import errno
import os
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNLOCKED_AGE_S = 86_400
"""Where there are no such locks, a draft of this age is a dead writer's."""


@contextmanager
def new_draft(staging: Path) -> Generator[tuple[Path, BinaryIO]]:
    """Open a new file in a directory of drafts, to be written, and renamed while it is open.

    It is locked as long as it is open, and removed at the end if it still has its name.

    Raises:
        OSError: It cannot be created or removed.
    """
    staging.mkdir(parents=True, exist_ok=True)
    while True:
        path = staging / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                if lock_file(file, path):
                    yield path, file
                    return
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def linked_draft(staging: Path, source: Path) -> Generator[tuple[Path, BinaryIO]]:
    """Open a file by a second name in a directory of drafts, which is removed at the end if it is there.

    Raises:
        OSError: It cannot have one: another file system, somebody else's file, ...
    """
    staging.mkdir(parents=True, exist_ok=True)
    path = staging / uuid.uuid4().hex
    os.link(source.resolve(), path)  # a link to a link would be no file
    try:
        with path.open("rb") as file:
            if not lock_file(file, path):
                raise BlockingIOError(errno.EWOULDBLOCK, "another program has locked it")
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def abandoned_drafts(staging: Path) -> Iterator[tuple[Path, int]]:
    """Yield the drafts whose writers are dead, with their sizes."""
    if not staging.is_dir():
        return
    for path in sorted(staging.iterdir()):
        try:
            with path.open("rb") as file:
                if not lock_file(file, path):
                    continue
                size = os.fstat(file.fileno()).st_size
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            continue
        yield path, size  # nobody opens a draft a second time, so it stays dead without the lock


def lock_file(file: BinaryIO, path: Path) -> bool:
    """Lock an open file if nobody else has, and say whether its name still means it."""
    try:
        found = path.stat()
        if fcntl is not None:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = path.stat()
        elif not file.writable() and time.time() - found.st_mtime < UNLOCKED_AGE_S:
            return False
    except (BlockingIOError, FileNotFoundError):
        return False
    return os.path.samestat(os.fstat(file.fileno()), found)
