"""The processes that a launcher starts for one training: they share its adapters, or the work on one."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import distributed_c10d

from adapterhub.errors import DeviceError, OtherProcessError
from adapterhub.settings import Launch

ASK_S = 0.2
"""Between two looks at whether another process was asked to stop."""
PATIENCE = timedelta(days=365)
"""A process that is done waits for the others; one that dies is noticed at once."""
STOP = "adapterhub-stop"
LOST = "another process ended"
"""What those say that cannot go on without one that says more."""


class Processes:
    """All processes of this launch, that talk when they begin and when they end; one alone needs nobody.

    While adapters are trained, nothing is sent but the wish to stop, and what one adapter alone has learnt in
    each of them. It goes by gloo on every device: if a process dies, the others hear of it at once.

    Args:
        launch: Which one this is.

    Raises:
        OtherProcessError: The others cannot be reached.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._store: Any = None
        self._looked = 0.0
        self._is_told = False
        self._adding: Any = None
        if launch.count == 1:
            return
        try:
            if not distributed.is_initialized():
                distributed.init_process_group("gloo", timeout=PATIENCE)
            self._store = distributed_c10d._get_default_store()
            self._adding = distributed.new_group(backend="gloo", timeout=PATIENCE)
        except (RuntimeError, ValueError) as exc:
            raise OtherProcessError(-1, f"the others cannot be reached ({exc})") from exc

    def choose_device(self, device: str) -> None:
        """Take the GPU that has this process's number on this machine, if it is to be a GPU.

        Args:
            device: As a config names it; one with a number is taken as it is.

        Raises:
            DeviceError: There are fewer GPUs.
        """
        if self.launch.count == 1 or device not in ("", "cuda") or not torch.cuda.is_available():
            return
        number, count = self.launch.local_index, torch.cuda.device_count()
        if number >= count:
            rule = f"this machine has {count} of them; start at most {count} processes on it"
            raise DeviceError("the GPU of a process", number, rule)
        torch.cuda.set_device(number)

    def stop_all(self) -> None:
        """Ask all processes to stop.

        Raises:
            OtherProcessError: The one that they talk through died.
        """
        if self._store is not None and not self._is_told:
            with _lost_others():
                self._store.set(STOP, "1")
            self._is_told = True

    def is_stop_asked(self) -> bool:
        """Return whether any process was asked to stop; they are asked seldom.

        Raises:
            OtherProcessError: The one that they talk through died.
        """
        now = time.monotonic()
        if self._store is None or now - self._looked < ASK_S:
            return False
        self._looked = now
        with _lost_others():
            return self._store.check([STOP])

    def add_up(self, values: Tensor) -> None:
        """Put in place of a tensor on the CPU the sum of those of all processes, the same bits in each.

        Raises:
            OtherProcessError: Another process failed or died.
        """
        with _lost_others():
            distributed.all_reduce(values, group=self._adding)

    def join_parts(self, work: Callable[[], Mapping[str, str]]) -> dict[str, str]:
        """Do this process's part, wait for all, and return the parts of all.

        Args:
            work: The part; it may `add_up` with the others.

        Raises:
            BaseException: What `work` raises; the others hear of it, and end their parts first.
            OtherProcessError: Another process failed, stopped or died.
        """
        if self.launch.count == 1:
            return dict(work())
        try:
            part = dict(work())
        except BaseException as exc:
            is_lost = isinstance(exc, OtherProcessError)
            others = self._gather({}, LOST if is_lost else str(exc) or repr(exc))
            if is_lost:
                _raise_first(others)
            raise
        found = self._gather(part, "")
        _raise_first(found)
        return {name: version for other, _ in found for name, version in other.items()}

    def _gather(self, part: Mapping[str, str], error: str) -> list[tuple[Mapping[str, str], str]]:
        found: list[Any] = [None] * self.launch.count
        try:
            # Without the group there are no connections, so that nobody waits there in vain.
            distributed.destroy_process_group(self._adding)
            self._adding = None
            distributed.all_gather_object(found, (part, error))
        except RuntimeError as exc:
            if error:  # this process's own error says more
                return []
            raise OtherProcessError(-1, "it died before it was done") from exc
        return found


@contextmanager
def _lost_others() -> Iterator[None]:
    """Tell apart that other processes are gone."""
    try:
        yield
    except RuntimeError as exc:
        # Its frames may hold the group, and so connections, at whose other ends somebody waits.
        traceback.clear_frames(exc.__traceback__)
        raise OtherProcessError(-1, LOST) from exc


def _raise_first(found: Sequence[tuple[Mapping[str, str], str]]) -> None:
    """Raise what the first process said that did not end well; who lost it says less.

    Raises:
        OtherProcessError: There is one.
    """
    errors = [(number, error) for number, (_, error) in enumerate(found) if error]
    if errors:
        number, error = min(errors, key=lambda one: one[1] == LOST)
        raise OtherProcessError(number, error)
