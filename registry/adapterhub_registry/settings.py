"""The one place of this package that reads the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from adapterhub_registry.errors import HomeError


@dataclass(frozen=True)
class RegistrySettings:
    """Where the registry keeps its state.

    Attributes:
        home: Directory of all state: `ADAPTERHUB_HOME`, else the user's data directory.
        token: What remotes over HTTP know this user by: `ADAPTERHUB_TOKEN`; empty if there is none.
        remote: The remote to use where none is named: `ADAPTERHUB_REMOTE`; empty if there is none.
    """

    home: Path
    token: str = ""
    remote: str = ""

    @classmethod
    def from_environment(cls) -> "RegistrySettings":
        """Read `ADAPTERHUB_HOME`, `ADAPTERHUB_TOKEN` and `ADAPTERHUB_REMOTE`."""
        value, token = os.environ.get("ADAPTERHUB_HOME"), os.environ.get("ADAPTERHUB_TOKEN", "").strip()
        remote = os.environ.get("ADAPTERHUB_REMOTE", "").strip()
        if value:
            return cls(Path(value).expanduser(), token, remote)
        from platformdirs import user_data_path

        return cls(user_data_path("adapterhub", appauthor=False), token, remote)


def ensure_home(home: Path) -> Path:
    """Create the home directory if needed and return its absolute path.

    Raises:
        HomeError: It cannot be created, or not written to.
    """
    home = home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise HomeError(home, exc.strerror or str(exc)) from exc
    if not os.access(home, os.W_OK | os.X_OK):
        raise HomeError(home, "it is not writable")
    return home
