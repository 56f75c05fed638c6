"""Write an adapter in the layout of another tool; its own dialect is written back bit for bit."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from adapterhub.errors import FormatError, SettingError
from adapterhub.formats.comfy import comfy_tensors
from adapterhub.formats.container import data_digest, safetensors_bytes
from adapterhub.formats.diffusers import diffusers_parts
from adapterhub.formats.headers import described, stripped
from adapterhub.formats.kohya import kohya_tensors
from adapterhub.formats.peft import peft_files
from adapterhub.lora.weights import AdapterTensors, LowRank, Native, Update, is_finite
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.intake import PEFT_FILES, SINGLE_FILE

FORMATS = ("kohya", "diffusers", "peft", "comfy", "a1111")
LAYOUTS = {"kohya": "kohya", "diffusers": "diffusers", "peft": "peft", "comfy": "comfy", "a1111": "kohya"}
"""The layout of a source that is the format already."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_adapter(
    adapter: AdapterTensors,
    path: Path | str,
    *,
    format: str = "kohya",  # noqa: A002
    dtype: str | None = None,
    fold_alpha: bool = False,
    strip: str | None = None,
    architecture: str = "",
    title: str = "",
    trigger_words: Sequence[str] = (),
    licence: str = "",
) -> None:
    """Write an adapter to a safetensors file, or for `peft` to a directory; whole or not at all.

    Read from the same format and changed by no option, it is written bit for bit as it was.

    Args:
        adapter: What to write.
        path: The file; for `peft` a directory, which is made.
        format: `kohya` (every peer reads it), `diffusers`, `peft`, `comfy` or `a1111`.
        dtype: `float32`, `float16` or `bfloat16` for the factors; None keeps what they are stored in.
        fold_alpha: Multiply the scale into B, so that alpha = rank everywhere.
        strip: `training` takes out what tells of the training.
        architecture: For the header; see `described` for this and the rest.
        title: ModelSpec's title.
        trigger_words: ModelSpec's trigger phrase.
        licence: ModelSpec's licence.

    Raises:
        FormatError: The format cannot hold it.
        SettingError: An option has no such value.
        OutputError: The path cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from adapterhub.formats.read import read_adapter
        >>> from adapterhub.lora.weights import LowRank, Target
        >>> layer = LowRank(torch.ones(2, 8), torch.ones(8, 2), scale=0.5)
        >>> adapter = AdapterTensors({Target("unet", "mid_block.attentions.0.proj_in"): layer})
        >>> file = Path(tempfile.mkdtemp()) / "ink.safetensors"
        >>> write_adapter(adapter, file, format="kohya")
        >>> [update.scale for update in read_adapter(file).layers.values()]
        [0.5]
    """
    path = Path(path)
    header = described(
        adapter, architecture=architecture, title=title, trigger_words=trigger_words, licence=licence
    )
    files = adapter_files(adapter, format, dtype=dtype, fold_alpha=fold_alpha, strip=strip, metadata=header)
    if format != "peft":
        (content,) = files.values()
        write_atomically(path, content)
        return
    make_directory(path)
    for name, content in files.items():
        write_atomically(path / name, content)


def adapter_files(
    adapter: AdapterTensors,
    format_name: str,
    *,
    dtype: str | None = None,
    fold_alpha: bool = False,
    strip: str | None = None,
    metadata: Mapping[str, str] | None = None,
    peft_config: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Return the files of a format, by name; see `write_adapter`.

    Args:
        adapter: What to write.
        format_name: One of `FORMATS`.
        dtype: See `write_adapter`.
        fold_alpha: See `write_adapter`.
        strip: See `write_adapter`.
        metadata: The header, where one is written; by default the adapter's own, with its ranks.
        peft_config: More fields for `adapter_config.json`, such as a parent's `task_type`.
    """
    if format_name not in FORMATS:
        raise SettingError("format", format_name, f"one of {', '.join(FORMATS)}")
    if dtype is not None and dtype not in DTYPES:
        raise SettingError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    if strip not in (None, "training"):
        raise SettingError("strip", strip, "training")
    if dtype is None and not fold_alpha and strip is None:
        verbatim = _verbatim(adapter, format_name)
        if verbatim is not None:
            return verbatim
    own_config = source_config(adapter)
    adapter = _prepared(adapter, format_name, dtype, fold_alpha=fold_alpha)
    header = dict(described(adapter) if metadata is None else metadata)
    if strip is not None:
        header = stripped(header)
    if format_name == "peft":
        return peft_files(adapter, config=peft_config or own_config)
    name = SINGLE_FILE if format_name == "diffusers" else "adapter.safetensors"
    if format_name == "diffusers":
        tensors, scales = diffusers_parts(adapter)
        return {name: safetensors_bytes(tensors, {**header, **scales})}
    tensors = comfy_tensors(adapter) if format_name == "comfy" else kohya_tensors(adapter)
    return {name: safetensors_bytes(tensors, {**header, "sshs_model_hash": data_digest(tensors)})}


def _verbatim(adapter: AdapterTensors, format_name: str) -> dict[str, bytes] | None:
    """Return the bytes that it was read from, if they are this format already."""
    source = adapter.source
    if source is None:
        return None
    is_directory = len(source.files) > 1
    is_same = source.layouts == (LAYOUTS[format_name],) and is_directory == (format_name == "peft")
    return {name: bytes(content) for name, content in source.files.items()} if is_same else None


def source_config(adapter: AdapterTensors) -> dict[str, Any]:
    """Return the `adapter_config.json` that it was read with; empty if there was none."""
    content = None if adapter.source is None else adapter.source.files.get(PEFT_FILES[0])
    return {} if content is None else json.loads(bytes(content))


def _prepared(
    adapter: AdapterTensors, format_name: str, dtype: str | None, *, fold_alpha: bool
) -> AdapterTensors:
    """Return it with folded scales, in the dtype asked for; the fold is taken in float32, before the cast."""
    target_dtype = DTYPES[dtype] if dtype is not None else None
    layers: dict[object, Update] = {}
    overflown: list[str] = []
    for target, update in adapter.layers.items():
        changed: Update = update
        if isinstance(update, LowRank) and fold_alpha:
            changed = update.folded(target_dtype)
        if target_dtype is not None:
            changed = _cast(changed, target_dtype)
        if not all(is_finite(part) for part in changed.tensors.values()):
            overflown.append(str(target))
        layers[target] = changed
    if overflown:
        raise FormatError(format_name, overflown, "numbers are not finite, or too large for the dtype")
    biases = adapter.biases
    if target_dtype is not None:
        biases = {target: bias.to(target_dtype) for target, bias in biases.items()}
    return dataclasses.replace(adapter, layers=layers, biases=biases, source=None)


def _cast(update: Update, dtype: torch.dtype) -> Update:
    if isinstance(update, LowRank):
        return dataclasses.replace(update, down=update.down.to(dtype), up=update.up.to(dtype))
    if isinstance(update, Native):
        parts = {
            n: part.to(dtype) if part.is_floating_point() else part for n, part in update.tensors.items()
        }
        return dataclasses.replace(update, tensors=parts)
    return dataclasses.replace(update, difference=update.difference.to(dtype))
