"""The YAML at the head of a model card: read as plain text, lists and tables, and nothing else."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import yaml

from adapterhub_registry.errors import CardError

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"

FENCE = "---"
MAX_BYTES = 128 << 10  # PyYAML takes about ten seconds for a megabyte
MAX_DEPTH = 20
NULLS = ("", "~", "null", "Null", "NULL")
# Beside its own errors, PyYAML lets these through: an escape beyond Unicode, a number of 5000 digits.
YAML_ERRORS = (yaml.YAMLError, ValueError, OverflowError)


def split_front_matter(text: str) -> tuple[str, str]:
    """Return (front matter, the text behind it); a text without front matter is all body.

    Example:
        >>> split_front_matter("---\\nlicense: mit\\n---\\n# Ink")
        ('license: mit', '# Ink')
    """
    lines = text.split("\n")
    if lines[0].rstrip() != FENCE:
        return "", text
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == FENCE), None)
    if end is None:
        return "", text
    return "\n".join(lines[1:end]), "\n".join(lines[end + 1 :])


def join_front_matter(front: Mapping[str, Any], body: str) -> str:
    """Return a card of both parts; `split_front_matter` takes it apart again."""
    dumped: str = yaml.dump(dict(front), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return f"{FENCE}\n{dumped}{FENCE}\n\n{body}\n"


def read_front_matter(text: str) -> tuple[dict[str, Value], dict[str, int]]:
    """Read front matter; scalars stay as they were written, so that `1.0`, `no` and `007` are text.

    Args:
        text: What stands between the fences.

    Returns:
        The fields, and in which line of the card each begins.

    Raises:
        CardError: It is no YAML table, is nested too deep, or uses anchors, aliases or tags.
    """
    return _Reader(text).fields()


class _Dumper(yaml.SafeDumper):
    """Escapes every kind of line break; YAML would fold them into one kind."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.splitlines() in ([], [text]) else '"'
    represent: Any = dumper.represent_scalar  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return represent("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


class _Reader:
    """Builds values from YAML's events, so that no object is ever constructed and no alias expanded."""

    def __init__(self, text: str) -> None:
        parse: Any = yaml.parse  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self._events: Iterator[Any] = parse(text, Loader=yaml.SafeLoader)

    def fields(self) -> tuple[dict[str, Value], dict[str, int]]:
        lines: dict[str, int] = {}
        event = self._next("")
        while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            event = self._next("")
        if isinstance(event, yaml.StreamEndEvent):
            return {}, {}
        if isinstance(event, yaml.ScalarEvent) and event.value == "":
            fields: Value = {}
        else:
            fields = self._value(event, "", 0, lines)
        if not isinstance(fields, dict):
            raise CardError("", _line(event), "it must be fields with values")
        for end in ("document", "stream"):
            event = self._next("")
            if not isinstance(event, yaml.DocumentEndEvent | yaml.StreamEndEvent):
                raise CardError("", _line(event), f"something follows the end of the {end}")
        return fields, lines

    def _value(self, event: Any, field: str, depth: int, lines: dict[str, int] | None = None) -> Value:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None or event.tag is not None:
            raise CardError(field, _line(event), "anchors, aliases and tags are not read")
        if isinstance(event, yaml.ScalarEvent):
            is_null = event.style is None and event.value in NULLS
            return None if is_null else self._text(event, field)
        if depth == MAX_DEPTH:
            raise CardError(field, _line(event), f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Value] = []
            while not isinstance(event := self._next(field), yaml.SequenceEndEvent):
                items.append(self._value(event, field, depth + 1))
            return items
        table: dict[str, Value] = {}
        while not isinstance(event := self._next(field), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise CardError(field, _line(event), "names of fields must be words")
            name = self._text(event, field)
            if name in table:
                raise CardError(field or name, _line(event), f'"{name}" stands there twice')
            if lines is not None:
                lines[name] = _line(event)
            table[name] = self._value(self._next(field or name), field or name, depth + 1)
        return table

    def _text(self, event: Any, field: str) -> str:
        text: str = event.value
        if re.search("[\ud800-\udfff]", text):
            raise CardError(field, _line(event), "it holds half of a surrogate pair, which is no text")
        return text

    def _next(self, field: str) -> Any:
        try:
            return next(self._events)
        except YAML_ERRORS as exc:
            mark = getattr(exc, "problem_mark", None)
            reason = str(getattr(exc, "problem", None) or exc).splitlines()[0]
            raise CardError(field, 0 if mark is None else mark.line + 2, f"it is no YAML ({reason})") from exc


def _line(event: Any) -> int:
    """Return the line in the card; front matter begins in its second."""
    return event.start_mark.line + 2
