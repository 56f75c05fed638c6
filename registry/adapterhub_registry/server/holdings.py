"""Which files an adapter has: to know the digest of another's gives no access."""

from adapterhub_registry.collection import payload_digests
from adapterhub_registry.database import Read
from adapterhub_registry.server.access import Hosted
from adapterhub_registry.server.uploads import known_size

BESIDE = """
    SELECT 1 FROM document JOIN version ON version.id = version_id
    WHERE adapter_id = :adapter AND sha256 = :sha256
    UNION SELECT 1 FROM preview JOIN version ON version.id = version_id
    WHERE adapter_id = :adapter AND sha256 = :sha256"""
NAMING = """
    SELECT digest, manifest FROM version
    WHERE adapter_id = :adapter AND state <> 'deleted' AND manifest LIKE '%' || :sha256 || '%'"""


def is_published(read: Read, adapter: Hosted, sha256: str) -> bool:
    """Say whether a file is one of a version of an adapter, or lies beside one."""
    values = {"adapter": adapter.id, "sha256": sha256}
    if read(BESIDE, values):
        return True
    # A digest may stand elsewhere in a manifest too, where it gives no access.
    return any(sha256 in payload_digests(digest, manifest) for digest, manifest in read(NAMING, values))


def is_held(read: Read, adapter: Hosted, sha256: str) -> bool:
    """Say whether an adapter has a file, or it was uploaded for it."""
    return known_size(read, adapter, sha256) is not None or is_published(read, adapter, sha256)
