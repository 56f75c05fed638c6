"""Pictures of what is trained, drawn while it is active on the base."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.errors import OutputError
from adapterhub_registry.intake import PreviewPicture

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

STEPS = 20
GUIDANCE = 5.0


def draw_samples(
    pipeline: "StableDiffusionXLPipeline",
    prompts: Sequence[str],
    *,
    seed: int,
    folder: Path,
    stem: str,
    base: str,
) -> list[PreviewPicture]:
    """Draw a picture of each prompt, one by one, and write it.

    Args:
        pipeline: With the adapter active.
        prompts: One a picture.
        seed: Of the first one; the others count up.
        folder: Where they are written.
        stem: How their names begin.
        base: Its name, for the settings.

    Raises:
        OutputError: One cannot be written.
    """
    previews: list[PreviewPicture] = []
    call: Any = pipeline
    for number, prompt in enumerate(prompts):
        generator = torch.Generator("cpu").manual_seed(seed + number)
        with torch.no_grad():
            picture = call(
                prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator
            ).images[0]
        path = folder / f"{stem}-{number + 1}.png"
        try:
            picture.save(path)
        except OSError as exc:
            raise OutputError(path, exc.strerror or str(exc)) from exc
        settings = {
            "steps": str(STEPS),
            "guidance_scale": f"{GUIDANCE:g}",
            "width": str(picture.width),
            "height": str(picture.height),
            "scheduler": type(pipeline.scheduler).__name__,
            "weight": "1",
            "base": base,
        }
        previews.append(PreviewPicture(path, prompt, seed + number, settings))
    return previews
