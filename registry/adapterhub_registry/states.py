"""What happens to a version after it was published: yanked, brought back, deleted; aliases that move."""

from sqlmodel import Session, col, delete, select

from adapterhub_registry.database import Database
from adapterhub_registry.errors import AliasMovedError, VersionInUseError
from adapterhub_registry.manifest import Version
from adapterhub_registry.publishing import refresh
from adapterhub_registry.references import Reference
from adapterhub_registry.rows import flushed_id, log_event, require_adapter, select_version, to_version
from adapterhub_registry.tables import (
    AdapterRow,
    AliasRow,
    DocumentRow,
    FileHashRow,
    ParentRow,
    PreviewRow,
    VersionRow,
)


def yank(database: Database, reference: Reference, reason: str) -> Version:
    """Hide a version from `latest` and search; see `Registry.yank`."""
    return _set_state(database, reference, "yanked", reason)


def unyank(database: Database, reference: Reference) -> Version:
    """Bring a yanked version back; see `Registry.unyank`."""
    return _set_state(database, reference, "published", "")


def delete_version(database: Database, reference: Reference) -> str:
    """Leave of a version its number and digest alone; see `Registry.delete`."""
    with database.writing() as session:
        adapter, row = _find(session, reference)
        aliases = session.exec(
            select(AliasRow.name).where(AliasRow.adapter_id == adapter.id, AliasRow.number == row.number)
        ).all()
        label = f"{reference.adapter}@{row.number}"
        if aliases:
            raise VersionInUseError(label, sorted(aliases))
        for table in (DocumentRow, PreviewRow, FileHashRow, ParentRow):
            session.exec(delete(table).where(col(table.version_id) == row.id))
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
        adapter, version = _find(session, target)
        row = session.get(AliasRow, (adapter.id, alias))
        before = row.number if row is not None else None
        if is_checked and before != expected:
            raise AliasMovedError(target.adapter, alias, expected, before)
        session.merge(AliasRow(adapter_id=flushed_id(adapter.id), name=alias, number=version.number))
        detail = {"before": before, "after": version.number}
        log_event(session, "alias", f"{target.adapter}@{alias}", detail)


def _set_state(database: Database, reference: Reference, state: str, reason: str) -> Version:
    with database.writing() as session:
        adapter, row = _find(session, reference)
        before = row.state
        row.state, row.yank_reason = state, reason
        session.add(row)
        refresh(session, adapter)
        version = to_version(adapter, row)
        action = "yank" if state == "yanked" else "unyank"
        log_event(session, action, version.reference, {"before": before, "reason": reason})
        return version


def _find(session: Session, reference: Reference) -> tuple[AdapterRow, VersionRow]:
    adapter = require_adapter(session, reference)
    return adapter, select_version(session, adapter, reference)
