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


@dataclass(frozen=True)
class Launch:
    """Which one of several processes this is, as `torchrun` and `accelerate launch` say it.

    Attributes:
        index: From 0 (`RANK`).
        count: On all machines (`WORLD_SIZE`).
        local_index: From 0, on this machine (`LOCAL_RANK`).
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for all."""
        return self.index == 0

    @classmethod
    def from_environment(cls) -> "Launch":
        """Read the environment; without a launcher this process is the only one."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        values = [os.environ.get(name, "") for name in names]
        # Some clusters set one of them or another for jobs that nobody launched so.
        return cls(*map(int, values[:3])) if all(value.isdigit() for value in values) else cls()
