"""A lease of an adapter: while it lasts the adapter is not let go."""

import threading
from collections.abc import Callable
from types import TracebackType

from adapterhub.lora.weights import AdapterTensors


class Lease:
    """An adapter that is not let go before `release`; it is a context manager that releases.

    The tensors are on the device of the `ResidentSet`. On CUDA they may be used on the stream that was
    current when the lease was taken: that stream waits for the transfer.

    Attributes:
        digest: The version's.
    """

    def __init__(self, digest: str, tensors: AdapterTensors, on_release: Callable[[], None]) -> None:
        self.digest = digest
        self._lock = threading.Lock()
        self._tensors: AdapterTensors | None = tensors
        self._on_release = on_release

    @property
    def tensors(self) -> AdapterTensors:
        """The adapter; it must not be written to.

        Raises:
            RuntimeError: The lease was released.
        """
        tensors = self._tensors
        if tensors is None:
            raise RuntimeError(f"the lease of {self.digest} was released")
        return tensors

    def release(self) -> None:
        """Let the adapter go in its turn; releasing twice is allowed."""
        with self._lock:
            is_held, self._tensors = self._tensors is not None, None
        if is_held:
            self._on_release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
