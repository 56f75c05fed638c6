"""The header of a safetensors file, read and checked; no tensor is read, and nothing is executed."""

import json
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub_registry.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x93NUMPY")


class TensorInfo(NamedTuple):
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A safetensors header that was checked: offsets follow each other and end with the file."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


def is_pickle(path: Path) -> bool:
    """Say whether a file starts like a pickle, a torch archive or a NumPy file, whatever its name.

    A safetensors header of 640 bytes begins like a pickle, so a length that fits the file and a brace after
    it come first. Pickles of protocol 0 and 1 have no mark; what is no safetensors is refused by its header
    anyway.
    """
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] == b"{" and length <= path.stat().st_size - 8:
        return False
    return start.startswith(PICKLE_STARTS)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    The rules are those of the format's specification: eight bytes of length, JSON, and tensors that follow
    each other without holes from the end of the header to the end of the file.

    Raises:
        WeightsError: A rule is broken.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise WeightsError(path, f"it is no safetensors file: it has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise WeightsError(path, "it is no safetensors file: its header would be longer than the file")
        text = file.read(length)
    try:
        table = _parse(text)
        metadata = table.pop("__metadata__", {})
        _check_metadata(metadata)
        tensors = {name: _tensor_info(entry) for name, entry in table.items()}
        _check_numbers(tensors.values())
        _check_offsets(tensors.values(), size - 8 - length)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise WeightsError(path, f"its safetensors header is damaged: {exc}") from exc
    return Header(tensors, metadata, 8 + length)


def _parse(text: bytes) -> dict[str, Any]:
    table: Any = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("the header is no object")
    found: dict[str, Any] = table  # pyright: ignore[reportUnknownVariableType]
    if text.count(b'"data_offsets"') != len(found) - ("__metadata__" in found):
        json.loads(text, object_pairs_hook=_no_doubles)  # slower, and sees a key that stands twice
    return found


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        raise ValueError("__metadata__ does not map text to text")


def _tensor_info(entry: Any) -> TensorInfo:
    start, end = entry["data_offsets"]
    return TensorInfo(entry["dtype"], tuple(entry["shape"]), start, end)


def _check_numbers(tensors: Collection[TensorInfo]) -> None:
    """Check all at once what JSON may hold: other types than whole numbers, and negative ones."""
    numbers = [number for info in tensors for number in (*info.shape, info.start, info.end)]
    if numbers and ({*map(type, numbers)} != {int} or min(numbers) < 0):
        raise ValueError("a shape or an offset is no natural number")
    if not all(isinstance(dtype, str) for dtype in {info.dtype for info in tensors}):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("a dtype is no text")
    for dtype, shape, start, end in tensors:
        size = DTYPE_BYTES.get(dtype)
        if size is not None and math.prod(shape) * size != end - start:
            raise ValueError("a tensor's bytes do not fit its shape")


def _check_offsets(tensors: Collection[TensorInfo], size: int) -> None:
    position = 0
    for info in sorted(tensors, key=itemgetter(2, 3)):
        if info.start != position or info.end < info.start:
            raise ValueError("tensors overlap or leave a hole")
        position = info.end
    if position != size:
        raise ValueError(f"tensors end at byte {position} of {size}")
