"""What comes into the registry, checked before anything is written: weights, bases, previews."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.errors import (
    ArchitectureError,
    InputError,
    PickleRefusedError,
    PictureError,
    RecordError,
    WeightsError,
)
from adapterhub_registry.manifest import PayloadFile, Version
from adapterhub_registry.probe import probe, read_peft_config
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.record import read_record
from adapterhub_registry.safetensors_header import is_pickle

SINGLE_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for."""
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
MAX_PREVIEW_PIXELS = 64_000_000
BASES_GROUP = "adapterhub.bases"


@dataclass(frozen=True)
class Payload:
    """Files of weights that were found readable.

    Attributes:
        files: Name inside the version to file on disk.
        algorithm: What `probe` found.
        architecture: What `probe` found; empty if the shapes do not tell.
    """

    files: Mapping[str, Path]
    algorithm: str
    architecture: str


@dataclass(frozen=True)
class PreviewPicture:
    """A picture that may become a preview, with what its own record says."""

    path: Path
    prompt: str = ""
    seed: int | None = None


def read_payload(path: Path) -> Payload:
    """Check a safetensors file or a PEFT directory; only headers are read.

    Raises:
        InputError: It is not there, or cannot be read.
        PickleRefusedError: It holds pickled objects, whatever its name.
        WeightsError: It is malformed, or holds no adapter that is understood.
    """
    if path.is_dir():
        missing = [name for name in PEFT_FILES if not (path / name).is_file()]
        if missing:
            for file in sorted(path.iterdir()):
                if file.is_file() and is_pickle(file):
                    raise PickleRefusedError(file)
            raise WeightsError(path, f"a PEFT directory needs {missing[0]}")
        files = {name: path / name for name in PEFT_FILES}
        weights = path / PEFT_FILES[1]
        config = read_peft_config(path / PEFT_FILES[0])
    else:
        files = {SINGLE_FILE: path}
        weights, config = path, None
    try:
        if is_pickle(weights):
            raise PickleRefusedError(weights)
        found = probe(weights, config=config)
    except OSError as exc:
        raise InputError(weights, exc.strerror or str(exc)) from exc
    return Payload(files, found.algorithm, found.architecture)


def describe_base(base: str | None, payload: Payload, like: Version | None = None) -> tuple[str, str]:
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
    """Check that a file is a whole PNG below the pixel cap, and read its record if it has one.

    Raises:
        InputError: It is not there.
        PictureError: It is no PNG, is damaged, or has more than 64 million pixels.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PREVIEW_PIXELS:
                raise PictureError(
                    path, f"it has {picture.width}x{picture.height} pixels, over the 64 million"
                )
            picture.load()
    except FileNotFoundError as exc:
        raise InputError(path, "there is no such file") from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise PictureError(path, "it is no PNG, or a damaged one") from exc
    try:
        record = read_record(path)
    except RecordError:
        return PreviewPicture(path)
    return PreviewPicture(path, record.prompt, record.seed)


def store_files(
    blobs: DirectoryBlobs,
    payload: Payload,
    documents: Mapping[str, bytes],
    previews: Sequence[PreviewPicture],
) -> tuple[tuple[PayloadFile, ...], list[StoredFile], list[StoredFile]]:
    """Write everything that was checked into the blob store; nothing is listed by that alone.

    Returns:
        The payload's files, the documents, and the previews.

    Raises:
        OutputError: The disk is full or cannot be written.
    """
    files: list[PayloadFile] = []
    for name, path in sorted(payload.files.items()):
        sha256, size = blobs.write_file(path)
        files.append(PayloadFile(name, size, sha256))
    beside: list[StoredFile] = []
    for name, content in sorted(documents.items()):
        sha256, size = blobs.write([content])
        beside.append(StoredFile(name, sha256, size))
    shown: list[StoredFile] = []
    for number, picture in enumerate(previews, 1):
        sha256, size = blobs.write_file(picture.path)
        shown.append(StoredFile(f"preview-{number}.png", sha256, size, picture.prompt, picture.seed))
    return tuple(files), beside, shown
