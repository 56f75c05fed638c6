"""Adapters that people name: by a reference into the registry, or by a file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import AdapterTensors
from adapterhub_registry.blobs import digest_of, read_pieces
from adapterhub_registry.intake import read_payload
from adapterhub_registry.manifest import Version
from adapterhub_registry.references import REFERENCE
from adapterhub_registry.store import Registry

WEIGHT = re.compile(r"(?P<subject>.+):(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Subject:
    """An adapter that was named by a reference or by a file.

    Attributes:
        label: `namespace/name@number`, or the file's name.
        tensors: Read, memory-mapped.
        architecture: What it was made for; empty if nothing tells.
        version: What the registry says; None for a file.
        files: Its files, by their names in a version.
    """

    label: str
    tensors: AdapterTensors
    architecture: str
    version: Version | None
    files: Mapping[str, Path]

    @cached_property
    def digest(self) -> str:
        """The version's, or for a file SHA-256 of its bytes, which are read when this is first asked for."""
        if self.version is not None:
            return self.version.digest
        pieces = (piece for _, path in sorted(self.files.items()) for piece in read_pieces(path))
        return f"sha256:{digest_of(pieces)}"


def open_sound(subject: str | Path, *, registry: Registry | None = None) -> Subject:
    """Read an adapter as `open_subject`, and check that all its numbers are finite.

    Raises:
        NotFiniteError: Some are not.
    """
    found = open_subject(subject, registry=registry)
    found.tensors.require_finite(found.label)
    return found


def open_subject(subject: str | Path, *, registry: Registry | None = None) -> Subject:
    """Read the adapter that a reference or a path names; a path that is there goes first.

    Raises:
        InputError: There is no such file.
        AdapterHubError: As `Registry.resolve` and `read_adapter`.
    """
    path = Path(subject)
    if path.exists() or not _is_reference(str(subject)):
        payload = read_payload(path)
        return Subject(path.name, read_adapter(path), payload.architecture, None, payload.files)
    registry = registry or Registry()
    version = registry.resolve(str(subject))
    path = registry.payload(version)
    return Subject(version.reference, read_adapter(path), version.architecture, version, {})


def split_weight(text: str) -> tuple[str, float]:
    """Take `REF:WEIGHT` or `FILE:WEIGHT` apart; a weight that is left out is 1.

    Example:
        >>> split_weight("me/ink@prod:0.7"), split_weight("ink.safetensors")
        (('me/ink@prod', 0.7), ('ink.safetensors', 1.0))
    """
    found = WEIGHT.fullmatch(text)
    if found is None or Path(text).exists():
        return text, 1.0
    return found["subject"], float(found["weight"])


def _is_reference(text: str) -> bool:
    return "/" in text and REFERENCE.fullmatch(text) is not None and not text.endswith(".safetensors")
