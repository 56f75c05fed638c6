"""The Hugging Face protocol: downloads, whole or in part."""

import os
from urllib.parse import quote

from starlette.responses import FileResponse, Response

from adapterhub_registry.errors import BlobMissingError
from adapterhub_registry.server.calls import Call
from adapterhub_registry.server.paths import is_picture, is_text
from adapterhub_registry.server.revisions import no_entry, open_revision


class BlobResponse(FileResponse):
    """A file in pieces that are worth a thread's while."""

    chunk_size = 1 << 20


def resolve(call: Call) -> Response:
    """Send a file of a revision, or what its headers are."""
    revision = open_revision(call)
    path = call.part("path")
    file = revision.files.get(path)
    if file is None:
        raise no_entry(revision, path)
    headers = {
        **revision.headers,
        "ETag": f'"{file.etag}"',
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1])}",
        "Cache-Control": "private, no-cache",
    }
    if file.is_lfs:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if is_known(call.request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    blob = call.registry.blobs.path(file.sha256)
    try:
        found = os.stat(blob)  # noqa: PTH116 - Starlette takes what os gives
    except OSError as exc:
        raise BlobMissingError(file.sha256, str(blob)) from exc
    return BlobResponse(blob, headers=headers, media_type=_media_type(path), stat_result=found)


def is_known(header: str, etag: str) -> bool:
    """Say whether a client has the file already."""
    known = [item.strip().removeprefix("W/").strip('"') for item in header.split(",")]
    return etag in known or known == ["*"]


def _media_type(path: str) -> str:
    """Return a type that no browser takes for a page."""
    name = path.lower()
    if is_picture(name):
        return {"jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp"}.get(
            name.rsplit(".", 1)[1], "image/png"
        )
    if name.endswith(".json"):
        return "application/json"
    return "text/plain; charset=utf-8" if is_text(name) else "application/octet-stream"
