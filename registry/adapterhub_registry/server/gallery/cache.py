"""Pictures that were asked for last, ready to be sent again."""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

CACHE_BYTES = 48 << 20


@dataclass
class Pictures:
    """The pictures that were asked for last, so that a page of them costs little the second time.

    Attributes:
        making: Held while one is made: a large one takes hundreds of megabytes meanwhile.
    """

    making: Lock = field(default_factory=Lock)
    _made: OrderedDict[tuple[str, str], bytes] = field(default_factory=OrderedDict[tuple[str, str], bytes])
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def find(self, sha256: str, size: str) -> bytes | None:
        """Return a picture that is still here."""
        with self._lock:
            content = self._made.get((sha256, size))
            if content is not None:
                self._made.move_to_end((sha256, size))
            return content

    def keep(self, sha256: str, size: str, content: bytes) -> None:
        """Keep a picture, and forget those that nobody asked for longest."""
        with self._lock:
            if (sha256, size) in self._made:
                return
            self._made[sha256, size] = content
            self._bytes += len(content)
            while self._bytes > CACHE_BYTES:
                self._bytes -= len(self._made.popitem(last=False)[1])
