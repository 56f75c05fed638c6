"""From rows to values and back, inside one session."""

import getpass
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlmodel import Session, col, select

from adapterhub_registry.database import Database
from adapterhub_registry.errors import AdapterNotFoundError, TombstoneError, VersionNotFoundError
from adapterhub_registry.manifest import Manifest, Version
from adapterhub_registry.publication import Adapter, Details, Event, StoredFile
from adapterhub_registry.references import Reference, parse_reference
from adapterhub_registry.tables import (
    AdapterRow,
    AliasRow,
    DocumentRow,
    EventRow,
    PreviewRow,
    TagRow,
    VersionRow,
)

SELECTED = """
    SELECT version.number, manifest, state, message, author, version.created, yank_reason
    FROM adapter JOIN version ON version.adapter_id = adapter.id
    WHERE adapter.namespace = ? AND adapter.name = ? AND state <> 'deleted' AND """
BY_ALIAS = (
    "version.number = (SELECT alias.number FROM alias WHERE adapter_id = adapter.id AND alias.name = ?)"
)


def quick_version(database: Database, reference: Reference) -> Version | None:
    """Return what a reference selects by number, alias or `latest`; None leaves it to the long way."""
    selector = reference.selector
    values = [reference.namespace, reference.name]
    if selector == "latest":
        row = database.first(SELECTED + "version.id = adapter.head_id", values)
    elif selector.isdigit():
        row = database.first(SELECTED + "version.number = ?", [*values, int(selector)])
    elif selector.startswith("sha256:"):
        return None
    else:
        row = database.first(SELECTED + BY_ALIAS, [*values, selector])
    if row is None:
        return None
    number, manifest, state, message, author, created, reason = row
    return Version(
        reference.adapter, number, Manifest.from_json(manifest), state, message, author, created, reason
    )


def select_version(session: Session, adapter: AdapterRow, reference: Reference) -> VersionRow:
    """Return the row that a reference selects; `VersionNotFoundError` if there is none."""
    selector = reference.selector
    query = select(VersionRow).where(VersionRow.adapter_id == adapter.id)
    if selector == "latest":
        query = query.where(VersionRow.state == "published").order_by(col(VersionRow.number).desc())
    elif selector.isdigit():
        query = query.where(VersionRow.number == int(selector))
    elif selector.startswith("sha256:"):
        query = query.where(col(VersionRow.digest).startswith(selector)).limit(2)
    else:
        alias = session.get(AliasRow, (adapter.id, selector))
        query = query.where(VersionRow.number == (alias.number if alias else -1))
    rows = session.exec(query).all()
    if len(rows) == 1 and rows[0].state == "deleted":
        raise TombstoneError(reference.adapter, rows[0].number, rows[0].digest)
    is_ambiguous = selector.startswith("sha256:") and len(rows) > 1
    if not rows or is_ambiguous:
        numbers = session.exec(select(VersionRow.number).where(VersionRow.adapter_id == adapter.id)).all()
        aliases = session.exec(select(AliasRow.name).where(AliasRow.adapter_id == adapter.id)).all()
        raise VersionNotFoundError(reference.adapter, selector, sorted(numbers), sorted(aliases))
    return rows[0]


def find_adapter(session: Session, reference: Reference) -> AdapterRow | None:
    """Return the row of an adapter, or None."""
    query = select(AdapterRow).where(
        AdapterRow.namespace == reference.namespace, AdapterRow.name == reference.name
    )
    return session.exec(query).first()


def require_adapter(session: Session, reference: Reference) -> AdapterRow:
    """Return the row of an adapter; `AdapterNotFoundError`, with near names, if there is none."""
    adapter = find_adapter(session, reference)
    if adapter is None:
        rows = session.exec(select(AdapterRow.namespace, AdapterRow.name))
        raise AdapterNotFoundError(reference.adapter, [f"{a}/{b}" for a, b in rows])
    return adapter


def adapter_reference(name: str) -> Reference:
    """Read `namespace/name`, dropping a selector."""
    reference = parse_reference(name)
    return Reference(reference.namespace, reference.name)


def to_version(adapter: AdapterRow, row: VersionRow) -> Version:
    """Return the value of a row."""
    return Version(
        name=f"{adapter.namespace}/{adapter.name}",
        number=row.number,
        manifest=Manifest.from_json(row.manifest),
        state=row.state,
        message=row.message,
        author=row.author,
        created=row.created,
        yank_reason=row.yank_reason,
    )


def to_adapter(session: Session, row: AdapterRow) -> Adapter:
    """Return the value of a row, with its tags and aliases."""
    return to_adapters(session, [row])[0]


def to_adapters(session: Session, rows: Sequence[AdapterRow]) -> list[Adapter]:
    """Return the values of rows, with their tags and aliases: three queries for all."""
    ids = [row.id for row in rows]
    tags: dict[int, list[str]] = {}
    for tag in session.exec(select(TagRow).where(col(TagRow.adapter_id).in_(ids)).order_by(col(TagRow.tag))):
        tags.setdefault(tag.adapter_id, []).append(tag.tag)
    aliases: dict[int, dict[str, int]] = {}
    query = select(AliasRow).where(col(AliasRow.adapter_id).in_(ids)).order_by(col(AliasRow.name))
    for alias in session.exec(query):
        aliases.setdefault(alias.adapter_id, {})[alias.name] = alias.number
    heads = [row.head_id for row in rows if row.head_id is not None]
    latest = dict(
        session.exec(select(VersionRow.id, VersionRow.number).where(col(VersionRow.id).in_(heads))).all()
    )
    return [
        Adapter(
            name=f"{row.namespace}/{row.name}",
            title=row.title,
            description=row.description,
            card=row.card,
            kind=row.kind,
            tags=tuple(tags.get(flushed_id(row.id), ())),
            aliases=aliases.get(flushed_id(row.id), {}),
            latest=latest.get(row.head_id),
            created=row.created,
        )
        for row in rows
    ]


def write_details(session: Session, adapter: AdapterRow, details: Details) -> None:
    """Set what is not None; tags replace those there are."""
    for name in ("title", "description", "card", "kind"):
        value = getattr(details, name)
        if value is not None:
            setattr(adapter, name, value)
    session.add(adapter)
    if details.tags is not None:
        for row in session.exec(select(TagRow).where(TagRow.adapter_id == adapter.id)):
            session.delete(row)
        session.flush()
        for tag in sorted({tag.strip().lower() for tag in details.tags}):
            session.add(TagRow(adapter_id=flushed_id(adapter.id), tag=tag))


def log_event(session: Session, action: str, subject: str, detail: Mapping[str, object]) -> None:
    """Write one event, in the transaction of the change itself."""
    session.add(
        EventRow(time=now(), actor=current_user(), action=action, subject=subject, detail=json.dumps(detail))
    )


def flushed_id(value: int | None) -> int:
    """Return the key of a row that is in the database."""
    if value is None:
        raise ValueError("the row was not flushed")
    return value


def current_user() -> str:
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def now() -> str:
    """Return UTC now, ISO 8601, in seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def list_documents(session: Session, version_id: int) -> list[StoredFile]:
    """Return the files beside a version, by name."""
    rows = session.exec(
        select(DocumentRow).where(DocumentRow.version_id == version_id).order_by(col(DocumentRow.name))
    )
    return [StoredFile(row.name, row.sha256, row.size) for row in rows]


def list_previews(session: Session, version_id: int) -> list[StoredFile]:
    """Return the pictures of a version, in the order in which they were added."""
    rows = session.exec(
        select(PreviewRow).where(PreviewRow.version_id == version_id).order_by(col(PreviewRow.id))
    )
    return [
        StoredFile(f"preview-{number}.png", row.sha256, row.size, row.prompt, row.seed)
        for number, row in enumerate(rows, 1)
    ]


def list_events(session: Session, subject: str, limit: int) -> list[Event]:
    """Return events, newest first, whose subject begins as given."""
    query = select(EventRow).order_by(col(EventRow.id).desc()).limit(limit)
    if subject:
        query = query.where(col(EventRow.subject).startswith(subject, autoescape=True))
    return [
        Event(row.time, row.actor, row.action, row.subject, json.loads(row.detail))
        for row in session.exec(query)
    ]
