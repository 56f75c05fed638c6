"""The Hugging Face protocol: what a client asks before it uploads; policy is told here, in words."""

import base64
import binascii
from typing import Any

from starlette.responses import Response

from adapterhub_registry.server.calls import Call, answer
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.history import MAIN, is_kept_by_lfs
from adapterhub_registry.server.paths import check_kind, check_path
from adapterhub_registry.server.quotas import check_room
from adapterhub_registry.server.revisions import open_revision

MAX_FILES = 1000


def preupload(call: Call) -> Response:
    """Say of each file how it is to be uploaded, or why none of them can be."""
    refuse_pull_requests(call)
    files: Any = call.body.get("files")
    if not isinstance(files, list) or len(files) > MAX_FILES:  # pyright: ignore[reportUnknownArgumentType]
        raise RefusalError(400, f'"files" must be a list of at most {MAX_FILES}')
    entries = [_entry(file) for file in files]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    for path, start, size in entries:
        check_path(path)
        check_kind(path, start, size)
    known = open_revision(call, call.part("revision") or MAIN).files
    with call.registry.database.snapshot() as read:
        check_room(read, call.hosted.namespace, sum(size for path, _, size in entries if path not in known))
    return answer(
        {
            "files": [
                {
                    "path": path,
                    "uploadMode": "lfs" if is_kept_by_lfs(path, size) else "regular",
                    "shouldIgnore": False,
                    "oid": known[path].etag if path in known else None,
                }
                for path, _, size in entries
            ]
        }
    )


def refuse_pull_requests(call: Call) -> None:
    """Say that there are none.

    Raises:
        RefusalError: The address asks for one.
    """
    if call.asks("create_pr"):
        raise RefusalError(
            501, "there are no pull requests here; push to a branch, or ask an owner for a role"
        )


def _entry(entry: Any) -> tuple[str, bytes, int]:
    """Return path, first bytes and size of a file."""
    try:
        path, size = entry["path"], entry["size"]
        start = base64.b64decode(entry.get("sample") or "", validate=True)
        if not isinstance(path, str) or type(size) is not int or size < 0:
            raise TypeError("path or size")
    except (TypeError, KeyError, AttributeError, binascii.Error, ValueError) as exc:
        raise RefusalError(400, 'each file needs "path", "size" and "sample" in base64') from exc
    return path, start, size
