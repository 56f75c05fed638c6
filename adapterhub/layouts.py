"""Whole registries as folders that other tools read: AUTOMATIC1111's web UI and Forge, ComfyUI."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adapterhub._version import __version__
from adapterhub.errors import (
    AdapterHubError,
    BlobMissingError,
    ExportBlockedError,
    InputError,
    OutputError,
)
from adapterhub.export_folder import ExportFolder, FileSource
from adapterhub_registry.files import share_bytes
from adapterhub_registry.manifest import Version
from adapterhub_registry.probe import TRANSFORMERS, probe
from adapterhub_registry.publication import Adapter
from adapterhub_registry.store import Registry

BASES = {"sdxl": "SDXL", "sd1": "SD1", "sd2": "SD2"}
"""Architecture to what the web UI calls it."""
OnAdapter = Callable[[int, int], None]


@dataclass(frozen=True)
class Layout:
    """What a tool reads from a folder of LoRAs.

    Attributes:
        format: What other files are converted to; see `adapterhub.formats.write`.
        reads: The layouts, as `probe` names them, that the tool reads as they are.
        refuses: The algorithms that it does not read in any layout.
        has_words: Whether trigger words go into a `.txt` of their own.
    """

    format: str
    reads: frozenset[str]
    refuses: frozenset[str] = frozenset()
    has_words: bool = False


LAYOUTS = {
    # The web UI's table of names in diffusers' spelling is wrong for one upsampler of SDXL.
    "a1111": Layout("a1111", frozenset({"kohya"})),
    # Of `diffusers` and `peft` files ComfyUI reads 234 of SDXL's 794 modules, and says nothing.
    "comfy": Layout(
        "comfy",
        frozenset({"kohya", "kohya-diffusers", "comfy", "lycoris", "diffusers-processor"}),
        refuses=frozenset({"ia3"}),
        has_words=True,
    ),
}


@dataclass(frozen=True)
class Exported:
    """What became of one adapter.

    Attributes:
        version: `namespace/name@number`.
        path: Its file of weights.
        outcome: `written`, `unchanged` or `refused`; in a dry run `would write`.
        reason: Why it was refused.
    """

    version: str
    path: Path
    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class _Plan:
    """The files that are to be there for a version, by their paths; or why there can be none."""

    version: Version
    sources: Mapping[str, FileSource] = field(default_factory=dict[str, FileSource])
    reason: str = ""


def export_all(
    registry: Registry,
    out: Path,
    *,
    layout: str,
    namespace: str | None = None,
    alias: str | None = None,
    dry_run: bool = False,
    on_adapter: OnAdapter | None = None,
) -> Iterator[Exported]:
    """Write every adapter into a folder that another tool reads, and yield what became of each.

    Weights in a layout that the tool reads are copied byte for byte, others are converted. Beside them lie
    triggers, description, weight and a preview. Run it again at any time: only what changed is written, and
    a run that died goes on. `adapterhub adopt` reads the folder back.

    Args:
        registry: What to export.
        out: The folder; `NAMESPACE/NAME.safetensors` below it.
        layout: `a1111` (also Forge) or `comfy`.
        namespace: Only adapters of this one.
        alias: The version at this alias, of adapters that have it; of others the newest.
        dry_run: Only say what would happen.
        on_adapter: Called after each adapter with (adapters done, adapters).

    Raises:
        ExportBlockedError: Files are in the way that no export wrote, or that were changed since; nothing
            was written.
        InputError: The folder's list of exported files cannot be read.
        OutputError: The disk is full or cannot be written; what was written stays, and is not written again.
    """
    folder = ExportFolder(out, layout)
    plans = [
        _plan(registry, LAYOUTS[layout], adapter, version)
        for adapter in registry.list()
        if namespace in (None, adapter.name.split("/")[0])
        and (version := _chosen(registry, adapter, alias)) is not None
    ]
    states = [{path: folder.state(path, source) for path, source in plan.sources.items()} for plan in plans]
    blocked = [out / path for state in states for path, found in state.items() if found == "blocked"]
    if blocked and not dry_run:
        raise ExportBlockedError(blocked)
    try:
        for number, (plan, state) in enumerate(zip(plans, states, strict=True), 1):
            yield _export(registry, folder, plan, state, dry_run=dry_run)
            if on_adapter is not None:
                on_adapter(number, len(plans))
    finally:
        if plans and not dry_run:
            folder.save()


def _chosen(registry: Registry, adapter: Adapter, alias: str | None) -> Version | None:
    number = adapter.aliases.get(alias or "", adapter.latest)
    return None if number is None else registry.resolve(f"{adapter.name}@{number}")


def _plan(registry: Registry, layout: Layout, adapter: Adapter, version: Version) -> _Plan:
    """Say which files are to be there for a version."""
    name = version.name
    if version.architecture.startswith(TRANSFORMERS):
        return _Plan(version, reason=f"an adapter of {version.architecture} is for no picture tool")
    try:
        sources = {f"{name}.safetensors": _weights(registry, layout, version)}
    except AdapterHubError as exc:
        return _Plan(version, reason=str(exc))
    sources[f"{name}.json"] = _text(_notes(adapter, version))
    if layout.has_words and version.trigger_words:
        sources[f"{name}.txt"] = _text(", ".join(version.trigger_words) + "\n")
    for preview in registry.previews(version)[:1]:
        sources[f"{name}.preview.png"] = _stored(registry, preview.sha256)
    return _Plan(version, sources)


def _weights(registry: Registry, layout: Layout, version: Version) -> FileSource:
    """Return a version's file as it is, if the tool reads it, or else what it is converted to."""
    if len(version.files) == 1:
        path = registry.blobs.path(version.files[0].sha256)
        try:
            found = probe(path)
        except OSError as exc:
            raise InputError(path, exc.strerror or str(exc)) from exc
        refused = layout.refuses.intersection(found.algorithm.split("+"))
        if layout.reads.issuperset(found.layouts) and not refused:
            return _stored(registry, version.files[0].sha256)
    files = " ".join(file.sha256 for file in version.files)
    write = partial(_convert, registry, version.reference, layout.format)
    return FileSource(f"{layout.format} by {__version__} of {version.reference}: {files}", "", write)


def _stored(registry: Registry, sha256: str) -> FileSource:
    def write(target: Path) -> None:
        """Copy it, sharing its bytes on the disk where the file system can."""
        try:
            stored = registry.blobs.path(sha256).open("rb")
        except OSError as exc:
            raise BlobMissingError(sha256, str(registry.home)) from exc
        with stored, target.open("wb") as file:
            if not share_bytes(stored, file):
                shutil.copyfileobj(stored, file, 1 << 20)

    return FileSource(sha256, sha256, write)


def _text(text: str) -> FileSource:
    content = text.encode()
    sha256 = hashlib.sha256(content).hexdigest()
    return FileSource(sha256, sha256, partial(Path.write_bytes, data=content))


def _convert(registry: Registry, reference: str, format_name: str, target: Path) -> None:
    from adapterhub.derive import export  # it imports torch, which copies do not need

    export(reference, target, format=format_name, registry=registry)


def _notes(adapter: Adapter, version: Version) -> str:
    """Return the web UI's own fields, and in a field of ours what they have no place for."""
    manifest = version.manifest
    fields: dict[str, Any] = {
        "description": adapter.description,
        "sd version": BASES.get(version.architecture, "Unknown"),
        "activation text": ", ".join(version.trigger_words),
        "preferred weight": float(manifest.recommended_weight or 0),  # 0 stands for none there
        "negative text": adapter.settings.get("negative_prompt", ""),
        "notes": f"{version.reference} {version.digest}",
        "adapterhub": {
            "version": version.reference,
            "title": adapter.title,
            "kind": adapter.kind,
            "tags": list(adapter.tags),
            "licence": manifest.licence,
            "settings": dict(adapter.settings),
        },
    }
    return json.dumps(fields, indent=4, ensure_ascii=False) + "\n"


def _export(
    registry: Registry, folder: ExportFolder, plan: _Plan, state: Mapping[str, str], *, dry_run: bool
) -> Exported:
    version, name = plan.version, plan.version.name
    path = folder.root / f"{name}.safetensors"
    blocked = ", ".join(file for file, found in state.items() if found == "blocked")
    if plan.reason or blocked:
        return Exported(version.reference, path, "refused", plan.reason or f"in the way: {blocked}")
    stale = folder.stale(name, plan.sources)
    missing = [file for file, found in state.items() if found == "missing"]
    if dry_run:
        return Exported(version.reference, path, "would write" if missing or stale else "unchanged")
    try:
        for file in missing:
            folder.write(file, plan.sources[file], name)
    except OutputError:
        raise
    except AdapterHubError as exc:
        return Exported(version.reference, path, "refused", str(exc))
    folder.keep(plan.sources, name)
    folder.drop(stale)
    if not plan.sources[f"{name}.safetensors"].sha256:  # no hash tells whose weights a conversion holds
        stat = path.stat()
        key = (str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if not registry.adopted_before(*key):
            registry.remember_adopted(*key, version.reference)
    return Exported(version.reference, path, "written" if missing or stale else "unchanged")
