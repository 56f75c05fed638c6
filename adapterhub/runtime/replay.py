"""Make a picture again from its own record, and say what differs if that fails."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from adapterhub.bases.find import find_base
from adapterhub.errors import RecordError, ReplayError
from adapterhub.runtime.engine import OnCount, Runtime
from adapterhub.runtime.records import recorded_plan
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


def replay(path: Path, *, registry: Registry | None = None, on_step: OnCount | None = None) -> ReplayResult:
    """Make the picture at `path` again.

    Base, adapters, dtype, threads, batch shape and row, and what was compiled are taken from the record.
    Where the file does not keep every pixel (JPEG, and WebP with a quality), the new picture is encoded alike
    before both are compared.

    Args:
        path: A PNG, JPEG or WebP that AdapterHub wrote.
        registry: Where its adapters are found, by digest; by default the one in `ADAPTERHUB_HOME`.
        on_step: Called after each denoising step with (steps done, steps).

    Returns:
        The picture, which the file at `path` shows in every pixel, and what differs here all the same.

    Raises:
        RecordError: The file carries no readable record.
        AdapterNotFoundError, VersionNotFoundError: An adapter of the record is not in the registry.
        ReplayError: The picture came out different, or its base is not the one here; the fields name each
            setting that differs between the record and this machine.

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
    try:
        recorded_plan(record)
    except ValueError as exc:
        raise RecordError(path, f"carries a record that cannot be read: it {exc}") from exc
    base = find_base(record.base.name)
    if base.identity != record.base.identity:
        pair = (record.base.identity, base.identity)
        raise ReplayError(
            path, f'was made on another base than the "{base.name}" here', {"base identity": pair}
        )
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
        )
        with loaded as runtime:
            result = runtime.reproduce(record, on_step=on_step)
    finally:
        torch.set_num_threads(threads)
    encoding = Encoding.of(original.encoding.format, original.encoding.quality)
    differences = differing_settings(record, result.record)
    if encoding.encoder != original.encoding.encoder:
        differences["encoding.encoder"] = (original.encoding.encoder, encoding.encoder)
    if not compare_pixels(original.image, encoding.seen(result.images[0])).is_equal:
        raise ReplayError(path, "came out different", differences)
    return ReplayResult(result.images[0], result.record, encoding, differences)
