"""Other registries to push to and pull from: what they all do, and a directory as the simplest of them."""

import json
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from adapterhub_registry.blobs import BlobStore, DirectoryBlobs, sync_directory
from adapterhub_registry.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    AliasMovedError,
    BlobMissingError,
    DigestMismatchError,
    OutputError,
    RemoteError,
    VersionConflictError,
    VersionNotFoundError,
)
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.locks import locked
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.references import Reference
from adapterhub_registry.remote_version import RemoteVersion

FORMAT = 1
MARKER = "adapterhub-remote.json"
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class Remote(Protocol):
    """What push and pull need of another registry."""

    name: str

    def check(self) -> None:
        """Look whether it can be used; `RemoteError` if not."""
        ...

    def digests(self, adapter: str) -> Mapping[int, str]:
        """Return number to digest of an adapter's versions; empty if there is no such adapter."""
        ...

    def resolve(self, reference: Reference, *, known: Collection[str] = ()) -> RemoteVersion | str:
        """Return the version that a reference names there, or its digest alone if that is among `known`."""
        ...

    def send(
        self, adapter: str, files: Sequence[StoredFile], source: DirectoryBlobs, on_bytes: Progress
    ) -> tuple[int, int]:
        """Bring files there that it lacks, unseen as yet, and return (files, bytes) that it lacked."""
        ...

    def publish(self, adapter: str, version: RemoteVersion, *, renumber: bool = False) -> int:
        """Make a version visible, whole, with what is said of the adapter, and return its number there.

        Its files must be there. A number that is taken is a `VersionConflictError`, or with `renumber` the
        next one is taken.
        """
        ...

    def fetch(
        self, adapter: str, files: Sequence[StoredFile], target: DirectoryBlobs, on_bytes: Progress
    ) -> tuple[int, int]:
        """Bring files here that `target` lacks, every byte verified, and return (files, bytes)."""
        ...

    def read(self, adapter: str, sha256: str) -> Iterator[bytes]:
        """Return a file's bytes in pieces, unverified; `BlobMissingError`, at once, if it is not there."""
        ...

    def aliases(self, adapter: str) -> Mapping[str, int]:
        """Return alias to number."""
        ...

    def set_alias(self, adapter: str, alias: str, number: int, *, expected: int | None) -> None:
        """Point an alias at a version, if it stands at `expected`."""
        ...


class DirectoryRemote:
    """A directory as a remote.

        adapterhub-remote.json                     what it is
        blobs/sha256/ab/cd/abcd...                 as in a home
        adapters/NAMESPACE/NAME/versions/3.json    there once the version is whole
        adapters/NAMESPACE/NAME/aliases.json, lock

    Args:
        name: What the user calls it.
        root: The directory; it must be there, and empty or a remote already.

    Raises:
        RemoteError: It is not there, or holds other things.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._blobs: BlobStore = DirectoryBlobs(root)
        self._root = root
        if not root.is_dir():
            raise RemoteError(name, f"there is no directory {root}; create it, or mount the disk")
        marker = root / MARKER
        # Who pushes first writes the marker before anything else, and may do so now, or have died of it.
        others = [path for path in root.iterdir() if not path.name.startswith(f".{MARKER}.")]
        if marker.exists():
            try:
                found = json.loads(marker.read_text())["format"]
            except (OSError, ValueError, KeyError, TypeError) as exc:
                raise RemoteError(name, f"{marker} cannot be read ({exc})") from exc
            if found != FORMAT:
                raise RemoteError(name, f"{root} is of format {found}; this release reads {FORMAT}")
        elif others:
            raise RemoteError(name, f"{root} holds other files; name an empty directory")

    def check(self) -> None:
        """Nothing is left to look at: it was, when it was opened."""

    def digests(self, adapter: str) -> Mapping[int, str]:
        """Return number to digest of an adapter's versions; empty if there is no such adapter."""
        return {number: version.digest for number, version in self.versions(adapter).items()}

    def versions(self, adapter: str) -> Mapping[int, RemoteVersion]:
        """Return all versions of an adapter by number; empty if there is no such adapter."""
        folder = self._folder(adapter) / "versions"
        files = {int(path.stem): path for path in folder.glob("*.json") if path.stem.isdecimal()}
        return {number: self._read_version(files[number], number) for number in sorted(files)}

    def resolve(self, reference: Reference, *, known: Collection[str] = ()) -> RemoteVersion | str:
        """Return the version that a reference names there, or its digest alone if that is among `known`.

        What is said of the adapter is what came with its newest version.

        Raises:
            AdapterNotFoundError: There is no such adapter.
            VersionNotFoundError: It has no such version.
        """
        versions = self.versions(reference.adapter)
        if not versions:
            root = self._root / "adapters"
            names = [f"{path.parent.name}/{path.name}" for path in root.glob("*/*") if path.is_dir()]
            raise AdapterNotFoundError(reference.adapter, names)
        aliases, selector = self.aliases(reference.adapter), reference.selector
        if selector == "latest":
            found = [versions[max(versions)]]
        elif selector.startswith("sha256:"):
            found = [version for version in versions.values() if version.digest.startswith(selector)]
        else:
            number = int(selector) if selector.isdigit() else aliases.get(selector, -1)
            found = [versions[number]] if number in versions else []
        if len(found) != 1:
            raise VersionNotFoundError(reference.adapter, selector, list(versions), list(aliases))
        if found[0].digest in known:
            return found[0].digest
        return replace(found[0], details=versions[max(versions)].details)

    def send(
        self, adapter: str, files: Sequence[StoredFile], source: DirectoryBlobs, on_bytes: Progress
    ) -> tuple[int, int]:
        """Copy files there that it lacks; the first one ever makes the directory a remote.

        Raises:
            BlobMissingError, DigestMismatchError: A file is missing or damaged here.
            OutputError: The disk is full or cannot be written.
        """
        if not (self._root / MARKER).exists():
            write_atomically(self._root / MARKER, json.dumps({"format": FORMAT}).encode())
        return _copy(adapter, files, source, self._blobs, on_bytes)

    def fetch(
        self, adapter: str, files: Sequence[StoredFile], target: DirectoryBlobs, on_bytes: Progress
    ) -> tuple[int, int]:
        """Copy files here that `target` lacks.

        Raises:
            BlobMissingError, DigestMismatchError: A file is missing or damaged there.
            OutputError: The disk is full or cannot be written.
        """
        return _copy(adapter, files, self._blobs, target, on_bytes)

    def read(self, adapter: str, sha256: str) -> Iterator[bytes]:
        """Return a file's bytes in pieces, unverified; `BlobMissingError`, at once, if it is not there."""
        del adapter  # all lie in one place
        if not self._blobs.has(sha256):
            raise BlobMissingError(sha256, self.name)
        return self._blobs.read(sha256)

    def publish(self, adapter: str, version: RemoteVersion, *, renumber: bool = False) -> int:
        """Make a version visible, whole, and return its number there; its files must be there.

        Raises:
            VersionConflictError: The number is taken by another digest; nothing has changed.
            OutputError: The disk is full or cannot be written.
        """
        while True:
            try:
                self._publish(adapter, version)
            except VersionConflictError:
                if not renumber:
                    raise
                version = replace(version, number=max(self.versions(adapter)) + 1)
            else:
                return version.number

    def _publish(self, adapter: str, version: RemoteVersion) -> None:
        target = self._folder(adapter) / "versions" / f"{version.number}.json"
        make_directory(target.parent)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        write_atomically(draft, json.dumps(version.as_json(), indent=1).encode())
        try:
            os.link(draft, target)  # unlike a rename, this fails if somebody took the number meanwhile
            sync_directory(target.parent)
        except FileExistsError as exc:
            there = self._read_version(target, version.number).digest
            raise VersionConflictError(
                adapter, version.number, ours=version.digest, theirs=there, where=self.name
            ) from exc
        except OSError as exc:
            raise OutputError(target, exc.strerror or str(exc)) from exc
        finally:
            with suppress(OSError):  # the version is there or is not, whatever becomes of the draft
                draft.unlink(missing_ok=True)

    def aliases(self, adapter: str) -> Mapping[str, int]:
        """Return alias to number."""
        path = self._folder(adapter) / "aliases.json"
        table = self._read_table(path)
        if {type(number) for number in table.values()} - {int}:
            raise RemoteError(self.name, f"{path} is damaged (an alias stands at no number)")
        return table

    def set_alias(self, adapter: str, alias: str, number: int, *, expected: int | None) -> None:
        """Point an alias at a version, if it stands at `expected`.

        Raises:
            AliasMovedError: It stands elsewhere; it was not moved.
            OutputError: The disk is full or cannot be written.
        """
        folder = self._folder(adapter)
        with locked(folder / "lock"):
            aliases = dict(self.aliases(adapter))
            if aliases.get(alias) != expected:
                raise AliasMovedError(adapter, alias, expected, aliases.get(alias))
            write_atomically(folder / "aliases.json", json.dumps({**aliases, alias: number}).encode())

    def _folder(self, adapter: str) -> Path:
        return self._root / "adapters" / adapter

    def _read_version(self, path: Path, number: int) -> RemoteVersion:
        table = self._read_table(path)
        try:
            return RemoteVersion.from_json({**table, "number": number}, source=str(path))
        except DigestMismatchError:
            raise
        except AdapterHubError as exc:
            raise RemoteError(self.name, f"{path} is damaged ({exc})") from exc

    def _read_table(self, path: Path) -> dict[str, Any]:
        try:
            table: Any = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            raise RemoteError(self.name, f"{path} cannot be read ({exc})") from exc
        if not isinstance(table, dict):
            raise RemoteError(self.name, f"{path} is damaged (it is no object)")
        return table  # pyright: ignore[reportUnknownVariableType]


def _copy(
    adapter: str, files: Sequence[StoredFile], source: BlobStore, target: BlobStore, on_bytes: Progress
) -> tuple[int, int]:
    """Copy the files that the target lacks, verified; return (files, bytes)."""
    lacking = [file for file in files if not target.has(file.sha256)]
    done, total = 0, sum(file.size for file in lacking)
    for file in lacking:
        target.write(source.read(file.sha256), expected=file.sha256, source=f"{adapter}: {file.name}")
        done += file.size
        on_bytes(done, total)
    return len(lacking), total


def open_remote(name: str, url: str) -> Remote:
    """Open a remote by its URL: `file:///...`, `https://...` or `http://...`.

    Raises:
        RemoteError: The URL is of another kind, or the directory cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        from adapterhub_registry.credentials import token_for
        from adapterhub_registry.http_remote import kept_remote

        return kept_remote(name, url, token_for(name, url), os.getpid())
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise RemoteError(name, f'"{url}" is no URL of a registry; write https://host or file:///directory')
    return DirectoryRemote(name, Path(unquote(parts.path)))
