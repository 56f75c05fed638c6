"""What a file of weights is, from its header alone: no tensor is read, and nothing is executed."""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub_registry.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x93NUMPY")

# Ends of keys: kohya says lora_down and lora_up, PEFT lora_A and lora_B, diffusers lora.down and lora.up.
PARTS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
}
# Beginnings of keys: layout and component. PEFT directories name no component.
PREFIXES = {
    "lora_unet_": ("kohya", "unet"),
    "lora_te1_": ("kohya", "text_encoder"),
    "lora_te2_": ("kohya", "text_encoder_2"),
    "unet.": ("diffusers", "unet"),
    "text_encoder.": ("diffusers", "text_encoder"),
    "text_encoder_2.": ("diffusers", "text_encoder_2"),
    "base_model.model.": ("peft", ""),
}
# Parts of keys that belong to algorithms other than plain low rank, by what marks them.
OTHER_ALGORITHMS = {
    "hada_w": "loha",
    "lokr_w": "lokr",
    "lora_mid": "locon-tucker",
    "dora_scale": "dora",
    "lora_magnitude_vector": "dora",
    "oft_": "oft",
    "on_input": "ia3",
    ".diff": "full",
    ".w_norm": "full",
}
# Width of the text that cross-attention reads, and of the second text encoder.
ARCHITECTURE_BY_TEXT_WIDTH = {2048: "sdxl", 160: "mini", 1024: "sd2", 768: "sd1"}
ARCHITECTURE_BY_ENCODER_WIDTH = {1280: "sdxl", 96: "mini"}


@dataclass(frozen=True)
class TensorInfo:
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A safetensors header that was checked: offsets follow each other and end with the file."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


@dataclass(frozen=True)
class Key:
    """One key of an adapter, taken apart.

    Attributes:
        layout: `kohya`, `diffusers` or `peft`.
        component: `unet`, `text_encoder`, `text_encoder_2`; empty where the file does not say.
        module: The module as the file spells it.
        part: `down`, `up` or `alpha`.
    """

    layout: str
    component: str
    module: str
    part: str


@dataclass(frozen=True)
class Probe:
    """What a file of weights is.

    Attributes:
        layouts: `kohya`, `diffusers`, `peft`; files may mix them.
        algorithm: `lora`, `locon` (with convolutions), or what else its keys mark.
        architecture: `sdxl`, `mini`, `sd1`, `sd2`; empty if the shapes do not tell.
        components: Which parts of the pipeline it changes.
        modules: How many modules it changes.
        ranks: The ranks that occur.
        dtypes: The dtypes that occur.
        parameters: Numbers stored.
        metadata: The header's own text.
        unknown: Keys that nothing claims.
    """

    layouts: tuple[str, ...]
    algorithm: str
    architecture: str
    components: tuple[str, ...]
    modules: int
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    parameters: int
    metadata: Mapping[str, str]
    unknown: tuple[str, ...]


def probe(path: Path) -> Probe:
    """Say what a safetensors file of adapter weights is.

    Raises:
        WeightsError: The header is malformed, or no key belongs to an adapter.
        OSError: The file cannot be read.
    """
    header = read_header(path)
    keys = {name: split_key(name) for name in header.tensors}
    known = {name: key for name, key in keys.items() if key is not None}
    marks = {
        algorithm for name in header.tensors for mark, algorithm in OTHER_ALGORITHMS.items() if mark in name
    }
    if not known and not marks:
        shown = ", ".join(sorted(header.tensors)[:3]) or "none"
        raise WeightsError(path, f"no key belongs to a LoRA; its first keys: {shown}")
    downs = {name: header.tensors[name] for name, key in known.items() if key.part == "down"}
    plain = "locon" if any(len(info.shape) == 4 for info in downs.values()) else "lora"
    return Probe(
        layouts=tuple(sorted({key.layout for key in known.values()})),
        algorithm="+".join(sorted(marks)) or plain,
        architecture=_architecture({known[name]: info for name, info in downs.items()}),
        components=tuple(sorted({key.component for key in known.values() if key.component})),
        modules=len({(key.component, key.module) for key in known.values()}),
        ranks=tuple(sorted({info.shape[0] for info in downs.values() if info.shape})),
        dtypes=tuple(sorted({info.dtype for info in header.tensors.values()})),
        parameters=sum(math.prod(info.shape) for info in header.tensors.values()),
        metadata=header.metadata,
        unknown=tuple(sorted(name for name, key in keys.items() if key is None)),
    )


def split_key(name: str) -> Key | None:
    """Take a key apart; None if it belongs to no layout that is known.

    Example:
        >>> split_key("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
        Key(layout='kohya', component='unet', module='mid_block_attentions_0_proj_in', part='down')
    """
    for suffix, part in PARTS.items():
        if name.endswith(suffix):
            for prefix, (layout, component) in PREFIXES.items():
                module = name[len(prefix) : -len(suffix)]
                if name.startswith(prefix) and module:
                    return Key(layout, component, module, part)
    return None


def is_pickle(path: Path) -> bool:
    """Say whether a file starts like a pickle, a torch archive or a NumPy file, whatever its name.

    Pickles of protocol 0 and 1 have no mark; what is no safetensors is refused by its header anyway.
    """
    with path.open("rb") as file:
        start = file.read(6)
    return start.startswith(PICKLE_STARTS)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    The rules are those of the format's specification: eight bytes of length, JSON, and tensors that follow
    each other without holes from the end of the header to the end of the file.

    Raises:
        WeightsError: A rule is broken.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise WeightsError(path, f"it is no safetensors file: it has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise WeightsError(path, "it is no safetensors file: its header would be longer than the file")
        text = file.read(length)
    try:
        table: Any = json.loads(text, object_pairs_hook=_no_doubles)
        if not isinstance(table, dict):
            raise ValueError("the header is no object")
        metadata = table.pop("__metadata__", {})  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        _check_metadata(metadata)
        tensors = {str(name): _tensor_info(entry) for name, entry in table.items()}  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
        _check_offsets(tensors.values(), size - 8 - length)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise WeightsError(path, f"its safetensors header is damaged: {exc}") from exc
    return Header(tensors, metadata, 8 + length)  # pyright: ignore[reportUnknownArgumentType]


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        raise ValueError("__metadata__ does not map text to text")


def _tensor_info(entry: Any) -> TensorInfo:
    dtype, shape = str(entry["dtype"]), entry["shape"]
    start, end = entry["data_offsets"]
    whole = [*shape, start, end]
    if not all(type(number) is int and number >= 0 for number in whole):
        raise ValueError("a shape or an offset is no natural number")
    if dtype in DTYPE_BYTES and math.prod(shape) * DTYPE_BYTES[dtype] != end - start:
        raise ValueError("a tensor's bytes do not fit its shape")
    return TensorInfo(dtype, tuple(shape), start, end)


def _check_offsets(tensors: "Sequence[TensorInfo] | Any", size: int) -> None:
    position = 0
    for info in sorted(tensors, key=lambda info: (info.start, info.end)):
        if info.start != position or info.end < info.start:
            raise ValueError("tensors overlap or leave a hole")
        position = info.end
    if position != size:
        raise ValueError(f"tensors end at byte {position} of {size}")


def _architecture(downs: Mapping[Key, TensorInfo]) -> str:
    for key, info in downs.items():
        if key.component in ("unet", "") and re.search(r"attn2[._]to_[kv]$", key.module):
            return ARCHITECTURE_BY_TEXT_WIDTH.get(info.shape[1], "")
    for key, info in downs.items():
        if key.component == "text_encoder_2" and key.module.endswith(("q_proj", "k_proj", "v_proj")):
            return ARCHITECTURE_BY_ENCODER_WIDTH.get(info.shape[1], "")
    return ""
