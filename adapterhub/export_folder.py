"""A folder that exports write into: which files in it are ours, and that no other file is ever touched."""

import json
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from adapterhub.errors import AdapterHubError, DigestMismatchError, InputError, OutputError
from adapterhub_registry.blobs import digest_of, read_pieces
from adapterhub_registry.files import umask
from adapterhub_registry.staging import abandoned_drafts, new_draft

MANIFEST = "adapterhub-export.json"
DRAFTS = ".adapterhub-drafts"
FORMAT = 1
SAVE_EVERY_S = 2.0
INSIDE = re.compile(r"[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*")
"""What paths in the list look like; none leads out of the folder."""


@dataclass(frozen=True)
class FileSource:
    """A file that is to be there.

    Attributes:
        key: Equal keys mean equal bytes.
        sha256: Of the bytes; empty if it is not known before they are written.
        write: Writes the bytes to a path, which is a draft.
    """

    key: str
    sha256: str
    write: Callable[[Path], object]


@dataclass(frozen=True)
class _Entry:
    """A file that an export wrote, as it was then, and for which adapter."""

    adapter: str
    key: str
    sha256: str
    size: int
    mtime_ns: int


class ExportFolder:
    """A folder, and the list of the files in it that are ours, `adapterhub-export.json`.

    Args:
        root: The folder; made with the first file.
        layout: What it is for; a folder is for one tool.

    Raises:
        InputError: The list cannot be read, or is of another layout.
    """

    def __init__(self, root: Path, layout: str) -> None:
        self.root = root
        self._layout = layout
        self._entries: dict[str, _Entry] = {}
        self._saved = time.monotonic()
        manifest = root / MANIFEST
        try:
            table = json.loads(manifest.read_text())
            found = table["layout"]
            if table["format"] != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            self._entries = {path: _Entry(**entry) for path, entry in table["files"].items()}
            strange = [path for path in self._entries if not INSIDE.fullmatch(path)]
            if strange:
                raise ValueError(f'"{strange[0]}" is no file of an adapter')
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise InputError(manifest, f"it is no list of exported files ({exc})") from exc
        if found != layout:
            raise InputError(manifest, f"the folder is an export for {found}; name another one for {layout}")

    def state(self, path: str, source: FileSource) -> str:
        """Say whether a file is `there` as it is to be, `missing` (or old), or `blocked` by another one."""
        target, entry = self.root / path, self._entries.get(path)
        if entry is not None and self._is_as_written(target, entry):
            return "there" if entry.key == source.key else "missing"
        if not target.is_symlink() and not target.exists():
            return "missing"
        if target.is_symlink() or not target.is_file():
            return "blocked"
        try:
            found = digest_of(read_pieces(target))
        except OSError:
            return "blocked"
        if found == (source.sha256 or self._tried(source)):
            return "there"
        return "missing" if entry is not None and entry.sha256 == found else "blocked"

    def write(self, path: str, source: FileSource, adapter: str) -> None:
        """Write a file of an adapter, whole or not at all, and hash what was written.

        Raises:
            DigestMismatchError: It is not what it should be; what was there before is unchanged.
            OutputError: It cannot be written.
        """
        found = self._place(path, source.write, source.sha256)
        self._take(path, source, adapter, found)
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def keep(self, sources: Mapping[str, FileSource], adapter: str) -> None:
        """Take files that are there as they are to be as ours; a run that died may not have listed them."""
        for path, source in sources.items():
            target, entry = self.root / path, self._entries.get(path)
            if entry is None or entry.key != source.key or not self._is_as_written(target, entry):
                self._take(path, source, adapter, source.sha256 or digest_of(read_pieces(target)))

    def stale(self, adapter: str, paths: Collection[str]) -> list[str]:
        """Return our files of an adapter, as we wrote them, that are not among those that are to be there."""
        return [
            path
            for path, entry in self._entries.items()
            if entry.adapter == adapter and path not in paths and self._is_as_written(self.root / path, entry)
        ]

    def drop(self, paths: Collection[str]) -> None:
        """Remove files of ours."""
        for path in paths:
            (self.root / path).unlink()
            del self._entries[path]

    def save(self) -> None:
        """Write the list, and take away the drafts of those who died."""
        files = {path: asdict(entry) for path, entry in sorted(self._entries.items())}
        table = {"format": FORMAT, "layout": self._layout, "files": files}
        text = json.dumps(table, indent=1)
        self._place(MANIFEST, lambda draft: draft.write_text(text))
        with suppress(OSError):
            for draft, _ in abandoned_drafts(self.root / DRAFTS):
                draft.unlink(missing_ok=True)
            (self.root / DRAFTS).rmdir()
        self._saved = time.monotonic()

    def _place(self, path: str, write: Callable[[Path], object], sha256: str = "") -> str:
        """Write a file through a draft, and return its digest, which must be the one given, if one is."""
        target = self.root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with new_draft(self.root / DRAFTS) as (draft, _):
                found = _written(draft, write)
                if sha256 not in ("", found):
                    raise DigestMismatchError(sha256, found, f"the stored file of {path}")
                draft.chmod(0o666 & ~umask())
                os.replace(draft, target)
        except OSError as exc:
            raise OutputError(target, exc.strerror or str(exc)) from exc
        return found

    def _take(self, path: str, source: FileSource, adapter: str, sha256: str) -> None:
        stat = (self.root / path).stat()
        self._entries[path] = _Entry(adapter, source.key, sha256, stat.st_size, stat.st_mtime_ns)

    def _is_as_written(self, target: Path, entry: _Entry) -> bool:
        try:
            stat = target.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.mtime_ns)

    def _tried(self, source: FileSource) -> str:
        """Return the digest of what a source writes; empty if it cannot."""
        with suppress(AdapterHubError), TemporaryDirectory() as folder:
            return _written(Path(folder) / "draft", source.write)
        return ""


def _written(draft: Path, write: Callable[[Path], object]) -> str:
    """Write a draft to the disk, and return its digest."""
    write(draft)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    return digest_of(read_pieces(draft))
