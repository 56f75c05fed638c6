"""How the tables of a config file become one table an adapter: a preset, the defaults, and its own keys."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapterhub.training.presets import PRESETS
from adapterhub.training.tables import Problems


def expand_short_forms(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with `base = "mini"` and `data = "folder"` written as tables; a copy all through."""
    copy: dict[str, Any] = _copied(table)
    if isinstance(copy.get("base"), str):
        copy["base"] = {"model": copy["base"]}
    for owner in (copy.get("defaults"), *as_list(copy.get("adapters"))):
        if isinstance(owner, dict) and isinstance(owner.get("data"), str | Path):
            owner["data"] = {"path": owner["data"]}
    for adapter in as_list(copy.get("adapters")):
        if isinstance(adapter, dict) and isinstance(adapter.get("data"), dict):
            adapter["data"] = [adapter["data"]]
    return copy


def merge_defaults(table: Mapping[str, Any], folder: Path, problems: Problems) -> dict[str, Any]:
    """Return a document without `defaults`, whose adapters say everything themselves.

    What an adapter says stands above `[defaults]`, and this above its preset. Tables are merged key by key;
    `[defaults.data]` goes below each of its folders.

    Args:
        table: The document.
        folder: What paths are relative to.
        problems: What is wrong is added to it.
    """
    merged = expand_short_forms(table)
    defaults, adapters = merged.pop("defaults", {}), merged.setdefault("adapters", [])
    if not isinstance(defaults, Mapping):
        problems.add(("defaults",), "defaults must be a table")
        defaults = {}
    if not isinstance(defaults.get("data", {}), Mapping):
        problems.add(("defaults", "data"), "defaults.data must be one table; it goes below each folder")
        defaults = {key: value for key, value in defaults.items() if key != "data"}
    for number, own in enumerate(as_list(adapters)):
        if isinstance(own, Mapping):
            adapters[number] = _merge_adapter(own, defaults, folder)
    return merged


def as_list(value: Any) -> list[Any]:
    """Return a value if it is a list, or else an empty one."""
    return value if isinstance(value, list) else []


def _merge_adapter(own: Mapping[str, Any], defaults: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    preset = own.get("preset", defaults.get("preset"))
    below = _merged(PRESETS.get(preset, {}) if isinstance(preset, str) else {}, defaults)
    data_below = below.pop("data", {})
    adapter = _merged(below, own)
    if "data" not in own and "path" in data_below:
        adapter["data"] = [{}]
    if isinstance(adapter.get("data"), list):
        adapter["data"] = [
            _located(_merged(data_below, item), folder) if isinstance(item, Mapping) else item
            for item in adapter["data"]
        ]
    if isinstance(adapter.get("validation"), Mapping):
        adapter["validation"] = _located(dict(adapter["validation"]), folder)
    return adapter


def _located(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a table of data, or of the validation, with its paths made absolute."""
    for key in ("path", "masks", "clip", "dino"):
        if isinstance(table.get(key), str | Path):
            table[key] = (folder / table[key]).resolve()
    return table


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = (
            _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_copied(item) for item in value]
    return value
