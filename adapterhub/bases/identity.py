"""What a base is: its architecture from names and shapes, its identity from the weights themselves."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapterhub.bases.tensors import read_tensors
from adapterhub.errors import OutputError, missing_extra
from adapterhub_registry.files import make_directory, write_atomically

logger = logging.getLogger(__name__)

# Digest of the shapes (see `shapes_digest`) to the architecture's name. The first is checked in the tests
# against the model that diffusers and transformers build from SDXL's published configs.
ARCHITECTURES = {
    "0a1778217b2fe6f90d8e383a0b06bb5ef038fc6b68eb912f1dbd8ea47da11bdd": "sdxl",
    "bb7d092dedbb3fed7b0d54d7b718712b88fb981e73997958e8e23a5c5d14bab1": "mini",
}
TEXT_ENCODER_SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")


def architecture_of(unet: Mapping[str, Sequence[int]], config: Path) -> str:
    """Return `sdxl`, `mini`, or `custom-` and 12 hex digits for other shapes.

    Args:
        unet: Shape of every UNet parameter, by name.
        config: A directory with the configs of the text encoders.
    """
    encoders = [
        json.loads((config / component / "config.json").read_text())
        for component in ("text_encoder", "text_encoder_2")
    ]
    digest = shapes_digest(unet, encoders)
    return ARCHITECTURES.get(digest, f"custom-{digest[:12]}")


def shapes_digest(unet: Mapping[str, Sequence[int]], text_encoders: Sequence[Mapping[str, Any]]) -> str:
    """Return the hex SHA-256 of everything that decides whether an adapter fits.

    Args:
        unet: Shape of every UNet parameter, by name.
        text_encoders: The configs of both text encoders.
    """
    table = {
        "unet": {name: list(shape) for name, shape in unet.items()},
        "text_encoders": [{key: config[key] for key in TEXT_ENCODER_SHAPE} for config in text_encoders],
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def identity_of(weights: Mapping[str, Sequence[Path]], *, cache: Path, config: Path | None = None) -> str:
    """Return `sha256:` and the digest of all weights, rounded to float16.

    Rounding makes the float32 and float16 editions of one checkpoint the same base, and reading by diffusers'
    names makes the directory and the single file the same. The digest covers, for each component and tensor
    in order of name: component, name, shape, and the float16 values.

    Args:
        weights: The safetensors files of each component.
        cache: File that remembers digests by path, size and modification time.
        config: The configs that a single file is read with; None for a directory.
    """
    files = [str(file.resolve()) for component in sorted(weights) for file in weights[component]]
    stats = [Path(file).stat() for file in files]
    places: list[Any] = [[f, s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)]
    key = json.dumps(places if config is None else [*places, str(config)])
    known = _read_cache(cache)
    if key not in known:
        known[key] = _hash_weights(weights, config)
        try:
            make_directory(cache.parent)
            write_atomically(cache, json.dumps(known, indent=0).encode())
        except OutputError as exc:  # the digest is right, only slower to get next time
            logger.warning("cannot remember the base's identity: %s", exc)
    return known[key]


def _hash_weights(weights: Mapping[str, Sequence[Path]], config: Path | None) -> str:
    try:
        import torch
    except ModuleNotFoundError as exc:
        raise missing_extra(exc) or exc from exc
    digest = hashlib.sha256()
    for component, name, tensor in read_tensors(weights, config):
        digest.update(json.dumps([component, name, list(tensor.shape)]).encode())
        values = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        digest.update(values.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _read_cache(cache: Path) -> dict[str, str]:
    try:
        return json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
