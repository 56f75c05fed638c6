"""Publishing: one transaction that makes a version visible, with everything that it is found by."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlmodel import Session, col, delete, func, select, text

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.collection import claim_blobs
from adapterhub_registry.database import Database
from adapterhub_registry.errors import (
    ManifestError,
    PickleRefusedError,
    TombstoneError,
    VersionConflictError,
    WeightsError,
)
from adapterhub_registry.facts import Facts, read_facts, read_headers
from adapterhub_registry.manifest import Manifest
from adapterhub_registry.publication import Publication, Published, StoredFile
from adapterhub_registry.references import adapter_reference
from adapterhub_registry.rows import (
    check_not_moved,
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


def publish(
    database: Database, blobs: DirectoryBlobs, publication: Publication, facts: Facts, *, where: str
) -> Published:
    """Write a version; see `Registry.publish`."""
    with database.writing() as session:
        return publish_in(session, blobs, publication, facts, where=where)


def publish_in(
    session: Session, blobs: DirectoryBlobs, publication: Publication, facts: Facts, *, where: str
) -> Published:
    """Write a version in a transaction that does more; see `Registry.publish`."""
    reference = adapter_reference(publication.name)
    digest = publication.manifest.digest
    adapter = find_adapter(session, reference)
    if adapter is None:
        check_not_moved(session, reference)
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
    last = session.exec(select(func.max(VersionRow.number)).where(VersionRow.adapter_id == adapter_id)).one()
    number = publication.number or (last or 0) + 1
    taken = session.exec(
        select(VersionRow).where(VersionRow.adapter_id == adapter_id, VersionRow.number == number)
    ).first()
    if taken is not None:
        raise VersionConflictError(reference.adapter, number, ours=digest, theirs=taken.digest, where=where)
    stored = [*publication.manifest.files, *publication.documents, *publication.previews]
    claim_blobs(session, blobs, [file.sha256 for file in stored])
    for file in stored:
        if (size := blobs.path(file.sha256).stat().st_size) != file.size:
            raise ManifestError(f"sha256:{file.sha256} has {size} bytes, not {file.size}")
    row = _version_row(publication, facts, adapter_id, number, digest)
    _set_facts(row, facts)
    row.linked = facts.linked or _linked(session, [file.sha256 for file in publication.manifest.files])
    session.add(row)
    session.flush()
    _add_files(session, flushed_id(row.id), publication, facts)
    adapter.removed = ""
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


def add_preview_rows(session: Session, version_id: int, previews: Iterable[StoredFile]) -> None:
    """List pictures of a version, which must be different ones."""
    for item in previews:
        session.add(
            PreviewRow(
                version_id=version_id,
                sha256=item.sha256,
                size=item.size,
                prompt=item.prompt,
                seed=item.seed,
                settings=json.dumps(dict(item.settings)),
            )
        )


def fill_missing_facts(database: Database, blobs: DirectoryBlobs) -> None:
    """Read the files of versions that an older schema left without facts; missing files are passed over."""
    with database.reading() as session:
        rows = session.exec(
            select(VersionRow.id, VersionRow.manifest).where(
                VersionRow.payload_digest == "", VersionRow.state != "deleted"
            )
        ).all()
    for version_id, manifest in rows:
        try:
            facts = read_facts(Manifest.from_json(manifest), blobs)
        except (OSError, WeightsError, PickleRefusedError):
            continue  # `verify` names it
        with database.writing() as session:
            row = session.get_one(VersionRow, version_id)
            row.payload_digest = facts.payload_digest
            _set_facts(row, facts)
            session.add(row)
            add_hashes(session, flushed_id(row.id), facts)


def fill_header_facts(
    database: Database, version_id: int, documents: Iterable[StoredFile], path_of: Callable[[str], Path]
) -> None:
    """Read the headers of a version that an older schema left without alphas and targets."""
    with database.reading() as session:
        manifest = Manifest.from_json(session.get_one(VersionRow, version_id).manifest)
    try:
        facts = read_headers(manifest, path_of, documents)
    except (OSError, WeightsError, PickleRefusedError):
        return  # `verify` names it
    with database.writing() as session:
        row = session.get_one(VersionRow, version_id)
        _set_facts(row, facts)
        session.add(row)


def _set_facts(row: VersionRow, facts: Facts) -> None:
    """Set what headers say."""
    row.ranks, row.alphas, row.targets = facts.ranks, facts.alphas, facts.targets
    row.parameters, row.metrics = facts.parameters, json.dumps(dict(facts.metrics), sort_keys=True)


def _linked(session: Session, digests: Iterable[str]) -> str:
    """Return the file of another tool that one of these blobs is a link to, as a version says."""
    query = (
        select(VersionRow.linked)
        .join(FileHashRow, col(FileHashRow.version_id) == VersionRow.id)
        .where(col(FileHashRow.sha256).in_(list(digests)), VersionRow.linked != "")
        .limit(1)
    )
    return session.exec(query).first() or ""


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
        payload_digest=facts.payload_digest,
        size=facts.size,
    )


def _add_files(session: Session, version_id: int, publication: Publication, facts: Facts) -> None:
    """Write what lies beside a version, the hashes of its files, and its parents."""
    for item in publication.documents:
        session.add(DocumentRow(version_id=version_id, name=item.name, sha256=item.sha256, size=item.size))
    add_preview_rows(
        session, version_id, {preview.sha256: preview for preview in publication.previews}.values()
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
