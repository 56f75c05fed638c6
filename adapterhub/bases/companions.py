"""Models that are used beside a base: a ControlNet, and a refiner."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.directory import PIPELINE_CLASS, required_files
from adapterhub.bases.find import BUNDLED
from adapterhub.bases.hub import cached_pipelines, hub_directory, is_hub_id
from adapterhub.bases.identity import identity_of
from adapterhub.bases.load import in_float32, quiet_libraries
from adapterhub.errors import BaseNotFoundError, ControlNetError, MissingComponentError, RefinerError
from adapterhub.settings import Settings

if TYPE_CHECKING:
    from diffusers.models.controlnets.controlnet import ControlNetModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
        StableDiffusionXLImg2ImgPipeline,
    )

CONTROLNET_CLASS = "ControlNetModel"
REFINER_CLASSES = ("StableDiffusionXLImg2ImgPipeline", PIPELINE_CLASS)
REFINER_PARTS = ("unet", "vae", "text_encoder_2", "tokenizer_2", "scheduler")
UNWEIGHTED = ("tokenizer", "scheduler")
RESIDUALS = ("in_channels", "block_out_channels", "layers_per_block")
"""Settings that decide the shapes of what a ControlNet adds to a UNet."""
CONDITIONS = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")


@dataclass(frozen=True)
class Companion:
    """A model on this machine that is used beside a base.

    Attributes:
        name: As it was asked for: a directory or a hub id.
        path: Its directory, in diffusers' format.
        weights: The safetensors files of each component.
        home: Where its identity is remembered between processes.
    """

    name: str
    path: Path
    weights: Mapping[str, tuple[Path, ...]]
    home: Path

    @cached_property
    def identity(self) -> str:
        """`sha256:` and the digest of its weights; slow at first, then remembered."""
        return identity_of(self.weights, cache=self.home / "cache" / "base-identities.json")


def find_controlnet(path: str | Path, *, settings: Settings | None = None) -> Companion:
    """Find a ControlNet and check that its files can be loaded; no weights are read.

    Args:
        path: A directory in diffusers' format.
        settings: Home; by default from the environment.

    Raises:
        ControlNetError: The directory holds none.
        MissingComponentError: Its weights are missing.
        PickleRefusedError: It has only pickled weights.
    """
    settings = settings or Settings.from_environment()
    folder = Path(path).expanduser()
    try:
        kind = json.loads((folder / "config.json").read_text())["_class_name"]
    except FileNotFoundError as exc:
        raise ControlNetError(folder, "it has no config.json") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ControlNetError(folder, f"its config.json cannot be read ({exc})") from exc
    if kind != CONTROLNET_CLASS:
        raise ControlNetError(folder, f"its class is {kind}, not {CONTROLNET_CLASS}")
    resolved = folder.resolve()
    weights = {"controlnet": required_files(resolved.parent, resolved.name)}
    return Companion(str(path), resolved, weights, settings.home)


def load_controlnet(
    companion: Companion, pipeline: "StableDiffusionXLPipeline", *, device: str, dtype: str
) -> "ControlNetModel":
    """Load a ControlNet for a pipeline.

    Args:
        companion: From `find_controlnet`.
        pipeline: Of the base.
        device: Of the pipeline.
        dtype: Likewise.

    Raises:
        ControlNetError: It does not fit the base, or its weights cannot be loaded.
    """
    with quiet_libraries():
        from diffusers.models.controlnets.controlnet import ControlNetModel
    model = _loaded(ControlNetModel, companion, dtype, ControlNetError)
    names = [*RESIDUALS]
    if model.config["cross_attention_dim"] is not None:  # one without cross-attention reads no prompt
        names.append("cross_attention_dim")
    if model.config["addition_embed_type"] is not None:
        names += CONDITIONS
    pairs = {name: (model.config[name], pipeline.unet.config[name]) for name in names}
    shrinks = 2 ** (len(model.config["conditioning_embedding_out_channels"]) - 1)
    pairs["factor by which pictures are shrunk"] = (shrinks, pipeline.vae_scale_factor)
    _require_equal(companion, pairs, ControlNetError)
    return model.requires_grad_(False).eval().to(device)


def find_refiner(name: str | Path, *, settings: Settings | None = None) -> Companion:
    """Find a refiner and check that its files can be loaded; no weights are read.

    Any base can be one too.

    Args:
        name: A directory in diffusers' format, or a hub id such as
            `stabilityai/stable-diffusion-xl-refiner-1.0`, taken from the cache where it is there.
        settings: Home and offline mode; by default from the environment.

    Raises:
        BaseNotFoundError: Nothing has this name.
        RefinerError: A path holds no refiner.
        MissingComponentError: A part or its weights are missing.
        PickleRefusedError: A part has only pickled weights.
    """
    settings = settings or Settings.from_environment()
    text = str(name)
    path = BUNDLED.get(text) or Path(name).expanduser()
    if not path.exists():
        if not (isinstance(name, str) and is_hub_id(name)):
            raise BaseNotFoundError(text, [*BUNDLED, *cached_pipelines()])
        path = hub_directory(name, None, settings)
    try:
        table = json.loads((path / "model_index.json").read_text())
        kind = table["_class_name"]
    except OSError as exc:
        raise RefinerError(path, "it is no directory with a model_index.json") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise RefinerError(path, f"its model_index.json cannot be read ({exc})") from exc
    if kind not in REFINER_CLASSES:
        raise RefinerError(path, f"its class is {kind}, not {REFINER_CLASSES[0]}")
    parts = [*REFINER_PARTS]
    parts += [part for part in ("text_encoder", "tokenizer") if table.get(part, [None])[0] is not None]
    for part in parts:
        if not (path / part).is_dir():
            raise MissingComponentError(path, part, "is not there")
        if not part.startswith(UNWEIGHTED) and not (path / part / "config.json").is_file():
            raise MissingComponentError(path, part, "has no config.json")
    weights = {part: required_files(path, part) for part in parts if not part.startswith(UNWEIGHTED)}
    return Companion(text, path.resolve(), weights, settings.home)


def load_refiner(
    companion: Companion, pipeline: "StableDiffusionXLPipeline", *, device: str, dtype: str
) -> "StableDiffusionXLImg2ImgPipeline":
    """Load a refiner that goes on from the latents of a pipeline; its VAE as that of a base.

    Args:
        companion: From `find_refiner`.
        pipeline: Of the base.
        device: Where it is put.
        dtype: Of the base.

    Raises:
        RefinerError: Its latents are not those of the base, or its weights cannot be loaded.
    """
    with quiet_libraries():
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
            StableDiffusionXLImg2ImgPipeline,
        )
    settings: dict[str, Any] = {"add_watermarker": False}
    vae = json.loads((companion.path / "vae" / "config.json").read_text())
    if dtype != "float32" and vae.get("force_upcast"):
        settings["vae"] = in_float32(
            _loaded(AutoencoderKL, companion, "float32", RefinerError, subfolder="vae")
        )
    refiner = _loaded(StableDiffusionXLImg2ImgPipeline, companion, dtype, RefinerError, **settings)
    pairs = {
        "number of latent channels": (
            refiner.unet.config["in_channels"],
            pipeline.vae.config["latent_channels"],
        ),
        "factor by which pictures are shrunk": (refiner.vae_scale_factor, pipeline.vae_scale_factor),
        "scaling factor of latents": tuple(one.vae.config["scaling_factor"] for one in (refiner, pipeline)),
    }
    _require_equal(companion, pairs, RefinerError)
    refiner.set_progress_bar_config(disable=True)
    for component in modules_of(refiner):
        component.requires_grad_(False).eval().to(device)
    return refiner


def modules_of(pipeline: Any) -> list[torch.nn.Module]:
    """Return the components of a pipeline that have weights."""
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def _loaded(kind: Any, companion: Companion, dtype: str, error: type[Any], **settings: Any) -> Any:
    from safetensors import SafetensorError

    try:
        with quiet_libraries():
            return kind.from_pretrained(
                companion.path,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                **settings,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as exc:
        reason = str(exc).splitlines()[0] if str(exc) else repr(exc)
        raise error(companion.path, f"it cannot be loaded ({reason})") from exc


def _require_equal(companion: Companion, pairs: Mapping[str, tuple[Any, Any]], error: type[Any]) -> None:
    for name, (own, wanted) in pairs.items():
        if own != wanted and _listed(own) != _listed(wanted):
            raise error(companion.path, f"its {name} is {own}, and that of the base {wanted}")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
