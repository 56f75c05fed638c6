"""Numbers for `/metrics`, in Prometheus' text form: how many requests of which route, how long they took."""

import threading
from collections import Counter, defaultdict

TYPES = {
    "adapterhub_requests_total": ("counter", "Requests that were answered."),
    "adapterhub_request_seconds_total": ("counter", "Time that they took, to the last byte."),
    "adapterhub_sent_bytes_total": ("counter", "Bytes of bodies that were sent."),
    "adapterhub_requests_in_flight": ("gauge", "Requests that are being answered."),
}


class Metrics:
    """Counts; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._sent: Counter[str] = Counter()
        self._in_flight = 0

    def begin(self) -> None:
        """Count a request that begins."""
        with self._lock:
            self._in_flight += 1

    def end(self, route: str, method: str, status: int, seconds: float, sent: int) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._in_flight -= 1
            self._requests[route, method, status] += 1
            self._seconds[route] += seconds
            self._sent[route] += sent

    def text(self) -> str:
        """Return all numbers."""
        with self._lock:
            rows = {
                "adapterhub_requests_total": [
                    (f'{{route="{route}",method="{method}",status="{status}"}}', count)
                    for (route, method, status), count in sorted(self._requests.items())
                ],
                "adapterhub_request_seconds_total": [
                    (f'{{route="{route}"}}', round(seconds, 6))
                    for route, seconds in sorted(self._seconds.items())
                ],
                "adapterhub_sent_bytes_total": [
                    (f'{{route="{route}"}}', count) for route, count in sorted(self._sent.items())
                ],
                "adapterhub_requests_in_flight": [("", self._in_flight)],
            }
        lines: list[str] = []
        for name, (kind, meaning) in TYPES.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{labels} {value}" for labels, value in rows[name]]
        return "\n".join(lines) + "\n"
