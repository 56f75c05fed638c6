"""The Hugging Face protocol: branches, which can be committed to, and tags, which are aliases of versions."""

import re

from sqlmodel import Session
from starlette.responses import Response

from adapterhub_registry.errors import FieldError
from adapterhub_registry.rows import log_event, read_in
from adapterhub_registry.server.calls import Call, answer
from adapterhub_registry.server.errors import BranchNotFoundError, RefusalError
from adapterhub_registry.server.history import MAIN, find_commit
from adapterhub_registry.server.revisions import open_revision
from adapterhub_registry.tables import BranchRow

BRANCH = re.compile(r"(?!v\d+$)(?![0-9a-f]{5,40}$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VERSION = re.compile(r"v\d+")


def create_branch(call: Call) -> Response:
    """Let a branch begin at a revision, by default at `main`."""
    name = call.part("branch")
    if not BRANCH.fullmatch(name):
        rule = "letters, digits, '.', '_' or '-', and no version or commit"
        raise FieldError("branch", name, rule)
    start = open_revision(call, call.text("startingPoint") or MAIN).commit
    adapter = call.hosted
    with call.registry.database.writing() as session:
        if find_commit(read_in(session), adapter.id, name) is not None:
            raise RefusalError(409, f'"{adapter.adapter}" has a branch or tag "{name}" already')
        session.add(BranchRow(adapter_id=adapter.id, name=name, commit_id=start.id))
        log_event(session, "branch", adapter.adapter, {"name": name, "after": start.sha})
    return answer({})


def delete_branch(call: Call) -> Response:
    """Take a branch away."""
    name, adapter = call.part("branch"), call.hosted
    if name == MAIN:
        raise RefusalError(400, "main stays: it shows the newest version")
    with call.registry.database.writing() as session:
        row = _branch(session, adapter.id, name)
        if row is None:
            raise BranchNotFoundError(adapter.adapter, name)
        session.delete(row)
        log_event(session, "branch", adapter.adapter, {"name": name, "after": None})
    return answer({})


def create_tag(call: Call) -> Response:
    """Let an alias stand at the version of a revision."""
    tag, adapter = call.text("tag"), call.hosted
    revision = open_revision(call)
    if revision.commit.number is None:
        raise RefusalError(400, "this revision holds no version; tags stand at versions")
    with call.registry.database.snapshot() as read:
        is_taken = find_commit(read, adapter.id, tag) is not None
    if is_taken:
        raise RefusalError(409, f'"{adapter.adapter}" has a branch or tag "{tag}" already')
    call.registry.set_alias(adapter.adapter, tag, revision.commit.number, expected=None)
    return answer({})


def delete_tag(call: Call) -> Response:
    """Take an alias away."""
    tag, adapter = call.part("tag"), call.hosted
    if VERSION.fullmatch(tag):
        raise RefusalError(400, f"{tag} is a version, and versions stay")
    try:
        call.registry.remove_alias(adapter.adapter, tag)
    except FieldError as exc:
        raise RefusalError(404, str(exc), code="RevisionNotFound") from exc
    return answer({})


def _branch(session: Session, adapter_id: int, name: str) -> BranchRow | None:
    return session.get(BranchRow, (adapter_id, name))
