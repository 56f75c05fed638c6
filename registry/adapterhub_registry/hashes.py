"""The hashes under which other tools know a file of weights, all from one pass over it."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from adapterhub_registry.safetensors_header import read_header

CHUNK = 1 << 20
_LEGACY_START, _LEGACY_SIZE = 1 << 20, 1 << 16


@dataclass(frozen=True)
class FileHashes:
    """Hashes in lower-case hexadecimal digits.

    Attributes:
        sha256: Of the whole file.
        data_sha256: Of the tensors' bytes alone: kohya's `sshs_model_hash`; header edits do not change it.
        autov1: First 8 digits of the SHA-256 of 64 KiB at 1 MiB (`sshs_legacy_hash`); of fewer bytes, or of
            none, in a shorter file.
        crc32: Of the whole file.
    """

    sha256: str
    data_sha256: str
    autov1: str
    crc32: str

    @property
    def autov2(self) -> str:
        """First 10 digits of the file's SHA-256."""
        return self.sha256[:10]

    @property
    def autov3(self) -> str:
        """First 12 digits of the data's SHA-256; A1111's `Lora hashes`."""
        return self.data_sha256[:12]


def hash_file(path: Path) -> FileHashes:
    """Hash a safetensors file.

    Raises:
        WeightsError: It is no safetensors file.
        OSError: It cannot be read.
    """
    start = read_header(path).data_start
    whole, data, legacy, crc, position = hashlib.sha256(), hashlib.sha256(), hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            crc = zlib.crc32(chunk, crc)
            data.update(chunk[max(start - position, 0) :])
            legacy.update(_between(chunk, position, _LEGACY_START, _LEGACY_START + _LEGACY_SIZE))
            position += len(chunk)
    return FileHashes(whole.hexdigest(), data.hexdigest(), legacy.hexdigest()[:8], f"{crc:08x}")


def _between(chunk: bytes, position: int, start: int, end: int) -> bytes:
    return chunk[max(start - position, 0) : max(end - position, 0)]
