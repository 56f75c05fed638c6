"""Turn prompts into what SDXL's UNet reads, each text alone, and remember the last ones."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from torch import Tensor


@dataclass(frozen=True)
class PromptEmbedding:
    """What one prompt becomes.

    Attributes:
        states: `(1, 77, width)`, the penultimate states of both text encoders side by side.
        pooled: `(1, projection)`, the pooled output of the second text encoder.
    """

    states: "Tensor"
    pooled: "Tensor"


class PromptCache:
    """The embeddings of the last prompts, by text and by what was composed into the text encoders.

    A prompt is always encoded alone: its numbers do not depend on which prompts it arrives with.
    """

    def __init__(self, pipeline: "StableDiffusionXLPipeline", *, capacity: int = 256) -> None:
        self._pipeline = pipeline
        self._capacity = capacity
        self._entries: OrderedDict[tuple[str, str], PromptEmbedding] = OrderedDict()

    def encode(
        self, text: str, *, text_encoder_digest: str, prepare: Callable[[], None] = lambda: None
    ) -> PromptEmbedding:
        """Return the embedding of `text`.

        Args:
            text: One prompt.
            text_encoder_digest: What is composed into the text encoders now; part of the key, because the
                same prompt means something else to other weights.
            prepare: Called before the text encoders are, which is not if the embedding is known.
        """
        key = (text_encoder_digest, text)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        prepare()
        states, _, pooled, _ = self._pipeline.encode_prompt(
            prompt=text, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        entry = PromptEmbedding(states, pooled)
        self._entries[key] = entry
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return entry

    def encode_negative(
        self,
        text: str | None,
        like: PromptEmbedding,
        *,
        text_encoder_digest: str,
        prepare: Callable[[], None] = lambda: None,
    ) -> PromptEmbedding:
        """Return the negative embedding; None means zeros where the pipeline asks for them, as SDXL does."""
        if text is None and self._pipeline.config["force_zeros_for_empty_prompt"]:
            return PromptEmbedding(
                like.states.new_zeros(like.states.shape), like.pooled.new_zeros(like.pooled.shape)
            )
        return self.encode(text or "", text_encoder_digest=text_encoder_digest, prepare=prepare)
