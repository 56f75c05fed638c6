"""Care of what is stored: every file hashed again, and rows and files compared both ways."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from adapterhub_registry.blobs import DirectoryBlobs, digest_of, read_pieces
from adapterhub_registry.database import Database, Read
from adapterhub_registry.reading import version_key
from adapterhub_registry.references import Reference
from adapterhub_registry.staging import new_draft
from adapterhub_registry.threads import in_threads

PAGE = 10_000
CLOCK_S = 1.0
"""How far the clocks of the system and of its files may lie apart."""
WRITABLE = 0o222
HASHED = ".safetensors"
VERSIONS = """
    SELECT version.id, namespace || '/' || name, number, digest, manifest, linked, payload_digest
    FROM version JOIN adapter ON adapter.id = version.adapter_id
    WHERE state <> 'deleted' AND version.id > ? AND version.id <= ? ORDER BY version.id LIMIT ?"""
ALIASES = """
    SELECT namespace || '/' || adapter.name || '@' || alias.name, alias.number
    FROM alias JOIN adapter ON adapter.id = alias.adapter_id
    LEFT JOIN version ON version.adapter_id = adapter.id AND version.number = alias.number
        AND state <> 'deleted'
    WHERE version.id IS NULL ORDER BY 1"""


@dataclass(frozen=True)
class Use:
    """A place where a version needs a blob."""

    version_id: int
    label: str
    path: str


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        subject: The version, `me/ink@3`, or the alias, `me/ink@prod`.
        path: The file of the version; empty where it is the version itself.
        problem: What is wrong: a word, a colon, and what was found.
        repair: What was done about it, or why it could not be; empty if nobody tried.
        is_repaired: Whether it is put right.
    """

    subject: str
    path: str
    problem: str
    repair: str = ""
    is_repaired: bool = False


@dataclass(frozen=True)
class Repair:
    """What came of a repair: what was done, or why it could not be."""

    text: str
    is_done: bool


NO_REPAIR = Repair("", False)


@dataclass
class Plan:
    """What is to be checked, read from the rows at one moment.

    Attributes:
        uses: Digest of a blob to the places that need it.
        linked: Keys of versions that were adopted as links to somebody's files.
        manifests: Versions whose manifest is not that of their digest: key, name, number and digest.
        hashes: Versions whose hashes are not those of their files.
        aliases: Aliases at nothing, and the numbers that they name.
    """

    uses: dict[str, list[Use]] = field(default_factory=dict[str, list[Use]])
    linked: set[int] = field(default_factory=set[int])
    manifests: list[tuple[int, str, int, str]] = field(default_factory=list[tuple[int, str, int, str]])
    hashes: list[Use] = field(default_factory=list[Use])
    aliases: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def add_payload(self, version_id: int, label: str, files: Mapping[str, str]) -> None:
        """Add the files of a version: path to SHA-256."""
        for path, sha256 in files.items():
            self.uses.setdefault(sha256, []).append(Use(version_id, label, path))


class Repairer(Protocol):
    """What `verify` asks to put right what it found."""

    def restore_blob(self, sha256: str, uses: list[Use], problem: str) -> Repair:
        """Put a whole copy in the place of a blob that is missing or damaged."""
        ...

    def make_private(self, sha256: str, uses: list[Use], problem: str) -> Repair:
        """Make a blob a read-only file of its own."""
        ...

    def restore_manifest(
        self, version_id: int, name: str, number: int, digest: str
    ) -> tuple[Mapping[str, str], Repair]:
        """Find the manifest of a digest and write it into its row; return its files."""
        ...

    def restore_hashes(self, use: Use) -> Repair:
        """Read the hashes of a version's files again."""
        ...


def verify(
    database: Database,
    blobs: DirectoryBlobs,
    home: Path,
    reference: Reference | None,
    *,
    repairer: Repairer | None,
    on_blob: Callable[[int, int], None],
) -> Iterator[Problem]:
    """Check one version, or everything; see `Registry.verify`."""
    with database.snapshot() as read:
        plan = read_plan(read, reference)
    for version_id, name, number, digest in plan.manifests:
        label = f"{name}@{number}"
        problem, repair = f"manifest: it is not that of {digest}", NO_REPAIR
        if repairer is not None:
            files, repair = repairer.restore_manifest(version_id, name, number, digest)
            plan.add_payload(version_id, label, files)
        yield Problem(label, "", problem, repair.text, repair.is_done)
    owned = Ownership(home)
    looked = in_threads(partial(_look, blobs), plan.uses)
    for done, ((sha256, uses), problem) in enumerate(zip(plan.uses.items(), looked, strict=True), 1):
        repair = NO_REPAIR
        if problem and repairer is not None:
            repair = repairer.restore_blob(sha256, uses, problem)
        elif not problem:
            problem = owned.look(blobs.path(sha256))
            if problem and repairer is not None:
                repair = repairer.make_private(sha256, uses, problem)
            elif any(use.version_id in plan.linked for use in uses):
                problem = ""  # said when it was adopted
        if problem:
            there = [use for use in uses if _is_there(database, use)]
            yield from (Problem(use.label, use.path, problem, repair.text, repair.is_done) for use in there)
        on_blob(done, len(plan.uses))
    for use in plan.hashes:
        repair = repairer.restore_hashes(use) if repairer is not None else NO_REPAIR
        problem = "hashes: those that it is found by are not those of its files"
        if _is_there(database, use):
            yield Problem(use.label, "", problem, repair.text, repair.is_done)
    for alias, number in plan.aliases:
        yield Problem(alias, "", f"alias: there is no version {number}; move it with: adapterhub alias")


def read_plan(read: Read, reference: Reference | None) -> Plan:
    """Read what versions need from their rows; of everything, or of one version."""
    plan = Plan()
    if reference is None:
        first, last = 0, read("SELECT coalesce(max(id), 0) FROM version")[0][0]
        plan.aliases = [(alias, number) for alias, number in read(ALIASES)]
    else:
        last = version_key(read, reference)
        first = last - 1
    while rows := read(VERSIONS, [first, last, PAGE]):
        span = (first, rows[-1][0])
        _read_page(read, plan, rows, span)
        first = span[1]
    return plan


def _read_page(read: Read, plan: Plan, rows: list[tuple[Any, ...]], span: tuple[int, int]) -> None:
    hashes: dict[int, dict[str, str]] = {}
    between = "WHERE version_id > ? AND version_id <= ?"
    for version_id, path, sha256 in read(f"SELECT version_id, path, sha256 FROM file_hash {between}", span):  # noqa: S608
        hashes.setdefault(version_id, {})[path] = sha256
    labels: dict[int, str] = {}
    payloads: dict[int, Mapping[str, str]] = {}
    for version_id, name, number, digest, text, linked, payload_digest in rows:
        label = labels[version_id] = f"{name}@{number}"
        if linked:
            plan.linked.add(version_id)
        if digest != f"sha256:{hashlib.sha256(text.encode()).hexdigest()}":
            plan.manifests.append((version_id, name, number, digest))
            continue
        files = {file["path"]: file["sha256"] for file in json.loads(text)["files"]}
        plan.add_payload(version_id, label, files)
        payloads[version_id] = files
        expected = {path: sha256 for path, sha256 in files.items() if path.endswith(HASHED)}
        if payload_digest and hashes.get(version_id, {}) != expected:
            plan.hashes.append(Use(version_id, label, ""))
    beside = (
        f"SELECT version_id, name, sha256 FROM document {between} UNION ALL "  # noqa: S608
        f"SELECT version_id, 'a preview', sha256 FROM preview {between} UNION "
        "SELECT version.id, path, sha256 FROM version "
        "JOIN hub_commit c ON c.adapter_id = version.adapter_id AND c.number = version.number "
        "JOIN hub_file ON commit_id = c.id WHERE version.id > ? AND version.id <= ?"
    )
    for version_id, name, sha256 in read(beside, [*span, *span, *span]):
        if version_id in labels and payloads.get(version_id, {}).get(name) != sha256:
            plan.uses.setdefault(sha256, []).append(Use(version_id, labels[version_id], name))


def _look(blobs: DirectoryBlobs, sha256: str) -> str:
    """Hash a blob and say what is wrong with it."""
    try:
        found = digest_of(read_pieces(blobs.path(sha256)))
    except FileNotFoundError:
        return f"missing: sha256:{sha256}"
    except OSError as exc:
        return f"unreadable: sha256:{sha256}: {exc.strerror or exc}"
    return "" if found == sha256 else f"damaged: expected sha256:{sha256}, found sha256:{found}"


def _is_there(database: Database, use: Use) -> bool:
    """Say whether the version is still there; its files may be gone if it was deleted meanwhile."""
    with database.snapshot() as read:
        return bool(read("SELECT 1 FROM version WHERE id = ? AND state <> 'deleted'", [use.version_id]))


class Ownership:
    """Whether blobs are read-only files of the registry's own, or somebody may change them in place."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._inside: Counter[tuple[int, int]] = Counter()
        self._counted_s = 0.0

    def look(self, path: Path) -> str:
        """Say what is wrong with a whole blob."""
        try:
            found = path.stat()
            if outside := self._links_outside(path, found):
                names = "a file" if outside == 1 else f"{outside} files"
                return f"linked: it is one with {names} outside the registry"
        except OSError:
            return ""  # its version was deleted since it was hashed
        is_wrong = found.st_mode & WRITABLE and self._keeps_modes
        return "writable: a program may change it in place" if is_wrong else ""

    def _links_outside(self, path: Path, found: os.stat_result) -> int:
        if (
            found.st_nlink > 1 and found.st_ctime > self._counted_s - CLOCK_S
        ):  # linked since they were counted
            self._counted_s = time.time()
            self._inside = Counter(inode for _, inode in view_files(self._home))
            found = path.stat()
        return max(found.st_nlink - 1 - self._inside[found.st_dev, found.st_ino], 0)

    @cached_property
    def _keeps_modes(self) -> bool:
        """Whether the file system knows of read-only files; that of a memory card does not."""
        with new_draft(self._home / "staging") as (path, _):
            path.chmod(0o444)
            return not path.stat().st_mode & WRITABLE


def view_files(home: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Yield each file in the directories of versions, with its device and inode."""
    for folder, _, names in os.walk(home / "views"):
        for name in names:
            path = Path(folder, name)
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield path, (found.st_dev, found.st_ino)
