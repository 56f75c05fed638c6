"""One tier of memory: adapters up to a budget of bytes, let go in the order of use, never while in use."""

from collections import OrderedDict
from dataclasses import dataclass

from adapterhub.errors import ResidencyError
from adapterhub.lora.weights import AdapterTensors
from adapterhub.runtime.device_copies import AdapterCopy

NOTHING = AdapterCopy(AdapterTensors({}))


@dataclass(eq=False)
class Entry:
    """An adapter in a tier, or the room that is reserved for one.

    Attributes:
        digest: The version's.
        size_bytes: What it counts for.
        copy: The adapter; nothing until it is there.
        holds: How many hold it; while any do, it is not let go.
        is_listed: Whether it is found by its digest; one that is not goes with its last hold.
    """

    digest: str
    size_bytes: int
    copy: AdapterCopy = NOTHING
    holds: int = 1
    is_listed: bool = False


class Tier:
    """Adapters by digest. Each call takes the same time however many there are, but for evictions.

    It is not safe for threads: `ResidentSet` calls it under its lock.

    Args:
        name: For errors.
        budget_bytes: `size_bytes` never exceeds it.

    Attributes:
        size_bytes: Bytes of all entries, and of reserved room.
        held_bytes: Bytes of those that are held or pinned, and of reserved room.
        evicted: How many were let go to make room.
    """

    def __init__(self, name: str, budget_bytes: int) -> None:
        self.name = name
        self.budget_bytes = budget_bytes
        self.size_bytes = 0
        self.held_bytes = 0
        self.evicted = 0
        self._listed: dict[str, Entry] = {}
        # Those that may be let go, the one that was used longest ago first; none that is held among them.
        self._idle: OrderedDict[str, Entry] = OrderedDict()
        self._pinned: set[str] = set()

    def has_room(self, size_bytes: int) -> bool:
        """Say whether so much could be reserved."""
        return self.held_bytes + size_bytes <= self.budget_bytes

    def reserve(self, digest: str, size_bytes: int) -> Entry:
        """Make room for an adapter; the entry is held once, and not listed.

        Raises:
            ResidencyError: What is held leaves no room; nothing has changed.
        """
        if not self.has_room(size_bytes):
            raise ResidencyError(
                digest,
                size_bytes,
                tier=self.name,
                held_bytes=self.held_bytes,
                budget_bytes=self.budget_bytes,
            )
        while self.size_bytes + size_bytes > self.budget_bytes:
            oldest, entry = self._idle.popitem(last=False)
            del self._listed[oldest]
            self.size_bytes -= entry.size_bytes
            self.evicted += 1
            entry.copy = NOTHING
        self.size_bytes += size_bytes
        self.held_bytes += size_bytes
        return Entry(digest, size_bytes)

    def list(self, entry: Entry) -> None:
        """Let a held entry be found by its digest."""
        entry.is_listed = True
        self._listed[entry.digest] = entry

    def find(self, digest: str) -> Entry | None:
        """Return the entry of a digest, held once more; None if there is none."""
        entry = self._listed.get(digest)
        if entry is not None:
            self._take(digest)
            entry.holds += 1
        return entry

    def release(self, entry: Entry) -> None:
        """Take one hold off: with the last one it may be let go, as the one that was used last."""
        entry.holds -= 1
        if entry.holds == 0:
            self._settle(entry)

    def pin(self, digest: str) -> None:
        """Keep what has this digest, now and later, until `unpin` or `forget`."""
        self._pinned.add(digest)
        self._take(digest)

    def unpin(self, digest: str) -> None:
        """Let what has this digest go in its turn."""
        if digest in self._pinned:
            self._pinned.remove(digest)
            entry = self._listed.get(digest)
            if entry is not None and entry.holds == 0:
                self._settle(entry)

    def forget(self, digest: str) -> None:
        """Take what has this digest off the list: it goes now, or with its last hold."""
        self._pinned.discard(digest)
        entry = self._listed.pop(digest, None)
        if entry is None:
            return
        self._take(digest)
        entry.is_listed = False
        if entry.holds == 0:
            self._settle(entry)

    def forget_all(self) -> None:
        """Forget every digest."""
        for digest in [*self._listed]:
            self.forget(digest)

    def _take(self, digest: str) -> None:
        """Count the listed entry of a digest as held."""
        entry = self._idle.pop(digest, None)
        if entry is not None:
            self.held_bytes += entry.size_bytes

    def _settle(self, entry: Entry) -> None:
        """Place an entry that nobody holds any more, and that still counts as held."""
        if not entry.is_listed:
            self.size_bytes -= entry.size_bytes
            entry.copy = NOTHING
        elif entry.digest in self._pinned:
            return
        else:
            self._idle[entry.digest] = entry
        self.held_bytes -= entry.size_bytes
