"""On which line of a TOML document each key stands; `tomllib` reads the values and does not say."""

import re
import tomllib
from bisect import bisect_left
from typing import Any

from adapterhub.training.tables import Keys

SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
# A closing triple quote may follow one or two quotes that belong to the string.
STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'', re.DOTALL)
KEY = re.compile(r'(?:"(?:\\.|[^"\\])*"|\'[^\']*\'|[^"\'=\]])+')
SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[Keys, int]:
    """Return the line of every key, table and item of a list, counted from 1.

    A table's is that of its header, or else of the first key that makes it.

    Args:
        text: Valid TOML, as `tomllib` has accepted it.

    Example:
        >>> key_lines('base = "mini"\\n[[adapters]]\\nnetwork.rank = 8')["adapters", 0, "network", "rank"]
        3
    """
    return _Document(text.replace("\r\n", "\n")).lines


class _Document:
    def __init__(self, text: str) -> None:
        self.lines: dict[Keys, int] = {}
        self._text = text
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._counts: dict[Keys, int] = {}
        table: Keys = ()
        at = self._skip(0)
        while at < len(text):
            if text[at] == "[":
                table, at = self._header(at)
            else:
                at = self._pair(at, table)
            at = self._skip(at)

    def _header(self, at: int) -> tuple[Keys, int]:
        """Read `[table]` or `[[table]]`; return its keys, and where it ends."""
        brackets = 2 if self._text.startswith("[[", at) else 1
        match = self._match(KEY, at + brackets)
        keys: Keys = ()
        *above, last = _parts(match[0])
        for part in above:
            keys = (*keys, part)
            self._note(keys, at)
            if keys in self._counts:  # the table is in the newest item of this list
                keys = (*keys, self._counts[keys] - 1)
        keys = (*keys, last)
        if brackets == 2:
            self._note(keys, at)
            self._counts[keys] = self._counts.get(keys, 0) + 1
            keys = (*keys, self._counts[keys] - 1)
        self.lines[keys] = self._line(at)
        return keys, match.end() + brackets

    def _pair(self, at: int, table: Keys) -> int:
        """Read `key = value`; return where it ends."""
        match = self._match(KEY, at)
        keys = table
        for part in _parts(match[0]):
            keys = (*keys, part)
            self._note(keys, at)
        return self._value(self._skip(match.end() + 1), keys)

    def _value(self, at: int, keys: Keys) -> int:
        first = self._text[at]
        if first in "\"'":
            return self._match(STRING, at).end()
        if first not in "[{":
            return self._match(SCALAR, at).end()
        number, at = 0, self._skip(at + 1)
        while self._text[at] not in "]}":
            if first == "[":
                self._note((*keys, number), at)
                at = self._value(at, (*keys, number))
            else:
                at = self._pair(at, keys)
            number, at = number + 1, self._skip(at)
            if self._text[at] == ",":
                at = self._skip(at + 1)
        return at + 1

    def _note(self, keys: Keys, at: int) -> None:
        self.lines.setdefault(keys, self._line(at))

    def _line(self, at: int) -> int:
        return bisect_left(self._ends, at) + 1

    def _skip(self, at: int) -> int:
        return self._match(SPACE, at).end()

    def _match(self, pattern: re.Pattern[str], at: int) -> re.Match[str]:
        match = pattern.match(self._text, at)
        if match is None:
            raise ValueError(f"this is no valid TOML: {self._text[at : at + 20]!r}")
        return match


def _parts(raw: str) -> tuple[str, ...]:
    """Return the parts of a dotted key, its quotes and escapes as TOML has them."""
    table: Any = tomllib.loads(f"{raw} = 0")
    parts: list[str] = []
    while isinstance(table, dict):
        ((key, table),) = table.items()
        parts.append(key)
    return tuple(parts)
