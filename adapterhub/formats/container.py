"""Write safetensors files whose bytes depend on their content alone.

The safetensors library writes `__metadata__` in the order of a hash map, which differs from run to run; equal
adapters must be equal files. The layout is that of the format's specification.
"""

import hashlib
import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

from adapterhub.formats.mapped import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file: sorted keys, a header padded to 8 bytes, little-endian data.

    Example:
        >>> from safetensors.torch import load
        >>> load(safetensors_bytes({"a": torch.ones(2)}, {"title": "ink"}))["a"].tolist()
        [1.0, 1.0]
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    pieces: list[memoryview] = []
    position = 0
    for name, tensor in sorted(tensors.items()):
        piece = _data(tensor)
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + piece.nbytes],
        }
        pieces.append(piece)
        position += piece.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *pieces])


def data_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the data section of `safetensors_bytes`: kohya's `sshs_model_hash`."""
    digest = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        digest.update(_data(tensor))
    return digest.hexdigest()


def _data(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if len(flat) else memoryview(b"")
