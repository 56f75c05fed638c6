"""Captions of adapters that train the text encoders: encoded in each pass, with gradients."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adapterhub.bases.prompts import plain_tokens
from adapterhub.training.executor import Rows

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def caption_tokens(pipeline: "StableDiffusionXLPipeline", text: str, *, chunks: int) -> Tensor:
    """Return the tokens of a caption, `(chunks, 2, 77)`, in the chunks that `Encoder.caption` reads.

    Args:
        pipeline: Of the base.
        text: The caption.
        chunks: Of 75 tokens; what these cannot hold is left out, and what is missing are empty ones.
    """
    given = plain_tokens(pipeline, text)
    missing = chunks - len(given)
    return torch.cat([given, *[plain_tokens(pipeline, "")] * missing])[:chunks]


class CaptionEncoder:
    """Both text encoders as SDXL reads them; the layers that are trained must be active on them.

    Args:
        encoders: The first and the second, frozen.
    """

    def __init__(self, encoders: Sequence[Any]) -> None:
        self._encoders = encoders

    def __call__(self, rows: Sequence[Rows]) -> list[tuple[Tensor, Tensor]]:
        """Return states and pooled output of each adapter's captions, with their graph.

        Args:
            rows: Of adapters that train text, all of as many chunks; their samples come in this order.
        """
        tokens = torch.cat([own.tokens for own in rows if own.tokens is not None])
        dropped = torch.tensor([one for own in rows for one in own.is_dropped])
        counts = [len(own.mean) for own in rows]
        samples, chunks = tokens.shape[:2]
        outputs = [
            encoder(tokens[:, :, number].flatten(0, 1).to(encoder.device), output_hidden_states=True)
            for number, encoder in enumerate(self._encoders)
        ]
        # Each chunk was read alone; the pooled output is that of the first one.
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        states = states.unflatten(0, (samples, chunks)).flatten(1, 2)
        pooled = outputs[-1][0].unflatten(0, (samples, chunks))[:, 0]
        dropped = dropped.to(states.device)
        states = states.masked_fill(dropped[:, None, None], 0.0)
        pooled = pooled.masked_fill(dropped[:, None], 0.0)
        return list(zip(states.split(counts), pooled.split(counts), strict=True))
