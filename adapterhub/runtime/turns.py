"""A lock that threads get in turn."""

import threading
from collections import deque
from types import TracebackType


class TurnLock:
    """A reentrant lock that goes to whoever has waited longest.

    `threading.RLock` goes to anybody: a thread that lets go and asks again at once, as a worker does between
    batches, would keep all others out.

    Example:
        >>> lock = TurnLock()
        >>> with lock, lock:
        ...     lock.waiting
        0
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._owner: int | None = None
        self._depth = 0

    @property
    def waiting(self) -> int:
        """How many threads wait for it."""
        return len(self._waiting)

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._mutex:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append((me, turn))
        try:
            turn.acquire()
        except BaseException:
            self._give_up(me, turn)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            self._depth -= 1
            if self._depth == 0:
                self._hand_over()

    def _hand_over(self) -> None:
        self._owner = None
        if self._waiting:
            self._owner, turn = self._waiting.popleft()
            self._depth = 1
            turn.release()

    def _give_up(self, me: int, turn: threading.Lock) -> None:
        """Leave the line after an interrupt, which may have come when the lock was handed over already."""
        with self._mutex:
            if (me, turn) in self._waiting:
                self._waiting.remove((me, turn))
            else:
                self._depth = 0
                self._hand_over()
