"""From rows to values and back, inside one session."""

import getpass
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlmodel import Session, col, func, select

from adapterhub_registry.errors import AdapterNotFoundError, VersionNotFoundError
from adapterhub_registry.manifest import Manifest, Version
from adapterhub_registry.publication import Adapter, Details
from adapterhub_registry.references import Reference, parse_reference
from adapterhub_registry.tables import AdapterRow, AliasRow, EventRow, TagRow, VersionRow


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
    tags = session.exec(select(TagRow.tag).where(TagRow.adapter_id == row.id).order_by(col(TagRow.tag)))
    aliases = session.exec(select(AliasRow).where(AliasRow.adapter_id == row.id).order_by(col(AliasRow.name)))
    latest = session.exec(
        select(func.max(VersionRow.number)).where(
            VersionRow.adapter_id == row.id, VersionRow.state == "published"
        )
    ).one()
    return Adapter(
        name=f"{row.namespace}/{row.name}",
        title=row.title,
        description=row.description,
        card=row.card,
        kind=row.kind,
        tags=tuple(tags),
        aliases={alias.name: alias.number for alias in aliases},
        latest=latest,
        created=row.created,
    )


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
