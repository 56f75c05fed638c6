"""Files of weights to register, made without torch."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub_registry.store import Registry

MODULE = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def weights_bytes(seed: int = 0, *, text_width: int = 160, metadata: dict[str, str] | None = None) -> bytes:
    """A LoRA of rank 2 on one module, in PEFT's keys; the default width is that of the mini base."""
    shapes = {f"{MODULE}.lora_A.weight": [2, text_width], f"{MODULE}.lora_B.weight": [96, 2]}
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    body = struct.pack(f"<{position // 4}f", *(((i + seed) % 97) / 97 for i in range(position // 4)))
    return struct.pack("<Q", len(text)) + text + body


def tensors_file(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str]) -> bytes:
    """A safetensors file of dtype, shape and bytes of each tensor."""
    header: dict[str, object] = {"__metadata__": metadata}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def bytes_read() -> int:
    """What this process has read from files so far; Linux counts it."""
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.split()[1])


@pytest.fixture
def registry(home: Path) -> Registry:
    """The registry in `ADAPTERHUB_HOME`."""
    return Registry(home)


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a file of weights."""

    def write(seed: int = 0, *, name: str = "weights.safetensors", **settings: object) -> Path:
        path = tmp_path / name
        path.write_bytes(weights_bytes(seed, **settings))  # pyright: ignore[reportArgumentType]
        return path

    return write
