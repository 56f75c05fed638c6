"""What a training was asked for, kept in its run's directory: paths too, which no version carries."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapterhub.training.config import AdapterConfig, BaseConfig
from adapterhub.training.runs import FOLDER
from adapterhub_registry.files import make_directory, write_atomically

FILE = "settings.json"


def write_settings(
    folder: Path, config: AdapterConfig, base: BaseConfig, *, digests: Mapping[str, str]
) -> None:
    """Write what was asked for, under the digests of the documents that say what was trained.

    Args:
        folder: Of the adapter, in the run's directory.
        config: Of the adapter.
        base: Of the base.
        digests: SHA-256 of documents, by name.

    Raises:
        OutputError: It cannot be written.
    """
    table = {
        "digests": dict(digests),
        "base": asdict(base, dict_factory=_known),
        "adapter": asdict(config, dict_factory=_known),
    }
    make_directory(folder)
    write_atomically(folder / FILE, (json.dumps(table, default=str, indent=1) + "\n").encode())


def read_settings(home: Path, digests: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what was asked for when documents of these digests were made; the newest, or None if unknown."""
    files = sorted((home / FOLDER).glob(f"*/*/{FILE}"), key=lambda path: -path.stat().st_mtime)
    for path in files:
        try:
            table: dict[str, Any] = json.loads(path.read_text())
            if table["digests"] == dict(digests):
                return table
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another release's, or half gone with its run
    return None


def _known(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return fields without those that are not set: a config has no word for these."""
    return {name: value for name, value in fields if value is not None}
