"""Encoded pictures and captions on disk, under the hash of everything that decides them."""

import hashlib
import json
import os
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
MARK_S = 3600.0
"""How exactly it is known when an entry was used."""


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

    Attributes:
        directory: Where its files are.
        hits: Entries that were there.
        misses: Entries that were made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hits = 0
        self.misses = 0

    def get(self, key: Sequence[object], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of `key`, in float32 on the CPU; made and kept if they are not there.

        Args:
            key: Everything that decides them, as JSON has it.
            make: Computes them.
        """
        name = hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()
        path = self.directory / name[:2] / f"{name}.safetensors"
        found = _read(path)
        if found is not None:
            _mark_used(path)
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
        sizes = [size for _, size, _ in self._entries()]
        return CacheSize(len(sizes), sum(sizes))

    def collect(self, *, older_than_s: float | None = None, max_bytes: int | None = None) -> CacheSize:
        """Delete entries, and return how many; a training that needs one again makes it again.

        Args:
            older_than_s: Those that were not used for so many seconds; 0 deletes everything.
            max_bytes: Those that were not used for longest, until the rest is no larger.
        """
        entries = self._entries()
        left, now = sum(size for _, size, _ in entries), time.time()
        count, size_bytes = 0, 0
        for used, size, path in entries:
            is_old = older_than_s is not None and now - used >= older_than_s
            if is_old or (max_bytes is not None and left > max_bytes):
                path.unlink(missing_ok=True)
                count, size_bytes, left = count + 1, size_bytes + size, left - size
        return CacheSize(count, size_bytes)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return when each was used, its size and its place, the one that was not used for longest first."""
        found: list[tuple[float, int, Path]] = []
        for path in self.directory.glob("??/*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # somebody else deletes them too
                continue
            found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
        return sorted(found)


def encoding_cache(home: Path) -> EncodingCache:
    """Return the cache that all trainings of a home share."""
    return EncodingCache(home / "cache" / "encodings")


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


def _mark_used(path: Path) -> None:
    """Note that an entry was read: many file systems are mounted so that they do not."""
    try:
        if time.time() - path.stat().st_mtime > MARK_S:
            os.utime(path)
    except OSError:
        return  # deleted meanwhile, or of a home that cannot be written to
