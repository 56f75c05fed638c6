"""Backups of the whole home while it is in use, and homes restored from them.

    adapterhub-backup.json          what it is, and the digest of its index; written last, in one step
    blobs/sha256/ab/cd/abcd...      everything else: the database, the versions' files, other files, the index

A backup into a directory that holds one already adds only what is missing. Until its marker is written, the
older backup stays whole.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from adapterhub_registry.blobs import DirectoryBlobs, digest_of, read_pieces, sync_directory
from adapterhub_registry.collection import live_digests
from adapterhub_registry.database import HEAD, Read
from adapterhub_registry.errors import (
    BackupError,
    DatabaseError,
    DigestMismatchError,
    FieldError,
    InputError,
    OutputError,
)
from adapterhub_registry.files import make_directory, umask, write_atomically
from adapterhub_registry.locks import keeping_blobs
from adapterhub_registry.rows import now
from adapterhub_registry.staging import abandoned_drafts, new_draft
from adapterhub_registry.threads import in_threads

FORMAT = 1
MARKER = "adapterhub-backup.json"
LOCK = "adapterhub-backup.lock"
DATABASE = "registry.db"
LEFT_OUT = {
    "blobs",
    "staging",
    "partial",
    "trash",
    "views",
    "cache",
    "xet",
    "uploads",
    DATABASE,
    f"{DATABASE}-wal",
    f"{DATABASE}-shm",
}
"""What of a home is copied in another way, or can be made again."""

OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Backup:
    """What a backup holds, as its marker says.

    Attributes:
        created: UTC time, ISO 8601.
        schema: Of the database.
        adapters: Their number.
        versions: Their number, without deleted ones.
        files: Files in the backup.
        size: Their bytes.
        index: SHA-256 of the list of all files.
    """

    created: str
    schema: str
    adapters: int
    versions: int
    files: int
    size: int
    index: str


@dataclass(frozen=True)
class BackedUp:
    """What a backup did.

    Attributes:
        backup: What it holds now.
        files_copied: Files that were not there before.
        bytes_copied: Their bytes.
        left_out: Links in the home, which are not followed.
    """

    backup: Backup
    files_copied: int
    bytes_copied: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """The list of all that a backup holds.

    Attributes:
        database: SHA-256 of the database.
        blobs: SHA-256 of each file that versions need.
        files: Path in the home to SHA-256 and mode of each other file.
    """

    database: str
    blobs: tuple[str, ...]
    files: dict[str, tuple[str, int]]

    @property
    def digests(self) -> list[str]:
        """Of everything that is listed, each once."""
        return sorted({self.database, *self.blobs, *(sha256 for sha256, _ in self.files.values())})


class _Copier:
    """Puts files into a backup, verified, and counts those that it did not have."""

    def __init__(self, target: DirectoryBlobs) -> None:
        self.target = target
        self.files = self.size = 0

    def copy(self, source: DirectoryBlobs, digests: Iterable[str]) -> Iterator[str]:
        """Copy blobs, and yield for each what is wrong with it, or an empty text."""

        def one(sha256: str) -> tuple[str, int | None]:
            if self.target.has(sha256):
                return "", None
            path = source.path(sha256)
            try:
                return "", self.target.write(_read(path), expected=sha256, source=str(path))[1]
            except (DigestMismatchError, InputError) as exc:
                return str(exc), None

        for problem, size in in_threads(one, digests):
            self._count(size)
            yield problem

    def add(self, path: Path) -> str:
        """Copy a file whose digest is not known, and return it."""
        sha256 = digest_of(_read(path))
        if not self.target.has(sha256):
            sha256, size = self.target.write(_read(path))
            self._count(size)
        return sha256

    def _count(self, size: int | None) -> None:
        if size is not None:
            self.files += 1
            self.size += size


def back_up(home: Path, target: Path, on_file: OnFile) -> BackedUp:
    """Copy a home; see `Registry.backup`."""
    target = target.absolute()
    try:
        _check_target(home, target)
        with FileLock(target / LOCK, timeout=0):
            return _back_up(home, target, on_file)
    except Timeout as exc:
        raise BackupError(target, "another backup is being written there; wait for its end") from exc
    except OSError as exc:
        raise OutputError(target, exc.strerror or str(exc)) from exc


def read_backup(source: Path) -> tuple[Backup, Index]:
    """Read what a backup holds.

    Raises:
        BackupError: It is none, of another format, of a newer release, or its index is damaged.
    """
    try:
        table: dict[str, Any] = json.loads((source / MARKER).read_text())
        if table.pop("format") != FORMAT:
            raise BackupError(source, f"its format is not {FORMAT}, which this release reads")
        backup = Backup(**table)
        listed = json.loads(b"".join(_verified(DirectoryBlobs(source), backup.index)))
        files = {str(path): (str(sha256), int(mode)) for path, (sha256, mode) in listed["files"].items()}
        index = Index(str(listed["database"]), tuple(listed["blobs"]), files)
    except FileNotFoundError as exc:
        raise BackupError(source, f"it has no {MARKER}; was the backup finished?") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BackupError(source, f"its marker or its index cannot be read ({exc})") from exc
    except (InputError, DigestMismatchError) as exc:
        raise BackupError(source, f"its index is damaged ({exc})") from exc
    if backup.schema > HEAD:
        raise BackupError(source, f"a newer release made it (schema {backup.schema}; this one knows {HEAD})")
    for path in index.files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.parts[0] in LEFT_OUT:
            raise BackupError(source, f'its index names the unsafe path "{path}"')
    return backup, index


def verify_backup(source: Path, on_file: OnFile) -> Iterator[str]:
    """Hash everything in a backup, and yield what is wrong.

    Raises:
        BackupError: It is none; see `read_backup`.
    """
    _, index = read_backup(source)
    blobs = DirectoryBlobs(source)

    def look(sha256: str) -> str:
        path = blobs.path(sha256)
        try:
            return "" if digest_of(read_pieces(path)) == sha256 else f"damaged: {path}"
        except FileNotFoundError:
            return f"missing: {path}"
        except OSError as exc:
            return f"unreadable: {path}: {exc.strerror or exc}"

    for number, problem in enumerate(in_threads(look, index.digests), 1):
        if problem:
            yield problem
        on_file(number, len(index.digests))


def restore(source: Path, home: Path, on_file: OnFile) -> Backup:
    """Make a home from a backup: all of it, or nothing.

    Args:
        source: The backup.
        home: A directory that is not there yet, or empty.
        on_file: Called after each file with (files done, files).

    Raises:
        FieldError: The home is not empty; nothing was changed.
        BackupError: It is no whole backup; nothing was changed.
        OutputError: The disk is full or cannot be written; nothing was changed.
    """
    home = home.resolve()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise FieldError("home", str(home), "it is not empty; restore into a new directory with --home DIR")
    backup, index = read_backup(source)
    draft = home.with_name(f".{home.name}.restoring-{uuid.uuid4().hex[:8]}")
    try:
        make_directory(draft)
        _fill(DirectoryBlobs(source), index, draft, on_file)
        os.rename(draft, home)  # noqa: PTH104 - an empty directory is replaced, a full one is not
        sync_directory(home.parent)
    except (InputError, DigestMismatchError) as exc:
        raise BackupError(source, str(exc)) from exc
    except OSError as exc:
        raise OutputError(home, exc.strerror or str(exc)) from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return backup


def _check_target(home: Path, target: Path) -> None:
    if target.resolve().is_relative_to(home.resolve()):
        raise FieldError("directory", str(target), "a backup cannot lie inside the home that it is of")
    make_directory(target)
    names = {path.name for path in target.iterdir() if not path.name.startswith(f".{MARKER}.")}
    # Without a marker, a backup was not finished.
    if MARKER not in names and not names <= {LOCK, "blobs", "staging"}:
        raise FieldError("directory", str(target), "it holds other files; name an empty or a new directory")


def _back_up(home: Path, target: Path, on_file: OnFile) -> BackedUp:
    for name in ("blobs", "staging"):
        (target / name).mkdir(mode=0o700, exist_ok=True)  # a home may hold the keys of remotes
    for draft, _ in abandoned_drafts(target / "staging"):
        draft.unlink(missing_ok=True)  # of a backup that was killed
    copier, here = _Copier(DirectoryBlobs(target)), DirectoryBlobs(home)
    with keeping_blobs(home):
        with new_draft(target / "staging") as (snapshot, _):
            live, adapters, versions = _take_snapshot(home / DATABASE, snapshot)
            database = copier.add(snapshot)
        others, left_out = _other_files(home)
        total, problems = len(live) + len(others), list[str]()
        for number, problem in enumerate(copier.copy(here, sorted(live)), 1):
            problems += [problem] if problem else []
            on_file(number, total)
    if problems:
        raise BackupError(
            target,
            f"{len(problems)} files of the registry cannot be copied, the first because {problems[0]}. "
            "Put them right with: adapterhub verify --repair. An older backup there is still whole",
        )
    files: dict[str, tuple[str, int]] = {}
    for number, path in enumerate(others, len(live) + 1):
        try:
            files[path.relative_to(home).as_posix()] = copier.add(path), path.stat().st_mode & 0o777
        except (FileNotFoundError, InputError):
            if path.exists():
                raise
            # It was removed meanwhile.
        on_file(number, total)
    index = Index(database, tuple(sorted(live)), files)
    listed, _ = copier.target.write([json.dumps(asdict(index), sort_keys=True).encode()])
    kept = {*index.digests, listed}
    backup = Backup(
        created=now(),
        schema=HEAD,
        adapters=adapters,
        versions=versions,
        files=len(kept),
        size=sum(copier.target.path(sha256).stat().st_size for sha256 in kept),
        index=listed,
    )
    write_atomically(
        target / MARKER, json.dumps({"format": FORMAT, **asdict(backup)}, indent=1).encode() + b"\n"
    )
    sync_directory(target)  # before anything goes that only the backup before this one needs
    for sha256 in list(copier.target.digests()):
        if sha256 not in kept:
            copier.target.path(sha256).unlink(missing_ok=True)
    return BackedUp(backup, copier.files, copier.size, tuple(left_out))


def _take_snapshot(database: Path, snapshot: Path) -> tuple[set[str], int, int]:
    """Copy a database in use, and return the blobs that it needs, its adapters and its versions."""
    try:
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(snapshot)) as copy:
            source.backup(copy)
            (health,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if health != "ok":
                raise DatabaseError(database, f"it is damaged ({health})")
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it

            def read(statement: str, values: Any = (), /) -> list[tuple[Any, ...]]:
                return copy.execute(statement, values).fetchall()

            return live_digests(read)[0], _count(read, "adapter"), _count(read, "version")
    except sqlite3.Error as exc:
        raise DatabaseError(database, str(exc)) from exc


def _count(read: Read, table: str) -> int:
    condition = "WHERE state <> 'deleted'" if table == "version" else ""
    return read(f"SELECT count(*) FROM {table} {condition}")[0][0]  # noqa: S608


def _other_files(home: Path) -> tuple[list[Path], list[str]]:
    """Return the files of a home beside database and blobs, and the links, which are left out."""
    files: list[Path] = []
    links: list[str] = []
    for folder, folders, names in os.walk(home):
        if Path(folder) == home:
            folders[:] = [name for name in folders if name not in LEFT_OUT]
            names = [name for name in names if name not in LEFT_OUT]
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            if path.is_symlink():
                links.append(path.relative_to(home).as_posix())
            elif path.is_file() and path.suffix != ".lock":
                files.append(path)
    return sorted(files), links


def _fill(source: DirectoryBlobs, index: Index, home: Path, on_file: OnFile) -> None:
    """Write everything that an index lists into a new home, verified."""
    target = DirectoryBlobs(home)
    total = len(index.blobs) + len(index.files) + 1

    def copy(sha256: str) -> None:
        path = source.path(sha256)
        target.write(_read(path), expected=sha256, source=str(path))

    for number, _ in enumerate(in_threads(copy, index.blobs), 1):
        on_file(number, total)
    others = {DATABASE: (index.database, 0o666 & ~umask()), **index.files}
    for number, (name, (sha256, mode)) in enumerate(others.items(), len(index.blobs) + 1):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            path.chmod(mode)
            file.writelines(_verified(source, sha256))
            file.flush()
            os.fsync(file.fileno())
        on_file(number, total)


def _read(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes; that it cannot be read is not taken for a fault of where they go."""
    try:
        yield from read_pieces(path)
    except OSError as exc:
        raise InputError(path, exc.strerror or str(exc)) from exc


def _verified(blobs: DirectoryBlobs, sha256: str) -> Iterable[bytes]:
    """Yield a blob's bytes, and raise `DigestMismatchError` at the end if they are not its own."""
    digest = hashlib.sha256()
    for piece in _read(blobs.path(sha256)):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != sha256:
        raise DigestMismatchError(sha256, digest.hexdigest(), str(blobs.path(sha256)))
