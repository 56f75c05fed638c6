"""Care of what is stored: every file hashed again."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from adapterhub_registry.blobs import digest_of
from adapterhub_registry.manifest import Version

if TYPE_CHECKING:
    from adapterhub_registry.store import Registry


def verify(registry: "Registry", versions: Iterable[Version]) -> Iterator[tuple[Version, str, str]]:
    """Hash every file of versions, and yield (version, path, problem) for what is wrong."""
    for version in versions:
        beside = [*registry.documents(version), *registry.previews(version)]
        wanted = [(file.path, file.sha256) for file in version.files]
        wanted += [(item.name, item.sha256) for item in beside]
        for path, sha256 in wanted:
            if not registry.blobs.has(sha256):
                yield version, path, f"missing: sha256:{sha256}"
            elif (found := digest_of(registry.blobs.read(sha256))) != sha256:
                yield version, path, f"damaged: expected sha256:{sha256}, found sha256:{found}"
