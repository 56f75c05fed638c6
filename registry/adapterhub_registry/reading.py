"""Reading by plain SQL: what most commands ask, without SQLAlchemy, whose import takes half a second."""

import json
from collections.abc import Sequence
from typing import Any

from adapterhub_registry.database import Read
from adapterhub_registry.errors import AdapterNotFoundError, TombstoneError, VersionNotFoundError
from adapterhub_registry.manifest import Manifest, Version
from adapterhub_registry.publication import Adapter, AliasMove, Event, StoredFile
from adapterhub_registry.references import Reference

VERSIONS = """
    SELECT version.id, version.digest, adapter.namespace || '/' || adapter.name, version.number,
        version.manifest, version.state, version.message, version.author, version.created, version.yank_reason
    FROM adapter JOIN version ON version.adapter_id = adapter.id
    WHERE adapter.namespace = ? AND adapter.name = ? AND """
ADAPTERS = """
    SELECT adapter.id, adapter.namespace || '/' || adapter.name, adapter.title, adapter.description,
        adapter.card, adapter.kind, version.number, adapter.created, adapter.settings
    FROM adapter LEFT JOIN version ON version.id = adapter.head_id """
BY_ALIAS = (
    "version.number = (SELECT alias.number FROM alias WHERE adapter_id = adapter.id AND alias.name = ?)"
)


def find_adapter_key(read: Read, reference: Reference) -> int | None:
    """Return the key of an adapter, or None."""
    query = "SELECT id FROM adapter WHERE namespace = ? AND name = ?"
    rows = read(query, [reference.namespace, reference.name])
    return rows[0][0] if rows else None


def adapter_key(read: Read, reference: Reference) -> int:
    """Return the key of an adapter; `AdapterNotFoundError`, with near names, if there is none."""
    found = find_adapter_key(read, reference)
    if found is None:
        names = read("SELECT namespace || '/' || name FROM adapter")
        raise AdapterNotFoundError(reference.adapter, [name for (name,) in names])
    return found


def version_key(read: Read, reference: Reference) -> int:
    """Return the key of the version that a reference selects; it raises what `read_version` raises."""
    return _select(read, reference)[0]


def read_version(read: Read, reference: Reference) -> Version:
    """Return the version that a reference selects, by one statement if there is one.

    Raises:
        AdapterNotFoundError: There is no such adapter.
        VersionNotFoundError: It has no such version.
        TombstoneError: The version was deleted.
    """
    return _to_version(_select(read, reference))


def list_versions(read: Read, reference: Reference) -> list[Version]:
    """Return all versions of an adapter, oldest first; `AdapterNotFoundError` if there is no such adapter."""
    adapter_key(read, reference)
    query = f"{VERSIONS} state <> 'deleted' ORDER BY number"
    return [_to_version(row) for row in read(query, [reference.namespace, reference.name])]


def list_digests(read: Read, reference: Reference) -> dict[str, int]:
    """Return digest to number of an adapter's versions, oldest first; none if there is no such adapter."""
    query = (
        "SELECT version.digest, version.number FROM adapter JOIN version ON version.adapter_id = adapter.id "
        "WHERE namespace = ? AND adapter.name = ? AND state <> 'deleted' ORDER BY version.number"
    )
    return dict(read(query, [reference.namespace, reference.name]))


def list_adapters(read: Read, keys: Sequence[int] | None = None) -> list[Adapter]:
    """Return the adapters of keys, in their order, or all by name: three queries, however many there are."""
    among = "" if keys is None else f"IN ({', '.join('?' * len(keys))})"
    values = keys or ()
    listed = "WHERE adapter.removed = '' ORDER BY namespace, adapter.name"
    own = f"WHERE adapter.id {among}" if among else listed
    theirs = f"WHERE adapter_id {among}" if among else ""
    tags: dict[int, list[str]] = {}
    for key, tag in read(f"SELECT adapter_id, tag FROM tag {theirs} ORDER BY adapter_id, tag", values):  # noqa: S608
        tags.setdefault(key, []).append(tag)
    aliases: dict[int, dict[str, int]] = {}
    query = f"SELECT adapter_id, name, number FROM alias {theirs} ORDER BY adapter_id, name"  # noqa: S608
    for key, name, number in read(query, values):
        aliases.setdefault(key, {})[name] = number
    found = {
        key: Adapter(
            name=name,
            title=title,
            description=description,
            card=card,
            kind=kind,
            tags=tuple(tags.get(key, ())),
            aliases=aliases.get(key, {}),
            latest=latest,
            created=created,
            settings={} if settings == "{}" else json.loads(settings),
        )
        for key, name, title, description, card, kind, latest, created, settings in read(
            ADAPTERS + own, values
        )
    }
    return list(found.values()) if keys is None else [found[key] for key in keys]


def list_documents(read: Read, version_id: int) -> list[StoredFile]:
    """Return the files beside a version, by name."""
    query = "SELECT name, sha256, size FROM document WHERE version_id = ? ORDER BY name"
    return [StoredFile(*row) for row in read(query, [version_id])]


def list_previews(read: Read, version_id: int) -> list[StoredFile]:
    """Return the pictures of a version, in the order in which they were added."""
    query = "SELECT sha256, size, prompt, seed, settings FROM preview WHERE version_id = ? ORDER BY id"
    return [
        StoredFile(f"preview-{number}.png", sha256, size, prompt, seed, json.loads(settings))
        for number, (sha256, size, prompt, seed, settings) in enumerate(read(query, [version_id]), 1)
    ]


def list_events(read: Read, subject: str, limit: int) -> list[Event]:
    """Return events, newest first, whose subject begins as given."""
    query = (
        "SELECT time, actor, action, subject, detail FROM event "
        "WHERE substr(subject, 1, ?) = ? ORDER BY id DESC LIMIT ?"
    )
    return [
        Event(time, actor, action, about, json.loads(detail))
        for time, actor, action, about, detail in read(query, [len(subject), subject, limit])
    ]


def list_alias_moves(read: Read, reference: Reference, alias: str | None) -> list[AliasMove]:
    """Return the moves of an adapter's aliases, or of one, oldest first."""
    adapter_key(read, reference)
    start = f"{reference.adapter}@"
    query = (
        "SELECT time, actor, subject, detail FROM event "
        "WHERE action = 'alias' AND substr(subject, 1, ?) = ? ORDER BY id"
    )
    moves = [
        AliasMove(time, actor, subject.removeprefix(start), **json.loads(detail))
        for time, actor, subject, detail in read(query, [len(start), start])
    ]
    return [move for move in moves if alias in (None, move.alias)]


def _select(read: Read, reference: Reference) -> tuple[Any, ...]:
    """Return the row of the version that a reference selects."""
    selector = reference.selector
    if selector == "latest":
        condition, values = "version.id = adapter.head_id", []
    elif selector.isdigit():
        condition, values = "version.number = ?", [int(selector)]
    elif selector.startswith("sha256:"):
        # "g" follows the last hexadecimal digit, and a range is found through the index.
        condition, values = "version.digest BETWEEN ? AND ? LIMIT 2", [selector, f"{selector}g"]
    else:
        condition, values = BY_ALIAS, [selector]
    rows = read(VERSIONS + condition, [reference.namespace, reference.name, *values])
    if len(rows) != 1:
        key = adapter_key(read, reference)
        numbers = read("SELECT number FROM version WHERE adapter_id = ? ORDER BY number", [key])
        aliases = read("SELECT name FROM alias WHERE adapter_id = ? ORDER BY name", [key])
        raise VersionNotFoundError(
            reference.adapter, selector, [number for (number,) in numbers], [name for (name,) in aliases]
        )
    _, digest, _, number, _, state, *_ = rows[0]
    if state == "deleted":
        raise TombstoneError(reference.adapter, number, digest)
    return rows[0]


def _to_version(row: tuple[Any, ...]) -> Version:
    _, _, name, number, manifest, *rest = row
    return Version(name, number, Manifest.from_json(manifest), *rest)
