"""Tokens of this user for registries over HTTP: one file that its owner alone can read."""

import json
from pathlib import Path
from typing import Any

from adapterhub_registry.errors import OutputError
from adapterhub_registry.files import write_atomically
from adapterhub_registry.locks import locked
from adapterhub_registry.settings import RegistrySettings, ensure_home

FILE = "credentials.json"


def token_for(name: str, url: str) -> str:
    """Return the token for a registry: the stored one, or `ADAPTERHUB_TOKEN`; empty if there is none.

    Where `ADAPTERHUB_REMOTE` names a registry, the token in the environment goes to that one alone.
    """
    settings = RegistrySettings.from_environment()
    if stored := _read(settings.home / FILE).get(address(url)):
        return stored
    return settings.token if settings.remote in ("", name, url, address(url)) else ""


def store_token(url: str, token: str) -> None:
    """Keep a token for a registry, in place of the one there is.

    Raises:
        OutputError: The file cannot be written.
    """
    _change(address(url), token)


def forget_token(url: str) -> bool:
    """Forget the token for a registry, and say whether there was one.

    Raises:
        OutputError: The file cannot be written.
    """
    return _change(address(url), "")


def address(url: str) -> str:
    """Return the one spelling of a registry's URL.

    Example:
        >>> address("HTTPS://Hub.Example/team/")
        'https://hub.example/team'
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}".rstrip("/")


def _change(key: str, token: str) -> bool:
    path = ensure_home(RegistrySettings.from_environment().home) / FILE
    with locked(path.with_suffix(".lock")):
        table = _read(path)
        had = table.pop(key, "") != ""
        if token:
            table[key] = token
        if token or had:
            _write(path, table)
    return had


def _read(path: Path) -> dict[str, str]:
    try:
        table: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as exc:
        raise OutputError(path, f"it cannot be read ({exc}); remove it, and log in again") from exc
    if not isinstance(table, dict):
        raise OutputError(path, "it holds no tokens; remove it, and log in again")
    return {str(key): str(token) for key, token in table.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _write(path: Path, table: dict[str, str]) -> None:
    write_atomically(path, json.dumps(table, indent=1).encode(), mode=0o600)
