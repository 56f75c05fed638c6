"""Rate limits: so many requests of one caller in a window, told in the headers that clients wait by."""

import math
import threading
import time
from collections.abc import Callable, Mapping

from adapterhub_registry.server.errors import RefusalError

WINDOW_S = 60
MAX_CALLERS = 100_000
"""Callers that are remembered; more than that are strangers by the thousand, and all begin anew."""


class Limits:
    """Counts requests by caller, in fixed windows; safe to use from many threads.

    Args:
        requests: In a window, of one caller; None for any number.
        clock: Seconds that only grow.
    """

    def __init__(self, requests: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = requests, clock
        self._lock = threading.Lock()
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, caller: str) -> Mapping[str, str]:
        """Count one request, and return what the answer's headers say of it.

        Raises:
            RefusalError: 429, with the time to wait.
        """
        if self._most is None:
            return {}
        now = self._clock()
        with self._lock:
            if caller not in self._windows and len(self._windows) >= MAX_CALLERS:
                self._windows.clear()
            start, count = self._windows.get(caller, (now, 0))
            if now - start >= WINDOW_S:
                start, count = now, 0
            self._windows[caller] = (start, count + 1)
        left, wait_s = max(0, self._most - count - 1), math.ceil(start + WINDOW_S - now)
        headers = {
            "RateLimit": f'"api";r={left};t={wait_s}',
            "RateLimit-Policy": f'"fixed window";"api";q={self._most};w={WINDOW_S}',
        }
        if count >= self._most:
            message = f"more than {self._most} requests in {WINDOW_S} seconds; go on in {wait_s}"
            raise RefusalError(429, message, headers={**headers, "Retry-After": str(wait_s)})
        return headers
