"""Rows inside one session: found, written, and turned into values; `reading` has what needs no session."""

import getpass
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session, select

from adapterhub_registry import reading
from adapterhub_registry.database import Read, Values
from adapterhub_registry.errors import AdapterExistsError
from adapterhub_registry.manifest import Manifest, Version
from adapterhub_registry.publication import Details
from adapterhub_registry.references import Reference
from adapterhub_registry.tables import AdapterRow, EventRow, RedirectRow, TagRow, VersionRow

_actor: ContextVar[str] = ContextVar("actor", default="")


def read_in(session: Session) -> Read:
    """Return what `reading` asks, to be used inside a transaction; what was changed must be flushed."""

    def read(statement: str, values: Values = (), /) -> list[tuple[Any, ...]]:
        bound = dict(values) if isinstance(values, Mapping) else tuple(values)
        return [tuple(row) for row in session.connection().exec_driver_sql(statement, bound)]

    return read


def find_adapter(session: Session, reference: Reference) -> AdapterRow | None:
    """Return the row of an adapter, or None."""
    key = reading.find_adapter_key(read_in(session), reference)
    return None if key is None else session.get_one(AdapterRow, key)


def require_adapter(session: Session, reference: Reference) -> AdapterRow:
    """Return the row of an adapter; `AdapterNotFoundError`, with near names, if there is none."""
    return session.get_one(AdapterRow, reading.adapter_key(read_in(session), reference))


def require_version(session: Session, reference: Reference) -> tuple[AdapterRow, VersionRow]:
    """Return the rows that a reference selects; it raises what `reading.read_version` raises."""
    row = session.get_one(VersionRow, reading.version_key(read_in(session), reference))
    return session.get_one(AdapterRow, row.adapter_id), row


def check_not_moved(session: Session, reference: Reference) -> None:
    """Refuse a name that an adapter had before it was moved: references to it still mean that one."""
    moved = session.get(RedirectRow, (reference.namespace, reference.name))
    if moved is not None:
        row = session.get_one(AdapterRow, moved.adapter_id)
        raise AdapterExistsError(reference.adapter, f"{row.namespace}/{row.name}")


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


def write_details(session: Session, adapter: AdapterRow, details: Details) -> None:
    """Set what is not None; tags and settings replace those there are."""
    for name in ("title", "description", "card", "kind"):
        value = getattr(details, name)
        if value is not None:
            setattr(adapter, name, value)
    if details.settings is not None:
        adapter.settings = json.dumps(dict(details.settings))
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


@contextmanager
def acting_as(name: str) -> Generator[None]:
    """Write `name` into events and versions meanwhile, in place of who runs this process."""
    token = _actor.set(name)
    try:
        yield
    finally:
        _actor.reset(token)


def current_user() -> str:
    """Return who acts: by default who runs this process."""
    if name := _actor.get():
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def now() -> str:
    """Return UTC now, ISO 8601, in seconds."""
    return time_text(datetime.now(UTC))


def time_text(moment: datetime) -> str:
    """Return a UTC time as rows hold it: ISO 8601, in seconds; texts sort as times do."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
