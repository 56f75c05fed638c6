"""The content identity of an adapter: the same in every dialect that spells it."""

import hashlib
import json

import torch
from torch import Tensor

from adapterhub.lora.weights import AdapterTensors


def content_identity(adapter: AdapterTensors) -> str:
    """Return SHA-256 over targets, algorithms, dtypes, shapes, bytes and scales, as `sha256:...`.

    Headers, key spellings and the file's order do not enter: one adapter in kohya's, diffusers' and PEFT's
    layout has one identity.

    Example:
        >>> from adapterhub.lora.weights import LowRank, Target
        >>> layer = LowRank(torch.ones(2, 3), torch.ones(4, 2), scale=0.5, origin="alpha")
        >>> same = LowRank(torch.ones(2, 3), torch.ones(4, 2), scale=0.5, origin="config")
        >>> target = Target("unet", "mid_block.attentions.0.proj_in")
        >>> first, second = AdapterTensors({target: layer}), AdapterTensors({target: same})
        >>> content_identity(first) == content_identity(second)
        True
    """
    digest = hashlib.sha256()
    for target, layer in sorted(adapter.layers.items()):
        scale = repr(float(torch.tensor(layer.scale, dtype=torch.float32)))
        _add(digest, [str(target), layer.algorithm, scale], dict(layer.tensors))
    for target, bias in sorted(adapter.biases.items()):
        _add(digest, [str(target), "bias"], {"bias": bias})
    for name, tensor in sorted(adapter.extras.items()):
        _add(digest, [name, "extra"], {"": tensor})
    return f"sha256:{digest.hexdigest()}"


def _add(digest: "hashlib._Hash", words: list[str], tensors: dict[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([*words, name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if len(flat):
            digest.update(flat.view(torch.uint8).numpy().data)
