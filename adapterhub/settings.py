"""The one place of this package that reads the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from adapterhub_registry.settings import RegistrySettings


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
        """Read the environment; nothing is created."""
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "on", "yes", "true"}
        return cls(home=RegistrySettings.from_environment().home, is_offline=offline)
