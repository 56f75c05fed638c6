"""What each pass of an adapter reads: its pictures and captions as the base encodes them."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adapterhub.bases.prompts import PromptCache, count_tokens
from adapterhub.training.batches import BatchOrder, Showing, is_flipped
from adapterhub.training.cache import EncodingCache, module_digest
from adapterhub.training.dataset import Dataset, Example
from adapterhub.training.executor import Rows
from adapterhub.training.losses import latent_mask
from adapterhub.training.text import caption_tokens

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

REMEMBERED_BYTES = 2 << 30
"""Of encoded pictures and captions in memory; others are read from the cache's files."""


class Encoder:
    """Encodes pictures and captions, each alone, so that nothing depends on neighbours; shared by adapters.

    Args:
        pipeline: Of the base.
        cache: Where results are kept.
        at_hand: Has the VAE and the text encoders on the device, for what the cache lacks.
    """

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        cache: EncodingCache,
        *,
        at_hand: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._at_hand = at_hand
        self._pipeline: Any = pipeline
        self._cache = cache
        # Diffusers finds it by a walk over all modules.
        self._device = pipeline.unet.device
        self._prompts = PromptCache(pipeline, device=self._device)
        self._vae_dtype = pipeline.vae.dtype
        self._vae = [module_digest(pipeline.vae), str(self._vae_dtype)]
        self._text = [module_digest(pipeline.text_encoder), module_digest(pipeline.text_encoder_2)]
        self._text.append(str(pipeline.text_encoder_2.dtype))
        self._remembered: OrderedDict[tuple[object, ...], Mapping[str, Tensor]] = OrderedDict()
        self._size = 0

    def picture(self, item: Example, *, flipped: bool, floor: float) -> Mapping[str, Tensor]:
        """Return `mean` and `std` of a picture's posterior, scaled, and `mask` at the latents' size, if any.

        Args:
            item: With its bucket.
            flipped: Whether left and right are changed over.
            floor: What the parts count that a mask leaves out.

        Raises:
            TrainingPictureError: The file has changed since the data set was read, or is gone.
        """
        vae = self._pipeline.vae
        placement = item.placement
        key = (
            *("picture", item.sha256, item.mask_sha256, item.source.alpha_mask, item.source.ground),
            *((placement and (*placement.original, *placement.bucket)) or (), flipped, floor),
        )

        def encode() -> Mapping[str, Tensor]:
            pixels, mask = item.load(is_flipped=flipped)
            with torch.no_grad():
                posterior = vae.encode(pixels[None].to(self._device, self._vae_dtype), return_dict=False)[0]
            scale = float(vae.config["scaling_factor"])
            tensors = {"mean": posterior.mean[0] * scale, "std": posterior.std[0] * scale}
            if mask is not None:
                tensors["mask"] = latent_mask(mask[None], tuple(tensors["mean"].shape[-2:]), floor)[0]
            return tensors

        return self._get((*key, *self._vae), encode)

    def caption(self, text: str, *, chunks: int) -> Mapping[str, Tensor]:
        """Return `states`, `(77 * chunks, width)`, and `pooled` of a caption.

        Captions are no prompts: every bracket is a letter. What these chunks cannot hold is left out, and
        what is shorter gets chunks of the empty caption.

        Args:
            text: The caption.
            chunks: Of 75 tokens.
        """
        key = ("caption", text, chunks, *self._text)
        return self._get(key, lambda: encode_caption(self._prompts, text, chunks))

    def tokens(self, text: str, *, chunks: int) -> Tensor:
        """Return the tokens of a caption, `(chunks, 2, 77)`; see `caption_tokens`."""
        return caption_tokens(self._pipeline, text, chunks=chunks)

    def _get(
        self, key: tuple[object, ...], encode: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key]

        def make() -> Mapping[str, Tensor]:
            with self._at_hand():
                return encode()

        tensors = self._cache.get(key, make)
        self._remembered[key] = tensors
        self._size += _bytes(tensors)
        while self._size > REMEMBERED_BYTES and len(self._remembered) > 1:
            self._size -= _bytes(self._remembered.popitem(last=False)[1])
        return tensors


@dataclass(frozen=True)
class Reading:
    """How one adapter reads its data set.

    Attributes:
        name: Part of the key of every random choice.
        seed: Likewise.
        batch_size: Pictures a pass, at most.
        chunks: Of 75 tokens that are read of each caption.
        unmasked_weight: What the parts count that a mask leaves out.
        trains_text: Whether text encoders are trained, so that captions are wanted as tokens.
    """

    name: str
    seed: int
    batch_size: int
    chunks: int = 1
    unmasked_weight: float = 0.0
    trains_text: bool = False


class AdapterRows:
    """The passes of one adapter over its data set.

    Args:
        dataset: Read with buckets.
        reading: How.
        encoder: Of the base.
    """

    def __init__(self, dataset: Dataset, reading: Reading, encoder: Encoder) -> None:
        self._examples = dataset.examples
        self._reading = reading
        self._encoder = encoder
        self._order = batch_order(dataset, reading)

    def __call__(self, number: int) -> Rows:
        """Return what pass `number` reads, counted from 0."""
        return self.rows(self._order.batch(number))

    def rows(self, showings: tuple[Showing, ...]) -> Rows:
        """Return what these showings are: all of one bucket."""
        read = [self._read(showing) for showing in showings]
        examples = [self._examples[showing.sample] for showing in showings]
        texts = [self._text(showing) for showing in showings]
        masks = [own["mask"] if "mask" in own else torch.ones_like(own["mean"][:1]) for own in read]
        placements = [item.placement for item in examples]
        return Rows(
            mean=torch.stack([own["mean"] for own in read]),
            std=torch.stack([own["std"] for own in read]),
            states=torch.stack([own["states"] for own in read]),
            pooled=torch.stack([own["pooled"] for own in read]),
            size_ids=torch.tensor([place.size_ids for place in placements if place]).float(),
            mask=torch.stack(masks) if any("mask" in own for own in read) else None,
            is_prior=[item.source.is_prior for item in examples],
            tokens=torch.stack([self._tokens(text) for text in texts]) if self._reading.trains_text else None,
            is_dropped=[text is None for text in texts],
        )

    def encode_all(self, passes: int) -> Iterator[tuple[int, int]]:
        """Encode what the passes will read, and yield (done, in all) after each."""
        wanted = dict.fromkeys(
            (showing.sample, self._is_flipped(showing), self._text(showing))
            for number in range(passes)
            for showing in self._order.batch(number)
        )
        for done, (sample, flipped, text) in enumerate(wanted, 1):
            self._encode(sample, flipped, text)
            yield done, len(wanted)

    def _read(self, showing: Showing) -> Mapping[str, Tensor]:
        return self._encode(showing.sample, self._is_flipped(showing), self._text(showing))

    def _encode(self, sample: int, flipped: bool, text: str | None) -> Mapping[str, Tensor]:
        item, reading = self._examples[sample], self._reading
        picture = self._encoder.picture(item, flipped=flipped, floor=reading.unmasked_weight)
        caption = self._encoder.caption(text or "", chunks=reading.chunks)
        if text is None:  # as SDXL was trained without a caption: with zeros in place of states
            caption = {part: torch.zeros_like(value) for part, value in caption.items()}
        return {**picture, **caption}

    def _tokens(self, text: str | None) -> Tensor:
        return self._encoder.tokens(text or "", chunks=self._reading.chunks)

    def _is_flipped(self, showing: Showing) -> bool:
        reading = self._reading
        may = self._examples[showing.sample].source.flip
        return may and is_flipped(showing, seed=reading.seed, name=reading.name)

    def _text(self, showing: Showing) -> str | None:
        item, reading = self._examples[showing.sample], self._reading
        return item.source.rules.vary(item.caption, showing, seed=reading.seed, name=reading.name)


def batch_order(dataset: Dataset, reading: Reading) -> BatchOrder:
    """Return the order in which an adapter's pictures are shown."""
    return BatchOrder(
        [item.placement and item.placement.bucket for item in dataset.examples],
        [item.source.repeats for item in dataset.examples],
        batch_size=reading.batch_size,
        seed=reading.seed,
        name=reading.name,
    )


def encode_caption(prompts: PromptCache, text: str, chunks: int) -> dict[str, Tensor]:
    """Return `states` and `pooled` of a caption, as `Encoder.caption` does, as the text encoders are now."""
    given = prompts.encode(text, text_encoder_digest="", syntax="plain")
    empty = prompts.encode("", text_encoder_digest="", syntax="plain")
    length = empty.states.shape[1]
    missing = chunks - given.states.shape[1] // length
    states = torch.cat([given.states, *[empty.states] * missing], dim=1)[0, : chunks * length]
    return {"states": states, "pooled": given.pooled[0]}


def truncated(pipeline: "StableDiffusionXLPipeline", dataset: Dataset, chunks: int) -> int:
    """Return how many captions are longer than so many chunks of 75 tokens."""
    texts = (item.source.rules.plain(item.caption) for item in dataset.examples)
    return sum(count_tokens(pipeline, text, syntax="plain").chunks > chunks for text in texts)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
