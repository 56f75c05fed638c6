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
from adapterhub.runtime.pipelines import Pipelines, Schedulers, calling
from adapterhub.runtime.planes import Acting, Planes
from adapterhub.runtime.request import Batch


@dataclass(frozen=True)
class Step:
    """A denoising step that was made.

    Attributes:
        done: Steps made so far.
        steps: All of them.
        latents: Of all pictures, `(pictures, channels, height, width)`.
        pipeline: The one that made it.
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
    pipelines: Pipelines,
    batch: Batch,
    plans: Sequence[ActivePlan],
    *,
    planes: Planes,
    plane: str,
    prompts: PromptCache,
    schedulers: Schedulers,
    rank: int = 0,
    on_step: OnStep | None = None,
) -> Drawn:
    """Make all pictures of a batch.

    Args:
        pipelines: Of the base.
        batch: What to make.
        plans: One for all pictures, or on the mixed plane one for each. They act on the base alone.
        planes: Of the stock pipeline.
        plane: Where they act.
        prompts: Encodes for the base.
        schedulers: Used in place of the pipelines' own.
        rank: To which the mixed plane pads factors, at least.
        on_step: Called after each step; what it raises ends the batch.

    Raises:
        SettingError: Base or refiner would make no step.
    """
    factor = pipelines.stock.vae_scale_factor
    grid = (batch.height // factor, batch.width // factor)
    passes = pipelines.passes(batch, schedulers)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds]
    times: list[float] = []

    def report(pipeline: Any, done: int, latents: Tensor) -> None:
        if on_step is not None:
            on_step(Step(done, passes.steps, latents, pipeline))

    with planes.acting(plans, plane, steps=passes.base, grid=grid, rank=rank) as acting:
        embedded = _embeddings(batch, prompts, acting)
        acting.start()

        def after_step(pipeline: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            times.append(time.perf_counter())
            if step + 1 < passes.base:
                acting.after_step(step)
            report(pipeline, step + 1, tensors["latents"])
            return tensors

        pipeline, given = pipelines.first(batch, schedulers.base)
        try:
            with calling(pipeline, schedulers.base):
                output = pipeline(**given, **embedded, generator=generators, callback_on_step_end=after_step)
        finally:
            pipelines.stock.maybe_free_model_hooks()  # another pipeline does not know of its offloading
    if passes.refiner:
        output = _refined(
            pipelines, batch, output.images, schedulers.refiner, generators, report, passes.base
        )
    seconds = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Drawn(output.images, acting.rank, planes.compiler_of(plans[0], plane), seconds)


def _refined(
    pipelines: Pipelines,
    batch: Batch,
    latents: Tensor,
    scheduler: Any,
    generators: Sequence[torch.Generator],
    report: Callable[[Any, int, Tensor], None],
    done: int,
) -> Any:
    """Have the refiner go on from latents, with the same generators."""

    def after_step(pipeline: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        report(pipeline, done + step + 1, tensors["latents"])
        return tensors

    with pipelines.refining() as refiner:
        pipeline: Any = refiner.pipeline
        embedded = _embeddings(batch, refiner.prompts)
        with calling(pipeline, scheduler):
            return pipeline(
                **embedded,
                image=latents,
                denoising_start=batch.first.refine_from,
                num_inference_steps=batch.steps,
                guidance_scale=batch.guidance_scale,
                generator=generators,
                callback_on_step_end=after_step,
            )


def _embeddings(batch: Batch, prompts: PromptCache, acting: Acting | None = None) -> dict[str, Tensor]:
    """Return the embeddings of all prompts and negative prompts, as pipelines take them."""
    positive: list[PromptEmbedding] = []
    negative: list[PromptEmbedding] = []
    for row, request in enumerate(batch.requests):
        digest = "" if acting is None else acting.text_digest(row)

        def prepare(row: int = row) -> None:
            if acting is not None:
                acting.prepare_text(row)

        under: Any = {"text_encoder_digest": digest, "prepare": prepare}
        syntax = request.prompt_syntax
        text = prompts.encode(request.prompt, syntax=syntax, **under)
        against = prompts.encode_negative(request.negative_prompt, text, syntax=syntax, **under)
        for entries, entry in zip((positive, negative), prompts.pad([text, against], **under), strict=True):
            entries.append(entry)
    return {
        "prompt_embeds": torch.cat([entry.states for entry in positive]),
        "pooled_prompt_embeds": torch.cat([entry.pooled for entry in positive]),
        "negative_prompt_embeds": torch.cat([entry.states for entry in negative]),
        "negative_pooled_prompt_embeds": torch.cat([entry.pooled for entry in negative]),
    }
