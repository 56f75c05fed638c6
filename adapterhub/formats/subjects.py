"""Adapters that people name: by a reference into the registry, or by a file."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import AdapterTensors
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
        digest: The version's, or SHA-256 of the file.
    """

    label: str
    tensors: AdapterTensors
    architecture: str
    version: Version | None
    digest: str


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
        digest = hashlib.sha256()
        for _, file in sorted(payload.files.items()):
            digest.update(file.read_bytes())
        return Subject(
            path.name, read_adapter(path), payload.architecture, None, f"sha256:{digest.hexdigest()}"
        )
    registry = registry or Registry()
    version = registry.resolve(str(subject))
    directory = registry.directory(version)
    path = directory / version.files[0].path if len(version.files) == 1 else directory
    return Subject(version.reference, read_adapter(path), version.architecture, version, version.digest)


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
