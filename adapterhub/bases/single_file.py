"""SDXL checkpoints in one safetensors file: what they are, and their tensors by diffusers' names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.errors import MissingComponentError, NotAPipelineError, WeightsError, missing_extra
from adapterhub_registry.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor

CONFIGS = Path(__file__).with_name("sdxl")
"""SDXL's published configs, which a single file does not carry."""

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
SIZE_CONDITIONING = "model.diffusion_model.label_emb.0.0.weight"
SDXL_INSTEAD = "name an SDXL checkpoint"
FOREIGN = {
    "conditioner.embedders.0.model.": "an SDXL refiner, which only finishes a base's pictures: name the base",
    "cond_stage_model.transformer.": f"a Stable Diffusion 1.x checkpoint: {SDXL_INSTEAD}",
    "cond_stage_model.model.": f"a Stable Diffusion 2.x checkpoint: {SDXL_INSTEAD}",
    "model.diffusion_model.joint_blocks.": f"a Stable Diffusion 3 checkpoint: {SDXL_INSTEAD}",
    "model.diffusion_model.double_blocks.": f"a Flux checkpoint: {SDXL_INSTEAD}",
    "edm_": f"a checkpoint with EDM's noise, which is not SDXL's: {SDXL_INSTEAD}",
    "control_model.": "a ControlNet, which goes with a base",
    "lora_": "an adapter: register it with `adapterhub add`",
    "down_blocks.": "a part of a pipeline in diffusers' format: name the directory that has model_index.json",
}
"""The start of a tensor's name to what a file with such tensors is, and what to do with it."""


def require_sdxl(path: Path) -> None:
    """Check by the names of its tensors that a file is a whole SDXL checkpoint.

    Raises:
        NotAPipelineError: It is something else; what, where that is known.
        MissingComponentError: It is SDXL's, but has not all parts.
        PickleRefusedError, WeightsError: It is no safetensors file, or a malformed one.
    """
    names = read_header(path).tensors
    for start, meaning in FOREIGN.items():
        if any(name.startswith(start) for name in names):
            raise NotAPipelineError(path, f"it is {meaning}")
    if SIZE_CONDITIONING not in names:
        raise NotAPipelineError(path, "its tensors have other names than those of SDXL's checkpoints")
    for part, prefix in PREFIXES.items():
        if not any(name.startswith(prefix) for name in names):
            raise MissingComponentError(path, part, "is not in the file, and SDXL needs all four parts in it")


def scheduler_changes(path: Path) -> dict[str, Any]:
    """Return what a checkpoint asks of the scheduler by tensors without content.

    Such marks are a custom of checkpoints that were tuned to predict the velocity (`v_pred`), and with pure
    noise at the first step (`ztsnr`).
    """
    names = read_header(path).tensors
    changes = {"prediction_type": "v_prediction"} if "v_pred" in names else {}
    return changes | ({"rescale_betas_zero_snr": True} if "ztsnr" in names else {})


def converted(path: Path, tensors: "Mapping[str, Tensor]", config: Path) -> "dict[str, dict[str, Tensor]]":
    """Return a checkpoint's tensors by component and by diffusers' names, as diffusers converts them.

    Args:
        path: The file, for messages.
        tensors: By the names in the file; on the meta device where only shapes are wanted.
        config: A directory with the configs of UNet and VAE.

    Raises:
        WeightsError: A tensor is missing that another one goes with.
    """
    try:
        from diffusers.loaders import single_file_utils
    except ModuleNotFoundError as exc:
        raise missing_extra(exc) or exc from exc
    given = {
        part: {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for part, prefix in PREFIXES.items()
    }
    settings = {part: json.loads((config / part / "config.json").read_text()) for part in ("unet", "vae")}
    prefix = PREFIXES["text_encoder_2"]
    try:
        return {
            "unet": single_file_utils.convert_ldm_unet_checkpoint(given["unet"], settings["unet"]),
            "vae": single_file_utils.convert_ldm_vae_checkpoint(given["vae"], settings["vae"]),
            "text_encoder": single_file_utils.convert_ldm_clip_checkpoint(given["text_encoder"]),
            "text_encoder_2": single_file_utils.convert_open_clip_checkpoint(
                None, given["text_encoder_2"], prefix=prefix
            ),
        }
    except KeyError as exc:
        raise WeightsError(path, f"it lacks the tensor {exc.args[0]}") from exc
