"""The one place of this package that reads the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from adapterhub_registry.settings import RegistrySettings, ensure_home


@dataclass(frozen=True)
class Settings:
    """What the environment decides.

    Attributes:
        home: Directory of all state (`ADAPTERHUB_HOME`, else the user's data directory).
        is_offline: No request may leave the machine (`HF_HUB_OFFLINE`).
    """

    home: Path
    is_offline: bool

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment and create the home directory.

        Raises:
            HomeError: The home directory cannot be created or written.
        """
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "on", "yes", "true"}
        return cls(home=ensure_home(RegistrySettings.from_environment().home), is_offline=offline)
