"""Other registries to push to and pull from; today a directory, for example on a shared disk."""

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from adapterhub_registry.blobs import BlobStore, DirectoryBlobs, sync_directory
from adapterhub_registry.errors import (
    AdapterHubError,
    AdapterNotFoundError,
    AliasMovedError,
    DigestMismatchError,
    OutputError,
    RemoteError,
    VersionConflictError,
    VersionNotFoundError,
)
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.locks import locked
from adapterhub_registry.manifest import MAX_SIZE, Manifest, check_file
from adapterhub_registry.publication import Details, StoredFile, check_details, check_documents
from adapterhub_registry.references import Reference

FORMAT = 1
MARKER = "adapterhub-remote.json"


@dataclass(frozen=True)
class RemoteVersion:
    """A version as it lies in a remote.

    Attributes:
        number: Its number there.
        manifest: The immutable part, checked against its digest.
        message: What the author said of it.
        author: Who made it.
        created: UTC time, ISO 8601.
        documents: Files beside it.
        previews: Pictures of it.
        details: What was said of the adapter when it was pushed.
    """

    number: int
    manifest: Manifest
    message: str
    author: str
    created: str
    documents: tuple[StoredFile, ...]
    previews: tuple[StoredFile, ...]
    details: Details


class Remote(Protocol):
    """What push and pull need of another registry."""

    name: str
    blobs: BlobStore

    def versions(self, adapter: str) -> Mapping[int, RemoteVersion]:
        """Return all versions of an adapter by number; empty if there is no such adapter."""
        ...

    def resolve(self, reference: Reference) -> RemoteVersion:
        """Return the version that a reference names there."""
        ...

    def prepare(self) -> None:
        """Make the place ready to be written to, before the first blob."""
        ...

    def publish(self, adapter: str, version: RemoteVersion) -> None:
        """Make a version visible, whole, with what is said of the adapter; its blobs must be there."""
        ...

    def details(self, adapter: str) -> Details:
        """Return what is said of an adapter, by its newest version."""
        ...

    def set_alias(self, adapter: str, alias: str, number: int, *, expected: int | None) -> None:
        """Point an alias at a version, if it stands at `expected`."""
        ...

    def aliases(self, adapter: str) -> Mapping[str, int]:
        """Return alias to number."""
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
        self.blobs: BlobStore = DirectoryBlobs(root)
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

    def versions(self, adapter: str) -> Mapping[int, RemoteVersion]:
        """Return all versions of an adapter by number; empty if there is no such adapter."""
        folder = self._folder(adapter) / "versions"
        files = {int(path.stem): path for path in folder.glob("*.json") if path.stem.isdecimal()}
        return {number: self._read_version(files[number], number) for number in sorted(files)}

    def resolve(self, reference: Reference) -> RemoteVersion:
        """Return the version that a reference names there.

        Raises:
            AdapterNotFoundError: There is no such adapter.
            VersionNotFoundError: It has no such version.
        """
        versions = self.versions(reference.adapter)
        if not versions:
            root = self._root / "adapters"
            known = [f"{path.parent.name}/{path.name}" for path in root.glob("*/*") if path.is_dir()]
            raise AdapterNotFoundError(reference.adapter, known)
        aliases, selector = self.aliases(reference.adapter), reference.selector
        if selector == "latest":
            return versions[max(versions)]
        if selector.startswith("sha256:"):
            found = [v for v in versions.values() if v.manifest.digest.startswith(selector)]
        else:
            number = int(selector) if selector.isdigit() else aliases.get(selector, -1)
            found = [versions[number]] if number in versions else []
        if len(found) != 1:
            raise VersionNotFoundError(reference.adapter, selector, list(versions), list(aliases))
        return found[0]

    def prepare(self) -> None:
        """Say what the directory is, before the first blob.

        Raises:
            OutputError: The disk is full or cannot be written.
        """
        if not (self._root / MARKER).exists():
            write_atomically(self._root / MARKER, json.dumps({"format": FORMAT}).encode())

    def publish(self, adapter: str, version: RemoteVersion) -> None:
        """Make a version visible, whole, with what is said of the adapter; its blobs must be there.

        Raises:
            VersionConflictError: The number is taken by another digest; nothing has changed.
            OutputError: The disk is full or cannot be written.
        """
        target = self._folder(adapter) / "versions" / f"{version.number}.json"
        table = {
            "number": version.number,
            "digest": version.manifest.digest,
            "manifest": version.manifest.to_json(),
            "message": version.message,
            "author": version.author,
            "created": version.created,
            "documents": [asdict(item) for item in version.documents],
            "previews": [asdict(item) for item in version.previews],
            "details": asdict(version.details),
        }
        make_directory(target.parent)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        write_atomically(draft, json.dumps(table, indent=1).encode())
        try:
            os.link(draft, target)  # unlike a rename, this fails if somebody took the number meanwhile
            sync_directory(target.parent)
        except FileExistsError as exc:
            there = self._read_version(target, version.number).manifest.digest
            raise VersionConflictError(
                adapter, version.number, ours=version.manifest.digest, theirs=there, where=self.name
            ) from exc
        except OSError as exc:
            raise OutputError(target, exc.strerror or str(exc)) from exc
        finally:
            with suppress(OSError):  # the version is there or is not, whatever becomes of the draft
                draft.unlink(missing_ok=True)

    def details(self, adapter: str) -> Details:
        """Return what is said of an adapter, by its newest version."""
        there = self.versions(adapter)
        return there[max(there)].details if there else Details()

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
            manifest = Manifest.from_json(table["manifest"])
            recorded = table["digest"]
            version = RemoteVersion(
                number=number,
                manifest=manifest,
                message=table["message"],
                author=table["author"],
                created=table["created"],
                documents=tuple(StoredFile(**item) for item in table["documents"]),
                previews=tuple(StoredFile(**item) for item in table["previews"]),
                details=Details(**table["details"]),
            )
            _check_version(version)
        except (AdapterHubError, KeyError, TypeError, AttributeError, ValueError) as exc:
            raise RemoteError(self.name, f"{path} is damaged ({exc})") from exc
        if manifest.digest != recorded:
            expected, found = (text.removeprefix("sha256:") for text in (str(recorded), manifest.digest))
            raise DigestMismatchError(expected, found, str(path))
        return version

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


def _check_version(version: RemoteVersion) -> None:
    """Check what others may have written; raises AdapterHubError, TypeError, AttributeError or ValueError."""
    details = version.details
    texts = [version.message, version.author, version.created]
    texts += [text for text in (details.title, details.description, details.card) if text is not None]
    for item in (*version.documents, *version.previews):
        texts += [item.name, item.prompt, *item.settings, *item.settings.values()]
    "".join(texts).encode()  # all is text, and can be kept
    check_details(details)
    check_documents(version.documents)
    for item in (*version.documents, *version.previews):
        check_file(item.name, item.size, item.sha256)
        if item.seed is not None and not (type(item.seed) is int and -MAX_SIZE <= item.seed < MAX_SIZE):
            raise ValueError(f"the seed of {item.name} is no whole number")


def open_remote(name: str, url: str) -> Remote:
    """Open a remote by its URL, `file:///...`.

    Raises:
        RemoteError: The URL is of another kind, or the directory cannot be used.
    """
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise RemoteError(name, f'"{url}" is no URL of a directory; write file:///path/to/directory')
    return DirectoryRemote(name, Path(unquote(parts.path)))
