"""How much the adapters of a namespace hold, and may hold: each file of a version, commit or upload once."""

from collections.abc import Sequence

from sqlmodel import Session

from adapterhub_registry.database import Read
from adapterhub_registry.manifest import Manifest
from adapterhub_registry.rows import read_in
from adapterhub_registry.server.errors import QuotaError

KNOWN = """
    SELECT hub_file.sha256, hub_file.size FROM hub_file
    JOIN hub_commit ON hub_commit.id = commit_id JOIN adapter ON adapter.id = adapter_id
    WHERE namespace = :namespace
    UNION SELECT upload.sha256, upload.size FROM upload JOIN adapter ON adapter.id = adapter_id
    WHERE namespace = :namespace"""
LATE = """
    SELECT version.id, manifest FROM version JOIN adapter ON adapter.id = adapter_id
    WHERE namespace = ? AND state <> 'deleted' AND NOT EXISTS (
        SELECT 1 FROM hub_commit WHERE hub_commit.adapter_id = version.adapter_id
        AND hub_commit.number = version.number AND NOT is_gone)"""
"""Versions that were added beside the server, and have no commit until somebody looks at them through it."""
BESIDE = """
    SELECT sha256, size FROM document WHERE version_id = :version
    UNION SELECT sha256, size FROM preview WHERE version_id = :version"""


def used_bytes(read: Read, namespace: str) -> int:
    """Return how much the adapters of a namespace hold."""
    files: dict[str, int] = dict(read(KNOWN, {"namespace": namespace}))
    for version, manifest in read(LATE, [namespace]):
        files.update((file.sha256, file.size) for file in Manifest.from_json(manifest).files)
        files.update(read(BESIDE, {"version": version}))
    return sum(files.values())


def check_room(read: Read, namespace: str, size: int) -> None:
    """Check that a namespace may hold so many bytes more.

    Raises:
        QuotaError: It may not.
    """
    rows = read("SELECT quota FROM namespace WHERE name = ? AND quota IS NOT NULL", [namespace])
    if rows and size + (used := used_bytes(read, namespace)) > rows[0][0]:
        raise QuotaError(namespace, rows[0][0], used, size)


def check_quota(session: Session, namespace: str) -> None:
    """Check, inside the transaction that added something, that a namespace holds no more than it may."""
    session.flush()
    check_room(read_in(session), namespace, 0)


def largest_quota(read: Read, namespaces: Sequence[str]) -> int | None:
    """Return how much the largest of some namespaces may hold; None if one of them has no quota."""
    marks = ", ".join("?" * len(namespaces))
    query = f"SELECT quota FROM namespace WHERE quota IS NOT NULL AND name IN ({marks})"  # noqa: S608
    quotas = [quota for (quota,) in read(query, namespaces)]
    return max(quotas) if quotas and len(quotas) == len(namespaces) else None
