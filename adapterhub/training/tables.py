"""Tables as TOML has them, read into config dataclasses; everything wrong is told with its place."""

import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from adapterhub.errors import ConfigError

Keys: TypeAlias = tuple[str | int, ...]
"""The way to a value: names of keys, and places in lists from 0."""
Places: TypeAlias = dict[Keys, int | str]
"""Where values were written: a line of the file, or the name of an option."""
WANTED = {
    float: ("a number", "numbers"),
    int: ("a whole number", "whole numbers"),
    str: ("text", "text"),
    bool: ("true or false", "true and false"),
    Path: ("a path", "paths"),
}
STAND_INS = {str: "stand/in", Path: Path()}
"""What a missing key counts as, so that the rest of its table is checked nevertheless."""


@dataclass(frozen=True)
class Problems:
    """What is wrong with a document; it is added to.

    Attributes:
        source: What the document is called.
        places: Where its values were written; may be empty.
        found: The problems, each with its line, or 0.
    """

    source: str
    places: Places
    found: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, at: Keys, text: str) -> None:
        """Add a problem; one that several adapters have from the same line is told once.

        Args:
            at: Of the value in the document.
            text: What is wrong.
        """
        place = self.place(at)
        line = place if isinstance(place, int) else 0
        where = f"{self.source}:{line}" if line else place or self.source
        self.found.setdefault(f"{where}: {text}", line)

    def add_all(self, at: Keys, names: Sequence[str], sentences: Sequence[str]) -> None:
        """Add what a config object says of its fields.

        Args:
            at: Of its table.
            names: Of the fields.
            sentences: They begin with a field's name, or at least hold one.
        """
        for text in sentences:
            words = re.findall(r'"[^"]*"|[\w.]+', text)
            first = [int(key) if key.isdigit() else key for key in words[0].split(".")]
            if first[0] in names:
                quoted = [word.strip('"') for word in words[1:2]]
                self.add((*at, *first, *quoted), self.name((*at, *first)) + text.removeprefix(words[0]))
                continue
            named = [(*at, word) for word in words if word in names]
            written = [keys for keys in named if any(place in self.places for place in _origins(keys))]
            prefix = self.name(at)
            self.add(written[0] if written else at, f"{prefix}: {text}" if prefix else text)

    def name(self, at: Keys) -> str:
        """Return what a value is called: without its adapter, if its place says which one that is."""
        keys = at
        if self.places and at[:1] == ("adapters",) and len(at) > 2:
            keys = tuple(key for key in at[2:] if isinstance(key, str))
        return ".".join(map(str, keys))

    def place(self, at: Keys) -> int | str | None:
        """Return where a value was written, or the nearest table or list around it."""
        for length in range(len(at), 0, -1):
            for keys in _origins(at[:length]):
                if keys in self.places:
                    return self.places[keys]
        return None

    def check(self) -> None:
        """Raise what was found, in the order of its lines.

        Raises:
            ConfigError: Something was.
        """
        if self.found:
            by_line = sorted(self.found, key=lambda text: self.found[text] or float("inf"))
            raise ConfigError(self.source, by_line)


def _origins(at: Keys) -> Iterator[Keys]:
    """Yield where a value of the merged document may stand: with its adapter, or in the defaults."""
    yield at
    if at[0] == "adapters" and len(at) > 2:
        # In the defaults `data` is one table, and not a list.
        yield ("defaults", *(key for key in at[2:] if isinstance(key, str)))


def read_table(cls: type, table: Any, at: Keys, problems: Problems) -> Any:
    """Return a table as a config object, or MISSING if something is wrong with it.

    Args:
        cls: A dataclass whose fields are numbers, text, paths, lists and mappings of them, and such
            dataclasses.
        table: From TOML.
        at: Where it is in its document.
        problems: What is wrong is added to it.
    """
    if not isinstance(table, Mapping):
        problems.add(at, f"{problems.name(at)} must be a table, not {_shown(table)}")
        return MISSING
    before, hints = len(problems.found), get_type_hints(cls)
    for key in table:
        if key not in hints:
            near = _nearest(key, cls)
            name, wanted = problems.name((*at, key)), problems.name((*at, near))
            problems.add((*at, key), f'unknown key "{name}"; did you mean "{wanted}"?')
    values: dict[str, Any] = {}
    for item in fields(cls):
        name, value = item.name, MISSING
        if name in table:
            value = _convert(table[name], hints[name], (*at, name), problems)
        elif _is_required(item):
            problems.add(at, f'the key "{problems.name((*at, name))}" is missing')
        if value is not MISSING:
            values[name] = value
        elif _is_required(item):
            values[name] = _stand_in(hints[name])
    try:
        made = cls(**values)
    except ConfigError as exc:
        problems.add_all(at, list(hints), exc.problems)
    else:
        if len(problems.found) == before:
            return made
    return MISSING


def _convert(value: Any, hint: Any, at: Keys, problems: Problems) -> Any:
    """Return a value in the type of its field, or MISSING."""
    if get_origin(hint) is types.UnionType:
        (hint,) = (part for part in get_args(hint) if part is not types.NoneType)
    if is_dataclass(hint) and isinstance(hint, type):
        return read_table(hint, value, at, problems)
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if type(value) is hint:
        return value
    if hint in WANTED:
        problems.add(at, f"{problems.name(at)} must be {WANTED[hint][0]}, not {_shown(value)}")
        return MISSING
    inner = next(part for part in reversed(get_args(hint)) if part is not Ellipsis)
    is_list = get_origin(hint) is tuple
    if not isinstance(value, list | tuple if is_list else Mapping):
        kind = f"a {'list' if is_list else 'table'} of {WANTED.get(inner, ('', 'tables'))[1]}"
        problems.add(at, f"{problems.name(at)} must be {kind}, not {_shown(value)}")
        return MISSING
    keys = range(len(value)) if is_list else [*value]
    items = [_convert(value[key], inner, (*at, key), problems) for key in keys]
    if MISSING in items:
        return MISSING
    return tuple(items) if is_list else dict(zip(keys, items, strict=True))


def _is_required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _stand_in(hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return (_stand_in(get_args(hint)[0]),)
    if not is_dataclass(hint) or not isinstance(hint, type):
        return STAND_INS[hint]
    hints = get_type_hints(hint)
    return hint(**{item.name: _stand_in(hints[item.name]) for item in fields(hint) if _is_required(item)})


def _nearest(key: str, cls: type) -> str:
    """Return the field that comes nearest to a key, here or in a table below."""
    known = {name: name for name in get_type_hints(cls)}
    for name, hint in get_type_hints(cls).items():
        parts = [part for part in (hint, *get_args(hint)) if is_dataclass(part)]
        for inner in (item.name for part in parts for item in fields(part)):
            known.setdefault(inner, f"{name}.{inner}")
            known[f"{name}.{inner}"] = f"{name}.{inner}"
    return known[get_close_matches(key, known, n=1, cutoff=0.0)[0]]


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)
