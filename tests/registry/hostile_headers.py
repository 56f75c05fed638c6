"""Files of weights whose headers mislead, hang or eat memory, one of each kind; none is safetensors."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
CAP = 8 * MIB


class Hostile(NamedTuple):
    """A file; `make` returns what it starts with, and its size: the rest is zeros, and takes no room."""

    name: str
    make: Callable[[], tuple[bytes, int]]

    def write(self, path: Path) -> None:
        """Write it."""
        start, size = self.make()
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)


def hostile_headers() -> Iterator[Hostile]:
    """Yield all of them."""
    yield Hostile("empty file", lambda: (b"", 0))
    yield Hostile("seven bytes", lambda: (bytes(7), 7))
    for name, length in (("2**64-1", 2**64 - 1), ("2**63", 2**63), ("2**32", 2**32), ("one too many", 1)):
        yield Hostile(f"length {name}", lambda length=length: (length.to_bytes(8, "little"), 8))
    yield Hostile("length 0", lambda: (bytes(8), 8))
    yield Hostile("length 100 MB, all there", lambda: (_start(b'{"', 100_000_000), 101_000_000))
    yield Hostile("over the cap by one space", lambda: _file(b"{}".ljust(CAP + 1)))
    for name, text in TEXTS.items():
        yield Hostile(name, partial(_file, text))
    for name, text in ENTRIES.items():
        yield Hostile(name, partial(_file, b'{"x":%b}' % text, 4))
    for name, entries in LAYOUTS.items():
        yield Hostile(name, partial(_file, _header(entries), 8))
    for name, make in BOMBS.items():
        yield Hostile(name, lambda make=make: _file(*make()))


def _start(text: bytes, length: int) -> bytes:
    return length.to_bytes(8, "little") + text


def _file(text: bytes, size: int = 0) -> tuple[bytes, int]:
    return _start(text, len(text)), 8 + len(text) + size


def _entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def _header(table: object) -> bytes:
    return json.dumps(table, separators=(",", ":")).encode()


GOOD = b'{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'

TEXTS = {
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "not closed": b"{",
    "two objects": b"{}{}",
    "padded with a newline": b"{}\n",
    "padded with NUL": b"{}\0\0",
    "padded with a tab": b"{} \t",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a space first": b" {}",
    "UTF-16": "{}".encode("utf-16-le"),
    "a comma alone": b"{,}",
    "metadata of numbers": b'{"__metadata__":{"a":1}}',
    "metadata of objects": b'{"__metadata__":{"a":{}}}',
    "metadata is a list": b'{"__metadata__":[]}',
    "metadata is null": b'{"__metadata__":null}',
    "metadata with a key twice": b'{"__metadata__":{"a":"1","\\u0061":"2"}}',
    "metadata twice": b'{"__metadata__":{"a":"1"},"__metadata__":{}}',
    "metadata with half a surrogate pair": b'{"__metadata__":{"a":"\\ud800"}}',
    "metadata in broken UTF-8": b'{"__metadata__":{"a":"\xff"}}',
    "metadata in surrogates as UTF-8": b'{"__metadata__":{"a":"\xed\xa0\x80"}}',
    "metadata with a raw control character": b'{"__metadata__":{"a":"\x01"}}',
    "metadata with a comma too many": b'{"__metadata__":{"a":"1",}}',
}

ENTRIES = {
    "an entry is null": b"null",
    "an entry is a list": b"[]",
    "an entry is empty": b"{}",
    "no dtype": b'{"shape":[4],"data_offsets":[0,4]}',
    "no shape": b'{"dtype":"U8","data_offsets":[0,4]}',
    "no offsets": b'{"dtype":"U8","shape":[4]}',
    "a field too many": b'{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":0}',
    "a field twice": b'{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}',
    "dtype is a number": b'{"dtype":8,"shape":[4],"data_offsets":[0,4]}',
    "dtype is not known": b'{"dtype":"U9","shape":[4],"data_offsets":[0,4]}',
    "shape is text": b'{"dtype":"U8","shape":"4","data_offsets":[0,4]}',
    "shape is negative": b'{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}',
    "shape is twice negative": b'{"dtype":"U8","shape":[-2,-2],"data_offsets":[0,4]}',
    "shape has a fraction": b'{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}',
    "shape has a truth": b'{"dtype":"U8","shape":[4,true],"data_offsets":[0,4]}',
    "shape is NaN": b'{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}',
    "shape is nested": b'{"dtype":"U8","shape":[[4]],"data_offsets":[0,4]}',
    "shape has 33 sizes": b'{"dtype":"U8","shape":[4%b],"data_offsets":[0,4]}' % (b",1" * 32),
    "offsets are negative": b'{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}',
    "offsets have a fraction": b'{"dtype":"U8","shape":[4],"data_offsets":[0.0,4.0]}',
    "offsets have an exponent": b'{"dtype":"U8","shape":[4],"data_offsets":[0,4e0]}',
    "offsets are truths": b'{"dtype":"U8","shape":[1],"data_offsets":[false,true]}',
    "offsets are text": b'{"dtype":"U8","shape":[4],"data_offsets":["0","4"]}',
    "offsets are infinite": b'{"dtype":"U8","shape":[4],"data_offsets":[0,Infinity]}',
    "offsets begin with zeros": b'{"dtype":"U8","shape":[4],"data_offsets":[00,04]}',
    "one offset": b'{"dtype":"U8","shape":[4],"data_offsets":[4]}',
    "three offsets": b'{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}',
    "a product over 2**64": b'{"dtype":"U8","shape":[4294967296,4294967297],"data_offsets":[0,4]}',
    "a product over 2**64, times 0": b'{"dtype":"U8","shape":[9223372036854775807,9,0],"data_offsets":[0,0]}',
    "half a byte": b'{"dtype":"F4","shape":[7],"data_offsets":[0,4]}',
    "the name twice": GOOD + b',"x":' + GOOD,
    "the name twice, once escaped": GOOD + b',"\\u0078":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}',
    "an empty name": b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"":' + GOOD,
    "NUL in a name": GOOD + b',"a\\u0000b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}',
    "half a surrogate pair in a name": GOOD + b',"\\udc00":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}',
    "broken UTF-8 in a name": GOOD + b',"\xc0\x80":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}',
    "a semicolon": GOOD + b';"y":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}',
    "a brace in the middle": GOOD + b'}"y":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}',
}

LAYOUTS: dict[str, dict[str, object]] = {
    "overlap": {"a": _entry(0, 5), "b": _entry(4, 8)},
    "the same bytes twice": {"a": _entry(0, 8), "b": _entry(0, 8)},
    "nothing, inside another": {"a": _entry(0, 8), "b": _entry(4, 4)},
    "a hole": {"a": _entry(0, 3), "b": _entry(4, 8)},
    "a hole at the start": {"a": _entry(1, 8)},
    "bytes behind the last": {"a": _entry(0, 7)},
    "behind the end of the file": {"a": _entry(0, 9)},
    "the end before the start": {"a": _entry(0, 8), "b": _entry(8, 4, [0])},
    "bytes that do not fit the shape": {"a": _entry(0, 8, [2, 2], "F32")},
    "a tensor called __metadata__": {"a": _entry(0, 8), "__metadata__": _entry(8, 8)},
}


def _many(number: int, *, last: str = "", sort_keys: bool = False) -> tuple[bytes, int]:
    """Return a header of many tensors of one byte each, and their bytes; the last may be a trap."""
    entries = {f"lora_unet_{place}.weight": _entry(place, place + 1) for place in range(number)}
    text = json.dumps(entries, separators=(",", ":"), sort_keys=sort_keys)
    return f"{text[:-1]}{last}}}".encode(), number


def _full(start: bytes, piece: bytes, end: bytes = b"") -> tuple[bytes, int]:
    """Return a header that a piece fills up to the cap."""
    return (start + piece * ((CAP - len(start) - len(end)) // len(piece)) + end), 0


def _pairs() -> bytes:
    numbers = count()
    return b",".join(b'"%d":""' % next(numbers) for _ in range(600_000))


TRAP = ',"trap":{"dtype":"U8","shape":[1],"data_offsets":[7,8]}'
BOMBS: dict[str, Callable[[], tuple[bytes, int]]] = {
    "100,000 tensors": lambda: _many(100_000),
    "100,000 tensors of nothing": lambda: (
        _header({f"{place}": _entry(0, 0) for place in range(100_000)}),
        0,
    ),
    "20,000 tensors, one too many of them": lambda: _many(20_000, last=TRAP),
    "19,999 tensors and an overlap": lambda: _many(19_999, last=TRAP),
    "19,999 tensors and an overlap, fields in another order": lambda: _many(
        19_999, last=TRAP, sort_keys=True
    ),
    "8 MiB of lists in lists": lambda: _full(b'{"x":{"dtype":"U8","shape":', b"["),
    "8 MiB of objects in objects": lambda: _full(b"{", b'"x":{'),
    "8 MiB of objects in metadata": lambda: _full(b'{"__metadata__":{', b'"x":{'),
    "8 MiB of empty lists": lambda: _full(b'{"x":[', b"[],", b"0]}"),
    "8 MiB of empty objects": lambda: _full(b'{"x":[', b"{},", b"0]}"),
    "8 MiB of sizes": lambda: _full(b'{"x":{"dtype":"U8","shape":[1', b",1", b'],"data_offsets":[0,1]}}'),
    "8 MiB of digits": lambda: _full(b'{"x":{"dtype":"U8","shape":[', b"9", b'],"data_offsets":[0,1]}}'),
    "8 MiB of one name": lambda: _full(b'{"', b"x", b'":' + GOOD + b"}"),
    "8 MiB of one name in escapes": lambda: _full(b'{"', b"\\n", b'":' + GOOD + b"}"),
    "8 MiB of one text": lambda: _full(b'{"__metadata__":{"a":"', b"x", b'"}}'),
    "8 MiB of one text in escapes": lambda: _full(b'{"__metadata__":{"a":"', b'\\"', b'"}}'),
    "8 MiB of one text with a wide letter": lambda: _full(
        b'{"__metadata__":{"a":"', b"x", "\U0001f40d".encode() + b'"}}'
    ),
    "8 MiB of ASCII that is decoded to wide letters": lambda: _full(
        b'{"__metadata__":{"a":"\\ud83d\\udc0d', b"x", b'"}}'
    ),
    "4 MiB of one text with a wide letter, then half a pair": lambda: (
        b'{"__metadata__":{"a":"%b%b\\ud800"}}' % ("\U0001f40d".encode(), b"x" * (4 * MIB - 40)),
        0,
    ),
    "a text without an end": lambda: _full(b'{"__metadata__":{"a":"', b"x"),
    "600,000 texts": lambda: (b'{"__metadata__":{' + _pairs()[: CAP - 40] + b"}}", 0),
    "8 MiB of spaces": lambda: _full(b"{", b" "),
    "8 MiB of commas": lambda: _full(b"{", b","),
    "8 MiB of backslashes": lambda: _full(b'{"', b"\\"),
}
