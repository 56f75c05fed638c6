"""An adapter as a whole: made empty, shown to all or to its namespace, moved, removed."""

from sqlmodel import Session, col, delete, func, select, update

from adapterhub_registry.database import Database
from adapterhub_registry.errors import AdapterExistsError, FieldError
from adapterhub_registry.publishing import refresh
from adapterhub_registry.references import Reference
from adapterhub_registry.rows import (
    check_not_moved,
    find_adapter,
    flushed_id,
    log_event,
    now,
    require_adapter,
)
from adapterhub_registry.tables import (
    AdapterRow,
    AdoptedRow,
    AliasRow,
    BranchRow,
    CommitFileRow,
    CommitRow,
    DocumentRow,
    EventRow,
    FileHashRow,
    ParentRow,
    PreviewRow,
    RedirectRow,
    TagRow,
    UploadRow,
    VersionRow,
)

VISIBILITIES = ("private", "public")
DRAFT = "draft"
"""In place of the time when it was removed: nobody sees it before its first version is published."""


def create(
    database: Database, reference: Reference, *, visibility: str, title: str, is_draft: bool = False
) -> None:
    """Make an adapter without versions; see `Registry.create`."""
    _check_visibility(visibility)
    with database.writing() as session:
        row = find_adapter(session, reference)
        if row is not None and not row.removed:
            raise AdapterExistsError(reference.adapter, "")
        check_not_moved(session, reference)
        if row is None:
            row = AdapterRow(namespace=reference.namespace, name=reference.name, created=now())
        elif row.removed == DRAFT:
            if is_draft:
                return  # somebody is about to publish it, as they said
            visibility = min(row.visibility, visibility)  # private, if one of the two said so
        row.title, row.visibility, row.removed = title, visibility, DRAFT if is_draft else ""
        session.add(row)
        if is_draft:
            return
        refresh(session, row)
        log_event(session, "create", reference.adapter, {"visibility": visibility})


def set_visibility(database: Database, reference: Reference, visibility: str) -> None:
    """Show an adapter to all, or to its namespace; see `Registry.set_visibility`."""
    _check_visibility(visibility)
    with database.writing() as session:
        row = require_adapter(session, reference)
        if row.visibility != visibility:
            detail = {"before": row.visibility, "after": visibility}
            log_event(session, "visibility", reference.adapter, detail)
            row.visibility = visibility
            session.add(row)


def move(database: Database, reference: Reference, target: Reference) -> None:
    """Give an adapter another name; see `Registry.move`."""
    with database.writing() as session:
        row = require_adapter(session, reference)
        if reference.adapter == target.adapter:
            return
        back = session.get(RedirectRow, (target.namespace, target.name))
        if back is not None and back.adapter_id == row.id:
            session.delete(back)  # it gets an older name of its own again
            session.flush()
        check_not_moved(session, target)
        there = find_adapter(session, target)
        if there is not None and not _drop_draft(session, there):
            raise AdapterExistsError(target.adapter, "")
        row.namespace, row.name = target.namespace, target.name
        session.add(row)
        session.add(
            RedirectRow(namespace=reference.namespace, name=reference.name, adapter_id=flushed_id(row.id))
        )
        for adopted in session.exec(
            select(AdoptedRow).where(
                col(AdoptedRow.version).startswith(f"{reference.adapter}@", autoescape=True)
            )
        ):
            adopted.version = target.adapter + adopted.version.removeprefix(reference.adapter)
            session.add(adopted)
        # What happened to it is found by its name, so it goes along.
        session.exec(
            update(EventRow)
            .where(
                (col(EventRow.subject) == reference.adapter)
                | col(EventRow.subject).startswith(f"{reference.adapter}@", autoescape=True)
            )
            .values(subject=target.adapter + func.substr(EventRow.subject, len(reference.adapter) + 1))
        )
        refresh(session, row)
        log_event(session, "move", target.adapter, {"before": reference.adapter})


def remove(database: Database, reference: Reference) -> None:
    """Delete every version of an adapter, and what is said of it; see `Registry.remove`."""
    with database.writing() as session:
        row = require_adapter(session, reference)
        if _drop_draft(session, row):
            return
        key = flushed_id(row.id)
        versions = select(VersionRow.id).where(VersionRow.adapter_id == key)
        for table in (DocumentRow, PreviewRow, FileHashRow, ParentRow):
            session.exec(delete(table).where(col(table.version_id).in_(versions)))
        for table in (AliasRow, TagRow, BranchRow, UploadRow):
            session.exec(delete(table).where(col(table.adapter_id) == key))
        forget_commits(session, key, None)
        session.exec(
            delete(AdoptedRow).where(
                col(AdoptedRow.version).startswith(f"{reference.adapter}@", autoescape=True)
            )
        )
        session.exec(
            update(VersionRow)
            .where(col(VersionRow.adapter_id) == key)
            .values(state="deleted", manifest="", message="", payload_digest="")
        )
        row.title = row.description = row.card = ""
        row.kind, row.settings, row.visibility, row.removed = "other", "{}", "private", now()
        session.add(row)
        refresh(session, row)
        log_event(session, "remove", reference.adapter, {})


def forget_commits(session: Session, adapter_id: int, number: int | None) -> None:
    """Drop the files of the commits of a version, or of all; their SHAs stay taken."""
    chosen = col(CommitRow.adapter_id) == adapter_id
    if number is not None:
        chosen &= col(CommitRow.number) == number
    keys = select(CommitRow.id).where(chosen)
    session.exec(delete(CommitFileRow).where(col(CommitFileRow.commit_id).in_(keys)))
    session.exec(update(CommitRow).where(chosen).values(is_gone=True))


def _drop_draft(session: Session, row: AdapterRow) -> bool:
    """Delete an adapter that never had anything, as if it had not been begun; False for any other."""
    for table in (VersionRow, CommitRow):
        if session.exec(select(table.id).where(table.adapter_id == row.id).limit(1)).first() is not None:
            return False
    if row.removed != DRAFT:
        return False
    for table in (UploadRow, RedirectRow):
        session.exec(delete(table).where(col(table.adapter_id) == row.id))
    session.delete(row)
    session.flush()
    return True


def _check_visibility(visibility: str) -> None:
    if visibility not in VISIBILITIES:
        raise FieldError("visibility", visibility, f"one of {', '.join(VISIBILITIES)}")
