"""Bake adapters into a checkpoint, streamed from file to file: one layer is in memory at a time."""

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from adapterhub.errors import OutputError, TargetError
from adapterhub.formats.checkpoint import Checkpoint, Slot, read_tensor
from adapterhub.lora.weights import AdapterTensors, Target, Update
from adapterhub_registry.files import make_directory
from adapterhub_registry.safetensors_header import Header, TensorInfo

CHUNK = 8 << 20
OnTensor = Callable[[int, int], None]


def bake(
    checkpoint: Checkpoint,
    adapters: Sequence[tuple[AdapterTensors, float]],
    out: Path,
    *,
    on_tensor: OnTensor | None = None,
) -> int:
    """Write a checkpoint with adapters in its weights: `round(W + sum_i w_i D_i)`, summed in float32.

    Layout, header, dtypes and everything that no adapter changes are copied bit for bit.

    Args:
        checkpoint: What to bake into.
        adapters: Adapters and their weights.
        out: A file for a single-file checkpoint, else a directory; it must not be there yet.
        on_tensor: Called after each tensor with (tensors done, tensors).

    Returns:
        How many weights and biases were changed.

    Raises:
        TargetError: The checkpoint lacks a module that an adapter changes, or it has another shape.
        OutputError: `out` is there already or cannot be written; nothing of it is left behind.
    """
    if out.exists():
        raise OutputError(out, "it is there already")
    changes = _changes(checkpoint, adapters)
    make_directory(out.absolute().parent)
    draft = out.absolute().parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    total, done = sum(len(header.tensors) for header in checkpoint.headers.values()), 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_tensor is not None:
            on_tensor(done, total)

    try:
        if checkpoint.path.is_file():
            _write(checkpoint, checkpoint.path, draft, changes, count)
        else:
            ignored = {file.resolve() for file in checkpoint.files}
            shutil.copytree(
                checkpoint.path,
                draft,
                ignore=lambda folder, names: [n for n in names if (Path(folder) / n).resolve() in ignored],
            )
            for file in checkpoint.files:
                _write(checkpoint, file, draft / file.relative_to(checkpoint.path), changes, count)
        os.replace(draft, out)
    except OSError as exc:
        raise OutputError(out, exc.strerror or str(exc)) from exc
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
    return sum(len(items) for items in changes.values())


Change = tuple[int, list[tuple["Update | Tensor", float]]]
"""Which third of the rows (-1 for all), and what is added to it."""


def _changes(
    checkpoint: Checkpoint, adapters: Sequence[tuple[AdapterTensors, float]]
) -> dict[tuple[Path, str], list[Change]]:
    """Return what is added to each tensor of each file, after checking that all of it fits."""
    stacks: dict[Slot, list[tuple[Update | Tensor, float]]] = {}
    missing: list[str] = []
    for adapter, weight in adapters:
        places: list[tuple[Target, Update | Tensor, dict[Target, Slot]]] = [
            *((target, layer, checkpoint.weights) for target, layer in adapter.layers.items()),
            *((target, bias, checkpoint.biases) for target, bias in adapter.biases.items()),
        ]
        for target, update, slots in places:
            if target not in slots:
                missing.append(str(target))
            elif weight != 0:
                stacks.setdefault(slots[target], []).append((update, weight))
    if missing:
        raise TargetError(str(checkpoint.path), missing, "it has no such modules")
    changes: dict[tuple[Path, str], list[Change]] = {}
    wrong: list[str] = []
    for slot, stack in stacks.items():
        shape = checkpoint.shape(slot)
        for update, _ in stack:
            size = tuple(update.shape)
            if size and (torch.Size(size).numel() != shape.numel() or size[0] != shape[0]):
                wrong.append(f"{slot.key} {size} on {tuple(shape)}")
        changes.setdefault((slot.file, slot.key), []).append((slot.part, stack))
    if wrong:
        raise TargetError(str(checkpoint.path), wrong, "shapes differ")
    return changes


def _write(
    checkpoint: Checkpoint,
    source: Path,
    target: Path,
    changes: dict[tuple[Path, str], list[Change]],
    count: Callable[[], None],
) -> None:
    """Write one file: its header as it is, its tensors in their order."""
    header = checkpoint.headers[source]
    with source.open("rb") as read, target.open("wb") as write:
        write.write(read.read(header.data_start))
        for key, info in sorted(header.tensors.items(), key=lambda item: (item[1].start, item[1].end)):
            found = changes.get((source, key))
            if found is None:
                read.seek(header.data_start + info.start)
                _copy(read, write, info.end - info.start)
            else:
                write.write(_baked(source, header, info, found))
            count()
        write.flush()
        os.fsync(write.fileno())


def _baked(source: Path, header: Header, info: TensorInfo, changes: list[Change]) -> memoryview:
    weight = read_tensor(source, header, info)
    for part, stack in changes:
        rows = weight if part < 0 else weight.chunk(3)[part]
        pristine = rows.float()
        total = torch.zeros_like(pristine)
        for update, strength in stack:
            if isinstance(update, Tensor):
                total += update.float().reshape(total.shape) * strength
            else:
                total += update.delta(weight=strength, base=pristine).reshape(total.shape)
        rows.copy_(pristine + total)
    return weight.reshape(-1).view(torch.uint8).numpy().data


def _copy(read: IO[bytes], write: IO[bytes], size: int) -> None:
    while size:
        chunk = read.read(min(size, CHUNK))
        write.write(chunk)
        size -= len(chunk)
