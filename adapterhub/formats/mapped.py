"""A safetensors file as tensors that share a private memory map: nothing is read before it is used."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapterhub.errors import InputError, PickleRefusedError, WeightsError
from adapterhub_registry.safetensors_header import Header, TensorInfo, is_pickle, read_header

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class MappedFile:
    """A safetensors file.

    Attributes:
        header: Checked.
        content: The whole file.
    """

    header: Header
    content: memoryview

    def tensors(self) -> Mapping[str, Tensor]:
        """Return all tensors; they share memory with the map, and writing to them never reaches the file."""
        start = self.header.data_start
        return {
            name: _tensor(self.content, start + info.start, info)
            for name, info in self.header.tensors.items()
        }


def map_file(path: Path) -> MappedFile:
    """Map a safetensors file into memory.

    Raises:
        InputError: It cannot be read.
        PickleRefusedError: It holds pickled objects.
        WeightsError: It is malformed, or of a dtype that torch has not.
    """
    try:
        if is_pickle(path):
            raise PickleRefusedError(path)
        header = read_header(path)
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as exc:
        raise InputError(path, exc.strerror or str(exc)) from exc
    for name, info in header.tensors.items():
        if info.dtype not in DTYPES:
            raise WeightsError(path, f"{name} has the dtype {info.dtype}, which is not understood")
    return MappedFile(header, content)


def _tensor(content: memoryview, start: int, info: TensorInfo) -> Tensor:
    dtype = DTYPES[info.dtype]
    count = (info.end - info.start) // dtype.itemsize
    if count == 0:
        return torch.empty(info.shape, dtype=dtype)
    if start % dtype.itemsize:
        content, start = memoryview(bytearray(content[start : start + info.end - info.start])), 0
    return torch.frombuffer(content, dtype=dtype, count=count, offset=start).view(info.shape)
