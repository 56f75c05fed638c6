"""Adopt a folder of another tool: every LoRA in it becomes a version, with what lies beside it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub_registry.errors import (
    AdapterHubError,
    ArchitectureError,
    FieldError,
    InputError,
    PickleRefusedError,
    PictureError,
    WeightsError,
)
from adapterhub_registry.hashes import FileHashes, hash_file
from adapterhub_registry.intake import PreviewPicture, Staged, read_payload, read_preview, stage
from adapterhub_registry.publication import TAG
from adapterhub_registry.sidecars import Sidecars, read_sidecars

if TYPE_CHECKING:
    from adapterhub_registry.store import Registry

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz")
WEIGHTS = ".safetensors"
OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Adopted:
    """What became of one file.

    Attributes:
        path: The file.
        outcome: `added`, `known`, `refused`, or `would add` in a dry run.
        version: `namespace/name@number`; empty where there is none.
        reason: Why it was refused or copied, or what of its neighbours could not be read.
        is_linked: Whether the version is a hard link to the file.
    """

    path: Path
    outcome: str
    version: str = ""
    reason: str = ""
    is_linked: bool = False


def adopt(
    registry: "Registry",
    folder: Path,
    *,
    namespace: str,
    base: str | None = None,
    link: bool = False,
    dry_run: bool = False,
    on_file: OnFile | None = None,
) -> Iterator[Adopted]:
    """Take every adapter below a folder into a registry, and yield what became of each file.

    A file that was adopted before, and has not changed since by its inode, size and time, is not opened
    again; any other is read once, on its way into the store. The folder is never written to. A run that dies
    goes on where it was.

    Args:
        registry: Where to.
        folder: A LoRA folder of A1111, Forge, ComfyUI or kohya's scripts; subfolders too.
        namespace: Of the new names.
        base: The base that all of them were made on; where it is left out, each file's shapes must tell.
        link: Keep hard links, not copies, where the file system can; see `Registry.add`.
        dry_run: Only say what would happen.
        on_file: Called after each file with (files done, files).

    Raises:
        InputError: The folder is not there.
    """
    if not folder.is_dir():
        raise InputError(folder, "there is no such folder")
    kinds = (WEIGHTS, *PICKLES, *ARCHIVES)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in kinds)
    adopted = registry.adopted_files()
    for number, path in enumerate(files, 1):
        if path.is_file():
            key = _key(path)
            if key in adopted:
                yield Adopted(path, "known", adopted[key])
            else:
                found = _adopt_file(registry, path, namespace, base, link, dry_run)
                if found.version and not dry_run:
                    registry.remember_adopted(*key, found.version)
                yield found
        if on_file is not None:
            on_file(number, len(files))


def _key(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    name = str(path.resolve()).encode("utf-8", "backslashreplace").decode()  # names may be no UTF-8
    return name, found.st_ino, found.st_size, found.st_mtime_ns


def _adopt_file(
    registry: "Registry", path: Path, namespace: str, base: str | None, link: bool, dry_run: bool
) -> Adopted:
    try:
        if path.suffix.lower() in ARCHIVES:
            raise WeightsError(path, "it is an archive; unpack it, and adopt the .safetensors file in it")
        if path.suffix.lower() in PICKLES:
            raise PickleRefusedError(path)
        payload = read_payload(path)
        sidecars = read_sidecars(path, payload.header.metadata)
        if dry_run:
            known = _known(registry, hash_file(path))
            reason = "" if known else "; ".join(sidecars.problems)
            name = known or _free_name(registry, namespace, path)
            return Adopted(path, "known" if known else "would add", name, reason)
        with stage(registry.blobs, payload, link=link) as staged:
            known = _known(registry, staged.hashes)
            if known:
                return Adopted(path, "known", known)
            name = _free_name(registry, namespace, path)
            return _add(registry, staged, name, base, sidecars, link)
    except ArchitectureError as exc:
        hint = "name the base with --base" if exc.adapter == "unknown" else str(exc)
        return Adopted(path, "refused", reason=f"its shapes do not tell what it fits; {hint}")
    except (AdapterHubError, OSError) as exc:
        return Adopted(path, "refused", reason=str(exc))


def _known(registry: "Registry", hashes: FileHashes) -> str:
    found = registry.find_hashes(hashes)
    return found[0].version.reference if found else ""


def _add(
    registry: "Registry", staged: Staged, name: str, base: str | None, sidecars: Sidecars, link: bool
) -> Adopted:
    """Add one file that was read already."""
    path, problems = staged.payload.path, list(sidecars.problems)
    spelled = Path(path.name.encode("utf-8", "replace").decode())
    previews: list[PreviewPicture] = []
    if sidecars.picture is not None:
        try:
            previews.append(read_preview(sidecars.picture))
        except (InputError, PictureError) as exc:
            problems.append(str(exc))
    if staged.problem:
        problems.append(f"it was copied, not linked: {staged.problem}")
    tags = tuple(tag for word in sidecars.tags if TAG.fullmatch(tag := _slug(word)))
    version = registry.add(
        staged,
        name=name,
        base=base,
        trigger_words=sidecars.trigger_words,
        recommended_weight=sidecars.weight or None,
        licence=sidecars.licence,
        lineage={"operation": "imported", "file": spelled.name},
        previews=previews,
        message=f"adopted from {spelled.name}",
        title=sidecars.title or spelled.stem,
        description=sidecars.description or None,
        kind=sidecars.kind or None,
        tags=tags or None,
        settings=sidecars.settings or None,
        link=link,
    )
    is_linked = registry.facts(version).linked != ""
    return Adopted(path, "added", version.reference, "; ".join(problems), is_linked)


def _free_name(registry: "Registry", namespace: str, path: Path) -> str:
    """Return a name that no adapter has yet: the file's, its folder's before it, or a number behind it."""
    stem = _slug(path.stem) or "adapter"
    wishes = [stem, f"{_slug(path.parent.name) or 'folder'}-{stem}"[:96].strip("-._")]
    wishes += [f"{stem[:90]}-{number}" for number in range(2, 1000)]
    for wish in wishes:
        if not registry.has_adapter(f"{namespace}/{wish}"):
            return f"{namespace}/{wish}"
    raise FieldError("name", f"{namespace}/{stem}", "a thousand names like it are taken")


def _slug(text: str) -> str:
    """Return text as a name: lower case, no doubled dashes or dots, at most 96 letters.

    Example:
        >>> _slug("Ink Wash (v2)..safe--x")
        'ink-wash-v2-safe-x'
    """
    lowered = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    return re.sub(r"[-.]{2,}", "-", lowered).strip("-._")[:96].strip("-._").removesuffix(".git")
