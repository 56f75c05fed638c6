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
    """

    home: Path

    @classmethod
    def from_environment(cls) -> "RegistrySettings":
        """Read `ADAPTERHUB_HOME`."""
        value = os.environ.get("ADAPTERHUB_HOME")
        if value:
            return cls(home=Path(value).expanduser())
        from platformdirs import user_data_path

        return cls(home=user_data_path("adapterhub", appauthor=False))


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
