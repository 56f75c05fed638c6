"""Encoded pictures and captions on disk, under the hash of everything that decides them."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from adapterhub.formats.container import safetensors_bytes
from adapterhub_registry.files import make_directory, write_atomically

VERSION = 2
"""Part of every key; it changes if what is kept under a key ever does."""


@dataclass(frozen=True)
class CacheSize:
    """How much a cache holds."""

    entries: int
    size_bytes: int


class EncodingCache:
    """Tensors on disk that cannot go stale: change what decides an entry, and it has another name.

    Any number of processes may use one directory: an entry is written beside its place and renamed, and two
    who make the same one write the same bytes. Each carries the digest of its tensors, so that a damaged one
    is noticed, and made again.

    Args:
        directory: Made at the first entry.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.hits = 0
        self.misses = 0

    def get(self, key: Sequence[object], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of `key`, in float32 on the CPU; made and kept if they are not there.

        Args:
            key: Everything that decides them, as JSON has it.
            make: Computes them.
        """
        name = hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()
        path = self._directory / name[:2] / f"{name}.safetensors"
        found = _read(path)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        tensors = {part: value.detach().float().cpu().contiguous() for part, value in make().items()}
        make_directory(path.parent)
        data = safetensors_bytes(tensors, {})
        write_atomically(path, hashlib.sha256(data).digest() + data, durable=False)
        return tensors

    def size(self) -> CacheSize:
        """Return how much it holds."""
        sizes = [path.stat().st_size for path in self._entries()]
        return CacheSize(len(sizes), sum(sizes))

    def collect(self, *, older_than_s: float) -> CacheSize:
        """Delete what was not read for so long, and return how much that was; it is made again when needed.

        Args:
            older_than_s: Seconds; 0 deletes everything.
        """
        entries, size_bytes = 0, 0
        for path in self._entries():
            stat = path.stat()
            if time.time() - max(stat.st_atime, stat.st_mtime) >= older_than_s:
                path.unlink(missing_ok=True)
                entries, size_bytes = entries + 1, size_bytes + stat.st_size
        return CacheSize(entries, size_bytes)

    def _entries(self) -> list[Path]:
        return sorted(self._directory.glob("??/*.safetensors"))


def module_digest(module: nn.Module) -> str:
    """Return the hex SHA-256 of a module's weights: names, dtypes, shapes and values, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        whole = value.detach().cpu().contiguous()
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return an entry's tensors; None if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    data = content[32:]
    if hashlib.sha256(data).digest() != content[:32]:
        return None
    try:
        return load(data)
    except SafetensorError:
        return None
