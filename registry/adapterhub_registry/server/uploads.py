"""Uploads that wait for their commit, and those that are still coming in, in parts."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from adapterhub_registry.blobs import DirectoryBlobs, Draft
from adapterhub_registry.collection import claim_blobs
from adapterhub_registry.database import Read
from adapterhub_registry.errors import DigestMismatchError, OutputError
from adapterhub_registry.hashes import IncomingHasher
from adapterhub_registry.locks import store_kept
from adapterhub_registry.rows import current_user, now
from adapterhub_registry.server.access import Hosted
from adapterhub_registry.server.quotas import check_quota
from adapterhub_registry.store import Registry
from adapterhub_registry.tables import UploadRow

FOLDER = "uploads"
KEPT_S = 86_400
KNOWN = """
    SELECT size FROM upload WHERE adapter_id = :adapter AND sha256 = :sha256
    UNION SELECT size FROM hub_file JOIN hub_commit ON hub_commit.id = commit_id
    WHERE adapter_id = :adapter AND sha256 = :sha256"""


def known_size(read: Read, adapter: Hosted, sha256: str) -> int | None:
    """Return the size of a file that an adapter has, or that was uploaded for it; None if there is none.

    To know a digest gives no access: what other adapters have does not count.
    """
    rows = read(KNOWN, {"adapter": adapter.id, "sha256": sha256})
    return rows[0][0] if rows else None


def note_upload(registry: Registry, adapter: Hosted, sha256: str, size: int) -> None:
    """Keep a blob of the store for an adapter, until a commit names it, for a day.

    Raises:
        QuotaError: The namespace would hold more than it may.
        BlobMissingError: The garbage collector took it just now; it must be uploaded again.
    """

    def note() -> None:
        with registry.database.writing() as session:
            claim_blobs(session, registry.blobs, [sha256])
            row = UploadRow(
                adapter_id=adapter.id, sha256=sha256, size=size, actor=current_user(), created=now()
            )
            session.merge(row)
            check_quota(session, adapter.namespace)

    store_kept(registry.home, note)


class Parts:
    """A file that comes in parts, in any order, into one file in the home.

    Args:
        home: Of the registry.
        adapter: What it is for.
        sha256: What it must be.
        size: Its bytes.
    """

    def __init__(self, home: Path, adapter: Hosted, sha256: str, size: int) -> None:
        self._folder = home / FOLDER
        self._path = self._folder / f"{adapter.id}-{sha256}"
        self._sha256, self._size = sha256, size

    def write(self, position: int, piece: bytes | bytearray) -> None:
        """Write bytes at a position.

        Raises:
            OutputError: The disk is full or cannot be written.
        """
        try:
            self._folder.mkdir(exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                view = memoryview(piece)
                while view:
                    count = os.pwrite(descriptor, view, position)
                    position, view = position + count, view[count:]
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise OutputError(self._path, exc.strerror or str(exc)) from exc

    def finish(self, blobs: DirectoryBlobs) -> None:
        """Make a blob of the file.

        Raises:
            DigestMismatchError: It is something else, or parts are missing; it was removed.
            OutputError: The disk is full or cannot be written.
        """
        try:
            with self._path.open("r+b") as file:
                hasher = IncomingHasher()
                while piece := file.read(1 << 20):
                    hasher.update(piece)
                if hasher.sha256 != self._sha256 or hasher.size != self._size:
                    self._path.unlink()
                    raise DigestMismatchError(self._sha256, hasher.sha256, "the upload")
                blobs.remember(hasher)
                blobs.keep(Draft(self._path, file, hasher.sha256, hasher.size, is_link=False))
        except FileNotFoundError as exc:
            raise DigestMismatchError(self._sha256, "nothing", "the upload") from exc
        except OSError as exc:
            raise OutputError(self._path, exc.strerror or str(exc)) from exc
        self._path.unlink(missing_ok=True)  # the store had it already


def sweep_parts(home: Path) -> None:
    """Remove files whose last part came more than a day ago."""
    for path in (home / FOLDER).glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - KEPT_S:
                path.unlink()


def room_on_disk(home: Path) -> int:
    """Return how many bytes the disk has room for."""
    return shutil.disk_usage(home).free
