"""Which adapter a file or a picture came from: by hashes, whatever the file is called now."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from sqlmodel import Session, col, select

from adapterhub_registry.errors import FieldError, InputError, PictureError, RecordError
from adapterhub_registry.hashes import FileHashes, hash_file
from adapterhub_registry.intake import MAX_PREVIEW_PIXELS
from adapterhub_registry.manifest import Version
from adapterhub_registry.record import DAMAGE, PARAMETERS, read_record, recorded_texts
from adapterhub_registry.rows import to_version
from adapterhub_registry.tables import AdapterRow, FileHashRow, VersionRow

LORA_HASHES = re.compile(r'Lora hashes: "([^"]*)"')
SHORTEST = 8


@dataclass(frozen=True)
class FoundVersion:
    """A version that a hash belongs to.

    Attributes:
        version: The version.
        by: What agreed: `sha256` (the very file), `payload` (the same weights, another header), `version`
            (the version's digest) or `autov1`.
    """

    version: Version
    by: str


@dataclass(frozen=True)
class UsedAdapter:
    """An adapter that a picture's record names.

    Attributes:
        name: As the record has it.
        hash: What it is known by: a version's digest, or a short hash.
        found: Versions here that have it; empty if none has.
    """

    name: str
    hash: str
    found: tuple[Version, ...]


def find_hashes(session: Session, hashes: FileHashes) -> list[FoundVersion]:
    """Return the versions that hold a file of these hashes, the surest first."""
    found: dict[str, FoundVersion] = {}
    for by, column, value in (
        ("sha256", col(FileHashRow.sha256), hashes.sha256),
        ("payload", col(FileHashRow.data_sha256), hashes.data_sha256),
    ):
        for version in _versions(session, column == value):
            found.setdefault(version.reference, FoundVersion(version, by))
    return list(found.values())


def find_short_hash(session: Session, text: str) -> list[FoundVersion]:
    """Return the versions of a hash that people quote: SHA-256, AutoV1, AutoV2, AutoV3 or `sshs_model_hash`.

    The beginning of a version's digest counts too: it stands among the `Lora hashes` of our own pictures.

    Raises:
        FieldError: It has fewer than 8 hexadecimal digits.
    """
    value = text.strip().lower().removeprefix("sha256:").removeprefix("0x")
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", value):
        raise FieldError("hash", text, f"{SHORTEST} to 64 hexadecimal digits")
    found: dict[str, FoundVersion] = {}
    tests: list[tuple[str, Any]] = [
        ("sha256", _starts(col(FileHashRow.sha256), value)),
        ("payload", _starts(col(FileHashRow.data_sha256), value)),
        ("version", _starts(col(VersionRow.digest), f"sha256:{value}")),
    ]
    if len(value) == SHORTEST:
        tests.append(("autov1", col(FileHashRow.autov1) == value))
    for by, condition in tests:
        for version in _versions(session, condition):
            found.setdefault(version.reference, FoundVersion(version, by))
    return list(found.values())


def hash_weights(path: Path) -> FileHashes:
    """Hash a file that somebody asks about.

    Raises:
        InputError: There is no such file.
        WeightsError: It is no safetensors file.
    """
    try:
        return hash_file(path)
    except OSError as exc:
        raise InputError(path, exc.strerror or str(exc)) from exc


def find_picture(session: Session, path: Path) -> list[UsedAdapter]:
    """Return the adapters that a picture was made with: from our record, or the web UI's `Lora hashes`.

    Raises:
        InputError: There is no such file.
        PictureError: It is no picture.
        RecordError: It says nothing of how it was made.
    """
    try:
        record = read_record(path)
    except (RecordError, OSError):
        return _from_parameters(session, path)
    used: list[UsedAdapter] = []
    for entry in record.composition:
        name, digest = str(entry.get("reference", "")), str(entry.get("digest", ""))
        rows = session.exec(
            select(VersionRow, AdapterRow)
            .join(AdapterRow, col(AdapterRow.id) == VersionRow.adapter_id)
            .where(VersionRow.digest == digest, VersionRow.state != "deleted")
        ).all()
        used.append(UsedAdapter(name, digest, tuple(to_version(adapter, row) for row, adapter in rows)))
    return used


def _from_parameters(session: Session, path: Path) -> list[UsedAdapter]:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            if picture.width * picture.height > MAX_PREVIEW_PIXELS:
                raise PictureError(path, "it has more than 64 million pixels")
            parameters = recorded_texts(picture).get(PARAMETERS, "")
    except FileNotFoundError as exc:
        raise InputError(path, "there is no such file") from exc
    except (UnidentifiedImageError, OSError, *DAMAGE, Image.DecompressionBombError) as exc:
        raise PictureError(path, "it is no picture, or a damaged one") from exc
    if not parameters:
        raise RecordError(path, "it says nothing of how it was made")
    listed = LORA_HASHES.search(parameters)
    used: list[UsedAdapter] = []
    for entry in listed.group(1).split(",") if listed else ():
        name, _, value = entry.strip().rpartition(":")
        try:
            found = find_short_hash(session, value)
        except FieldError:
            found = []
        used.append(UsedAdapter(name, value.strip(), tuple(item.version for item in found)))
    return used


def _versions(session: Session, condition: Any) -> Sequence[Version]:
    rows = session.exec(
        select(VersionRow, AdapterRow)
        .join(FileHashRow, col(FileHashRow.version_id) == VersionRow.id)
        .join(AdapterRow, col(AdapterRow.id) == VersionRow.adapter_id)
        .where(condition, VersionRow.state != "deleted")
        .order_by(col(AdapterRow.namespace), col(AdapterRow.name), col(VersionRow.number))
    ).all()
    return [to_version(adapter, row) for row, adapter in rows]


def _starts(column: Any, value: str) -> Any:
    """A prefix as a range, which an index answers."""
    return (column >= value) & (column < value[:-1] + chr(ord(value[-1]) + 1))
