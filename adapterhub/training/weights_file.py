"""The file that holds what was trained."""

from adapterhub.formats.container import safetensors_bytes
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.formats.kohya import kohya_tensors
from adapterhub.lora.weights import AdapterTensors


def weights_bytes(tensors: AdapterTensors) -> bytes:
    """Return a file that peers read: LoRA and DoRA as diffusers spells them, the rest as LyCORIS does."""
    if set(tensors.algorithms) <= {"lora", "dora"}:
        return diffusers_bytes(tensors)
    return safetensors_bytes(kohya_tensors(tensors), {})
