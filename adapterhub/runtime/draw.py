"""Make the pictures of one batch with the stock pipeline, under what acts on each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from adapterhub.bases.prompts import PromptCache, PromptEmbedding
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.planes import Acting, Planes
from adapterhub.runtime.request import Batch


@dataclass(frozen=True)
class Step:
    """A denoising step that was made.

    Attributes:
        done: Steps made so far.
        steps: All of them.
        latents: Of all pictures, `(pictures, channels, height, width)`.
        pipeline: The stock pipeline.
    """

    done: int
    steps: int
    latents: Tensor
    pipeline: Any

    def preview(self, row: int) -> Image.Image:
        """Return how a picture looks now, with the noise that is still in it."""
        vae = self.pipeline.vae
        latents = self.latents[row : row + 1].to(vae.dtype) / vae.config.scaling_factor
        with torch.no_grad():
            decoded = vae.decode(latents, return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(decoded, output_type="pil")[0]


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Drawn:
    """Pictures of one batch.

    Attributes:
        images: RGB.
        rank: To which the mixed plane padded factors.
        compiler: What the UNet's blocks were compiled by; empty if they were not.
        step_seconds: Mean time of a step, 0.0 for a single one.
    """

    images: list[Image.Image]
    rank: int
    compiler: str
    step_seconds: float


def draw(
    pipeline: Any,
    batch: Batch,
    plans: Sequence[ActivePlan],
    *,
    planes: Planes,
    plane: str,
    prompts: PromptCache,
    scheduler: Any,
    rank: int = 0,
    on_step: OnStep | None = None,
) -> Drawn:
    """Make all pictures of a batch.

    Args:
        pipeline: The stock pipeline.
        batch: What to make.
        plans: One for all pictures, or on the mixed plane one for each.
        planes: Of the pipeline.
        plane: Where they act.
        prompts: Encodes.
        scheduler: Used in place of the pipeline's own.
        rank: To which the mixed plane pads factors, at least.
        on_step: Called after each step; what it raises ends the batch.
    """
    grid = (batch.height // pipeline.vae_scale_factor, batch.width // pipeline.vae_scale_factor)
    times: list[float] = []
    with planes.acting(plans, plane, steps=batch.steps, grid=grid, rank=rank) as acting:
        positive, negative = _embeddings(batch, acting, prompts)
        acting.start()

        def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            times.append(time.perf_counter())
            if step + 1 < batch.steps:
                acting.after_step(step)
            if on_step is not None:
                on_step(Step(step + 1, batch.steps, tensors["latents"], pipeline))
            return tensors

        # diffusers annotates the callback and the result with other types than it takes and gives.
        own, pipeline.scheduler = pipeline.scheduler, scheduler
        try:
            output = pipeline(
                prompt_embeds=torch.cat([entry.states for entry in positive]),
                pooled_prompt_embeds=torch.cat([entry.pooled for entry in positive]),
                negative_prompt_embeds=torch.cat([entry.states for entry in negative]),
                negative_pooled_prompt_embeds=torch.cat([entry.pooled for entry in negative]),
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds],
                num_inference_steps=batch.steps,
                guidance_scale=batch.guidance_scale,
                width=batch.width,
                height=batch.height,
                callback_on_step_end=after_step,
            )
        finally:
            pipeline.scheduler = own
    seconds = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Drawn(output.images, acting.rank, planes.compiler_of(plans[0], plane), seconds)


def _embeddings(
    batch: Batch, acting: Acting, prompts: PromptCache
) -> tuple[list[PromptEmbedding], list[PromptEmbedding]]:
    """Return the embeddings of all prompts and negative prompts."""
    positive: list[PromptEmbedding] = []
    negative: list[PromptEmbedding] = []
    for row, request in enumerate(batch.requests):
        digest = acting.text_digest(row)

        def prepare(row: int = row) -> None:
            acting.prepare_text(row)

        under: Any = {"text_encoder_digest": digest, "prepare": prepare}
        syntax = request.prompt_syntax
        text = prompts.encode(request.prompt, syntax=syntax, **under)
        against = prompts.encode_negative(request.negative_prompt, text, syntax=syntax, **under)
        for entries, entry in zip((positive, negative), prompts.pad([text, against], **under), strict=True):
            entries.append(entry)
    return positive, negative
