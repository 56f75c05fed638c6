"""Commits of clients: checked against their parent, and written in one transaction with what they mean."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlmodel import Session, col, delete, select

from adapterhub_registry import reading
from adapterhub_registry.collection import claim_blobs
from adapterhub_registry.database import Read
from adapterhub_registry.errors import FieldError, TombstoneError
from adapterhub_registry.facts import CONFIG
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Details, Publication
from adapterhub_registry.publishing import add_preview_rows, publish_in, refresh
from adapterhub_registry.references import Reference, adapter_reference
from adapterhub_registry.rows import flushed_id, log_event, read_in, require_version
from adapterhub_registry.server.catching_up import NewCommit, add_commit, catch_up
from adapterhub_registry.server.errors import BranchNotFoundError, ParentMovedError
from adapterhub_registry.server.history import (
    MAIN,
    Commit,
    TreeFile,
    list_commits,
    read_branch,
    read_tree,
    told_digest,
)
from adapterhub_registry.server.meaning import Meaning, read_meaning
from adapterhub_registry.server.paths import is_weights
from adapterhub_registry.server.quotas import check_quota
from adapterhub_registry.states import update_in
from adapterhub_registry.store import Registry
from adapterhub_registry.tables import PreviewRow, UploadRow

TRIES = 20
_LOCKS = tuple(threading.Lock() for _ in range(64))


@dataclass(frozen=True)
class Change:
    """What a client wants to commit.

    Attributes:
        title: One line.
        message: What else there is to say.
        files: New and changed files; their blobs are in the store.
        deleted: Paths to take away; what is not there is passed over, so that a commit can be sent again.
        folders: Likewise, with everything below.
        parent: What must be the newest commit: a SHA, or its first digits; None asks for nothing.
    """

    title: str
    message: str = ""
    files: Mapping[str, TreeFile] = field(default_factory=dict[str, TreeFile])
    deleted: Sequence[str] = ()
    folders: Sequence[str] = ()
    parent: str | None = None

    def apply(self, files: Mapping[str, TreeFile]) -> dict[str, TreeFile]:
        """Return files as they are after it.

        Raises:
            FieldError: A file would lie below another file.
        """
        below = tuple(f"{folder.rstrip('/')}/" for folder in self.folders)
        kept = {
            path: file
            for path, file in files.items()
            if path not in self.deleted and not path.startswith(below)
        }
        for path, file in self.files.items():
            old = kept.get(path)
            kept[path] = old if old is not None and old.sha256 == file.sha256 else file
        for path in kept:
            parts = path.split("/")
            above = ("/".join(parts[:count]) for count in range(1, len(parts)))
            if any(folder in kept for folder in above):
                raise FieldError("path", path, "it lies below another file")
        return dict(sorted(kept.items()))


@dataclass(frozen=True)
class Committed:
    """What came of a change: the newest commit, whether it is new, and what was not followed."""

    commit: Commit
    is_new: bool
    warnings: Sequence[str] = ()


def commit(registry: Registry, name: str, branch: str, change: Change) -> Committed:
    """Commit a change to a branch; on `main`, publish a version if the payload changes.

    Sent twice, a change is committed once.

    Raises:
        AdapterNotFoundError, BranchNotFoundError: There is no such thing.
        ParentMovedError: Another commit came first; nothing has changed.
        FieldError, WeightsError, PictureError, CardError, ...: The files cannot be kept; nothing has changed.
        QuotaError: The namespace would hold more than it may.
    """
    reference = adapter_reference(name)
    # One after the other in this process, so that nobody prepares a commit in vain; other processes are met
    # by looking again.
    with _LOCKS[hash(reference.adapter) % len(_LOCKS)]:
        for _ in range(TRIES):
            done = _try(registry, reference, branch, change)
            if done is not None:
                return done
    raise ParentMovedError(name, change.parent or "", "a newer one each time")


def _try(registry: Registry, reference: Reference, branch: str, change: Change) -> Committed | None:
    """Commit once; None if another commit came meanwhile."""
    catch_up(registry, reference.adapter)
    with registry.database.snapshot() as read:
        key = reading.adapter_key(read, reference)
        head = read_branch(read, key, branch)
        if head is None:
            raise BranchNotFoundError(reference.adapter, branch)
        before = read_tree(read, head)
        if change.parent is not None and not head.sha.startswith(change.parent):
            return _sent_before(read, key, reference, head, before, change)
        newest = None
        if head.number is not None:
            newest = reading.read_version(
                read, Reference(reference.namespace, reference.name, str(head.number))
            )
    after = change.apply(before)
    if after == before:
        return Committed(head, False)
    meaning, number = Meaning(after), None
    if branch == MAIN:
        meaning = read_meaning(registry, before, after, newest)
        _check_is_new(registry, reference, meaning)
    elif _weights(before) == _weights(after):
        number = head.number
    with registry.database.writing() as session:
        current = read_branch(read_in(session), key, branch)
        if current is None or current.id != head.id:
            return None
        if branch == MAIN:
            number = _follow(registry, session, reference, meaning, change, newest)
        claim_blobs(session, registry.blobs, {file.sha256 for file in after.values()})
        sent = {file.sha256 for file in after.values()}
        session.exec(
            delete(UploadRow).where(col(UploadRow.adapter_id) == key, col(UploadRow.sha256).in_(sent))
        )
        told = told_digest(read_in(session), key) if branch == MAIN else ""
        new = NewCommit(meaning.files, number, told, change.title, change.message)
        made = add_commit(session, key, head, new, branch=branch)
        log_event(session, "commit", reference.adapter, {"branch": branch, "sha": made.sha})
        check_quota(session, reference.namespace)
    return Committed(made, True, meaning.warnings)


def _sent_before(
    read: Read,
    key: int,
    reference: Reference,
    head: Commit,
    files: Mapping[str, TreeFile],
    change: Change,
) -> Committed:
    """Return the newest commit if it is what this change makes of its parent: the client asks again."""
    parent = next(iter(list_commits(read, key, head, 2)[1:]), None)
    if parent is not None and change.parent and parent.sha.startswith(change.parent):
        made = change.apply(read_tree(read, parent))
        if {path: file.sha256 for path, file in made.items()} == {
            path: file.sha256 for path, file in files.items()
        }:
            return Committed(head, False)
    raise ParentMovedError(reference.adapter, change.parent or "", head.sha)


def _check_is_new(registry: Registry, reference: Reference, meaning: Meaning) -> None:
    """Refuse a payload that is a version already: `main` would go on to show the newest one."""
    if meaning.manifest is None:
        return
    with registry.database.snapshot() as read:
        rows = read(
            "SELECT number, state FROM version WHERE adapter_id = ? AND digest = ?",
            [reading.adapter_key(read, reference), meaning.manifest.digest],
        )
    if rows:
        number, state = rows[0]
        if state == "deleted":
            raise TombstoneError(reference.adapter, number, meaning.manifest.digest)
        rule = f"this is version {number} already, and main shows the newest; set a tag at v{number}"
        raise FieldError("commit", "of an older payload", rule)


def _follow(
    registry: Registry,
    session: Session,
    reference: Reference,
    meaning: Meaning,
    change: Change,
    newest: Version | None,
) -> int | None:
    """Do in the registry what a commit means, and return the version that it shows."""
    if meaning.manifest is not None and meaning.facts is not None:
        publication = Publication(
            name=reference.adapter,
            manifest=meaning.manifest,
            message=change.title,
            documents=meaning.documents,
            previews=meaning.previews or (),
            details=meaning.details or Details(),
            facts=meaning.facts,
        )
        return publish_in(
            session, registry.blobs, publication, meaning.facts, where=str(registry.home)
        ).version.number
    if (details := meaning.details) is not None:
        update_in(session, reference, lambda _: details)
    if newest is not None and meaning.previews is not None:
        _set_previews(registry, session, newest, meaning)
    return None if newest is None else newest.number


def _set_previews(registry: Registry, session: Session, version: Version, meaning: Meaning) -> None:
    wanted = {item.sha256: item for item in meaning.previews or ()}
    adapter, row = require_version(session, _exact(version))
    known = session.exec(select(PreviewRow).where(PreviewRow.version_id == row.id)).all()
    removed = [item for item in known if item.sha256 not in wanted]
    added = [item for sha256, item in wanted.items() if sha256 not in {old.sha256 for old in known}]
    if not removed and not added:
        return
    for item in removed:
        session.delete(item)
    claim_blobs(session, registry.blobs, [item.sha256 for item in added])
    add_preview_rows(session, flushed_id(row.id), added)
    detail = {"added": [item.sha256 for item in added], "removed": [item.sha256 for item in removed]}
    log_event(session, "preview", version.reference, detail)
    refresh(session, adapter)


def _weights(files: Mapping[str, TreeFile]) -> dict[str, str]:
    return {path: file.sha256 for path, file in files.items() if is_weights(path) or path == CONFIG}


def _exact(version: Version) -> Reference:
    """Return the reference of a version by its number."""
    namespace, _, name = version.name.partition("/")
    return Reference(namespace, name, str(version.number))
