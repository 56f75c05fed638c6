"""The one place of this package that reads the environment."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from adapterhub_registry.settings import RegistrySettings


@dataclass(frozen=True)
class Settings:
    """What the environment decides.

    Attributes:
        home: Directory of all state (`ADAPTERHUB_HOME`, else the user's data directory).
        is_offline: No request may leave the machine (`HF_HUB_OFFLINE`).
        secret: What clients of the served runtime must send (`ADAPTERHUB_SECRET`); empty for nothing.
    """

    home: Path
    is_offline: bool
    secret: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the environment; nothing is created."""
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "on", "yes", "true"}
        home = RegistrySettings.from_environment().home
        return cls(home=home, is_offline=offline, secret=os.environ.get("ADAPTERHUB_SECRET", ""))
