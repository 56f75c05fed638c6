"""Make a picture again from its own record, and say what differs if that fails."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops

from adapterhub.bases.find import find_base
from adapterhub.errors import RecordError, ReplayError
from adapterhub.runtime.engine import OnCount, Runtime
from adapterhub.runtime.records import recorded_plan
from adapterhub_registry.record import GenerationRecord, read_record
from adapterhub_registry.store import Registry


@dataclass(frozen=True)
class ReplayResult:
    """A picture that was made again.

    Attributes:
        image: The picture.
        record: Its record, as it is here.
        differences: What differs from the first record although no pixel does, for example the version of a
            library: name to (then, now).
    """

    image: Image.Image
    record: GenerationRecord
    differences: Mapping[str, tuple[object, object]]


def replay(path: Path, *, registry: Registry | None = None, on_step: OnCount | None = None) -> ReplayResult:
    """Make the picture at `path` again.

    Base, adapters, dtype, threads, batch shape and row, and what was compiled are taken from the record.

    Args:
        path: A PNG that AdapterHub wrote.
        registry: Where its adapters are found, by digest; by default the one in `ADAPTERHUB_HOME`.
        on_step: Called after each denoising step with (steps done, steps).

    Returns:
        The picture, equal to the one at `path` in every pixel, and what differs here all the same.

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
    record = read_record(path)
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
    with Image.open(path) as original:
        is_equal = ImageChops.difference(original.convert("RGB"), result.images[0]).getbbox() is None
    differences = _differences(record, result.record)
    if not is_equal:
        raise ReplayError(path, "came out different", differences)
    return ReplayResult(result.images[0], result.record, differences)


def _differences(then: GenerationRecord, now: GenerationRecord) -> dict[str, tuple[object, object]]:
    """Return every setting that differs between two records, by dotted name."""
    was, here = _flat(asdict(then)), _flat(asdict(now))
    return {
        name: (was.get(name), here.get(name))
        for name in sorted(was.keys() | here.keys())
        if was.get(name) != here.get(name)
    }


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
