"""The models that configs describe, and whether a single file has what they ask for."""

from typing import Any

import torch

from adapterhub.bases.find import Base
from adapterhub.bases.tensors import by_name
from adapterhub.errors import BaseLoadError


def require_fit(base: Base) -> None:
    """Compare a single file with the models that its configs describe.

    diffusers itself would leave without content what is missing.

    Raises:
        BaseLoadError: A tensor is missing or has another shape.
    """
    for part, model in empty_models(base).items():
        for name, wanted in by_name(part, model.state_dict()).items():
            found = base.shapes[part].get(name)
            if found != tuple(wanted.shape):
                has = "lacks it" if found is None else f"has {'x'.join(map(str, found))}"
                raise BaseLoadError(
                    base.path,
                    f"by the configs in {base.config}, {part} has a tensor {name} of "
                    f"{'x'.join(map(str, wanted.shape))}, and the file {has}",
                )


def empty_models(base: Base) -> dict[str, Any]:
    """Return the models that the configs of a base describe, by component, on the meta device."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def text_config(part: str) -> CLIPTextConfig:
        return CLIPTextConfig.from_pretrained(base.config / part)

    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel.from_config(base.settings("unet")),
            "vae": AutoencoderKL.from_config(base.settings("vae")),
            "text_encoder": CLIPTextModel(text_config("text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(text_config("text_encoder_2")),
        }
