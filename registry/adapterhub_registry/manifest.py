"""What a version is: a canonical manifest, its digest, and the value that the library hands out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import PurePosixPath
from typing import Any

from adapterhub_registry.errors import ManifestError

FORMAT = 1
MAX_SIZE = 1 << 63
"""What the database cannot hold."""
MAX_EXPONENT = 400
"""Of ten; floats end before it, and a few letters of text must not become a gigabyte of digits."""


@dataclass(frozen=True)
class PayloadFile:
    """One file of a version.

    Attributes:
        path: Relative, with forward slashes, for example `pytorch_lora_weights.safetensors`.
        size: Bytes.
        sha256: 64 hex digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The immutable part of a version; its SHA-256 is the version's digest.

    Attributes:
        files: The payload, sorted by path.
        architecture: What base it fits, for example `sdxl`.
        base_identity: On which weights it was made; empty if not known.
        algorithm: `lora`, `locon`, ...
        trigger_words: What a prompt must say.
        recommended_weight: A decimal as text, for example `0.8`; empty if there is none.
        licence: SPDX identifier or words; empty if not known.
        lineage: Where it comes from: `operation` and digests or references, all text.
    """

    files: tuple[PayloadFile, ...]
    architecture: str
    base_identity: str = ""
    algorithm: str = "lora"
    trigger_words: tuple[str, ...] = ()
    recommended_weight: str = ""
    licence: str = ""
    lineage: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> str:
        """Return the canonical form: sorted keys, no spaces, ASCII, decimals as text."""
        files = [vars(file) for file in self.files]
        table = {"format": FORMAT, **vars(self), "files": files, "lineage": dict(self.lineage)}
        return json.dumps(table, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits."""
        return f"sha256:{hashlib.sha256(self.to_json().encode()).hexdigest()}"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read and check a manifest.

        Raises:
            ManifestError: It is not canonical, of another format, or names an unsafe path.
        """
        try:
            table: dict[str, Any] = json.loads(text)
            if table.pop("format") != FORMAT:
                raise ManifestError(f"its format is not {FORMAT}")
            files = tuple(PayloadFile(**entry) for entry in table.pop("files"))
            triggers = tuple(table.pop("trigger_words"))
            manifest = cls(files=files, trigger_words=triggers, **table)
            is_canonical = manifest.to_json() == text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise ManifestError(f"it cannot be read ({exc})") from exc
        if not is_canonical:
            raise ManifestError("it is not in canonical form")
        check_manifest(manifest)
        return manifest


@dataclass(frozen=True)
class Version:
    """One immutable, numbered version of an adapter.

    Attributes:
        name: `namespace/name`.
        number: 1, 2, 3, ...; never used twice.
        manifest: The immutable part.
        state: `published` or `yanked`.
        message: What the author said of it.
        author: Who added it.
        created: UTC time, ISO 8601.
        yank_reason: Why it was yanked; empty if it was not.
    """

    name: str
    number: int
    manifest: Manifest
    state: str
    message: str
    author: str
    created: str
    yank_reason: str = ""

    @property
    def reference(self) -> str:
        """`namespace/name@number`."""
        return f"{self.name}@{self.number}"

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over the manifest."""
        return self.manifest.digest

    @property
    def files(self) -> tuple[PayloadFile, ...]:
        """The payload files."""
        return self.manifest.files

    @property
    def architecture(self) -> str:
        """What base it fits."""
        return self.manifest.architecture

    @property
    def base_identity(self) -> str:
        """On which weights it was made."""
        return self.manifest.base_identity

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """What a prompt must say."""
        return self.manifest.trigger_words

    @property
    def lineage(self) -> Mapping[str, str]:
        """Where it comes from."""
        return self.manifest.lineage


def check_manifest(manifest: Manifest) -> None:
    """Check what the types do not say.

    Raises:
        ManifestError: Something is no text that can be kept, a path is unsafe or doubled, a size or a digest
            is malformed, or a weight is no decimal.
    """
    _check_texts(manifest)
    paths = [file.path for file in manifest.files]
    if not paths or paths != sorted(set(paths)):
        raise ManifestError("its files are empty, unsorted or doubled")
    for file in manifest.files:
        check_file(file.path, file.size, file.sha256)
        if "/" in file.path and not {*map(str, PurePosixPath(file.path).parents)}.isdisjoint(paths):
            raise ManifestError(f'the path "{file.path}" lies below another file')
    if (
        manifest.recommended_weight
        and decimal_text(manifest.recommended_weight) != manifest.recommended_weight
    ):
        raise ManifestError(f'the weight "{manifest.recommended_weight}" is not in canonical form')


def check_file(path: str, size: int, sha256: str) -> None:
    """Check the entry of a file, whose path may be written to and whose digest is a blob's name.

    Raises:
        ManifestError: The path leads out of its directory, or the size or the digest is malformed.
    """
    pure = PurePosixPath(path)
    unsafe = pure.is_absolute() or ".." in pure.parts or str(pure) != path or not pure.name
    if unsafe or "\\" in path or "\0" in path or len(path.encode()) > 255:
        raise ManifestError(f'the path "{path}" is unsafe')
    is_size = type(size) is int and 0 <= size < MAX_SIZE
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef") or not is_size:
        raise ManifestError(f'the entry of "{path}" is malformed')


def _check_texts(manifest: Manifest) -> None:
    texts = [manifest.architecture, manifest.base_identity, manifest.algorithm, manifest.licence]
    texts += [manifest.recommended_weight, *manifest.trigger_words]
    texts += [*manifest.lineage, *manifest.lineage.values()]
    texts += [text for file in manifest.files for text in (file.path, file.sha256)]
    try:
        "".join(texts).encode()
    except (TypeError, UnicodeEncodeError) as exc:
        raise ManifestError(f"a part of it is no text that can be kept ({exc})") from exc


def decimal_text(value: float | str) -> str:
    """Return a decimal in the one form that digests are made of: no exponent, no trailing zeros.

    Raises:
        ManifestError: It is no finite number, or one of hundreds of digits.

    Example:
        >>> decimal_text(0.80), decimal_text("1.0"), decimal_text(-2)
        ('0.8', '1', '-2')
    """
    try:
        number = Decimal(str(value))
    except InvalidOperation as exc:
        raise ManifestError(f'the weight "{value}" is no number') from exc
    if not number.is_finite():
        raise ManifestError(f'the weight "{value}" is not finite')
    if number and abs(number.adjusted()) > MAX_EXPONENT:
        raise ManifestError(f'the weight "{value}" is out of range')
    text = f"{number:f}" if number else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text
