"""The tensors of a base by component and name, the same for every layout of its files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from adapterhub.bases.single_file import converted
from adapterhub.errors import missing_extra
from adapterhub_registry.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Shapes = dict[str, dict[str, tuple[int, ...]]]
"""Component to name to shape."""


def read_shapes(weights: Mapping[str, Sequence[Path]], config: Path | None) -> Shapes:
    """Return the shape of every tensor, from headers alone.

    Args:
        weights: The safetensors files of each component.
        config: The configs that a single file is read with; None for a directory.
    """
    if config is None:
        return {
            part: by_name(
                part, {name: info.shape for file in files for name, info in read_header(file).tensors.items()}
            )
            for part, files in weights.items()
        }
    import torch

    (file,) = weights["unet"]
    tensors = {
        name: torch.empty(info.shape, device="meta") for name, info in read_header(file).tensors.items()
    }
    parts = converted(file, tensors, config)
    return {
        part: by_name(part, {name: tuple(tensor.shape) for name, tensor in found.items()})
        for part, found in parts.items()
    }


def read_tensors(
    weights: Mapping[str, Sequence[Path]], config: Path | None
) -> "Iterator[tuple[str, str, Tensor]]":
    """Yield component, name and tensor, in order of component and name; the arguments are `read_shapes`'."""
    try:
        from safetensors import safe_open
        from safetensors.torch import load_file
    except ModuleNotFoundError as exc:
        raise missing_extra(exc) or exc from exc
    if config is not None:
        (file,) = weights["unet"]
        parts = converted(file, load_file(file), config)
        for part in sorted(parts):
            for name, tensor in sorted(by_name(part, parts[part]).items()):
                yield part, name, tensor
        return
    for part in sorted(weights):
        opened = {file: safe_open(file, framework="pt") for file in weights[part]}
        places = {name: (file, name) for file in weights[part] for name in read_header(file).tensors}
        for name, (file, own) in sorted(by_name(part, places).items()):
            yield part, name, opened[file].get_tensor(own)


def by_name(part: str, table: Mapping[str, T]) -> dict[str, T]:
    """Return a component's table, keyed as its tensors are named today.

    Releases of transformers differ in the prefix of the first text encoder, and old ones saved the positions,
    which are no weights.
    """
    prefix = "text_model." if part == "text_encoder" else ""
    return {
        name.removeprefix(prefix): value
        for name, value in table.items()
        if not name.endswith(".position_ids")
    }
