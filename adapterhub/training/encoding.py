"""What the UNet is trained on: VAE posteriors and prompt embeddings, computed once and kept by content."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from adapterhub.formats.container import safetensors_bytes
from adapterhub.training.dataset import Dataset, Example, load_picture
from adapterhub_registry.files import make_directory, write_atomically

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

OnItem = Callable[[int, int], None]


@dataclass(frozen=True)
class Encoded:
    """A data set as tensors, on the CPU in float32.

    Attributes:
        mean: Mean of each picture's posterior, `(count, channels, height, width)`, scaled.
        std: Its standard deviation, likewise; a fresh sample is drawn at every step.
        states: Prompt states, `(count, 77, width)`.
        pooled: Pooled prompts, `(count, projection)`.
    """

    mean: Tensor
    std: Tensor
    states: Tensor
    pooled: Tensor


class EncodingCache:
    """Tensors on disk under the hash of everything that decides them, so that they cannot go stale."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, key: Sequence[str | int], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return the tensors of `key`, made and kept if they are not there; a damaged file is made again."""
        name = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()
        path = self._directory / name[:2] / f"{name}.safetensors"
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError):
            tensors = {part: value.detach().cpu().float() for part, value in make().items()}
        make_directory(path.parent)
        write_atomically(path, safetensors_bytes(tensors, {}))
        return tensors


def encode_dataset(
    pipeline: "StableDiffusionXLPipeline",
    dataset: Dataset,
    *,
    size: int,
    base_identity: str,
    cache: EncodingCache,
    on_item: OnItem | None = None,
) -> Encoded:
    """Encode every picture and caption, each alone, so that no result depends on its neighbours.

    Args:
        pipeline: Of the base.
        dataset: From `read_dataset`.
        size: Width and height in pixels.
        base_identity: Part of the cache's keys.
        cache: Where results are kept.
        on_item: Called after each example with (done, count).

    Raises:
        TrainingPictureError: A file has changed since the data set was read, or is gone.
    """
    vae = pipeline.vae
    scale = float(vae.config["scaling_factor"])
    dtype = str(pipeline.unet.dtype)

    def encode_picture(item: Example) -> Mapping[str, Tensor]:
        pixels = load_picture(item.path, size, sha256=item.sha256)[None].to(vae.device, vae.dtype)
        posterior = vae.encode(pixels, return_dict=False)[0]
        return {"mean": posterior.mean[0] * scale, "std": posterior.std[0] * scale}

    def encode_caption(caption: str) -> Mapping[str, Tensor]:
        # Captions are no prompts: every bracket is a letter, and what one chunk cannot hold is left out.
        states, _, pooled, _ = pipeline.encode_prompt(
            prompt=caption, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"states": states[0], "pooled": pooled[0]}

    rows: list[Mapping[str, Tensor]] = []
    with torch.no_grad():
        for done, item in enumerate(dataset.examples, 1):
            caption = item.caption
            picture = cache.get(
                ["picture", 1, item.sha256, size, base_identity, str(vae.dtype)],
                lambda item=item: encode_picture(item),
            )
            text = cache.get(
                ["caption", 1, caption, base_identity, dtype], lambda caption=caption: encode_caption(caption)
            )
            rows.append({**picture, **text})
            if on_item is not None:
                on_item(done, len(dataset.examples))
    parts = {name: torch.stack([row[name] for row in rows]) for name in ("mean", "std", "states", "pooled")}
    return Encoded(**parts)
