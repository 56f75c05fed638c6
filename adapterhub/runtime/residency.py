"""Adapters at hand: each is read and checked once, and let go when others need the room."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from adapterhub.lora.weights import AdapterTensors

BUDGET_BYTES = 4 << 30


@dataclass
class ResidencyMetrics:
    """What happened so far.

    Attributes:
        hits: Adapters that were at hand.
        misses: Adapters that were read.
        evicted: Adapters that were let go.
    """

    hits: int = 0
    misses: int = 0
    evicted: int = 0


class ResidentSet:
    """The adapters that were used last, by digest; those in use are never let go.

    Args:
        budget_bytes: Of all tensors. Adapters in use may take more than that.

    Example:
        >>> resident = ResidentSet(budget_bytes=0)
        >>> _ = resident.get("sha256:1", lambda: AdapterTensors({}))
        >>> resident.metrics.misses
        1
    """

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._entries: OrderedDict[str, tuple[AdapterTensors, int]] = OrderedDict()
        self.metrics = ResidencyMetrics()

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors at hand."""
        return sum(size for _, size in self._entries.values())

    def get(self, digest: str, read: Callable[[], AdapterTensors]) -> AdapterTensors:
        """Return an adapter, read and checked by `read` if it is not at hand; what that raises goes on."""
        if digest in self._entries:
            self._entries.move_to_end(digest)
            self.metrics.hits += 1
        else:
            tensors = read()
            self._entries[digest] = tensors, tensors.size_bytes
            self.metrics.misses += 1
        return self._entries[digest][0]

    def keep(self, in_use: Collection[str]) -> None:
        """Let go of those that were used longest ago, until the rest fits; never of those in use."""
        size = self.size_bytes
        for digest in list(self._entries):
            if size <= self._budget:
                return
            if digest not in in_use:
                size -= self._entries.pop(digest)[1]
                self.metrics.evicted += 1
