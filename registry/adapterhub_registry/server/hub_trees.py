"""The Hugging Face protocol: the files of a revision, its commits, and the names of revisions."""

import hashlib
from collections.abc import Mapping
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import Response

from adapterhub_registry.server.calls import Call, answer, read_json
from adapterhub_registry.server.catching_up import catch_up
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.history import Commit, TreeFile, find_commit, list_commits, list_refs
from adapterhub_registry.server.revisions import Revision, no_entry, open_revision

PAGE = 1000
COMMITS_PAGE = 50
MAX_PATHS = 1000


def tree(call: Call) -> Response:
    """List the files in a directory of a revision, or below it."""
    revision = open_revision(call)
    folder = call.part("path").strip("/")
    entries = _entries(revision, folder, is_deep=call.asks("recursive"))
    if folder and not entries:
        raise no_entry(revision, folder)
    limit, after = call.number("limit", PAGE, most=PAGE), call.request.query_params.get("cursor", "")
    paths = list(islice((path for path in sorted(entries) if path > after), limit + 1))
    headers = dict(revision.headers)
    if len(paths) > limit:
        paths.pop()
        headers |= call.next_link(cursor=paths[-1])
    shown = [_with_commit(call, entries[path], revision.commit) for path in paths]
    return answer(shown, headers=headers)


def paths_info(call: Call) -> Response:
    """Say what is known of some paths; what is not there is left out."""
    revision = open_revision(call)
    paths = _asked_paths(call)
    entries = _entries(revision, "", is_deep=True)
    found = dict.fromkeys(path.strip("/") for path in paths if path.strip("/") in entries)
    return answer(
        [_with_commit(call, entries[path], revision.commit) for path in found], headers=revision.headers
    )


def refs(call: Call) -> Response:
    """List branches and tags."""
    catch_up(call.registry, call.hosted.adapter)
    with call.registry.database.snapshot() as read:
        found = list_refs(read, call.hosted.id)
    table: dict[str, Any] = {
        "branches": _named(found.branches, "refs/heads/"),
        "tags": _named(found.tags, "refs/tags/"),
        "converts": [],
    }
    if call.asks("include_prs"):
        table["pullRequests"] = []
    return answer(table)


def commits(call: Call) -> Response:
    """List the commits of a revision, newest first."""
    start = open_revision(call).commit
    limit = call.number("limit", COMMITS_PAGE, most=COMMITS_PAGE)
    with call.registry.database.snapshot() as read:
        if after := call.request.query_params.get("cursor"):
            start = find_commit(read, call.hosted.id, after) or start
        found = list_commits(read, call.hosted.id, start, limit + 1)
    headers = call.next_link(cursor=found[limit].sha) if len(found) > limit else {}
    return answer([_commit(item) for item in found[:limit]], headers=headers)


def _commit(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.message,
        "date": f"{commit.created.removesuffix('Z')}.000Z",
        "authors": [{"user": commit.author}],
    }


def _named(names: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
    return [{"name": name, "ref": prefix + name, "targetCommit": sha} for name, sha in names.items()]


def _entries(revision: Revision, folder: str, *, is_deep: bool) -> dict[str, dict[str, Any]]:
    """Return files and directories below a folder by path."""
    start = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    inside: dict[str, list[str]] = {}
    for path, file in revision.files.items():
        if not path.startswith(start):
            continue
        parts = path.removeprefix(start).split("/")
        for depth in range(1, len(parts)):
            inside.setdefault(start + "/".join(parts[:depth]), []).append(f"{path} {file.blob_id}")
        if is_deep or len(parts) == 1:
            entries[path] = _file(path, file)
    for path, names in inside.items():
        if is_deep or "/" not in path.removeprefix(start):
            digest = hashlib.sha1("\n".join(names).encode(), usedforsecurity=False).hexdigest()
            entries[path] = {"type": "directory", "path": path, "oid": digest, "size": 0}
    return entries


def _file(path: str, file: TreeFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return entry


def _with_commit(call: Call, entry: dict[str, Any], commit: Commit) -> dict[str, Any]:
    """Add the commit, where the address asks for more."""
    body: Any = call.body or b""
    is_expanded = call.asks("expand") or b"expand=True" in body or b"expand=true" in body
    return entry | ({"lastCommit": _commit(commit)} if is_expanded else {})


def _asked_paths(call: Call) -> list[str]:
    """Return the paths in a body, which is a form, or JSON."""
    content: bytes = call.body
    if call.request.headers.get("content-type", "").startswith("application/json"):
        found: Any = read_json(content).get("paths", [])
        paths: list[Any] = found if isinstance(found, list) else [found]  # pyright: ignore[reportUnknownVariableType]
    else:
        try:
            paths = list(parse_qs(content.decode(), max_num_fields=MAX_PATHS + 10).get("paths", []))
        except ValueError as exc:
            raise RefusalError(400, f"the body is no form of at most {MAX_PATHS} paths") from exc
    if len(paths) > MAX_PATHS or not all(isinstance(path, str) for path in paths):
        raise RefusalError(400, f"ask for at most {MAX_PATHS} paths, each a text")
    return paths
