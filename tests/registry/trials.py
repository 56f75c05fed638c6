"""Work that is tried from the same start again and again, at the same place."""

import shutil
from pathlib import Path

from tests.registry.invariants import check_home, check_remote
from tests.registry.scenarios import SCENARIOS, Scenario, told


class Trial:
    """One scenario below a directory.

    Args:
        name: Of the scenario.
        folder: Where everything lies.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.root, self._start = name, folder / "root", folder / "start"
        self._scenario.prepare(self.root)
        self._before = told(self.root)
        shutil.copytree(self.root, self._start)
        self.work()
        self._after = told(self.root)

    @property
    def _scenario(self) -> Scenario:
        return SCENARIOS[self.name]

    def restart(self) -> None:
        """Put everything back as it was before."""
        shutil.rmtree(self.root)
        shutil.copytree(self._start, self.root)

    def work(self) -> None:
        """Do the work."""
        self._scenario.work(self.root)

    def check(self) -> None:
        """Check what was left, do the work to its end, and check that."""
        assert told(self.root) in (self._before, self._after) or not self._scenario.is_atomic
        self._check_places()
        self.work()
        self._check_places()
        self._scenario.check_done(self.root)
        assert told(self.root) == self._after

    def _check_places(self) -> None:
        if (self.root / "home" / "registry.db").exists():
            check_home(self.root / "home")
        check_remote(self.root / "share")
        self._scenario.check(self.root)
