"""Our own protocol: files by their digest, down and up, and on where an attempt before ended."""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.responses import Response

from adapterhub_registry.errors import BlobMissingError
from adapterhub_registry.manifest import MAX_SIZE
from adapterhub_registry.partial import open_partial, partial_size, sweep_partials
from adapterhub_registry.rows import acting_as
from adapterhub_registry.server.access import Hosted
from adapterhub_registry.server.bodies import in_thread, pieces
from adapterhub_registry.server.calls import Call, answer
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.holdings import is_held, is_published
from adapterhub_registry.server.hub_files import BlobResponse
from adapterhub_registry.server.quotas import check_room
from adapterhub_registry.server.uploads import note_upload, room_on_disk

SHA256 = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
MAX_BLOBS = 1000


@dataclass(frozen=True)
class Wanted:
    """What an upload is to be.

    Attributes:
        adapter: What it is for.
        sha256: What it must be.
        start: Where the body begins in it.
        stop: Where the body ends.
        size: Its bytes.
    """

    adapter: Hosted
    sha256: str
    start: int
    stop: int
    size: int

    @property
    def name(self) -> str:
        """Of the file that it comes into: one for each adapter, so that nobody meets the bytes of others."""
        return f"{self.adapter.id}-{self.sha256}"


def missing(call: Call) -> Response:
    """Say which of some files the adapter lacks, and how much of each has come already."""
    sweep_partials(call.registry.home)
    files = _files(call.body.get("blobs"))
    with call.registry.database.snapshot() as read:
        lacking = {sha256: size for sha256, size in files.items() if not is_held(read, call.hosted, sha256)}
        check_room(read, call.hosted.namespace, sum(lacking.values()))
    if sum(lacking.values()) > room_on_disk(call.registry.home):
        raise RefusalError(400, "the server's disk has no room for this; tell who runs it")
    home, adapter = call.registry.home, call.hosted
    return answer(
        {
            "missing": [
                {"sha256": sha256, "offset": partial_size(home, Wanted(adapter, sha256, 0, 0, size).name)}
                for sha256, size in lacking.items()
            ]
        }
    )


def get_blob(call: Call) -> Response:
    """Send a file of a version, whole or in part."""
    sha256, registry = call.part("sha256"), call.registry
    with registry.database.snapshot() as read:
        if not is_published(read, call.hosted, sha256):
            raise RefusalError(
                404, f'"{call.hosted.adapter}" has no file sha256:{sha256}', code="EntryNotFound"
            )
    path = registry.blobs.path(sha256)
    try:
        found = path.stat()
    except OSError as exc:
        raise BlobMissingError(sha256, str(path)) from exc
    headers = {
        "ETag": f'"{sha256}"',
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    return BlobResponse(path, headers=headers, media_type="application/octet-stream", stat_result=found)


async def put_blob(call: Call) -> Response:
    """Take a file, or more of one; `Content-Range: bytes FIRST-LAST/SIZE` says what of it comes."""
    wanted = await in_thread(lambda: _wanted(call))
    if wanted is None:
        return answer({"is_whole": True})
    home, blobs = call.registry.home, call.registry.blobs
    with ExitStack() as stack:
        part = await in_thread(lambda: stack.enter_context(open_partial(blobs, home, wanted.name)))
        if wanted.start > part.size:
            message = f"{part.size} bytes of it are here; go on there"
            raise RefusalError(409, message, table={"code": "offset", "offset": part.size})
        await in_thread(lambda: part.start_at(wanted.start))
        async for piece in pieces(call.request, most=wanted.stop - wanted.start):
            await in_thread(partial(part.write, piece))
        if part.size < wanted.size:
            return answer({"is_whole": False, "offset": part.size}, 202)
        await in_thread(lambda: part.keep(wanted.sha256, source="the upload"))
    with acting_as(call.caller.name):
        await in_thread(lambda: note_upload(call.registry, wanted.adapter, wanted.sha256, wanted.size))
    return answer({"is_whole": True}, 201)


def _wanted(call: Call) -> Wanted | None:
    """Return what is uploaded; None if the adapter has it.

    Raises:
        RefusalError: The digest or the range is malformed.
        QuotaError: The namespace may not hold it.
    """
    sha256, length = call.part("sha256"), call.request.headers.get("content-length", "")
    if not SHA256.fullmatch(sha256) or not length.isdecimal() or len(length) > 18:
        raise RefusalError(400, "an upload needs a SHA-256 in its address, and a Content-Length")
    start, stop = 0, int(length)
    size = stop
    if text := call.request.headers.get("content-range"):
        match = RANGE.fullmatch(text)
        start, last, size = map(int, match.groups()) if match else (0, -1, -1)
        if match is None or start > last or last >= size or size >= MAX_SIZE or last + 1 - start != stop:
            raise RefusalError(400, "Content-Range must be bytes FIRST-LAST/SIZE, and fit Content-Length")
        stop = last + 1
    with call.registry.database.snapshot() as read:
        if is_held(read, call.hosted, sha256):
            return None
        check_room(read, call.hosted.namespace, size)
    return Wanted(call.hosted, sha256, start, stop, size)


def _files(entries: Any) -> dict[str, int]:
    """Return digest to size."""
    try:
        files = {entry["sha256"]: entry["size"] for entry in entries}
        is_fine = len(files) <= MAX_BLOBS and all(
            SHA256.fullmatch(sha256) and type(size) is int and 0 <= size < MAX_SIZE
            for sha256, size in files.items()
        )
    except (TypeError, KeyError):
        is_fine, files = False, dict[str, int]()
    if not is_fine:
        raise RefusalError(400, f'"blobs" must be a list of at most {MAX_BLOBS}, each with sha256 and size')
    return files
