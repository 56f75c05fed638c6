"""Adopt a folder of another tool: every LoRA in it becomes a version, with what lies beside it."""

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from adapterhub_registry.errors import (
    AdapterHubError,
    ArchitectureError,
    FieldError,
    InputError,
    PickleRefusedError,
)
from adapterhub_registry.intake import MAX_PREVIEW_PIXELS, PreviewPicture
from adapterhub_registry.publication import TAG
from adapterhub_registry.safetensors_header import is_pickle, read_header
from adapterhub_registry.sidecars import Sidecars, read_sidecars

if TYPE_CHECKING:
    from adapterhub_registry.store import Registry

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
WEIGHTS = ".safetensors"
OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Adopted:
    """What became of one file.

    Attributes:
        path: The file.
        outcome: `added`, `known`, `refused`, or `would add` in a dry run.
        version: `namespace/name@number`; empty where there is none.
        reason: Why it was refused, or what of its neighbours could not be read.
    """

    path: Path
    outcome: str
    version: str = ""
    reason: str = ""


def adopt(
    registry: "Registry",
    folder: Path,
    *,
    namespace: str,
    base: str | None = None,
    dry_run: bool = False,
    on_file: OnFile | None = None,
) -> Iterator[Adopted]:
    """Take every adapter below a folder into a registry, and yield what became of each file.

    A file that was adopted before, and has not changed since by its inode, size and time, is not read again.
    The folder is never written to. A run that dies goes on where it was.

    Args:
        registry: Where to.
        folder: A LoRA folder of A1111, Forge, ComfyUI or kohya's scripts; subfolders too.
        namespace: Of the new names.
        base: The base that all of them were made on; where it is left out, each file's shapes must tell.
        dry_run: Only say what would happen.
        on_file: Called after each file with (files done, files).

    Raises:
        InputError: The folder is not there.
    """
    if not folder.is_dir():
        raise InputError(folder, "there is no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (WEIGHTS, *PICKLES))
    for number, path in enumerate(files, 1):
        if path.is_file():
            yield _adopt_file(registry, path, namespace, base, dry_run)
        if on_file is not None:
            on_file(number, len(files))


def _adopt_file(registry: "Registry", path: Path, namespace: str, base: str | None, dry_run: bool) -> Adopted:
    try:
        stat = path.stat()
        key = (str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns)
        version = registry.adopted_before(*key)
        if version:
            return Adopted(path, "known", version)
        if path.suffix.lower() != WEIGHTS or is_pickle(path):
            raise PickleRefusedError(path)
        known = registry.find_file(path)
        if known:
            version = known[0].version.reference
            if not dry_run and known[0].by == "sha256":
                registry.remember_adopted(*key, version)
            return Adopted(path, "known", version)
        sidecars = read_sidecars(path, read_header(path).metadata)
        name = _free_name(registry, namespace, path)
        reason = "; ".join(sidecars.problems)
        if dry_run:
            return Adopted(path, "would add", name, reason)
        version, problem = _add(registry, path, name, base, sidecars)
        registry.remember_adopted(*key, version)
        return Adopted(path, "added", version, "; ".join(filter(None, (reason, problem))))
    except ArchitectureError as exc:
        hint = "name the base with --base" if exc.adapter == "unknown" else str(exc)
        return Adopted(path, "refused", reason=f"its shapes do not tell what it fits; {hint}")
    except (AdapterHubError, OSError) as exc:
        return Adopted(path, "refused", reason=str(exc))


def _add(
    registry: "Registry", path: Path, name: str, base: str | None, sidecars: Sidecars
) -> tuple[str, str]:
    """Add one file; return its version, and what was wrong with its picture."""
    problem = ""
    with tempfile.TemporaryDirectory() as drafts:
        previews: list[PreviewPicture] = []
        if sidecars.picture is not None:
            try:
                previews.append(_preview(sidecars.picture, Path(drafts)))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
                problem = f"{sidecars.picture.name} cannot be read as a picture ({exc})"
        tags = tuple(tag for word in sidecars.tags if TAG.fullmatch(tag := _slug(word)))
        version = registry.add(
            path,
            name=name,
            base=base,
            trigger_words=sidecars.trigger_words,
            recommended_weight=sidecars.weight or None,
            licence=sidecars.licence,
            lineage={"operation": "imported", "file": path.name},
            previews=previews,
            message=f"adopted from {path.name}",
            title=sidecars.title or path.stem,
            description=sidecars.description or None,
            tags=tags or None,
        )
    return version.reference, problem


def _preview(path: Path, drafts: Path) -> PreviewPicture:
    """Decode a picture under the pixel cap, and encode it again, without what it carries beside pixels."""
    with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as picture:
        if picture.width * picture.height > MAX_PREVIEW_PIXELS:
            raise ValueError("over 64 million pixels")
        picture.convert("RGB").save(drafts / "preview.png")
    return PreviewPicture(drafts / "preview.png")


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
