"""The revision that an address names: its commit, its files, and what is to be said of it in headers."""

from collections.abc import Mapping
from dataclasses import dataclass

from adapterhub_registry.server.access import Hosted
from adapterhub_registry.server.calls import Call, warn
from adapterhub_registry.server.catching_up import catch_up
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.history import MAIN, Commit, TreeFile, find_commit, read_tree


@dataclass(frozen=True)
class Revision:
    """A commit of an adapter.

    Attributes:
        adapter: The adapter.
        commit: The commit.
        files: Its files by path.
        headers: What every answer about it carries.
    """

    adapter: Hosted
    commit: Commit
    files: Mapping[str, TreeFile]
    headers: Mapping[str, str]


def open_revision(call: Call, name: str | None = None) -> Revision:
    """Return the revision that the address names, by default `main`.

    Raises:
        RefusalError: There is none of that name.
    """
    adapter = call.hosted
    name = name or call.part("revision") or MAIN
    catch_up(call.registry, adapter.adapter)
    with call.registry.database.snapshot() as read:
        commit = find_commit(read, adapter.id, name)
        if commit is None:
            message = f'"{adapter.adapter}" has no branch, version, alias or commit "{name}"'
            raise RefusalError(404, message, code="RevisionNotFound")
        files = read_tree(read, commit)
        query = "SELECT state, yank_reason FROM version WHERE adapter_id = ? AND number = ?"
        versions = read(query, [adapter.id, commit.number])
    headers = {"X-Repo-Commit": commit.sha}
    if versions and versions[0][0] == "yanked":
        label = f"{adapter.adapter}@{commit.number}"
        headers |= warn(label, [f"{label} was yanked: {versions[0][1]}"])
    return Revision(adapter, commit, files, headers)


def no_entry(revision: Revision, path: str) -> RefusalError:
    """Return the answer for a file that is not there; clients keep its absence with the commit."""
    message = f'"{revision.adapter.adapter}" has no file "{path}" at {revision.commit.sha[:12]}'
    return RefusalError(404, message, code="EntryNotFound", headers=revision.headers)
