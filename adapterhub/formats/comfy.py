"""Write ComfyUI's generic layout: `diffusion_model.` and SGM's dotted names."""

from torch import Tensor

from adapterhub.errors import FormatError
from adapterhub.formats.kohya import kohya_name, module_tensors, sgm_name
from adapterhub.lora.weights import AdapterTensors, Target


def comfy_tensors(adapter: AdapterTensors) -> dict[str, Tensor]:
    """Return an adapter's tensors under ComfyUI's keys; text encoders as kohya names them.

    Raises:
        FormatError: It is of another architecture than SDXL's, or has (IA)^3 layers.
    """
    scaled = [f"{target} (ia3)" for target, layer in adapter.layers.items() if layer.algorithm == "ia3"]
    if scaled:
        raise FormatError("comfy", scaled, "ComfyUI reads no (IA)^3; make it a plain LoRA first")
    return {**module_tensors(adapter, _name, format_name="comfy"), **adapter.extras}


def _name(target: Target) -> str:
    if target.component == "unet":
        return f"diffusion_model.{sgm_name(target.module)}"
    return kohya_name(target)
