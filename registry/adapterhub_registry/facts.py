"""What is read from the files of a version, never typed: ranks, size, hashes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapterhub_registry.errors import WeightsError
from adapterhub_registry.hashes import FileHashes, hash_file
from adapterhub_registry.manifest import Manifest
from adapterhub_registry.probe import probe

WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Facts:
    """What the files of a version say.

    Attributes:
        ranks: The ranks that occur, for example `8` or `4 8 16`.
        parameters: Numbers stored.
        size: Bytes of the payload.
        payload_digest: SHA-256 of the tensors' bytes, without headers: the same for the same weights with new
            metadata. Of several files, over their digests in the order of their paths.
        hashes: Path to hashes, of the safetensors files.
    """

    ranks: str
    parameters: int
    size: int
    payload_digest: str
    hashes: dict[str, FileHashes]


def read_facts(manifest: Manifest, path_of: Callable[[str], Path]) -> Facts:
    """Read what the files of a version say.

    Args:
        manifest: Of the version.
        path_of: Where the blob of a SHA-256 lies.
    """
    ranks: set[int] = set()
    parameters = 0
    hashes: dict[str, FileHashes] = {}
    for file in manifest.files:
        if not file.path.endswith(WEIGHTS_SUFFIX):
            continue
        path = path_of(file.sha256)
        hashes[file.path] = hash_file(path)
        try:
            found = probe(path)
        except WeightsError:
            continue  # a remote may hold what this release does not understand yet
        ranks |= set(found.ranks)
        parameters += found.parameters
    digests = [value.data_sha256 for _, value in sorted(hashes.items())]
    joined = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return Facts(
        ranks=" ".join(map(str, sorted(ranks))),
        parameters=parameters,
        size=sum(file.size for file in manifest.files),
        payload_digest=joined if digests else "",
        hashes=hashes,
    )
