"""What made a picture: a record inside the PNG, JPEG or WebP, for `replay` and for search.

Two texts are written: `adapterhub`, our JSON, which holds all that decides the bytes; and `parameters`, the
lines that AUTOMATIC1111's web UI made common, so that other tools show prompt and settings. A PNG has them in
text chunks of these names, JPEG and WebP in EXIF, see `adapterhub_registry.exif`.
"""

import io
import json
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from adapterhub_registry.encoding import Encoding
from adapterhub_registry.errors import PictureFormatError, RecordError
from adapterhub_registry.exif import MAX_JPEG_BYTES, exif_bytes, exif_texts

FORMAT = 1
CHUNK = "adapterhub"
PARAMETERS = "parameters"
DAMAGE = (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error)
"""What Pillow raises on pictures that are not whole, beside `OSError`."""


@dataclass(frozen=True)
class BaseRecord:
    """The base that made the picture: name as given, architecture, and the identity of its weights."""

    name: str
    architecture: str
    identity: str


@dataclass(frozen=True)
class GenerationRecord:
    """All that decides the bytes of one picture.

    Attributes:
        base: The base and its identity.
        prompt: The prompt, with trigger words that were said, and without tags of adapters.
        negative_prompt: What to avoid; None means SDXL's zero embedding.
        seed: Seed of the starting noise, drawn on the CPU.
        steps: Denoising steps.
        guidance_scale: Classifier-free guidance; 1 or less means none.
        width: Pixels.
        height: Pixels.
        scheduler: Class name and settings of the sampler.
        device: Kind of device: `cpu`, `cuda` or `mps`.
        processor: What the kernels were chosen for: the CPU's vector instructions, or the GPU's name.
        dtype: Type of weights and activations, for example `float32`.
        threads: CPU threads that took part.
        batch_size: Pictures that were made in one go; kernels differ between sizes.
        batch_row: Which of them this one is, from 0.
        prompt_syntax: `weighted`, or `plain`, as older records are, which do not say.
        plane: How adapters were applied; `base` means none.
        plane_reason: Why they were applied so.
        plane_rank: To which the mixed plane padded all factors; 0 for none.
        reserved_rank: For which the low-rank and the mixed plane had static buffers; 0 for none.
        compiled: What the UNet's blocks were compiled by, such as `inductor`; empty if they were not.
        composition: The active adapters; empty for the base.
        schedule: How they took turns or changed; empty if all acted together in every step.
        versions: Versions of the libraries that compute.
        start: The picture that it started from, by digest, with strength and mask; empty for none.
        control: The picture that steered it, by digest, and through which ControlNet; empty for none.
        refiner: What made the last steps, and from which part of all steps on; empty for none.
    """

    base: BaseRecord
    prompt: str
    negative_prompt: str | None
    seed: int
    steps: int
    guidance_scale: float
    width: int
    height: int
    scheduler: dict[str, Any]
    device: str
    processor: str
    dtype: str
    threads: int
    batch_size: int
    batch_row: int
    prompt_syntax: str = "plain"
    plane: str = "base"
    plane_reason: str = ""
    plane_rank: int = 0
    reserved_rank: int = 0
    compiled: str = ""
    composition: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    schedule: dict[str, Any] = field(default_factory=dict[str, Any])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    start: dict[str, Any] = field(default_factory=dict[str, Any])
    control: dict[str, Any] = field(default_factory=dict[str, Any])
    refiner: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> str:
        """Return the record as one line of JSON with sorted keys."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "GenerationRecord":
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is not JSON, of another format, or lacks a field.
        """
        try:
            table: Any = json.loads(text)
            json.dumps(table, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
        except RecursionError as exc:
            raise ValueError("is nested too deeply") from exc
        if not isinstance(table, dict) or table.pop("format", None) != FORMAT:  # pyright: ignore[reportUnknownMemberType]
            raise ValueError(f"is not a record of format {FORMAT}")
        table.pop("encoding", None)  # pyright: ignore[reportUnknownMemberType] - of the file, see `Encoding`
        try:
            base = BaseRecord(**table.pop("base"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            record = cls(base=base, **table)  # pyright: ignore[reportUnknownArgumentType]
        except (TypeError, KeyError) as exc:
            raise ValueError(f"lacks a field or has one too many ({exc})") from exc
        wrong = [*_wrong_types(base), *_wrong_types(record)]
        if wrong or not all(isinstance(entry, dict) for entry in record.composition):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"has a field of another type ({', '.join(wrong) or 'composition'})")
        return record


def _wrong_types(record: BaseRecord | GenerationRecord) -> list[str]:
    """Return the names of fields that hold something else than their class says."""
    wrong: list[str] = []
    for name, declared in get_type_hints(type(record)).items():
        outer = get_origin(declared)
        kind = (float, int) if declared is float else outer if outer in (dict, list) else declared
        if not isinstance(getattr(record, name), kind):
            wrong.append(name)
    return wrong


@dataclass(frozen=True)
class RecordedPicture:
    """A picture with its record.

    Attributes:
        image: RGB.
        record: What made it.
        encoding: How it was written.
    """

    image: Image.Image
    record: GenerationRecord
    encoding: Encoding


def parameters_text(record: GenerationRecord) -> str:
    """Return prompt, settings and adapters as AUTOMATIC1111's web UI writes them.

    Adapters stand behind the prompt as `<lora:name:weight>` (text encoders before UNet where the two
    differ), unless the prompt names them itself, and in `Lora hashes`. There the web UI has the first 12
    digits of the hash of a file's tensors (AutoV3); we have those of the version's digest, which is what
    the record knows, and what `adapterhub find-file` and `find-image` find.
    """
    names = [str(entry["reference"]).split("@")[0].split("/")[-1] for entry in record.composition]
    tags = [
        f"<lora:{name}:{_web_ui_weight(entry['strengths'])}>"
        for name, entry in zip(names, record.composition, strict=True)
        if not re.search(rf"<lora:([^:>]*/)?{re.escape(name)}(@[^:>]*)?[:>]", record.prompt)
    ]
    lines = [" ".join([record.prompt, *tags])]
    if record.negative_prompt:
        lines.append(f"Negative prompt: {record.negative_prompt}")
    settings = {
        "Steps": record.steps,
        "Sampler": record.scheduler.get("class", ""),
        "CFG scale": f"{record.guidance_scale:g}",
        "Seed": record.seed,
        "Size": f"{record.width}x{record.height}",
        "Model hash": record.base.identity.removeprefix("sha256:")[:10],
        "Model": record.base.name,
    }
    if names:
        digests = [str(entry["digest"]).removeprefix("sha256:") for entry in record.composition]
        hashes = ", ".join(f"{name}: {digest[:12]}" for name, digest in zip(names, digests, strict=True))
        settings["Lora hashes"] = f'"{hashes}"'
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def _web_ui_weight(strengths: Mapping[str, float]) -> str:
    unet = strengths.get("unet", 0.0)
    text = strengths.get("text_encoder", strengths.get("text_encoder_2", unet))
    return f"{unet:g}" if text == unet else f"{text:g}:{unet:g}"


def picture_with_record(
    picture: Image.Image, record: GenerationRecord, format_name: str = "PNG", *, quality: int | None = None
) -> bytes:
    """Return the bytes of a picture's file with its record inside; equal inputs give equal bytes.

    Args:
        picture: RGB.
        record: What made it.
        format_name: `PNG`, `JPEG` or `WEBP`; see `adapterhub_registry.encoding.picture_format`.
        quality: 1 to 100. By default a WebP keeps every pixel, and a JPEG, which cannot, has 95.

    Raises:
        PictureFormatError: The format is unknown or has no such quality, or it cannot hold picture and
            record: that of a JPEG has at most 64 KiB.
    """
    encoding = Encoding.of(format_name, quality)
    if format_name == "PNG":
        return png_with_record(picture, record)
    table = {**json.loads(record.to_json()), "encoding": asdict(encoding)}
    exif = exif_bytes(json.dumps(table, sort_keys=True), parameters_text(record))
    if format_name == "JPEG" and len(exif) > MAX_JPEG_BYTES:
        size = f"a record of {len(exif):,} bytes does not fit into its {MAX_JPEG_BYTES:,}"
        raise PictureFormatError(format_name, f"{size}; write a PNG or WebP")
    return encoding.encode(picture, exif=exif)


def png_with_record(picture: Image.Image, record: GenerationRecord) -> bytes:
    """Return the picture as PNG bytes with its record inside; equal inputs give equal bytes."""
    info = PngInfo()
    info.add_itxt(CHUNK, record.to_json(), zip=False)
    info.add_text(PARAMETERS, parameters_text(record))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def recorded_texts(picture: Image.Image) -> dict[str, str]:
    """Return what an opened picture says of how it was made, under the names `adapterhub` and `parameters`.

    Text chunks that stand behind the pixels are found once it is loaded.

    Raises:
        Exception: One of `DAMAGE`, or an OSError.
    """
    texts = {name: picture.info.get(name) for name in (CHUNK, PARAMETERS)}
    found = {name: str(text) for name, text in texts.items() if isinstance(text, str)}
    if found:
        return found
    texts = dict(zip((CHUNK, PARAMETERS), exif_texts(picture), strict=True))
    return {name: text for name, text in texts.items() if text}


def read_picture(path: Path) -> RecordedPicture:
    """Read a picture and the record in it.

    Raises:
        RecordError: There is no such file, it is no picture, or it carries no readable record.
    """
    try:
        # Pillow warns of what is odd in EXIF, as soon as it opens the file.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            picture.load()  # text chunks may stand after the pixels
            text = recorded_texts(picture).get(CHUNK)
            image = picture.convert("RGB")
    except FileNotFoundError as exc:
        raise RecordError(path, "does not exist") from exc
    except (UnidentifiedImageError, OSError, *DAMAGE, Image.DecompressionBombError) as exc:
        raise RecordError(path, "cannot be read as a picture") from exc
    if text is None:
        raise RecordError(path, "carries no AdapterHub record")
    try:
        return RecordedPicture(image, GenerationRecord.from_json(text), Encoding.from_json(text))
    except ValueError as exc:
        raise RecordError(path, f"carries a record that cannot be read: it {exc}") from exc


def read_record(path: Path) -> GenerationRecord:
    """Read the record out of a picture; raises RecordError as `read_picture` does."""
    return read_picture(path).record
