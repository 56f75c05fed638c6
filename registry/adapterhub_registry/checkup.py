"""A check-up of a home: what it is, whether it can be used, and what to do about it. It changes nothing."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.collection import live_digests
from adapterhub_registry.database import HEAD, Read
from adapterhub_registry.errors import AdapterHubError
from adapterhub_registry.files import FICLONE
from adapterhub_registry.remotes import open_remote

LOW_DISK_BYTES = 2 << 30
PLACES = ("blobs", "staging", "trash", "views")
SET_HOME = "set ADAPTERHUB_HOME to a directory that you can write to"
RESTORE = "restore a backup into a new home with: adapterhub restore DIR --home NEW"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        is_ok: Whether it is as it should be.
        detail: What was found.
        advice: What to do; empty if nothing.
    """

    name: str
    is_ok: bool
    detail: str
    advice: str = ""


def check_home(home: Path) -> Iterator[Check]:
    """Look at a home, its database, its files and its remotes; it need not be there."""
    home = home.absolute()
    yield guarded("home", lambda: _home(home))
    if not os.path.isdir(home):  # noqa: PTH112 - this one never raises
        return
    yield guarded("disk", lambda: _disk(home))
    yield guarded("permissions", lambda: _permissions(home))
    yield guarded("links", lambda: _links(home))
    database = home / "registry.db"
    if not os.path.lexists(database):
        yield Check("database", True, "there is none yet; the first command makes it")
        return
    yield guarded("database", lambda: _database(database), RESTORE)
    yield guarded("files", lambda: _files(home, database))
    remotes: list[tuple[str, str]] = []
    with suppress(sqlite3.Error), _opened(database) as read:
        remotes += [(name, url) for name, url in read("SELECT name, url FROM remote ORDER BY name")]
    for name, url in remotes:
        advice = f"mount it, or forget it with: adapterhub remote remove {name}"
        yield guarded(f"remote {name}", partial(_remote, name, url), advice)


def guarded(name: str, look: Callable[[], Check], advice: str = "") -> Check:
    """Look at one thing; that it cannot be looked at is a finding too."""
    try:
        return look()
    except (AdapterHubError, OSError, sqlite3.Error, ValueError) as exc:
        return Check(name, False, str(exc), advice)


def size_text(size: int) -> str:
    """Return bytes for people.

    Example:
        >>> size_text(999), size_text(1536), size_text(5 << 30)
        ('999 bytes', '1.5 KiB', '5.0 GiB')
    """
    value, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{size} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def _home(home: Path) -> Check:
    if not home.exists():
        parent = next(path for path in home.parents if path.exists())
        can = os.access(parent, os.W_OK | os.X_OK)
        return Check("home", can, f"{home}, which the first command makes", "" if can else SET_HOME)
    if not home.is_dir():
        return Check("home", False, f"{home} is no directory", SET_HOME)
    files = size = 0
    for folder, _, names in os.walk(home):
        for name in names:
            with suppress(FileNotFoundError):
                found = Path(folder, name).lstat()
                files += 1
                size += found.st_size // found.st_nlink  # the directories of versions are links to blobs
    return Check("home", True, f"{home}, {files} files, {size_text(size)}")


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(home).free
    is_ok = free >= LOW_DISK_BYTES
    advice = "" if is_ok else "make room, for example with: adapterhub gc --dry-run"
    return Check("disk", is_ok, f"{size_text(free)} free", advice)


def _permissions(home: Path) -> Check:
    places = [home, *(home / name for name in PLACES)]
    wrong = [
        str(path) for path in places if path.exists() and not os.access(path, os.R_OK | os.W_OK | os.X_OK)
    ]
    database = home / "registry.db"
    if database.exists() and not os.access(database, os.R_OK | os.W_OK):
        wrong.append(str(database))
    if wrong:
        advice = f"give them to the user who runs AdapterHub with chown or chmod, or {SET_HOME}"
        return Check("permissions", False, f"not writable: {', '.join(wrong)}", advice)
    return Check("permissions", True, "everything can be read and written")


def _links(home: Path) -> Check:
    """Try what the file system can, in a directory that goes at once."""
    hard, clones = "hard links", "reflinks: a file that is added takes no more space"
    with TemporaryDirectory(prefix=".doctor-", dir=home) as folder:
        one, link, clone = (Path(folder, name) for name in ("one", "link", "clone"))
        one.write_bytes(b"x" * 4096)
        try:
            os.link(one, link)
        except OSError:
            hard = "no hard links: the directories of versions are copies"
        with one.open("rb") as source, clone.open("wb") as target:
            try:
                import fcntl

                fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
            except (ImportError, OSError):
                clones = "no reflinks: files that are added are copied"
    return Check("links", True, f"{hard}; {clones}")


@contextmanager
def _opened(path: Path) -> Generator[Read]:
    """Read a database of any schema; it is not created or migrated."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        yield lambda statement, values=(), /: connection.execute(statement, values).fetchall()


def _database(path: Path) -> Check:
    with _opened(path) as read:
        ((health,),) = read("PRAGMA quick_check(1)")
        ((mode,),) = read("PRAGMA journal_mode")
        ((schema,),) = read("SELECT version_num FROM alembic_version")
    detail = f"schema {schema}, {mode} mode, {size_text(path.stat().st_size)}, "
    if health != "ok":
        return Check("database", False, f"{detail}damaged: {health}", RESTORE)
    if schema > HEAD:
        return Check("database", False, f"{detail}made by a newer release", "install that release")
    note = "" if schema == HEAD else f"; the next command brings it to schema {HEAD}"
    return Check("database", True, f"{detail}whole{note}")


def _files(home: Path, database: Path) -> Check:
    """Compare the names of blobs with what versions need; nothing is hashed."""
    with _opened(database) as read:
        live, _ = live_digests(read)
    stored = set(DirectoryBlobs(home).digests())
    missing, spare = len(live - stored), len(stored - live)
    detail = f"{len(stored & live)} of {len(live)} that versions need, {spare} that none needs"
    advice = "see which, and put them right, with: adapterhub verify --repair" if missing else ""
    if spare and not missing:
        advice = "see what could go with: adapterhub gc --dry-run"
    return Check("files", not missing, detail, advice)


def _remote(name: str, url: str) -> Check:
    open_remote(name, url).check()
    if not url.startswith("file:"):
        return Check(f"remote {name}", True, f"{url} answers")
    path = Path(unquote(urlsplit(url).path))
    can = "read and write" if os.access(path, os.W_OK | os.X_OK) else "read only"
    return Check(f"remote {name}", True, f"{url}, {can}")
