"""A wish to stop, from SIGINT or SIGTERM, that is heard between two passes."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from adapterhub.training.processes import Processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Hears the first signal, inside `with`; a second one ends the process as it would without.

    In another thread than the main one, where no signal can be heard, `ask` alone stops.

    Of several processes all stop when one is asked to. Launchers pass on signals that have reached everybody
    already, and end who does not listen, so that further signals change nothing there.

    Args:
        processes: That train together.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._is_asked = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether this process, or another one, was asked to stop."""
        if self._is_asked:
            self._processes.stop_all()
        elif self._processes.is_stop_asked():
            self._is_asked = True
        return self._is_asked

    def ask(self) -> None:
        """Ask to stop."""
        self._is_asked = True

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.ask()
        if self._processes.launch.count == 1:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
