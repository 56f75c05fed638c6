"""What made a picture: a record inside the PNG, for `replay` and for search.

Two text chunks are written: `adapterhub`, our JSON (iTXt), which holds all that decides the bytes; and
`parameters`, the line that AUTOMATIC1111's web UI made common, so that other tools show prompt and settings.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from adapterhub_registry.errors import RecordError

FORMAT = 1
CHUNK = "adapterhub"


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


def parameters_text(record: GenerationRecord) -> str:
    """Return the settings as AUTOMATIC1111's web UI writes them."""
    lines = [record.prompt]
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
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def png_with_record(picture: Image.Image, record: GenerationRecord) -> bytes:
    """Return the picture as PNG bytes with its record inside; equal inputs give equal bytes."""
    info = PngInfo()
    info.add_itxt(CHUNK, record.to_json(), zip=False)
    info.add_text("parameters", parameters_text(record))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_record(path: Path) -> GenerationRecord:
    """Read the record out of a PNG file.

    Raises:
        RecordError: There is no such file, it is no PNG, or it carries no readable record.
    """
    try:
        with Image.open(path) as picture:
            picture.load()  # text chunks may stand after the pixels
            text = picture.text.get(CHUNK) if isinstance(picture, PngImageFile) else None
    except FileNotFoundError as exc:
        raise RecordError(path, "does not exist") from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise RecordError(path, "cannot be read as a picture") from exc
    if text is None:
        raise RecordError(path, "carries no AdapterHub record")
    try:
        return GenerationRecord.from_json(text)
    except ValueError as exc:
        raise RecordError(path, f"carries a record that cannot be read: it {exc}") from exc
