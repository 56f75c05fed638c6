"""Adopt a folder of another tool: every LoRA in it becomes a version, with what lies beside it."""

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
from adapterhub_registry.intake import (
    PEFT_FILES,
    SINGLE_FILE,
    PreviewPicture,
    Staged,
    describe_base,
    read_payload,
    read_preview,
    stage,
)
from adapterhub_registry.publication import TAG
from adapterhub_registry.references import name_from
from adapterhub_registry.sidecars import SIDECARS, Sidecars, read_sidecars

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
    paths = set(folder.rglob("*"))
    kinds = (WEIGHTS, *PICKLES, *ARCHIVES)
    # Of files with the same weights the one that most lies beside becomes the version.
    files = sorted(
        (path for path in paths if path.suffix.lower() in kinds),
        key=lambda path: (-sum(path.with_suffix(end) in paths for end in SIDECARS), path),
    )
    adopted = registry.adopted_files()
    work = _Work(registry, namespace, base, link=link, dry_run=dry_run)
    for number, path in enumerate(files, 1):
        if path.is_file():
            try:
                key = _key(path)
                found = Adopted(path, "known", adopted[key]) if key in adopted else work.take(path)
            except (AdapterHubError, OSError) as exc:
                yield Adopted(path, "refused", reason=_reason(exc, path))
            else:
                if found.version and not dry_run and key not in adopted:
                    registry.remember_adopted(*key, found.version)
                yield found
        if on_file is not None:
            on_file(number, len(files))


def _key(path: Path) -> tuple[str, int, int, int]:
    found = path.stat()
    name = str(path.resolve()).encode("utf-8", "backslashreplace").decode()  # names may be no UTF-8
    return name, found.st_ino, found.st_size, found.st_mtime_ns


def _reason(error: AdapterHubError | OSError, path: Path) -> str:
    if isinstance(error, ArchitectureError):
        hint = "name the base with --base" if error.adapter == "unknown" else str(error)
        return f"its shapes do not tell what it fits; {hint}"
    return str(error).removeprefix(f"{path} ")


class _Work:
    """Takes files one by one; in a dry run it keeps in mind what the files before would have become."""

    def __init__(
        self, registry: "Registry", namespace: str, base: str | None, *, link: bool, dry_run: bool
    ) -> None:
        self._registry = registry
        self._namespace = namespace
        self._base = base
        self._link = link
        self._dry_run = dry_run
        self._planned: dict[str, str] = {}  # digest of the tensors to name

    def take(self, path: Path) -> Adopted:
        """Add a file, or in a dry run say what would become of it."""
        if path.suffix.lower() in ARCHIVES:
            raise WeightsError(path, "it is an archive; unpack it, and adopt the .safetensors file in it")
        if path.suffix.lower() in PICKLES:
            raise PickleRefusedError(path)
        is_peft = path.name == PEFT_FILES[1] and path.with_name(PEFT_FILES[0]).is_file()
        payload = read_payload(path.parent if is_peft else path)
        sidecars = read_sidecars(path, payload.header.metadata)
        if self._dry_run:
            hashes = hash_file(path)
            known = self._known(hashes) or self._planned.get(hashes.data_sha256, "")
            if known:
                return Adopted(path, "known", known)
            describe_base(self._base, payload)
            name = self._planned[hashes.data_sha256] = self._free_name(path)
            return Adopted(path, "would add", name, "; ".join(sidecars.problems))
        with stage(self._registry.blobs, payload, link=self._link) as staged:
            known = self._known(staged.hashes)
            if known:
                return Adopted(path, "known", known)
            return self._add(staged, path, sidecars)

    def _known(self, hashes: FileHashes) -> str:
        found = self._registry.find_hashes(hashes)
        return found[0].version.reference if found else ""

    def _add(self, staged: Staged, path: Path, sidecars: Sidecars) -> Adopted:
        """Add one file that was read already."""
        problems = list(sidecars.problems)
        source = path.parent if staged.payload.path.is_dir() else path
        spelled = Path(source.name.encode("utf-8", "replace").decode())
        previews: list[PreviewPicture] = []
        if sidecars.picture is not None:
            try:
                previews.append(read_preview(sidecars.picture))
            except (InputError, PictureError) as exc:
                problems.append(str(exc))
        if staged.problem:
            problems.append(f"it was copied, not linked: {staged.problem}")
        tags = tuple(tag for word in sidecars.tags if TAG.fullmatch(tag := name_from(word)))
        version = self._registry.add(
            staged,
            name=self._free_name(path),
            base=self._base,
            trigger_words=sidecars.trigger_words,
            recommended_weight=sidecars.weight or None,
            licence=sidecars.licence,
            lineage={"operation": "imported", "file": spelled.name},
            previews=previews,
            message=f"adopted from {spelled.name}",
            title=sidecars.title or (spelled.name if source != path else spelled.stem),
            description=sidecars.description or None,
            kind=sidecars.kind or None,
            tags=tags or None,
            settings=sidecars.settings or None,
            link=self._link,
        )
        is_linked = self._registry.facts(version).linked != ""
        return Adopted(path, "added", version.reference, "; ".join(problems), is_linked)

    def _free_name(self, path: Path) -> str:
        """Return a name that no adapter has yet: the file's, its folder's before it, or a number behind it.

        A file that has the name which every library gives it is called by its folder.
        """
        folder = name_from(path.resolve().parent.name) or "folder"
        stem = folder if path.name in (SINGLE_FILE, PEFT_FILES[1]) else name_from(path.stem) or "adapter"
        wishes = [stem, f"{folder}-{stem}"[:96].strip("-._")]
        wishes += [f"{stem[:90]}-{number}" for number in range(2, 1000)]
        planned = set(self._planned.values())
        for name in (f"{self._namespace}/{wish}" for wish in wishes):
            if name not in planned and not self._registry.has_adapter(name):
                return name
        raise FieldError("name", f"{self._namespace}/{stem}", "a thousand names like it are taken")
