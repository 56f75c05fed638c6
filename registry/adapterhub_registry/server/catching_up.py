"""Commits for what came about without one: versions that were added, changes of what is said, yanks."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import Session

from adapterhub_registry import reading
from adapterhub_registry.collection import claim_blobs
from adapterhub_registry.database import Read
from adapterhub_registry.describing import README
from adapterhub_registry.errors import AdapterHubError
from adapterhub_registry.manifest import Version
from adapterhub_registry.references import Reference, adapter_reference
from adapterhub_registry.rows import current_user, flushed_id, now, read_in
from adapterhub_registry.server.history import (
    MAIN,
    Commit,
    TreeFile,
    git_sha1,
    is_kept_by_lfs,
    newest_commit,
    read_branch,
    read_tree,
    told_digest,
)
from adapterhub_registry.server.paths import is_picture
from adapterhub_registry.store import Registry
from adapterhub_registry.tables import BranchRow, CommitFileRow, CommitRow

TRIES = 20
MISSING = """
    SELECT number FROM version WHERE adapter_id = ? AND state <> 'deleted' AND number NOT IN (
        SELECT number FROM hub_commit WHERE adapter_id = ? AND number IS NOT NULL AND NOT is_gone)
    ORDER BY number"""


@dataclass(frozen=True)
class NewCommit:
    """A commit that is to be written; the fields are those of `Commit`."""

    files: Mapping[str, TreeFile]
    number: int | None
    told: str
    title: str
    message: str = ""
    author: str = ""
    created: str = ""


@dataclass(frozen=True)
class _Plan:
    """What is missing, as it was at one moment."""

    main: Commit | None
    told: str
    head: int | None
    missing: list[int]


def catch_up(registry: Registry, name: str) -> None:
    """Write the commits that an adapter lacks, so that `main` shows it as it is; most often there are none.

    Raises:
        AdapterNotFoundError: There is no such adapter.
    """
    reference = adapter_reference(name)
    for _ in range(TRIES):
        with registry.database.snapshot() as read:
            key = reading.adapter_key(read, reference)
            plan = _plan(read, key)
        if plan is None:
            return
        try:
            new = _drafts(registry, reference, key, plan)
        except AdapterHubError:
            with registry.database.snapshot() as read:
                if _plan(read, key) == plan:
                    raise
            continue  # a version was deleted meanwhile
        with registry.database.writing() as session:
            if _plan(read_in(session), key) == plan:
                _write(registry, session, key, plan, new)
                return


def add_commit(
    session: Session, adapter_id: int, parent: Commit | None, new: NewCommit, *, branch: str | None
) -> Commit:
    """Write a commit, and let a branch stand at it."""
    author, created = new.author or current_user(), new.created or now()
    above = parent.sha if parent is not None else ""
    # The key makes it the only one: a message and a tree may come twice in a second.
    order = (
        session.connection().exec_driver_sql("SELECT coalesce(max(id), 0) + 1 FROM hub_commit").scalar_one()
    )
    listed = [f"{file.blob_id} {path}" for path, file in sorted(new.files.items())]
    text = "\n".join([str(adapter_id), str(order), above, author, created, new.title, new.message, *listed])
    row = CommitRow(
        id=order,
        adapter_id=adapter_id,
        sha=git_sha1(text.encode()),
        parent=above,
        number=new.number,
        told=new.told,
        title=new.title,
        message=new.message,
        author=author,
        created=created,
    )
    session.add(row)
    session.flush()
    key = flushed_id(row.id)
    for path, file in new.files.items():
        session.add(
            CommitFileRow(
                commit_id=key,
                path=path,
                size=file.size,
                sha256=file.sha256,
                git_sha1=file.git_sha1,
                preview=file.preview,
            )
        )
    if branch is not None:
        session.merge(BranchRow(adapter_id=adapter_id, name=branch, commit_id=key))
    session.flush()
    return Commit(key, row.sha, above, new.number, new.told, new.title, new.message, author, created)


def _plan(read: Read, key: int) -> _Plan | None:
    main, told = read_branch(read, key, MAIN), told_digest(read, key)
    missing = [number for (number,) in read(MISSING, [key, key])]
    if main is not None and main.told == told and not missing:
        return None
    heads = read("SELECT number FROM version WHERE id = (SELECT head_id FROM adapter WHERE id = ?)", [key])
    return _Plan(main, told, heads[0][0] if heads else None, missing)


def _drafts(registry: Registry, reference: Reference, key: int, plan: _Plan) -> list[NewCommit]:
    """Return a commit for each version that has none, and one for what else has changed."""
    new: list[NewCommit] = []
    for number in plan.missing:
        version = registry.resolve(f"{reference.adapter}@{number}")
        title = (version.message or f"Publish version {number}").splitlines()[0]
        told = plan.told if number == plan.head else ""
        files = _version_files(registry, version, {})
        new.append(NewCommit(files, number, told, title, author=version.author, created=version.created))
    newest = plan.main.number or 0 if plan.main is not None else 0
    if plan.head is not None and plan.missing[-1:] == [plan.head] and plan.head > newest:
        return new
    with registry.database.snapshot() as read:
        shown = plan.main if plan.head is None else newest_commit(read, key, plan.head) or plan.main
        before = {} if shown is None else read_tree(read, shown)
    if plan.head is None:
        files = before if shown is None or shown.number is None else {}
        title = "Start" if plan.main is None else "Follow the registry"
        return [*new, NewCommit(files, None, plan.told, title)]
    version = registry.resolve(f"{reference.adapter}@{plan.head}")
    kept = before if shown is not None and shown.number == plan.head else {}
    files = _version_files(registry, version, kept)
    return [*new, NewCommit(files, plan.head, plan.told, "Follow the registry")]


def _write(registry: Registry, session: Session, key: int, plan: _Plan, drafts: list[NewCommit]) -> None:
    main = plan.main
    blobs = {file.sha256 for new in drafts for file in new.files.values()}
    claim_blobs(session, registry.blobs, blobs)
    for new in drafts:
        is_older = new.told != plan.told and main is not None and (main.number or 0) > (new.number or 0)
        made = add_commit(session, key, None if is_older else main, new, branch=None if is_older else MAIN)
        main = main if is_older else made


def _version_files(registry: Registry, version: Version, kept: Mapping[str, TreeFile]) -> dict[str, TreeFile]:
    """Return the files of a version, with what a commit of it had beside them."""
    previews = {item.sha256: item for item in registry.previews(version)}
    files = {path: file for path, file in kept.items() if not is_picture(path) or file.preview in previews}
    places = {file.preview: path for path, file in files.items() if file.preview}
    for item in previews.values():
        if item.sha256 not in places:
            files[item.name] = _stored(registry, item.name, item.sha256, item.size, preview=item.sha256)
    for item in registry.documents(version):
        files[item.name] = _stored(registry, item.name, item.sha256, item.size)
    for file in version.files:
        files[file.path] = _stored(registry, file.path, file.sha256, file.size)
    sha256, size = registry.blobs.write([registry.card(version.reference, places=places).encode()])
    files[README] = _stored(registry, README, sha256, size)
    return files


def _stored(registry: Registry, path: str, sha256: str, size: int, *, preview: str = "") -> TreeFile:
    is_lfs = is_kept_by_lfs(path, size)
    return TreeFile(size, sha256, "" if is_lfs else git_sha1(registry.read(sha256)), preview)
