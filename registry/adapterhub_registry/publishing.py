"""Publishing: one transaction that makes a version visible, with everything that it is found by."""

from collections.abc import Callable
from pathlib import Path

from sqlmodel import Session, col, delete, func, select, text

from adapterhub_registry.database import Database
from adapterhub_registry.errors import TombstoneError, VersionConflictError, WeightsError
from adapterhub_registry.facts import Facts, read_facts
from adapterhub_registry.manifest import Manifest
from adapterhub_registry.publication import Publication, Published
from adapterhub_registry.rows import (
    adapter_reference,
    current_user,
    find_adapter,
    flushed_id,
    log_event,
    now,
    to_version,
    write_details,
)
from adapterhub_registry.tables import (
    AdapterRow,
    DocumentRow,
    FileHashRow,
    ParentRow,
    PreviewRow,
    TagRow,
    VersionRow,
)


def publish(database: Database, publication: Publication, facts: Facts, *, where: str) -> Published:
    """Write a version; see `Registry.publish`."""
    reference = adapter_reference(publication.name)
    digest = publication.manifest.digest
    with database.writing() as session:
        adapter = find_adapter(session, reference)
        if adapter is None:
            adapter = AdapterRow(namespace=reference.namespace, name=reference.name, created=now())
            session.add(adapter)
            session.flush()
        adapter_id = flushed_id(adapter.id)
        same = session.exec(
            select(VersionRow).where(VersionRow.adapter_id == adapter_id, VersionRow.digest == digest)
        ).first()
        if same is not None:
            if same.state == "deleted":
                raise TombstoneError(reference.adapter, same.number, digest)
            return Published(to_version(adapter, same), is_new=False)
        last = session.exec(
            select(func.max(VersionRow.number)).where(VersionRow.adapter_id == adapter_id)
        ).one()
        number = publication.number or (last or 0) + 1
        taken = session.exec(
            select(VersionRow).where(VersionRow.adapter_id == adapter_id, VersionRow.number == number)
        ).first()
        if taken is not None:
            raise VersionConflictError(
                reference.adapter, number, ours=digest, theirs=taken.digest, where=where
            )
        row = _version_row(publication, facts, adapter_id, number, digest)
        session.add(row)
        session.flush()
        _add_files(session, flushed_id(row.id), publication, facts)
        write_details(session, adapter, publication.details)
        refresh(session, adapter)
        version = to_version(adapter, row)
        log_event(session, "publish", version.reference, {"digest": digest})
    return Published(version, is_new=True)


def refresh(session: Session, adapter: AdapterRow) -> None:
    """Set what of an adapter follows from its versions: the newest one, the time, the full-text index."""
    session.flush()
    head = session.exec(
        select(VersionRow)
        .where(VersionRow.adapter_id == adapter.id, VersionRow.state == "published")
        .order_by(col(VersionRow.number).desc())
        .limit(1)
    ).first()
    adapter.head_id, adapter.updated = (None if head is None else head.id), now()
    session.add(adapter)
    tags = session.exec(select(TagRow.tag).where(TagRow.adapter_id == adapter.id).order_by(col(TagRow.tag)))
    triggers = Manifest.from_json(head.manifest).trigger_words if head is not None else ()
    connection = session.connection()
    connection.execute(text("DELETE FROM search WHERE rowid = :id"), {"id": adapter.id})
    connection.execute(
        text(
            "INSERT INTO search (rowid, name, title, description, triggers, tags) "
            "VALUES (:id, :name, :title, :description, :triggers, :tags)"
        ),
        {
            "id": adapter.id,
            "name": f"{adapter.namespace}/{adapter.name}",
            "title": adapter.title,
            "description": adapter.description,
            "triggers": " ".join(triggers),
            "tags": " ".join(tags),
        },
    )


def add_hashes(session: Session, version_id: int, facts: Facts) -> None:
    """Write the hashes of a version's files, in place of those that are there."""
    session.exec(delete(FileHashRow).where(col(FileHashRow.version_id) == version_id))
    for path, hashes in facts.hashes.items():
        session.add(
            FileHashRow(
                version_id=version_id,
                path=path,
                sha256=hashes.sha256,
                data_sha256=hashes.data_sha256,
                autov1=hashes.autov1,
            )
        )


def fill_missing_facts(database: Database, path_of: Callable[[str], Path]) -> None:
    """Read the files of versions that an older schema left without facts; missing files are passed over."""
    with database.reading() as session:
        rows = session.exec(
            select(VersionRow.id, VersionRow.manifest).where(
                VersionRow.payload_digest == "", VersionRow.state != "deleted"
            )
        ).all()
    for version_id, manifest in rows:
        try:
            facts = read_facts(Manifest.from_json(manifest), path_of)
        except (OSError, WeightsError):
            continue  # `verify` names it
        with database.writing() as session:
            row = session.get_one(VersionRow, version_id)
            row.ranks, row.parameters, row.payload_digest = (
                facts.ranks,
                facts.parameters,
                facts.payload_digest,
            )
            session.add(row)
            add_hashes(session, flushed_id(row.id), facts)


def _version_row(
    publication: Publication, facts: Facts, adapter_id: int, number: int, digest: str
) -> VersionRow:
    manifest = publication.manifest
    return VersionRow(
        adapter_id=adapter_id,
        number=number,
        digest=digest,
        manifest=manifest.to_json(),
        message=publication.message,
        author=publication.author or current_user(),
        created=publication.created or now(),
        architecture=manifest.architecture,
        algorithm=manifest.algorithm,
        licence=manifest.licence,
        operation=manifest.lineage.get("operation", ""),
        ranks=facts.ranks,
        payload_digest=facts.payload_digest,
        parameters=facts.parameters,
        size=facts.size,
    )


def _add_files(session: Session, version_id: int, publication: Publication, facts: Facts) -> None:
    """Write what lies beside a version, the hashes of its files, and its parents."""
    for item in publication.documents:
        session.add(DocumentRow(version_id=version_id, name=item.name, sha256=item.sha256, size=item.size))
    for item in {preview.sha256: preview for preview in publication.previews}.values():
        session.add(
            PreviewRow(
                version_id=version_id,
                sha256=item.sha256,
                size=item.size,
                prompt=item.prompt,
                seed=item.seed,
            )
        )
    add_hashes(session, version_id, facts)
    lineage, position = publication.manifest.lineage, 1
    while f"parent.{position}" in lineage:
        session.add(
            ParentRow(
                version_id=version_id,
                position=position,
                digest=lineage[f"parent.{position}"],
                name=lineage.get(f"parent.{position}.name", ""),
                weight=lineage.get(f"parent.{position}.weight", ""),
            )
        )
        position += 1
