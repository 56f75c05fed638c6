"""The header of a safetensors file, read and checked; no tensor is read, and nothing is executed.

Nobody vouches for the file, so its header is matched against the format's own grammar, and never given whole
to a JSON parser: what is nested, doubled or too large is refused where it stands. The caps bound what a file
costs in time and memory; benchmarks/adding.py measures it.
"""

import json
import math
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from operator import itemgetter, sub
from pathlib import Path
from typing import NamedTuple

from adapterhub_registry.errors import PickleRefusedError, WeightsError

MAX_HEADER_BYTES = 8 << 20
MAX_METADATA = 4 << 20
"""Letters; a header with others than ASCII may have no more in all, because each may take four bytes then."""
MAX_TENSORS = 20_000
MAX_TEXTS = 10_000
MAX_COUNT = 2**63 - 1
"""Of numbers in a tensor: what other programs can count."""
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
PICKLE = "a pickle"
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x93NUMPY")
ARCHIVE_STARTS = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"PK\x07\x08": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
START_BYTES = 512

Row = tuple[str, ...]
"""Name, dtype, shape, start and end of a tensor as they are written, and what may follow."""

# The grammar. A `+` after a repetition means: never go back, so a match takes time in proportion to its text.
_SPACE = r"[ \t\r\n]*+"
_NUMBER = r"(?:0|[1-9][0-9]{0,18}+)"


def _fields(colon: str, comma: str, space: str) -> dict[str, str]:
    return {
        "dtype": rf'"dtype"{colon}"([A-Z0-9_]{{1,16}}+)"',
        "shape": rf'"shape"{colon}\[{space}((?:{_NUMBER}(?:{comma}{_NUMBER}){{0,31}}+)?+){space}\]',
        "data_offsets": rf'"data_offsets"{colon}\[{space}({_NUMBER}){comma}({_NUMBER}){space}\]',
    }


def _plain(colon: str, comma: str) -> tuple[re.Pattern[str], str, int]:
    """Return the pattern of a tensor as one writer has it, the comma, and its length but for the groups."""
    fields = comma.join(_fields(colon, comma, "").values())
    length = len('""{"dtype""""shape"[]"data_offsets"[]}') + 4 * len(colon) + 3 * len(comma)
    return re.compile(rf'"([^"\\\x00-\x1f]{{1,1000}}+)"{colon}\{{{fields}\}}({comma}|\}})'), comma, length


_PLAIN = (_plain(":", ","), _plain(": ", ", "))  # safetensors and Python's json
_COLON, _COMMA = rf"{_SPACE}:{_SPACE}", rf"{_SPACE},{_SPACE}"
_NEXT = rf"{_SPACE}(?:,{_SPACE}(?!\}})|(?=\}}))"
_ORDERS = tuple(permutations(_fields(_COLON, _COMMA, _SPACE).items()))
_TENSOR = re.compile(
    rf'"((?:[^"\\\x00-\x1f]{{1,1000}}+|\\.){{1,99}}+)"{_COLON}\{{{_SPACE}'
    rf"(?:{'|'.join(_COMMA.join(pattern for _, pattern in order) for order in _ORDERS)}){_SPACE}\}}{_NEXT}"
)
_METADATA = re.compile(rf'"__metadata__"{_COLON}\{{{_SPACE}')
_TO_FIRST, _TO_VALUE, _TO_NEXT = re.compile(_SPACE), re.compile(_COLON), re.compile(_NEXT)
_decode = json.JSONDecoder().raw_decode


def _places() -> dict[int, tuple[int, ...]]:
    """Return, by the last group of each order of fields, the groups of a `Row`."""
    places: dict[int, tuple[int, ...]] = {}
    group = 1
    for order in _ORDERS:
        found: dict[str, int] = {}
        for name, _ in order:
            found[name] = group + 1
            group += 2 if name == "data_offsets" else 1
        start = found["data_offsets"]
        places[group] = (1, found["dtype"], found["shape"], start, start + 1)
    return places


_PLACES = _places()


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
        return foreign_start(file.read(START_BYTES), path.stat().st_size) == PICKLE


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    The rules are those of the format's specification: eight bytes of length, JSON that is padded with spaces,
    and tensors that follow each other without holes from the end of the header to the end of the file.

    Raises:
        PickleRefusedError: It holds pickled objects.
        WeightsError: It is an archive, breaks a rule, or passes a cap.
        OSError: The file cannot be read.
    """
    found = path.stat()
    size = found.st_size
    if not stat.S_ISREG(found.st_mode):
        raise WeightsError(path, "it is no file")
    with path.open("rb") as file:
        start = file.read(START_BYTES)
        foreign = foreign_start(start, size)
        if foreign == PICKLE:
            raise PickleRefusedError(path)
        if foreign:
            raise WeightsError(path, f"it is {foreign}; unpack it, and use the .safetensors file in it")
        if len(start) < 8:
            raise WeightsError(path, f"it is no safetensors file: it has {size} bytes")
        length = int.from_bytes(start[:8], "little")
        if length > size - 8:
            raise WeightsError(path, "it is no safetensors file: its header would be longer than the file")
        if length > MAX_HEADER_BYTES:
            raise WeightsError(path, f"its header has {length} bytes, and more than 8 MiB are not read")
        file.seek(8)
        content = file.read(length)
    try:
        text = content.decode()
        del content  # the caps are for one copy
        tensors, metadata = _parse(text, size - 8 - length)
    except ValueError as exc:
        raise WeightsError(path, f"its safetensors header is damaged: {exc}") from exc
    return Header(tensors, metadata, 8 + length)


def foreign_start(start: bytes, size: int) -> str:
    """Return what a file is by its first bytes, a pickle or an archive; empty if it is neither."""
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return ""
    if start.startswith(PICKLE_STARTS) or (start.startswith(b"PK") and b"data.pkl" in start):
        return PICKLE
    if start[257:262] == b"ustar":
        return "a tar archive"
    return next((name for mark, name in ARCHIVE_STARTS.items() if start.startswith(mark)), "")


def _parse(text: str, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors, whose data has `size` bytes, and `__metadata__`."""
    if not text.startswith("{"):
        raise ValueError("it begins with no brace")
    if len(text) > MAX_METADATA and ("\\u" in text or not text.isascii()):
        raise ValueError("it has more than 4 MiB with other letters than ASCII")
    if text.count('"data_offsets"') > MAX_TENSORS:
        raise ValueError(f"it has more than {MAX_TENSORS:,} tensors")
    rows: list[Row] = []
    metadata: dict[str, str] | None = None
    position = _after(_TO_FIRST, text, 1)
    while text[position : position + 1] != "}":
        if not rows and (found := _plain_rows(text, position)):
            rows = found
            position = text.rindex("}")
        elif (tensor := _TENSOR.match(text, position)) is not None:
            rows.append(tensor.group(*_PLACES[tensor.lastindex or 0]))
            position = tensor.end()
        elif metadata is None and (opened := _METADATA.match(text, position)) is not None:
            metadata, position = _texts(text, opened.end())
            position = _after(_TO_NEXT, text, position)
        else:
            raise ValueError(f"this is no tensor: {text[position : position + 80]!r}")
    if text[position + 1 :].strip(" "):
        raise ValueError("it goes on after its end")
    return _tensors(rows, size), metadata or {}


def _plain_rows(text: str, start: int) -> list[Row]:
    """Return all tensors at once, if from here to the end they stand as one of the usual writers has them."""
    for pattern, comma, length in _PLAIN:
        if pattern.match(text, start):
            rows: list[Row] = pattern.findall(text, start)
            # Nothing was passed over if the end is where it must be by what was found.
            end = start + sum(map(len, chain.from_iterable(rows))) + len(rows) * length
            marks = [row[-1] for row in rows]
            is_all = {*marks[:-1]} <= {comma} and marks[-1] == "}" and not text[end:].strip(" ")
            return rows if is_all else []
    return []


def _texts(text: str, start: int) -> tuple[dict[str, str], int]:
    """Return a flat object of texts, and the position after it."""
    texts: dict[str, str] = {}
    position = start
    while text[position : position + 1] != "}":
        key, position = _string(text, position)
        value, position = _string(text, _after(_TO_VALUE, text, position))
        position = _after(_TO_NEXT, text, position)
        if key in texts:
            raise ValueError(f'"{key[:80]}" stands twice in __metadata__')
        texts[key] = value
        if len(texts) > MAX_TEXTS or position - start > MAX_METADATA:
            raise ValueError(f"__metadata__ has more than 4 MiB or {MAX_TEXTS:,} keys")
    return texts, position + 1


def _string(text: str, position: int) -> tuple[str, int]:
    if text[position : position + 1] != '"':
        raise ValueError(f"__metadata__ does not map text to text: {text[position : position + 80]!r}")
    value, position = _decode(text, position)
    if not value.isascii():
        value.encode()  # half of a pair of surrogates is no text
    return value, position


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    if found is None:
        raise ValueError(f"a comma or a colon is missing: {text[position : position + 80]!r}")
    return found.end()


def _tensors(rows: Sequence[Row], size: int) -> dict[str, TensorInfo]:
    """Return the tensors by name; each must have the bytes of its shape, and all together those of the file.

    It works on columns, because 20,000 rows one by one take too long.
    """
    names, dtypes, shapes, starts, ends = (list(map(itemgetter(place), rows)) for place in range(5))
    layouts = {pair: _layout(*pair) for pair in set(zip(dtypes, shapes, strict=True))}
    chosen = [layouts[pair] for pair in zip(dtypes, shapes, strict=True)]
    first, last = list(map(int, starts)), list(map(int, ends))
    for name, length, (_, _, wanted) in zip(names, map(sub, last, first), chosen, strict=True):
        if length != wanted:
            raise ValueError(f"{name[:80]} has {length} bytes, and its shape needs {wanted}")
    pairs = sorted(zip(first, last, strict=True))
    if [0, *map(itemgetter(1), pairs)] != [*map(itemgetter(0), pairs), size]:
        raise ValueError(f"its tensors overlap, leave a hole, or are not {size} bytes altogether")
    tensors = {
        name if "\\" not in name else _escaped(name): TensorInfo(dtype, shape, start, end)
        for name, (dtype, shape, _), start, end in zip(names, chosen, first, last, strict=True)
    }
    if len(tensors) != len(rows) or "__metadata__" in tensors:
        doubled = Counter(names).most_common(1)[0][0]
        raise ValueError(f"{doubled[:80]} stands twice, or is no name")
    return tensors


def _layout(dtype: str, shape: str) -> tuple[str, tuple[int, ...], int]:
    """Return dtype, shape and number of bytes."""
    sizes = tuple(map(int, shape.split(","))) if shape else ()
    if dtype not in DTYPE_BITS:
        raise ValueError(f'the dtype "{dtype}" is not known')
    bits = math.prod(sizes) * DTYPE_BITS[dtype]
    if math.prod(size or 1 for size in sizes) > MAX_COUNT or bits % 8:
        raise ValueError(f"no tensor of {dtype} has the shape {list(sizes)}")
    return dtype, sizes, bits // 8


def _escaped(name: str) -> str:
    """Return a name that is written with escapes."""
    text, _ = _string(f'"{name}"', 0)
    if any(letter < " " for letter in text):
        raise ValueError(f"{name[:80]} is no name")
    return text
