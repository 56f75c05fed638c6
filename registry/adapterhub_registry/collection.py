"""Garbage collection: what no version needs is condemned, goes to the trash after a while, and is deleted."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlmodel import Session, col, delete, select

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.database import Database, Read
from adapterhub_registry.errors import BlobMissingError
from adapterhub_registry.locks import taking_blobs
from adapterhub_registry.partial import sweep_partials
from adapterhub_registry.rows import log_event, read_in, time_text
from adapterhub_registry.staging import abandoned_drafts
from adapterhub_registry.tables import AdoptedRow, CondemnedRow, UploadRow

GRACE = timedelta(days=1)
KEEP = timedelta(days=7)
BATCH = 500
"""Blobs in one transaction, so that publishers wait for milliseconds."""
PAGE = 10_000
LOCK = "gc.lock"
SHA256 = re.compile(r"[0-9a-f]{64}")
MOMENT = "%Y%m%dT%H%M%SZ"
BESIDE = ("document", "preview", "hub_file", "upload")
"""Tables that name blobs, beside the manifests of versions."""
UPLOADS_KEPT = timedelta(days=1)
"""How long an upload waits for its commit."""


@dataclass(frozen=True)
class Tally:
    """A number of files, and their bytes."""

    files: int = 0
    size: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.files + other.files, self.size + other.size)


@dataclass(frozen=True)
class Collected:
    """What a garbage collection did, or would do in a dry run.

    Attributes:
        live: Blobs that versions need.
        condemned: Blobs that were found to be needed by none, now.
        trashed: Blobs that were condemned for the grace time, and moved to the trash.
        deleted: Files that were in the trash for the keeping time, and are gone.
        drafts: Files that writers left behind when they died.
        views: Files of the directories of deleted versions; the bytes are those that no blob shares.
    """

    live: Tally
    condemned: Tally
    trashed: Tally
    deleted: Tally
    drafts: Tally
    views: Tally


def claim_blobs(session: Session, blobs: DirectoryBlobs, digests: Iterable[str]) -> None:
    """Keep blobs from the collector, in the writing transaction that makes a row name them.

    Raises:
        BlobMissingError: The collector took one before; see `store_kept`.
    """
    wanted = sorted(set(digests))
    session.exec(delete(CondemnedRow).where(col(CondemnedRow.sha256).in_(wanted)))
    for sha256 in wanted:
        if not blobs.has(sha256):
            raise BlobMissingError(sha256, str(blobs.path(sha256)))


def live_digests(read: Read) -> tuple[set[str], int]:
    """Return the digests of all blobs that versions need, and the key of the newest version that was read."""
    live: set[str] = set()
    newest = 0
    statement = (
        "SELECT id, digest, manifest FROM version WHERE id > ? AND state <> 'deleted' ORDER BY id LIMIT ?"
    )
    while rows := read(statement, [newest, PAGE]):
        for _, digest, manifest in rows:
            live.update(payload_digests(digest, manifest))
        newest = rows[-1][0]
    for table in BESIDE:
        live.update(sha256 for (sha256,) in read(f"SELECT sha256 FROM {table}"))  # noqa: S608
    return live, newest


def payload_digests(digest: str, manifest: str) -> list[str]:
    """Return the SHA-256 of a version's files; of a manifest that is damaged, everything that may be one."""
    if digest == f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}":
        return [file["sha256"] for file in json.loads(manifest)["files"]]
    return SHA256.findall(manifest)


def unneeded(database: Database, blobs: DirectoryBlobs) -> Tally:
    """Return how many blobs no version needs."""
    stored = {sha256 for sha256 in blobs.digests() if SHA256.fullmatch(sha256)}
    with database.snapshot() as read:
        live, _ = live_digests(read)
    return _tally(blobs, stored - live)


def collect(
    database: Database,
    blobs: DirectoryBlobs,
    home: Path,
    *,
    grace: timedelta,
    keep: timedelta,
    dry_run: bool,
    on_wait: Callable[[], None],
) -> Collected:
    """Collect garbage, one process at a time; see `Registry.collect`."""
    moment = datetime.now(UTC)
    if not dry_run:
        with database.writing() as session:
            session.exec(delete(UploadRow).where(col(UploadRow.created) < time_text(moment - UPLOADS_KEPT)))
        sweep_partials(home)
    views = _sweep_views(database, home, dry_run)
    drafts = _sweep_drafts(home / "staging", dry_run)
    with database.snapshot() as read:
        live, newest = live_digests(read)
        condemned = dict(read("SELECT sha256, since FROM condemned"))
    stored = {sha256 for sha256 in blobs.digests() if SHA256.fullmatch(sha256)}
    dead = sorted(stored - live)
    fresh = [sha256 for sha256 in dead if sha256 not in condemned]
    since = condemned | dict.fromkeys(fresh, time_text(moment))
    limit = time_text(moment - grace)
    due = [sha256 for sha256 in dead if since[sha256] <= limit]
    if dry_run:
        added, trashed = _tally(blobs, fresh), _tally(blobs, due)
    else:
        _forget(database, [sha256 for sha256 in condemned if sha256 in live or sha256 not in stored])
        added = _condemn(database, blobs, fresh, newest, since=time_text(moment))
        trash = home / "trash" / moment.strftime(MOMENT)
        trashed = _take(database, blobs, due, newest, limit, trash, on_wait) if due else Tally()
    deleted = _empty_trash(home / "trash", moment - keep, dry_run)
    if dry_run and keep <= timedelta(0):
        deleted += trashed
    return Collected(_tally(blobs, stored & live), added, trashed, deleted, drafts, views)


def _forget(database: Database, digests: Sequence[str]) -> None:
    """Drop the rows of blobs that are needed again or gone, and of adopted files of deleted versions."""
    with database.snapshot() as read:
        deleted = {
            label
            for (label,) in read(
                "SELECT namespace || '/' || name || '@' || number FROM version "
                "JOIN adapter ON adapter.id = version.adapter_id WHERE state = 'deleted'"
            )
        }
        adopted = [label for (label,) in read("SELECT DISTINCT version FROM adopted") if label in deleted]
    for batch in _batches(digests):
        with database.writing() as session:
            session.exec(delete(CondemnedRow).where(col(CondemnedRow.sha256).in_(batch)))
    for batch in _batches(adopted):
        with database.writing() as session:
            session.exec(delete(AdoptedRow).where(col(AdoptedRow.version).in_(batch)))


def _condemn(
    database: Database, blobs: DirectoryBlobs, digests: Sequence[str], newest: int, *, since: str
) -> Tally:
    """Write down that blobs are needed by none, if that still holds."""
    total = Tally()
    for batch in _batches(digests):
        with database.writing() as session:
            known = session.exec(select(CondemnedRow.sha256).where(col(CondemnedRow.sha256).in_(batch))).all()
            found = [sha256 for sha256 in _unneeded(session, batch, newest) if sha256 not in known]
            for sha256 in found:
                session.add(CondemnedRow(sha256=sha256, since=since))
            tally = _tally(blobs, found)
            if found:
                log_event(session, "gc", "blobs", {"condemned": tally.files, "bytes": tally.size})
        total += tally
    return total


def _take(
    database: Database,
    blobs: DirectoryBlobs,
    due: Sequence[str],
    newest: int,
    limit: str,
    trash: Path,
    on_wait: Callable[[], None],
) -> Tally:
    """Move blobs that were condemned up to a time to the trash.

    They move while the write lock is held: a publisher comes before, and they stay, or after, and misses
    them.
    """
    total = Tally()
    with taking_blobs(trash.parents[1], on_wait):
        for batch in _batches(due):
            with database.writing() as session:
                query = select(CondemnedRow.sha256).where(
                    col(CondemnedRow.sha256).in_(batch), CondemnedRow.since <= limit
                )
                found = session.exec(query).all()
                sizes = [_move(blobs.path(sha256), trash) for sha256 in _unneeded(session, found, newest)]
                session.exec(delete(CondemnedRow).where(col(CondemnedRow.sha256).in_(found)))
                there = [size for size in sizes if size is not None]
                tally = Tally(len(there), sum(there))
                if there:
                    log_event(session, "gc", "blobs", {"removed": tally.files, "bytes": tally.size})
            total += tally
    return total


def _unneeded(session: Session, digests: Sequence[str], newest: int) -> list[str]:
    """Return those that no version needs: not one that came after the newest, nor what lies beside any."""
    if not digests:
        return []
    read = read_in(session)
    needed: set[str] = set()
    query = "SELECT digest, manifest FROM version WHERE id > ? AND state <> 'deleted'"
    for digest, manifest in read(query, [newest]):
        needed.update(payload_digests(digest, manifest))
    marks = ", ".join("?" * len(digests))
    for table in BESIDE:
        query = f"SELECT sha256 FROM {table} WHERE sha256 IN ({marks})"  # noqa: S608
        needed.update(sha256 for (sha256,) in read(query, digests))
    return [sha256 for sha256 in digests if sha256 not in needed]


def _move(path: Path, trash: Path) -> int | None:
    """Move a blob to the trash and return its size; None if it is not there."""
    trash.mkdir(parents=True, exist_ok=True)
    try:
        size = path.stat().st_size
        os.replace(path, trash / path.name)
    except FileNotFoundError:
        return None
    return size


def _empty_trash(trash: Path, limit: datetime, dry_run: bool) -> Tally:
    """Delete what was put into the trash up to a time."""
    total = Tally()
    for folder in sorted(trash.glob("*")):
        with suppress(ValueError):  # its name is no time
            if datetime.strptime(folder.name, MOMENT).replace(tzinfo=UTC) <= limit:
                sizes = [path.stat().st_size for path in folder.iterdir()]
                total += Tally(len(sizes), sum(sizes))
                if not dry_run:
                    shutil.rmtree(folder)
    return total


def _sweep_drafts(staging: Path, dry_run: bool) -> Tally:
    """Remove what writers left behind when they died."""
    total = Tally()
    for path, size in abandoned_drafts(staging):
        total += Tally(1, size)
        if not dry_run:
            path.unlink(missing_ok=True)
    return total


def _sweep_views(database: Database, home: Path, dry_run: bool) -> Tally:
    """Remove the directories of deleted versions, which hold links to their blobs."""
    # They are listed before the rows are read, so that the directory of a version that comes meanwhile stays.
    folders = sorted(path for path in (home / "views").glob("*/*/*") if path.name.isdigit())
    with database.snapshot() as read:
        there = set(
            read(
                "SELECT namespace, name, number FROM version "
                "JOIN adapter ON adapter.id = version.adapter_id WHERE state <> 'deleted'"
            )
            if folders
            else ()
        )
    total = Tally()
    for folder in folders:
        if (folder.parts[-3], folder.parts[-2], int(folder.name)) not in there:
            files = [path.stat() for path in folder.rglob("*") if path.is_file()]
            total += Tally(len(files), sum(stat.st_size for stat in files if stat.st_nlink == 1))
            if not dry_run:
                try:
                    shutil.rmtree(folder)
                except OSError as exc:
                    if exc.errno != errno.ENOTEMPTY:  # somebody looks at it just now; it goes the next time
                        raise
    return total


def _tally(blobs: DirectoryBlobs, digests: Iterable[str]) -> Tally:
    sizes: list[int] = []
    for sha256 in digests:
        with suppress(FileNotFoundError):
            sizes.append(blobs.path(sha256).stat().st_size)
    return Tally(len(sizes), sum(sizes))


def _batches(items: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch
