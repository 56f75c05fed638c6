"""Our own protocol: what there is, what a version is, whether one is current, and how to find it."""

import dataclasses
from typing import Any

from starlette.responses import Response

from adapterhub_registry.ancestry import LineageNode
from adapterhub_registry.database import Read
from adapterhub_registry.errors import BlobMissingError
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Adapter, Details
from adapterhub_registry.references import Reference, parse_reference
from adapterhub_registry.remote_version import RemoteVersion
from adapterhub_registry.search import MAX_PAGE, PAGE, Filters
from adapterhub_registry.server.calls import Call, answer, warn
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.hub_files import BlobResponse, is_known

EVENTS = """
    SELECT id, time, actor, action, subject, detail FROM event
    WHERE (subject = ? OR substr(subject, 1, ?) = ?) AND id < ? ORDER BY id DESC LIMIT ?"""
VERSIONS = """
    SELECT number, digest, state, created FROM version
    WHERE adapter_id = ? AND state <> 'deleted' ORDER BY number"""
FILTERS = (
    *("kind", "architecture", "algorithm", "licence", "author", "operation", "namespace"),
    *("tag", "rank", "preview"),
)


def search(call: Call) -> Response:
    """Find adapters that the caller may see, by words and by what they are."""
    query = call.request.query_params
    wanted: dict[str, Any] = {name: query[name] for name in FILTERS[:-3] if name in query}
    if "rank" in query:
        wanted["rank"] = call.number("rank", 1, most=1_000_000)
    if "preview" in query:
        wanted["has_preview"] = call.asks("preview")
    filters = Filters(tags=query.getlist("tag"), readable=tuple(call.caller.roles), **wanted)
    page = call.registry.search(
        query.get("q", ""),
        filters=filters,
        sort=query.get("sort"),
        limit=call.number("limit", PAGE, most=MAX_PAGE),
        after=query.get("after") or None,
    )
    return answer({"adapters": [_listed(adapter) for adapter in page], "next": page.next})


def show_adapter(call: Call) -> Response:
    """Say what is said of an adapter, and which versions it has."""
    adapter = call.registry.show(call.hosted.adapter)
    with call.registry.database.snapshot() as read:
        rows = read(VERSIONS, [call.hosted.id])
    names = ("number", "digest", "state", "created")
    table = _listed(adapter) | {
        "card": adapter.card,
        "visibility": "public" if call.hosted.is_public else "private",
        "versions": [dict(zip(names, row, strict=True)) for row in rows],
    }
    return answer(table)


def show_version(call: Call) -> Response:
    """Say what a version is; one that the client names in `If-None-Match` is current, and answered with 304.

    `documents=1` lists the files beside it, which may hold captions and settings of a training.
    """
    version = selected(call)
    headers = {"ETag": f'"{version.digest}"', "Cache-Control": "private, no-cache"}
    if version.state == "yanked":
        headers |= warn(version.reference, [f"{version.reference} was yanked: {version.yank_reason}"])
    if is_known(call.request.headers.get("if-none-match", ""), version.digest):
        return Response(status_code=304, headers=headers)
    adapter = call.registry.show(version.name)
    entry = RemoteVersion(
        number=version.number,
        manifest=version.manifest,
        message=version.message,
        author=version.author,
        created=version.created,
        documents=tuple(call.registry.documents(version)) if call.asks("documents") else (),
        previews=tuple(call.registry.previews(version)),
        details=Details(
            adapter.title, adapter.description, adapter.card, adapter.kind, adapter.tags, adapter.settings
        ),
        yank_reason=version.yank_reason,
    )
    table = entry.as_json() | {
        "name": version.name,
        "state": version.state,
        "yank_reason": version.yank_reason,
        "aliases": dict(adapter.aliases),
    }
    return answer(table, headers=headers)


def show_preview(call: Call) -> Response:
    """Send a picture of a version, by its place, counted from 1."""
    version, position = selected(call), call.part("position")
    pictures = call.registry.previews(version)
    if not position.isdecimal() or not 1 <= int(position[:9]) <= len(pictures):
        message = f"{version.reference} has {len(pictures)} pictures, counted from 1"
        raise RefusalError(404, message, code="EntryNotFound")
    picture = pictures[int(position) - 1]
    path = call.registry.blobs.path(picture.sha256)
    try:
        found = path.stat()
    except OSError as exc:
        raise BlobMissingError(picture.sha256, str(path)) from exc
    headers = {"ETag": f'"{picture.sha256}"'}
    return BlobResponse(path, headers=headers, media_type="image/png", stat_result=found)


def lineage(call: Call) -> Response:
    """Say what a version was made of, and what was made of it, as far as the caller may see."""
    node = call.registry.lineage(selected(call).reference)
    with call.registry.database.snapshot() as read:
        return answer(shown_lineage(read, call, node).as_json())


def list_events(call: Call) -> Response:
    """List what happened to an adapter, newest first; `before` goes on behind an event's number."""
    name, limit = call.hosted.adapter, call.number("limit", PAGE, most=MAX_PAGE)
    before = call.number("before", 1 << 62, most=1 << 62)
    start = f"{name}@"
    with call.registry.database.snapshot() as read:
        rows = read(EVENTS, [name, len(start), start, before, limit])
    names = ("id", "time", "actor", "action", "subject", "detail")
    return answer({"events": [dict(zip(names, row, strict=True)) for row in rows]})


def find_hash(call: Call) -> Response:
    """Say which versions, of those that the caller may see, hold a file of a hash that people quote."""
    found = call.registry.find_hash(call.part("hash"))
    with call.registry.database.snapshot() as read:
        shown = [item for item in found if is_readable(read, call, item.version.name)]
    return answer(
        {
            "versions": [
                {
                    "name": item.version.name,
                    "number": item.version.number,
                    "digest": item.version.digest,
                    "by": item.by,
                }
                for item in shown
            ]
        }
    )


def selected(call: Call) -> Version:
    """Return the version that the address names: a number, an alias, `latest`, or the start of a digest.

    Raises:
        ReferenceSyntaxError, VersionNotFoundError, TombstoneError: There is no such version.
    """
    parsed = parse_reference(f"{call.hosted.adapter}@{call.part('selector')}")
    return call.registry.resolve(Reference(call.hosted.namespace, call.hosted.name, parsed.selector))


def _listed(adapter: Adapter) -> dict[str, Any]:
    table = dataclasses.asdict(adapter)
    del table["card"]  # it may be long
    return table


def shown_lineage(read: Read, call: Call, node: LineageNode) -> LineageNode:
    """Return a lineage without what the caller must not know of: a digest is all that a child tells."""
    if node.is_here and not is_readable(read, call, node.label.rpartition("@")[0]):
        return LineageNode(node.digest[:19], node.digest, "", node.weight, is_here=False)
    children = [child for child in node.children if is_readable(read, call, child.label.rpartition("@")[0])]
    return dataclasses.replace(
        node,
        parents=[shown_lineage(read, call, parent) for parent in node.parents],
        children=[shown_lineage(read, call, child) for child in children],
    )


def is_readable(read: Read, call: Call, name: str) -> bool:
    """Say whether the caller may see an adapter."""
    namespace, _, short = name.partition("/")
    query = "SELECT visibility FROM adapter WHERE namespace = ? AND name = ?"
    rows = read(query, [namespace, short])
    return bool(call.caller.role_in(namespace, is_public=bool(rows) and rows[0][0] == "public"))
