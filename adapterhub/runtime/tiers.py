"""The tiers of memory, and an adapter's way from its file by the host to the device."""

import threading
from collections.abc import Callable

from adapterhub.lora.weights import AdapterTensors
from adapterhub.runtime.device_copies import AdapterCopy, DeviceCopier
from adapterhub.runtime.tier import Entry, Tier

Read = Callable[[], AdapterTensors]
"""Reads and checks one adapter; what it raises goes to all who wait for that adapter."""


class Tiers:
    """The host's memory and the device's, which are one without a copier.

    Args:
        host_bytes: Budget of the host tier.
        device_bytes: Budget of the device tier.
        copier: Makes the copies.

    Attributes:
        lock: To be taken for every use of `host` and `device`.
        host: Where adapters are staged, if there is room.
        device: What leases are of.
        reads: How many files were read.
    """

    def __init__(self, host_bytes: int, device_bytes: int, copier: DeviceCopier | None) -> None:
        self.lock = threading.Lock()
        self.host = Tier("host", host_bytes)
        self.device = self.host if copier is None else Tier("device", device_bytes)
        self.reads = 0
        self._copier = copier
        self._changed = threading.Condition(self.lock)
        self._arriving_bytes = 0  # reserved on the device, and not there yet

    def bring(self, digest: str, read: Read, *, is_kept: Callable[[], bool]) -> Entry:
        """Return an entry on the device that is held once and not listed; `arrive` must follow.

        Args:
            digest: Of an adapter that is not on the device.
            read: Called if it is not on the host either.
            is_kept: Says whether the host's copy may be found later.

        Raises:
            ResidencyError: There is no room on the device.
            Exception: What `read` or the device raises.
        """
        copier = self._copier
        if copier is None:
            tensors = self._read(read)
            return self._filled(digest, tensors.size_bytes, lambda: AdapterCopy(tensors))
        with self.lock:
            staged = self.host.find(digest)
        if staged is None:
            as_read = AdapterCopy(self._read(read))
            staged = self._staged(digest, as_read.tensors, copier, is_kept)
            if staged is None:
                return self._filled(digest, copier.size_of(as_read.tensors), lambda: copier.send(as_read))
        try:
            source = staged.copy
            return self._filled(digest, copier.size_of(source.tensors), lambda: copier.send(source))
        finally:
            self.release(self.host, staged)

    def arrive(self, entry: Entry, *, holds: int, is_kept: bool) -> None:
        """Hold what `bring` returned as often as asked, and list it if it is kept; the lock is taken."""
        entry.holds += holds
        if is_kept:
            self.device.list(entry)
        self.device.release(entry)
        self._arriving_bytes -= entry.size_bytes
        self._changed.notify_all()

    def release(self, tier: Tier, entry: Entry) -> None:
        """Take a hold off an entry."""
        with self.lock:
            tier.release(entry)
            self._changed.notify_all()

    def _read(self, read: Read) -> AdapterTensors:
        tensors = read()
        with self.lock:
            self.reads += 1
        return tensors

    def _staged(
        self, digest: str, adapter: AdapterTensors, copier: DeviceCopier, is_kept: Callable[[], bool]
    ) -> Entry | None:
        """Return a held entry on the host; None if there is no room."""
        size_bytes = copier.staged_size_of(adapter)
        with self.lock:
            if not self.host.has_room(size_bytes):
                return None
            entry = self.host.reserve(digest, size_bytes)
        try:
            entry.copy = copier.stage(adapter)
        except BaseException:
            self.release(self.host, entry)
            raise
        with self.lock:
            if is_kept():
                self.host.list(entry)
        return entry

    def _filled(self, digest: str, size_bytes: int, make: Callable[[], AdapterCopy]) -> Entry:
        """Return a held entry on the device with what `make` returns."""

        def is_decided() -> bool:
            # What is on its way may be a prefetch, which makes room for a lease once it is there.
            return self.device.has_room(size_bytes) or not self.device.has_room(
                size_bytes - self._arriving_bytes
            )

        with self._changed:
            self._changed.wait_for(is_decided)
            entry = self.device.reserve(digest, size_bytes)
            self._arriving_bytes += size_bytes
        try:
            entry.copy = make()
        except BaseException:
            with self.lock:
                self._arriving_bytes -= size_bytes
            self.release(self.device, entry)
            raise
        return entry
