"""Copies of adapters for a device: one buffer each, so that one transfer brings a whole adapter."""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from adapterhub.lora.weights import AdapterTensors

ALIGNMENT = 64
"""Tensors begin at multiples of so many bytes, as torch's own allocations on a CPU do."""
LACKING = {"mps": frozenset({torch.float64, torch.float8_e4m3fn, torch.float8_e5m2})}
"""Dtypes that a kind of device does not have; tensors of these are copied as float32."""


@dataclass(frozen=True)
class AdapterCopy:
    """An adapter in one tier.

    Attributes:
        tensors: Views of the buffer. Single numbers stay on the CPU, where they are read.
        buffer: Bytes, one-dimensional; None if the adapter lies as it was read.
        ready: Happens when the transfer is done; None if it is done already.
    """

    tensors: AdapterTensors
    buffer: Tensor | None = None
    ready: "torch.cuda.Event | None" = None

    def wait(self) -> None:
        """Let the current stream wait for the transfer; the caller goes on at once."""
        if self.ready is not None and self.buffer is not None:
            stream = torch.cuda.current_stream(self.buffer.device)
            stream.wait_event(self.ready)
            # The buffer belongs to the copying stream: torch must not give its memory to the next copy
            # while kernels of this stream may still read it.
            self.buffer.record_stream(stream)


class DeviceCopier:
    """Copies adapters to a device: on CUDA from pinned memory, on a stream of its own.

    Args:
        device: Any; `cpu` makes a second copy in the same memory.

    Example:
        >>> from adapterhub.lora.weights import Dense, Target
        >>> ones = AdapterTensors({Target("unet", "conv_in"): Dense(torch.ones(2))})
        >>> copier = DeviceCopier(torch.device("cpu"))
        >>> copier.send(copier.stage(ones)).tensors.size_bytes
        8
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._lacking = LACKING.get(device.type, frozenset())

    def size_of(self, adapter: AdapterTensors) -> int:
        """Return the bytes of an adapter's buffer."""
        return sum(self._size_of(part) for part in adapter.all_tensors())

    def staged_size_of(self, adapter: AdapterTensors) -> int:
        """Return the bytes that `stage` takes: torch hands out pinned memory in powers of two."""
        size = self.size_of(adapter)
        return size if self._stream is None or size == 0 else 1 << (size - 1).bit_length()

    def stage(self, adapter: AdapterTensors) -> AdapterCopy:
        """Copy an adapter to a buffer on the host, pinned where the device is a CUDA one."""
        size = self.size_of(adapter)
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._stream is not None)
        return AdapterCopy(self._laid_out(adapter, buffer, is_copied=True), buffer)

    def send(self, source: AdapterCopy) -> AdapterCopy:
        """Copy an adapter to the device.

        Args:
            source: What `stage` returned: then it is one transfer, which on CUDA is only begun. One without a
                buffer is transferred tensor by tensor.
        """
        with contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            size = self.size_of(source.tensors)
            buffer = torch.empty(size, dtype=torch.uint8, device=self._device)
            if source.buffer is not None:
                buffer.copy_(source.buffer, non_blocking=True)
            tensors = self._laid_out(source.tensors, buffer, is_copied=source.buffer is None)
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()
            ready.record(self._stream)
        return AdapterCopy(tensors, buffer, ready)

    def _laid_out(self, adapter: AdapterTensors, buffer: Tensor, *, is_copied: bool) -> AdapterTensors:
        """Return an adapter as views of a buffer, with its numbers copied there or taken to be there."""
        start = 0

        def place(part: Tensor) -> Tensor:
            nonlocal start
            if part.dim() == 0:
                return part.clone()
            dtype = self._dtype_of(part)
            view = buffer[start : start + part.numel() * dtype.itemsize].view(dtype).view(part.shape)
            start += self._size_of(part)
            return view.copy_(part.to(dtype)) if is_copied else view

        return adapter.with_tensors(place)

    def _dtype_of(self, part: Tensor) -> torch.dtype:
        return torch.float32 if part.dtype in self._lacking else part.dtype

    def _size_of(self, part: Tensor) -> int:
        """Bytes of a tensor in a buffer, up to where the next one begins."""
        if part.dim() == 0:
            return 0
        size = part.numel() * self._dtype_of(part).itemsize
        return -(-size // ALIGNMENT) * ALIGNMENT
