"""How much the adapters of a namespace hold, and may hold: files of commits and uploads, each digest once."""

from sqlmodel import Session

from adapterhub_registry.database import Read
from adapterhub_registry.rows import read_in
from adapterhub_registry.server.errors import QuotaError

USED = """
    SELECT coalesce(sum(size), 0) FROM (
        SELECT hub_file.sha256, hub_file.size FROM hub_file
        JOIN hub_commit ON hub_commit.id = commit_id JOIN adapter ON adapter.id = adapter_id
        WHERE namespace = :namespace
        UNION SELECT upload.sha256, upload.size FROM upload JOIN adapter ON adapter.id = adapter_id
        WHERE namespace = :namespace)"""


def used_bytes(read: Read, namespace: str) -> int:
    """Return how much the adapters of a namespace hold."""
    return read(USED, {"namespace": namespace})[0][0]


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
