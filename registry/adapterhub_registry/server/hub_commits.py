"""The Hugging Face protocol: commits, which come as lines of JSON and are read one at a time."""

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.responses import Response

from adapterhub_registry.errors import FieldError, PickleRefusedError, WeightsError
from adapterhub_registry.rows import acting_as
from adapterhub_registry.safetensors_header import START_BYTES, read_header
from adapterhub_registry.server.bodies import LARGE, in_thread, lines
from adapterhub_registry.server.calls import Call, answer, read_json, warn
from adapterhub_registry.server.committing import Change, commit
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.history import TreeFile, git_sha1, is_kept_by_lfs
from adapterhub_registry.server.hub_uploads import refuse_pull_requests
from adapterhub_registry.server.paths import MAX_PATH_BYTES, check_kind, check_path, is_text, is_weights
from adapterhub_registry.server.uploads import known_size

MAX_LINE = 4 << 20
"""A file of a mebibyte in base64 and more; larger ones come by Git LFS."""
MAX_LINES = 10_000
MAX_TEXT = 100_000


@dataclass
class _Draft:
    """What has been read of a commit."""

    title: str = ""
    message: str = ""
    parent: str | None = None
    files: dict[str, TreeFile] = field(default_factory=dict[str, TreeFile])
    deleted: list[str] = field(default_factory=list[str])
    folders: list[str] = field(default_factory=list[str])


async def create_commit(call: Call) -> Response:
    """Read a commit and make it."""
    refuse_pull_requests(call)
    draft, count = _Draft(), 0
    async for line in lines(call.request, most=MAX_LINE):
        count += 1
        if count > MAX_LINES:
            raise RefusalError(400, f"a commit of more than {MAX_LINES} lines; make several of it")
        limiter = call.site.large if len(line) > LARGE else None
        await in_thread(lambda line=line: _read_line(call, draft, line), limiter=limiter)
    with acting_as(call.caller.name):
        return await in_thread(lambda: _commit(call, draft))


def _commit(call: Call, draft: _Draft) -> Response:
    change = Change(
        title=draft.title,
        message=draft.message,
        files=draft.files,
        deleted=draft.deleted,
        folders=draft.folders,
        parent=draft.parent,
    )
    name = call.hosted.adapter
    done = commit(call.registry, name, call.part("revision"), change)
    table = {
        "success": True,
        "commitOid": done.commit.sha,
        "commitUrl": f"{call.origin}/{name}/commit/{done.commit.sha}",
        "hookOutput": "",
    }
    return answer(table, headers=warn("README", done.warnings))


def _read_line(call: Call, draft: _Draft, line: bytes) -> None:
    """Read one line; a file's bytes go to the store at once."""
    table = read_json(line)
    kind, value = table.get("key"), table.get("value")
    if not isinstance(value, dict):
        raise RefusalError(400, 'each line needs "key" and "value"')
    values: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    if kind == "header":
        draft.title = _text(values, "summary", most=MAX_TEXT).strip().split("\n")[0] or "Commit"
        draft.message = _text(values, "description", most=MAX_TEXT)
        draft.parent = _text(values, "parentCommit", most=40).lower() or None
        if draft.parent and (len(draft.parent) < 5 or set(draft.parent) - set("0123456789abcdef")):
            raise RefusalError(400, "parentCommit must be 5 to 40 hexadecimal digits")
    elif kind in ("file", "lfsFile"):
        path = _text(values, "path")
        check_path(path)
        draft.files[path] = _stored(call, path, values) if kind == "file" else _uploaded(call, path, values)
    elif kind in ("deletedFile", "deletedFolder"):
        listed = draft.deleted if kind == "deletedFile" else draft.folders
        listed.append(_text(values, "path", most=MAX_PATH_BYTES))
    else:
        raise RefusalError(501, f'operations of the kind "{kind}" are not supported')


def _stored(call: Call, path: str, values: dict[str, Any]) -> TreeFile:
    """Store the bytes of a file that came in the commit itself."""
    text = _text(values, "content", most=MAX_LINE)
    try:
        is_base64 = values.get("encoding", "base64") == "base64"
        content = base64.b64decode(text, validate=True) if is_base64 else text.encode()
    except (binascii.Error, ValueError) as exc:
        raise RefusalError(400, f'the content of "{path}" is no base64') from exc
    check_kind(path, content[:START_BYTES], len(content))
    if is_text(path):
        try:
            content.decode()
        except UnicodeDecodeError as exc:
            raise FieldError("file", path, "it is no text in UTF-8") from exc
    sha256, size = call.registry.blobs.write([content])
    check_weights(call, path, sha256)
    return TreeFile(size, sha256, "" if is_kept_by_lfs(path, size) else git_sha1(content))


def _uploaded(call: Call, path: str, values: dict[str, Any]) -> TreeFile:
    """Find a file that was uploaded before, for this adapter."""
    oid = _text(values, "oid")
    with call.registry.database.snapshot() as read:
        size = known_size(read, call.hosted, oid)
    if size is None:
        raise RefusalError(400, f'the file "{path}" was not uploaded: there is no object {oid[:64]} here')
    blob = call.registry.blobs.path(oid)
    with blob.open("rb") as file:
        check_kind(path, file.read(START_BYTES), size)
    check_weights(call, path, oid)
    return TreeFile(size, oid, "" if is_kept_by_lfs(path, size) else git_sha1(call.registry.read(oid)))


def check_weights(call: Call, path: str, sha256: str) -> None:
    """Check the whole header of weights; errors name the file as its owner knows it."""
    if not is_weights(path):
        return
    try:
        read_header(call.registry.blobs.path(sha256))
    except PickleRefusedError as exc:
        raise PickleRefusedError(Path(path)) from exc
    except WeightsError as exc:
        raise WeightsError(Path(path), exc.reason) from exc


def _text(values: dict[str, Any], name: str, *, most: int = 4096) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise RefusalError(400, f'"{name}" must be text of at most {most:,} letters')
    return value
