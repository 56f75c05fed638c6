"""The loss on pictures that are not trained on, at noise and timesteps that never change."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adapterhub.bases.prompts import PromptCache
from adapterhub.randomness import keyed_normal
from adapterhub.training.dataset import Example
from adapterhub.training.executor import Network
from adapterhub.training.objective import Objective, ObjectiveTable
from adapterhub.training.rows import Encoder, Reading, encode_caption

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

TIMES = 4
"""Timesteps at which each picture is measured: the middles of so many equal parts."""


class Validation:
    """Measures the mean squared error of the prediction on held-out pictures.

    A picture is measured at `TIMES` timesteps with noise that depends on picture and timestep alone, and
    with the loss's weights left out, so that all runs on the same pictures and base compare, whatever their
    seeds and objectives. Nothing is dropped, and no random state is touched.

    Args:
        pipeline: Of the base.
        examples: The pictures.
        reading: How their captions and masks are read.
        encoder: Of the base.
        objective: Says what the base predicts, and on which noise schedule.
        has_text: Whether text encoders are trained, so that captions have to be encoded anew each time.
    """

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        examples: Sequence[Example],
        *,
        reading: Reading,
        encoder: Encoder,
        objective: Objective,
        has_text: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._unet: Any = pipeline.unet
        self._device, self._dtype = pipeline.unet.device, pipeline.unet.dtype
        self._chunks = reading.chunks
        self._has_text = has_text
        self._examples = examples
        self._rows = [
            {
                **encoder.picture(item, flipped=False, floor=reading.unmasked_weight),
                **encoder.caption(self._text(item), chunks=reading.chunks),
            }
            for item in examples
        ]
        alphas: Any = pipeline.scheduler.alphas_cumprod
        plain = Objective(
            prediction_type=objective.prediction_type,
            zero_terminal_snr=objective.zero_terminal_snr,
            weighting="none",
            max_timestep=len(alphas) - 1,
        )
        self._steps = [len(alphas) * (2 * number + 1) // (2 * TIMES) for number in range(TIMES)]
        self._terms = ObjectiveTable(plain, alphas).terms(self._steps).to(self._device)

    def measure(self, network: Network | None = None, slot: int = 0) -> float:
        """Return the loss of an adapter, or of the base alone.

        Args:
            network: Active on the base; None for the base alone, with no network active.
            slot: Of the adapter.
        """
        with torch.no_grad():
            if network is not None:
                network.share([slot], [1])
            losses = [self._loss(item, row) for item, row in zip(self._examples, self._rows, strict=True)]
            return float(torch.stack(losses).mean())

    def _loss(self, item: Example, row: Mapping[str, Tensor]) -> Tensor:
        device, dtype = self._device, self._dtype
        if self._has_text:
            prompts = PromptCache(self._pipeline, device=self._device)
            row = {**row, **encode_caption(prompts, self._text(item), self._chunks)}
        shape = tuple(row["mean"].shape)
        noise = torch.stack([keyed_normal(shape, 0, "validation", item.sha256, step) for step in self._steps])
        noise = noise.to(device)
        latents = row["mean"].float().expand(TIMES, *shape).to(device)
        sizes = torch.tensor([item.placement.size_ids if item.placement else ()]).float()
        predicted = self._unet(
            self._terms.noisy(latents, noise).to(dtype),
            self._terms.timesteps,
            encoder_hidden_states=_repeated(row["states"]).to(device, dtype),
            added_cond_kwargs={
                "text_embeds": _repeated(row["pooled"]).to(device, dtype),
                "time_ids": sizes.expand(TIMES, -1).to(device),
            },
            return_dict=False,
        )[0]
        mask = _repeated(row["mask"]).to(device) if "mask" in row else None
        return self._terms.losses(predicted, latents, noise, mask).mean()

    def _text(self, item: Example) -> str:
        return item.source.rules.plain(item.caption)


def _repeated(value: Tensor) -> Tensor:
    return value.expand(TIMES, *value.shape)
