"""A registry behind HTTP, by our own protocol: `/v1` of `adapterhub serve registry`."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any
from urllib.parse import quote

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.connection import Connection, CutError, Reply
from adapterhub_registry.errors import (
    AccessError,
    AdapterHubError,
    AdapterNotFoundError,
    AliasMovedError,
    BlobMissingError,
    BusyError,
    DigestMismatchError,
    ManifestError,
    RemoteError,
    TombstoneError,
    VersionConflictError,
    VersionNotFoundError,
)
from adapterhub_registry.partial import Partial, open_partial
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.references import Reference
from adapterhub_registry.remote_version import RemoteVersion
from adapterhub_registry.remotes import Progress

PARALLEL = 4
MAX_KNOWN = 40
"""Digests that fit into one header."""


@dataclass(frozen=True)
class Identity:
    """Who a registry takes us for.

    Attributes:
        name: The user.
        scope: Of the token: `read` or `write`.
        organisations: Name to role.
    """

    name: str
    scope: str
    organisations: Mapping[str, str]


class HttpRemote:
    """A registry behind HTTP.

    Args:
        name: What the user calls it.
        url: Its address.
        token: Who the user is there; empty for anybody.

    Raises:
        RemoteError: The URL is none, or the token is.
    """

    def __init__(self, name: str, url: str, token: str) -> None:
        self.name = name
        self._connection = Connection(name, url, token)

    def check(self) -> None:
        """Look whether a registry of ours answers there.

        Raises:
            RemoteError: It cannot be reached, or something else answers.
            AccessError: The token is none.
        """
        reply = self._connection.ask("GET", "/v1/search?limit=1")
        if reply.status != 200 or "adapters" not in reply.table:
            self._refused(reply)
            raise RemoteError(self.name, f"no registry of AdapterHub answers there (status {reply.status})")

    def whoami(self) -> Identity:
        """Return who the token belongs to.

        Raises:
            AccessError: There is no token, or it is none.
            RemoteError: The registry cannot be reached.
        """
        table = self._table(self._connection.ask("GET", "/api/whoami-v2"))
        try:
            organisations = {item["name"]: item["roleInOrg"] for item in table["orgs"]}
            return Identity(table["name"], table["auth"]["accessToken"]["role"], organisations)
        except (KeyError, TypeError) as exc:
            raise RemoteError(self.name, "it does not say who we are") from exc

    def digests(self, adapter: str) -> Mapping[int, str]:
        """Return number to digest of an adapter's versions; empty if there is no such adapter."""
        table = self._adapter(adapter)
        return {} if table is None else {item["number"]: item["digest"] for item in table["versions"]}

    def aliases(self, adapter: str) -> Mapping[str, int]:
        """Return alias to number."""
        return (self._adapter(adapter) or {}).get("aliases", {})

    def resolve(self, reference: Reference, *, known: Collection[str] = ()) -> RemoteVersion | str:
        """Return the version that a reference names there, or its digest alone if that is among `known`.

        Raises:
            AdapterNotFoundError: There is no such adapter, or we must not know of it.
            VersionNotFoundError, TombstoneError: It has no such version.
        """
        path = f"{_path(reference.adapter)}/versions/{quote(reference.selector, safe=':')}?documents=1"
        listed = ", ".join(f'"{digest}"' for digest in list(known)[-MAX_KNOWN:])
        reply = self._connection.ask("GET", path, headers={"If-None-Match": listed} if listed else {})
        if reply.status == 304:
            return reply.headers.get("etag", "").strip('"')
        table = self._table(reply, reference.adapter)
        try:
            version = RemoteVersion.from_json(table, source=f"{reference} in {self.name}")
        except DigestMismatchError:
            raise
        except (AdapterHubError, KeyError, TypeError) as exc:
            raise RemoteError(self.name, f"what it says of {reference} is damaged ({exc})") from exc
        return version.digest if version.digest in known else version

    def send(
        self, adapter: str, files: Sequence[StoredFile], source: DirectoryBlobs, on_bytes: Progress
    ) -> tuple[int, int]:
        """Upload the files that the adapter lacks there, several at once, from where an attempt ended."""
        base = _path(adapter)
        query = {"blobs": [{"sha256": file.sha256, "size": file.size} for file in files]}
        reply = self._connection.ask("POST", f"{base}/missing", query)
        if reply.status == 404:
            made = {"name": adapter, "visibility": "private"}
            self._table(self._connection.ask("POST", "/v1/adapters", made))
            reply = self._connection.ask("POST", f"{base}/missing", query)
        offsets = {item["sha256"]: item["offset"] for item in self._table(reply, adapter)["missing"]}
        lacking = [file for file in files if file.sha256 in offsets]
        meter = _Meter(sum(file.size for file in lacking), on_bytes)

        def upload(file: StoredFile) -> None:
            label = f"{adapter}: {file.name}"
            self._upload(f"{base}/blobs/{file.sha256}", file, label, offsets[file.sha256], source, meter)

        _all(upload, lacking)
        return len(lacking), meter.total

    def publish(self, adapter: str, version: RemoteVersion, *, renumber: bool = False) -> int:
        """Make a version visible, whole, and return its number there; its files must be there.

        Raises:
            VersionConflictError: The number is taken by another digest; nothing has changed.
            TombstoneError: The digest was deleted there.
        """
        table = version.as_json() | {"renumber": renumber}
        reply = self._connection.ask("POST", f"{_path(adapter)}/versions", table)
        return self._table(reply, adapter)["number"]

    def set_alias(self, adapter: str, alias: str, number: int, *, expected: int | None) -> None:
        """Point an alias at a version, if it stands at `expected`.

        Raises:
            AliasMovedError: It stands elsewhere; it was not moved.
        """
        path = f"{_path(adapter)}/aliases/{quote(alias, safe='')}"
        self._table(self._connection.ask("PUT", path, {"number": number, "expected": expected}), adapter)

    def fetch(
        self, adapter: str, files: Sequence[StoredFile], target: DirectoryBlobs, on_bytes: Progress
    ) -> tuple[int, int]:
        """Download the files that `target` lacks, several at once, on where an attempt before ended.

        Raises:
            DigestMismatchError: What came is something else; it was not kept.
            BlobMissingError: A file is not there.
        """
        lacking = [file for file in files if not target.has(file.sha256)]
        meter = _Meter(sum(file.size for file in lacking), on_bytes)

        def download(file: StoredFile) -> None:
            with ExitStack() as stack:
                try:
                    part = stack.enter_context(open_partial(target, target.root, file.sha256))
                except BusyError:  # another pull fetches it; both end well, each on its own
                    part = stack.enter_context(
                        open_partial(target, target.root, f"{file.sha256}-{id(stack):x}")
                    )
                self._download(adapter, file, part, meter)

        _all(download, lacking)
        return len(lacking), meter.total

    def read(self, adapter: str, sha256: str) -> Iterator[bytes]:
        """Return a file's bytes in pieces, unverified; `BlobMissingError`, at once, if it is not there."""
        reply = self._connection.ask("GET", f"{_path(adapter)}/blobs/{sha256}")
        if reply.status != 200:
            raise BlobMissingError(sha256, self.name)
        return iter([reply.content])

    def _upload(
        self,
        path: str,
        file: StoredFile,
        label: str,
        offset: int,
        source: DirectoryBlobs,
        meter: "_Meter",
    ) -> None:
        start = offset if 0 <= offset < file.size else 0
        meter.add(start)
        came = start
        with source.open(file.sha256) as opened:

            def note(count: int) -> None:
                nonlocal came
                came += count
                meter.add(count)

            def once() -> Reply:
                nonlocal start, came
                if came > start:  # it was cut off: how much came is known there alone
                    meter.add(start - came)
                    start = came = self._offset(path, file, meter, start)
                reply = self._connection.upload(path, opened, start, file.size, note)
                if reply.status == 409 and reply.table.get("code") == "offset":
                    meter.add(int(reply.table["offset"]) - came)
                    start = came = int(reply.table["offset"])
                    raise CutError("less of it had come than was said")
                return reply

            reply = self._connection.patiently(once, lambda: start)
        if reply.status == 400 and reply.table.get("code") == "digest-mismatch":
            raise DigestMismatchError(file.sha256, str(reply.table.get("found", "")), label)
        self._table(reply)

    def _offset(self, path: str, file: StoredFile, meter: "_Meter", start: int) -> int:
        """Return how much of an upload came."""
        base = path.rpartition("/blobs/")[0]
        table = self._table(
            self._connection.ask(
                "POST", f"{base}/missing", {"blobs": [{"sha256": file.sha256, "size": file.size}]}
            )
        )
        found = next((item["offset"] for item in table["missing"]), 0)
        found = found if 0 <= found < file.size else 0
        meter.add(found - start)
        return found

    def _download(self, adapter: str, file: StoredFile, part: Partial, meter: "_Meter") -> None:
        part.start_at(min(part.size, file.size))
        meter.add(part.size)

        def take(position: int, piece: memoryview) -> None:
            if position != part.size:
                meter.add(position - part.size)
                part.start_at(position)
            room = file.size - part.size
            part.write(piece[: room + 1])  # one byte too many is enough to be wrong
            meter.add(len(piece))

        def once() -> Reply:
            if part.size == file.size and file.size:
                return Reply(200, {})
            return self._connection.download(f"{_path(adapter)}/blobs/{file.sha256}", part.size, take)

        reply = self._connection.patiently(once, lambda: part.size)
        if reply.status in (404, 416):
            raise BlobMissingError(file.sha256, self.name)
        if reply.status not in (200, 206):
            self._table(reply, adapter)
        part.keep(file.sha256, source=f"{adapter}: {file.name} from {self.name}")

    def _adapter(self, adapter: str) -> dict[str, Any] | None:
        reply = self._connection.ask("GET", _path(adapter))
        return None if reply.status == 404 else self._table(reply, adapter)

    def _table(self, reply: Reply, adapter: str = "") -> dict[str, Any]:
        """Return what was answered, or raise the error that it is."""
        if reply.status < 300:
            return reply.table
        self._refused(reply, adapter)
        raise RemoteError(
            self.name, str(reply.table.get("error") or f"it answers with status {reply.status}")
        )

    def _refused(self, reply: Reply, adapter: str = "") -> None:
        """Raise the error of ours that an answer tells of, if it does."""
        table, message = reply.table, str(reply.table.get("error", ""))
        if reply.status in (401, 403):
            raise AccessError(self.name, message)
        try:
            match table.get("code"):
                case "adapter-not-found":
                    raise AdapterNotFoundError(adapter, [], where=self.name)
                case "version-not-found":
                    raise VersionNotFoundError(
                        adapter, table["selector"], table["versions"], table["aliases"]
                    )
                case "version-conflict":
                    raise VersionConflictError(
                        adapter, table["number"], ours=table["ours"], theirs=table["theirs"], where=self.name
                    )
                case "version-deleted":
                    raise TombstoneError(adapter, table["number"], table["digest"])
                case "alias-moved":
                    raise AliasMovedError(adapter, table["alias"], table["expected"], table["found"])
                case "manifest-malformed":
                    raise ManifestError(message)
                case _:
                    pass
        except (KeyError, TypeError) as exc:
            raise RemoteError(self.name, message or f"it answers with status {reply.status}") from exc
        if reply.status == 404 and reply.headers.get("x-error-code") == "RepoNotFound":
            raise AdapterNotFoundError(adapter, [], where=self.name)


@lru_cache(maxsize=8)
def kept_remote(name: str, url: str, token: str, process: int) -> HttpRemote:
    """Return a registry behind HTTP, the same for the same words, so that its connections are used again.

    Args:
        name: As for `HttpRemote`, and so are the next two.
        url: Likewise.
        token: Likewise.
        process: This one; a child must not write to its parent's connections.

    Raises:
        RemoteError: The URL is none, or the token is.
    """
    del process
    return HttpRemote(name, url, token)


class _Meter:
    """Adds up what all threads moved."""

    def __init__(self, total: int, on_bytes: Progress) -> None:
        self.total, self._done, self._tell, self._lock = total, 0, on_bytes, Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._tell(min(self._done, self.total), self.total)


def _all(work: Callable[[StoredFile], None], files: Sequence[StoredFile]) -> None:
    """Do some work for each file, the largest first, several at once; the first error ends it."""
    ordered = sorted(files, key=lambda file: file.size, reverse=True)
    if len(ordered) < 2:
        for file in ordered:
            work(file)
        return
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        for future in [pool.submit(work, file) for file in ordered]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _path(adapter: str) -> str:
    return f"/v1/adapters/{adapter}"
