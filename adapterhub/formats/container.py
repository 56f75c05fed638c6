"""Write safetensors files whose bytes depend on their content alone.

The safetensors library writes `__metadata__` in the order of a hash map, which differs from run to run; equal
adapters must be equal files. The layout is that of the format's specification.
"""

import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file: sorted keys, a header padded to 8 bytes, little-endian data.

    Example:
        >>> from safetensors.torch import load
        >>> load(safetensors_bytes({"a": torch.ones(2)}, {"title": "ink"}))["a"].tolist()
        [1.0, 1.0]
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    pieces: list[bytes] = []
    position = 0
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        piece = flat.view(torch.uint8).numpy().tobytes()
        end = position + len(piece)
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        pieces.append(piece)
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)
