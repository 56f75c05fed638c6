"""Values from the command line, such as `defaults.network.rank=8`, put into a config's tables."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from adapterhub.training.layering import as_list, expand_short_forms
from adapterhub.training.tables import Keys, Problems


def set_values(
    table: Mapping[str, Any],
    assignments: Sequence[str],
    problems: Problems,
    *,
    within: Keys = (),
    above: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a document with some values put in place of its own.

    An adapter goes by its name or its number from 0: `adapters.me/ink.steps=100`. A value is TOML, or text if
    it is no TOML. Where each stands is added to the places of `problems`.

    Args:
        table: The document.
        assignments: Each is `key=value`, its key dotted as in TOML.
        problems: What is wrong is added to it.
        within: The table that keys begin in.
        above: First parts of keys that begin in the document nevertheless.
    """
    document = expand_short_forms(table)
    for assignment in assignments:
        option = f"--set {assignment}"
        key, equals, text = assignment.partition("=")
        try:
            if not equals:
                raise ValueError("it must be KEY=VALUE")
            keys = _keys(key.strip(), as_list(document.get("adapters")))
            if keys[0] not in above:
                keys = (*within, *keys)
            _put(document, keys, _value(text))
        except ValueError as exc:
            problems.places[option,] = option
            problems.add((option,), str(exc))
            continue
        for inner in [place for place in problems.places if place[: len(keys)] == keys]:
            del problems.places[inner]
        problems.places[keys] = option
        document = expand_short_forms(document)
    return document


def _keys(text: str, adapters: Sequence[Any]) -> Keys:
    """Return the parts of a dotted key.

    Raises:
        ValueError: It is none, or names no adapter; the message is the sentence.
    """
    above, _, rest = text.partition(".")
    if above != "adapters":
        return _parts(text)
    names = {str(number): number for number in range(len(adapters))}
    for number, adapter in enumerate(adapters):
        if isinstance(adapter, Mapping) and isinstance(adapter.get("name"), str):
            names[adapter["name"].lower()] = number
    # A name may hold dots, so one may be the beginning of another.
    found = [name for name in names if f"{rest.lower()}.".startswith(f"{name}.")]
    if not found:
        raise ValueError(f"it names no adapter; there are: {', '.join(names)}")
    name = max(found, key=len)
    inner = rest[len(name) + 1 :]
    if not inner:
        raise ValueError(f"it must say what to set of the adapter, such as adapters.{name}.steps=100")
    return "adapters", names[name], *_parts(inner)


def _parts(text: str) -> Keys:
    try:
        table: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        table = {}
    parts: list[str | int] = []
    while isinstance(table, dict) and len(table) == 1:
        ((key, table),) = table.items()
        parts.append(int(key) if key.isdigit() else key)
    if table != 0:
        raise ValueError(f'"{text}" is no key; one looks like defaults.network.rank')
    return tuple(parts)


def _value(text: str) -> Any:
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if len(read) == 1 else text


def _put(document: dict[str, Any], keys: Keys, value: Any) -> None:
    """Set a value, making the tables on the way.

    Raises:
        ValueError: There is a value on the way, or no such place in a list; the message is the sentence.
    """
    *above, last = keys
    inner: Any = document
    for number, key in enumerate(above):
        if isinstance(inner, dict):
            inner = inner.setdefault(str(key), {})
        else:
            _check_place(inner, key, keys[:number])
            inner = inner[key]
    if isinstance(inner, dict):
        inner[str(last)] = value
    else:
        _check_place(inner, last, keys[:-1])
        inner[last] = value


def _check_place(inner: Any, key: str | int, above: Keys) -> None:
    name = ".".join(map(str, above))
    if not isinstance(inner, list):
        raise ValueError(f"{name} is no table")
    if not isinstance(key, int) or key >= len(inner):
        raise ValueError(f'{name} is a list of {len(inner)}, counted from 0, and "{key}" is not among them')
