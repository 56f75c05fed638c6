"""Make a picture again from its own record, and say what differs if that fails."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from adapterhub.bases.companions import Companion, find_controlnet, find_refiner
from adapterhub.bases.find import Base, find_base
from adapterhub.errors import RecordError, ReplayError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.generating import OnCount
from adapterhub.runtime.records import recorded_companions, recorded_inputs, recorded_plan
from adapterhub.runtime.start import Inputs, Picturable
from adapterhub_registry.differences import Pair, compare_pixels, differing_settings
from adapterhub_registry.encoding import Encoding
from adapterhub_registry.record import GenerationRecord, read_picture
from adapterhub_registry.store import Registry


@dataclass(frozen=True)
class ReplayResult:
    """A picture that was made again.

    Attributes:
        image: The picture.
        record: Its record, as it is here.
        encoding: How it has to be written to be the first file again.
        differences: What differs from the first record although no pixel does, for example the version of a
            library: name to (then, now).
    """

    image: Image.Image
    record: GenerationRecord
    encoding: Encoding
    differences: Mapping[str, Pair]


def replay(
    path: Path,
    *,
    registry: Registry | None = None,
    image: Picturable | None = None,
    mask: Picturable | None = None,
    control: Picturable | None = None,
    on_step: OnCount | None = None,
) -> ReplayResult:
    """Make the picture at `path` again.

    Base, adapters, ControlNet, refiner, dtype, threads, batch shape and row, and what was compiled are taken
    from the record. Where the file does not keep every pixel (JPEG, and WebP with a quality), the new picture
    is encoded alike before both are compared.

    Args:
        path: A PNG, JPEG or WebP that AdapterHub wrote.
        registry: Where its adapters are found, by digest; by default the one in `ADAPTERHUB_HOME`.
        image: The picture that it started from, if it did; the record has its digest alone.
        mask: The mask of that, likewise.
        control: The picture that steered it, likewise.
        on_step: Called after each denoising step with (steps done, steps).

    Returns:
        The picture, which the file at `path` shows in every pixel, and what differs here all the same.

    Raises:
        RecordError: The file carries no readable record.
        AdapterNotFoundError, VersionNotFoundError: An adapter of the record is not in the registry.
        InputPictureError: A picture that it was made from is missing, or is another one.
        ReplayError: The picture came out different, or its base, ControlNet or refiner is not the one here;
            the fields name each setting that differs between the record and this machine.

    Example:
        >>> import tempfile
        >>> from adapterhub_registry.record import png_with_record
        >>> with Runtime.load("mini", device="cpu") as runtime:
        ...     made = runtime.generate("a star", seed=1, steps=2)
        >>> target = Path(tempfile.mkdtemp()) / "star.png"
        >>> _ = target.write_bytes(png_with_record(made.images[0], made.record))
        >>> replay(target).record == made.record
        True
    """
    original = read_picture(path)
    record = original.record
    inputs = Inputs(image, mask, control)
    try:
        recorded_plan(record)
        recorded_inputs(record, inputs)
        companions = recorded_companions(record)
    except ValueError as exc:
        raise RecordError(path, f"carries a record that cannot be read: it {exc}") from exc
    base = find_base(record.base.name)
    _require_same(path, "base", base, record.base.identity)
    for role, (name, identity) in companions.items():
        found = find_refiner(name) if role == "refiner" else find_controlnet(name)
        _require_same(path, role, found, identity)
    names = {role: name for role, (name, _) in companions.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(record.threads)
    try:
        loaded = Runtime.load(
            base,
            registry=registry,
            device=record.device,
            dtype=record.dtype,
            compile=record.compiled,
            reserve_rank=record.reserved_rank or None,
            controlnet=names.get("controlnet"),
            refiner=names.get("refiner"),
            refiner_swap=True,  # it fits wherever the picture was made, and the bytes are the same
        )
        with loaded as runtime:
            result = runtime.reproduce(record, inputs=inputs, on_step=on_step)
    finally:
        torch.set_num_threads(threads)
    encoding = Encoding.of(original.encoding.format, original.encoding.quality)
    differences = differing_settings(record, result.record)
    if encoding.encoder != original.encoding.encoder:
        differences["encoding.encoder"] = (original.encoding.encoder, encoding.encoder)
    if not compare_pixels(original.image, encoding.seen(result.images[0])).is_equal:
        raise ReplayError(path, "came out different", differences)
    return ReplayResult(result.images[0], result.record, encoding, differences)


def _require_same(path: Path, role: str, found: Base | Companion, identity: str) -> None:
    if found.identity != identity:
        reason = f'was made with another {role} than the "{found.name}" here'
        raise ReplayError(path, reason, {f"{role} identity": (identity, found.identity)})
