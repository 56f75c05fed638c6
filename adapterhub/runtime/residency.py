"""Adapters at hand: read and checked once, leased while they are used, let go when others need room."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from adapterhub.errors import RuntimeClosedError, SettingError
from adapterhub.runtime.device_copies import DeviceCopier
from adapterhub.runtime.leases import Lease
from adapterhub.runtime.tier import Entry
from adapterhub.runtime.tiers import Read, Tiers

BUDGET_BYTES = 4 << 30
"""Of adapters in the host's memory."""
DEVICE_BYTES = 2 << 30
"""Of adapters on a device with memory of its own."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ResidencyMetrics:
    """What happened so far, and what is at hand now.

    Attributes:
        hits: Leases of what was at hand on the device.
        misses: Leases for which an adapter was loaded, from the host's memory or from its file.
        waited: Leases that waited for a load which another had begun.
        prefetched: Loads that `prefetch` began.
        reads: Files that were read.
        failed: Loads that raised an error.
        evicted: Adapters that were let go to make room, in either tier.
        load_seconds: Spent in loads, without transfers that go on while others work.
        host_bytes: In the host's memory.
        device_bytes: On the device; 0 on the CPU, where the host's memory is all there is.
        held_bytes: On the device, or in the host's memory on the CPU: what is leased, pinned or on its way.
    """

    hits: int
    misses: int
    waited: int
    prefetched: int
    reads: int
    failed: int
    evicted: int
    load_seconds: float
    host_bytes: int
    device_bytes: int
    held_bytes: int


@dataclass(eq=False)
class _Load:
    """One load, and those who wait for it.

    Attributes:
        leases: How many are to hold the entry when it is there.
        is_forgotten: Whether only those may have it, and nobody later.
        is_done: Set at the end, well or not.
        entry: The outcome; None if it failed, or was interrupted.
        error: Why it failed.
    """

    leases: int = 0
    is_forgotten: bool = False
    is_done: threading.Event = field(default_factory=threading.Event)
    entry: Entry | None = None
    error: Exception | None = None

    def wait(self) -> Entry | None:
        """Return the entry when the load is done; None if the one who loaded was interrupted."""
        self.is_done.wait()
        if self.error is not None:
            raise self.error
        return self.entry


class ResidentSet:
    """The adapters that were used last, by digest, in the host's memory and on the device.

    Leases are of what is on the device. On the CPU that is the host's memory itself, and there is no second
    copy: `host_bytes` counts the tensors as `read` returned them. `read_adapter` maps them from the file, so
    that they cost page cache, which the system may take back, and no memory of the process.

    Elsewhere there are two copies, each in one buffer, and the mapped file is let go. `host_bytes` counts
    what the copies on the host take: on CUDA they are pinned, and torch hands out pinned memory in powers of
    two, and keeps what was let go for the next copy. `device_bytes` counts the buffers on the device. An
    adapter that is larger than the host's budget goes from its file to the device.

    In each tier what was used longest ago goes first. What is leased, or pinned on the device, is never let
    go; neither budget is ever exceeded, and a lease that does not fit is an error. All methods may be called
    from any thread, and none takes longer because more adapters are registered or at hand.

    Args:
        host_bytes: Budget of the host tier.
        device_bytes: Budget of the device tier; without effect on the CPU.
        device: Where leased tensors are.
        copier: Makes the copies; by default there is none on the CPU, and elsewhere one for the device.

    Raises:
        SettingError: A budget is negative.

    Example:
        >>> from adapterhub.lora.weights import AdapterTensors
        >>> resident = ResidentSet(host_bytes=1 << 20)
        >>> with resident.lease("sha256:1", lambda: AdapterTensors({})) as lease:
        ...     lease.tensors.components
        ()
        >>> resident.metrics.misses
        1
    """

    def __init__(
        self,
        host_bytes: int = BUDGET_BYTES,
        device_bytes: int = DEVICE_BYTES,
        *,
        device: torch.device = CPU,
        copier: DeviceCopier | None = None,
    ) -> None:
        for name, value in (("host_bytes", host_bytes), ("device_bytes", device_bytes)):
            if value < 0:
                raise SettingError(name, value, "a budget is 0 or more bytes")
        if copier is None and device.type != "cpu":
            copier = DeviceCopier(device)
        self._tiers = Tiers(host_bytes, device_bytes, copier)
        self._host, self._device, self._lock = self._tiers.host, self._tiers.device, self._tiers.lock
        self._loads: dict[str, _Load] = {}
        self._worker: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._hits = self._misses = self._waited = self._prefetched = self._failed = 0
        self._load_seconds = 0.0

    @property
    def metrics(self) -> ResidencyMetrics:
        """What happened so far."""
        with self._lock:
            return ResidencyMetrics(
                hits=self._hits,
                misses=self._misses,
                waited=self._waited,
                prefetched=self._prefetched,
                reads=self._tiers.reads,
                failed=self._failed,
                evicted=sum(tier.evicted for tier in {self._host, self._device}),
                load_seconds=self._load_seconds,
                host_bytes=self._host.size_bytes,
                device_bytes=0 if self._device is self._host else self._device.size_bytes,
                held_bytes=self._device.held_bytes,
            )

    @property
    def size_bytes(self) -> int:
        """Bytes in both tiers."""
        metrics = self.metrics
        return metrics.host_bytes + metrics.device_bytes

    def lease(self, digest: str, read: Read) -> Lease:
        """Return a lease of an adapter, which is loaded if it is not at hand.

        Several who ask for one digest at the same time share one load, and its error if it fails; whoever
        asks after that loads again. A failed read leaves nothing behind.

        Args:
            digest: The version's.
            read: Called without a lock, in one thread at a time.

        Raises:
            ResidencyError: It does not fit beside what is leased and pinned.
            RuntimeClosedError: After `close`.
            Exception: What `read` raises, or the device, when it is out of memory.
        """
        entry = None
        while entry is None:
            with self._lock:
                self._require_open()
                entry = self._device.find(digest)
                if entry is not None:
                    self._hits += 1
                    break
                is_own = digest not in self._loads
                load = self._loads.setdefault(digest, _Load())
                load.leases += 1
                self._misses += is_own
                self._waited += not is_own
            if is_own:
                self._load(digest, read, load)
            entry = load.wait()
        held = entry
        held.copy.wait()
        return Lease(digest, held.copy.tensors, lambda: self._tiers.release(self._device, held))

    def prefetch(self, digest: str, read: Read) -> Future[None]:
        """Load an adapter in the background, so that a lease finds it at hand; one after another.

        Returns:
            Done when that has been tried. It holds the error if there was one; a later lease loads again.

        Raises:
            RuntimeClosedError: After `close`.
        """
        with self._lock:
            self._require_open()
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="adapterhub-prefetch")
            return self._worker.submit(self._prefetch, digest, read)

    def pin(self, digest: str) -> None:
        """Keep an adapter on the device until `unpin` or `forget`, from now or from its next load on."""
        with self._lock:
            self._device.pin(digest)

    def unpin(self, digest: str) -> None:
        """Let a pinned adapter go in its turn; one that is not pinned stays as it is."""
        with self._lock:
            self._device.unpin(digest)

    def forget(self, digest: str) -> None:
        """Let an adapter go in every tier, and its pin, because its version was deleted or yanked.

        Who leases it, or waits for it, can use it until the lease is released; the next lease reads again.
        """
        with self._lock:
            self._host.forget(digest)
            self._device.forget(digest)
            load = self._loads.pop(digest, None)
            if load is not None:
                load.is_forgotten = True

    def close(self) -> None:
        """Stop prefetching, and let go of all that is not leased; closing twice is allowed.

        A read that has begun in the background is waited for.
        """
        with self._lock:
            self._is_closed = True
            self._host.forget_all()
            self._device.forget_all()
            for load in self._loads.values():
                load.is_forgotten = True
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)

    def _require_open(self) -> None:
        if self._is_closed:
            raise RuntimeClosedError

    def _prefetch(self, digest: str, read: Read) -> None:
        with self._lock:
            entry = self._device.find(digest)
            if entry is not None:
                self._device.release(entry)  # as the one that was used last
            if entry is not None or digest in self._loads or self._is_closed:
                return
            load = self._loads[digest] = _Load()
            self._prefetched += 1
        self._load(digest, read, load)
        load.wait()

    def _load(self, digest: str, read: Read, load: _Load) -> None:
        """Bring an adapter to the device, and give the entry to all who wait."""
        begun, entry = time.perf_counter(), None
        try:
            entry = self._tiers.bring(digest, read, is_kept=lambda: not load.is_forgotten)
        except Exception as error:  # noqa: BLE001 - those who wait raise it
            load.error = error
        finally:
            with self._lock:
                self._load_seconds += time.perf_counter() - begun
                self._failed += entry is None
                if self._loads.get(digest) is load:
                    del self._loads[digest]
                if entry is not None:
                    self._tiers.arrive(entry, holds=load.leases, is_kept=not load.is_forgotten)
                    load.entry = entry
            load.is_done.set()
