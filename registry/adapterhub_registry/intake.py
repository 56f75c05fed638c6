"""What comes into the registry, checked before anything is written: weights, bases, previews."""

import io
import logging
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from adapterhub_registry.blobs import DirectoryBlobs, Draft
from adapterhub_registry.errors import (
    ArchitectureError,
    BlobMissingError,
    InputError,
    PickleRefusedError,
    PictureError,
    WeightsError,
)
from adapterhub_registry.facts import RUN, Facts, facts_of, read_alphas
from adapterhub_registry.hashes import FileHashes, Hasher
from adapterhub_registry.manifest import PayloadFile, Version
from adapterhub_registry.probe import Probe, describe, read_peft_config
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.record import CHUNK, DAMAGE, PARAMETERS, GenerationRecord, recorded_texts
from adapterhub_registry.safetensors_header import Header, is_pickle, read_header

SINGLE_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for."""
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
MAX_PREVIEW_PIXELS = 64_000_000
MAX_PREVIEW_BYTES = 64 << 20
PREVIEW_FORMATS = ("PNG", "JPEG", "WEBP")
PARAMETER = re.compile(r'([\w +/-]+): ("(?:\\.|[^"\\])*"|[^,]*)(?:, |$)')
BASES_GROUP = "adapterhub.bases"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Payload:
    """Files of weights that were found readable.

    Attributes:
        path: The file or the directory.
        files: Name inside the version to file on disk.
        weights: Which of the names holds the tensors.
        header: Of that file.
        config: Of PEFT; None for a single file.
        probe: What that file is.
        stats: Inode, size and time of each file, as they were before it was looked at.
    """

    path: Path
    files: Mapping[str, Path]
    weights: str
    header: Header
    config: Mapping[str, Any] | None
    probe: Probe
    stats: Mapping[str, tuple[int, int, int]]

    @property
    def algorithm(self) -> str:
        """What `probe` found."""
        return self.probe.algorithm

    @property
    def architecture(self) -> str:
        """What `probe` found; empty if the shapes do not tell."""
        return self.probe.architecture


@dataclass(frozen=True)
class Staged:
    """A payload whose files lie in the store's staging: they were read, and need not be read again.

    Attributes:
        payload: The payload.
        drafts: Its files by name.
        hashes: Of its weights.
    """

    payload: Payload
    drafts: Mapping[str, Draft]
    hashes: FileHashes

    @property
    def algorithm(self) -> str:
        """As `Payload` has it."""
        return self.payload.algorithm

    @property
    def architecture(self) -> str:
        """As `Payload` has it."""
        return self.payload.architecture

    @property
    def problem(self) -> str:
        """Why the weights are no link, if they should be one."""
        return self.drafts[self.payload.weights].problem


@dataclass(frozen=True)
class PreviewPicture:
    """A picture that may become a preview, with what is known of how it was made.

    Attributes:
        path: The file.
        prompt: What it was made with.
        seed: Likewise; None if not known.
        settings: Likewise: `steps`, `guidance_scale`, `scheduler`, `weight` and so on, all text.
    """

    path: Path
    prompt: str = ""
    seed: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


def read_payload(path: Path) -> Payload:
    """Check a safetensors file or a PEFT directory; only headers are read.

    Raises:
        InputError: It is not there, or cannot be read.
        PickleRefusedError: It holds pickled objects, whatever its name.
        WeightsError: It is an archive, is malformed, or holds no adapter that is understood.
    """
    if path.is_dir():
        missing = [name for name in PEFT_FILES if not (path / name).is_file()]
        if missing:
            for file in sorted(path.iterdir()):
                if file.is_file() and is_pickle(file):
                    raise PickleRefusedError(file)
            raise WeightsError(path, f"a PEFT directory needs {missing[0]}")
        files = {name: path / name for name in PEFT_FILES}
        name = PEFT_FILES[1]
    else:
        files, name = {SINGLE_FILE: path}, SINGLE_FILE
    weights = files[name]
    try:
        stats = {key: _stat(file) for key, file in files.items()}
        config = read_peft_config(path / PEFT_FILES[0]) if len(files) > 1 else None
        header = read_header(weights)
        probe = describe(weights, header, config=config)
    except OSError as exc:
        raise InputError(weights, exc.strerror or str(exc)) from exc
    return Payload(path, files, name, header, config, probe, stats)


@contextmanager
def stage(blobs: DirectoryBlobs, payload: Payload, *, link: bool = False) -> Generator[Staged]:
    """Take a payload's files into the store's staging, hashed on the way; what is not kept is dropped.

    Args:
        blobs: The store.
        payload: The files.
        link: Make hard links of them, where the file system can.

    Raises:
        InputError: A file cannot be read, or was changed meanwhile.
        OutputError: The disk is full or cannot be written.
    """
    with ExitStack() as stack:
        drafts: dict[str, Draft] = {}
        hashers: dict[str, Hasher] = {}
        for name, path in sorted(payload.files.items()):
            hashers[name] = Hasher(payload.header.data_start if name == payload.weights else None)
            drafts[name] = stack.enter_context(blobs.draft(path, hashers[name], link=link))
            if _stat(path) != payload.stats[name]:
                raise InputError(path, "it was changed while it was read; try again when nobody writes to it")
        yield Staged(payload, drafts, hashers[payload.weights].hashes())


def describe_base(
    base: str | None, payload: Payload | Staged, like: Version | None = None
) -> tuple[str, str]:
    """Return (architecture, base identity) for a new version; that of `like` where no base is named.

    Bases are found through the entry point group `adapterhub.bases`, because this package knows none itself.

    Raises:
        ArchitectureError: The weights do not fit the base, or neither base nor weights tell the architecture.
    """
    if base is None and like is not None:
        if payload.architecture and payload.architecture != like.architecture:
            raise ArchitectureError(payload.architecture, like.architecture)
        return like.architecture, like.manifest.base_identity
    if base is None:
        if not payload.architecture:
            raise ArchitectureError("unknown", "unknown")
        return payload.architecture, ""
    (entry,) = entry_points(group=BASES_GROUP, name="find")
    found = entry.load()(base)
    if payload.architecture and payload.architecture != found.architecture:
        raise ArchitectureError(payload.architecture, found.architecture)
    return found.architecture, found.identity


def read_preview(path: Path) -> PreviewPicture:
    """Check that a file is a whole picture below the caps, and read what it says of how it was made.

    That is our own record, or the lines that the web UI writes.

    Raises:
        InputError: It is not there.
        PictureError: It is no PNG, JPEG or WebP, is damaged, or is too large.
    """
    _, texts = _decoded(path)
    try:
        return _recorded(path, GenerationRecord.from_json(texts.get(CHUNK, "")))
    except (ValueError, TypeError):
        return _with_parameters(path, texts.get(PARAMETERS, ""))


def store_files(
    blobs: DirectoryBlobs,
    payload: Payload | Staged,
    documents: Mapping[str, bytes],
    previews: Sequence[PreviewPicture],
    *,
    link: bool = False,
) -> tuple[tuple[PayloadFile, ...], list[StoredFile], list[StoredFile], Facts]:
    """Write everything that was checked into the blob store; nothing is listed by that alone.

    Returns:
        The payload's files, the documents, the previews, and what the payload says.

    Raises:
        InputError: A file cannot be read, or was changed meanwhile.
        PictureError: A preview cannot be used any more.
        BlobMissingError: The garbage collector took a file just now; try again.
        OutputError: The disk is full or cannot be written.
    """
    if isinstance(payload, Payload):
        with stage(blobs, payload, link=link) as staged:
            if staged.problem:
                logger.warning("%s was copied, not linked: %s", payload.path, staged.problem)
            return store_files(blobs, staged, documents, previews)
    if not all(draft.path.exists() or blobs.has(draft.sha256) for draft in payload.drafts.values()):
        return store_files(
            blobs, payload.payload, documents, previews, link=link
        )  # kept, and collected since
    for draft in payload.drafts.values():
        blobs.keep(draft)
    files = tuple(PayloadFile(name, draft.size, draft.sha256) for name, draft in payload.drafts.items())
    source = payload.payload
    try:
        alphas = read_alphas(blobs.path(payload.hashes.sha256), source.header, source.config)
    except OSError as exc:
        raise BlobMissingError(payload.hashes.sha256, str(blobs.path(payload.hashes.sha256))) from exc
    facts = facts_of(
        files,
        [(source.probe, alphas)],
        {source.weights: payload.hashes},
        run=documents.get(RUN, b""),
        linked=_linked(blobs, payload),
    )
    beside: list[StoredFile] = []
    for name, content in sorted(documents.items()):
        sha256, size = blobs.write([content])
        beside.append(StoredFile(name, sha256, size))
    return files, beside, store_previews(blobs, previews), facts


def store_previews(blobs: DirectoryBlobs, pictures: Sequence[PreviewPicture]) -> list[StoredFile]:
    """Write pictures into the blob store as PNG, without what they carry beside pixels; nothing is listed.

    Raises:
        InputError, PictureError: One is not there, or no picture.
        OutputError: The disk is full or cannot be written.
    """
    shown: list[StoredFile] = []
    for number, picture in enumerate(pictures, 1):
        sha256, size = blobs.write([_plain_png(picture.path)])
        name = f"preview-{number}.png"
        shown.append(StoredFile(name, sha256, size, picture.prompt, picture.seed, dict(picture.settings)))
    return shown


def _linked(blobs: DirectoryBlobs, staged: Staged) -> str:
    """Return what came in, if a file of it is a blob itself now."""
    source = staged.payload
    with suppress(FileNotFoundError):
        if any(blobs.path(staged.drafts[name].sha256).samefile(path) for name, path in source.files.items()):
            return str(source.path.resolve()).encode("utf-8", "backslashreplace").decode()
    return ""


def _stat(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _plain_png(path: Path) -> bytes:
    """Return a picture's pixels as PNG; equal pixels give equal bytes."""
    picture, _ = _decoded(path)
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    pixels = picture if picture.mode == mode else picture.convert(mode)
    pixels.info = {}
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG")
    return buffer.getvalue()


def _decoded(path: Path) -> tuple[Image.Image, dict[str, str]]:
    """Decode a picture under the caps, turned as its camera says, and return it with the texts in it."""
    try:
        if path.stat().st_size > MAX_PREVIEW_BYTES:
            raise PictureError(path, "it has more than 64 MiB")
        # Pillow warns of large pictures, but our own cap is lower, and of what is odd in EXIF.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=PREVIEW_FORMATS) as picture,
        ):
            if picture.width * picture.height > MAX_PREVIEW_PIXELS:
                raise Image.DecompressionBombError
            picture.load()
            texts = recorded_texts(picture)
            ImageOps.exif_transpose(picture, in_place=True)
            return picture, texts
    except FileNotFoundError as exc:
        raise InputError(path, "there is no such file") from exc
    except Image.DecompressionBombError as exc:
        raise PictureError(path, "it has more than 64 million pixels") from exc
    except UnidentifiedImageError as exc:
        raise PictureError(path, _what_else(path)) from exc
    except (*DAMAGE, OSError) as exc:
        raise PictureError(path, "it is a damaged picture") from exc


def _what_else(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(1024).lstrip()
    if start.startswith((b"<svg", b"<?xml", b"<!DOCTYPE svg")):
        return "it is an SVG, which can hold programs; draw it as a PNG"
    return "it is no PNG, JPEG or WebP, or a damaged one"


def _recorded(path: Path, record: GenerationRecord) -> PreviewPicture:
    """Return a picture with what our own record says of it."""
    settings = {
        "steps": str(record.steps),
        "guidance_scale": f"{record.guidance_scale:g}",
        "width": str(record.width),
        "height": str(record.height),
        "scheduler": str(record.scheduler.get("class", "")),
        "base": record.base.name,
        "negative_prompt": record.negative_prompt or "",
        "weight": _weight(record),
    }
    known = {name: text for name, text in settings.items() if text}
    return PreviewPicture(path, record.prompt, record.seed, known)


def _weight(record: GenerationRecord) -> str:
    """Return the strength of the one adapter that took part; empty if there were others, or several."""
    strengths = [value for entry in record.composition for value in dict(entry.get("strengths", {})).values()]
    is_one = len(record.composition) == 1 and "blocks" not in record.composition[0] and not record.schedule
    return f"{float(strengths[0]):g}" if is_one and len(set(strengths)) == 1 else ""


def _with_parameters(path: Path, text: str) -> PreviewPicture:
    """Return a picture with what AUTOMATIC1111's web UI, and those that write like it, say of it."""
    head, _, last = text.rpartition("\n")
    if not last.startswith("Steps: "):
        return PreviewPicture(path)
    prompt, _, negative = f"\n{head}".partition("\nNegative prompt: ")
    values = dict(PARAMETER.findall(last))
    width, _, height = values.get("Size", "").partition("x")
    seed = values.get("Seed", "")
    settings = {
        "steps": values.get("Steps", ""),
        "guidance_scale": values.get("CFG scale", ""),
        "width": width,
        "height": height,
        "scheduler": values.get("Sampler", ""),
        "base": values.get("Model", ""),
        "negative_prompt": negative,
    }
    is_seed = re.fullmatch(r"\d{1,18}", seed)
    known = {name: text for name, text in settings.items() if text}
    return PreviewPicture(path, prompt.strip(), int(seed) if is_seed else None, known)
