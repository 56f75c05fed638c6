"""What happens to a version after it was published: yanked, brought back, deleted; aliases that move."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from sqlmodel import Session, col, delete, select

from adapterhub_registry import reading
from adapterhub_registry.adapters import forget_commits
from adapterhub_registry.blobs import DirectoryBlobs, digest_of
from adapterhub_registry.collection import claim_blobs
from adapterhub_registry.database import Database
from adapterhub_registry.errors import AliasMovedError, FieldError, VersionInUseError
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Adapter, Details, StoredFile, check_details
from adapterhub_registry.publishing import add_preview_rows, refresh
from adapterhub_registry.references import Reference
from adapterhub_registry.rows import (
    flushed_id,
    log_event,
    read_in,
    require_adapter,
    require_version,
    to_version,
    write_details,
)
from adapterhub_registry.tables import (
    AdoptedRow,
    AliasRow,
    DocumentRow,
    FileHashRow,
    ParentRow,
    PreviewRow,
)


def yank(database: Database, reference: Reference, reason: str) -> Version:
    """Hide a version from `latest` and search; see `Registry.yank`."""
    return _set_state(database, reference, "yanked", reason)


def unyank(database: Database, reference: Reference) -> Version:
    """Bring a yanked version back; see `Registry.unyank`."""
    return _set_state(database, reference, "published", "")


def update(database: Database, reference: Reference, change: Callable[[Adapter], Details]) -> Adapter:
    """Change what is said of an adapter; see `Registry.update`."""
    with database.writing() as session:
        return update_in(session, reference, change)


def update_in(session: Session, reference: Reference, change: Callable[[Adapter], Details]) -> Adapter:
    """Change what is said of an adapter, in a transaction that does more; see `Registry.update`."""
    row = require_adapter(session, reference)
    (before,) = reading.list_adapters(read_in(session), [flushed_id(row.id)])
    details = change(before)
    check_details(details)
    write_details(session, row, details)
    session.flush()
    (after,) = reading.list_adapters(read_in(session), [flushed_id(row.id)])
    changed = {
        field.name: {"before": getattr(before, field.name), "after": getattr(after, field.name)}
        for field in fields(Details)
        if getattr(before, field.name) != getattr(after, field.name)
    }
    if "card" in changed:  # too long for an event
        changed["card"] = {name: digest_of([text.encode()]) for name, text in changed["card"].items()}
    if changed:
        log_event(session, "update", reference.adapter, changed)
        refresh(session, row)
    return after


def delete_version(database: Database, reference: Reference) -> str:
    """Leave of a version its number and digest alone; see `Registry.delete`."""
    with database.writing() as session:
        adapter, row = require_version(session, reference)
        aliases = session.exec(
            select(AliasRow.name).where(AliasRow.adapter_id == adapter.id, AliasRow.number == row.number)
        ).all()
        label = f"{reference.adapter}@{row.number}"
        if aliases:
            raise VersionInUseError(label, sorted(aliases))
        for table in (DocumentRow, PreviewRow, FileHashRow, ParentRow):
            session.exec(delete(table).where(col(table.version_id) == row.id))
        session.exec(delete(AdoptedRow).where(col(AdoptedRow.version) == label))
        forget_commits(session, flushed_id(adapter.id), row.number)
        row.state, row.manifest, row.message, row.payload_digest = "deleted", "", "", ""
        session.add(row)
        refresh(session, adapter)
        log_event(session, "delete", label, {"digest": row.digest})
        return label


def set_alias(
    database: Database, target: Reference, alias: str, *, is_checked: bool, expected: int | None
) -> None:
    """Move an alias to a version by its number; see `Registry.set_alias`."""
    with database.writing() as session:
        adapter, version = require_version(session, target)
        row = session.get(AliasRow, (adapter.id, alias))
        before = row.number if row is not None else None
        if is_checked and before != expected:
            raise AliasMovedError(target.adapter, alias, expected, before)
        if before == version.number:
            return
        session.merge(AliasRow(adapter_id=flushed_id(adapter.id), name=alias, number=version.number))
        detail = {"before": before, "after": version.number}
        log_event(session, "alias", f"{target.adapter}@{alias}", detail)


def remove_alias(database: Database, reference: Reference, alias: str, expected: int | None) -> None:
    """Take an alias away; see `Registry.remove_alias`."""
    with database.writing() as session:
        adapter = require_adapter(session, reference)
        row = session.get(AliasRow, (adapter.id, alias))
        if row is None:
            names = session.exec(select(AliasRow.name).where(AliasRow.adapter_id == adapter.id)).all()
            rule = f"{reference.adapter} has none of that name; it has {', '.join(sorted(names)) or 'none'}"
            raise FieldError("alias", alias, rule)
        if expected not in (None, row.number):
            raise AliasMovedError(reference.adapter, alias, expected, row.number)
        session.delete(row)
        log_event(session, "alias", f"{reference.adapter}@{alias}", {"before": row.number, "after": None})


def add_previews(
    database: Database, blobs: DirectoryBlobs, reference: Reference, pictures: Sequence[StoredFile]
) -> list[StoredFile]:
    """List pictures of a version that it does not have; see `Registry.add_previews`."""
    with database.writing() as session:
        adapter, version = require_version(session, reference)
        version_id = flushed_id(version.id)
        known = {item.sha256 for item in reading.list_previews(read_in(session), version_id)}
        new: dict[str, StoredFile] = {}
        for item in pictures:
            if item.sha256 not in known:
                new.setdefault(item.sha256, item)
        if new:
            claim_blobs(session, blobs, new)
            add_preview_rows(session, version_id, new.values())
            log_event(session, "preview", f"{reference.adapter}@{version.number}", {"added": list(new)})
            refresh(session, adapter)
        return [item for item in reading.list_previews(read_in(session), version_id) if item.sha256 in new]


def remove_preview(database: Database, reference: Reference, number: int) -> None:
    """Take a picture away from a version; see `Registry.remove_preview`."""
    with database.writing() as session:
        adapter, version = require_version(session, reference)
        rows = session.exec(
            select(PreviewRow).where(PreviewRow.version_id == version.id).order_by(col(PreviewRow.id))
        ).all()
        if not 1 <= number <= len(rows):
            rule = f"{reference.adapter}@{version.number} has {len(rows)} of them, counted from 1"
            raise FieldError("number of a preview", str(number), rule)
        row = rows[number - 1]
        session.delete(row)
        log_event(session, "preview", f"{reference.adapter}@{version.number}", {"removed": row.sha256})
        refresh(session, adapter)


def _set_state(database: Database, reference: Reference, state: str, reason: str) -> Version:
    with database.writing() as session:
        adapter, row = require_version(session, reference)
        before = row.state
        row.state, row.yank_reason = state, reason
        session.add(row)
        refresh(session, adapter)
        version = to_version(adapter, row)
        action = "yank" if state == "yanked" else "unyank"
        log_event(session, action, version.reference, {"before": before, "reason": reason})
        return version
