"""Turn prompts into what SDXL's UNet reads, each text alone, and remember the last ones.

A prompt of up to 75 tokens without weights is encoded by the pipeline itself. Any other is cut into chunks of
75 tokens, each encoded alone by each text encoder, and their states are joined along the token axis, as
AUTOMATIC1111's web UI does (`modules/sd_hijack_clip.py`): a chunk ends after a comma where one is among its
last 20 tokens, the pooled output is that of the first chunk, and the states of a token are multiplied by its
weight.

The mean of a chunk's states is not restored after that, as the web UI does by default: the factor would
change every token of the chunk, and has no bound where the mean is near zero (with the mini base it is 0.01,
and the spread 0.6). In the web UI this is the setting "No norm", of which its `modules/sd_emphasis.py` says
that it seems to work better for SDXL.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.prompt_syntax import Span, parse_prompt
from adapterhub.errors import PromptError

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from torch import Tensor

COMMA = ",</w>"
COMMA_REACH = 20
"""How far from its end a chunk is cut after a comma, in tokens; the web UI's default."""


@dataclass(frozen=True)
class PromptEmbedding:
    """What one prompt becomes.

    Attributes:
        states: `(1, 77 * chunks, width)`, the penultimate states of both text encoders side by side.
        pooled: `(1, projection)`, the pooled output of the second text encoder, of the first chunk.
    """

    states: "Tensor"
    pooled: "Tensor"


@dataclass(frozen=True)
class PromptSize:
    """How long a prompt is.

    Attributes:
        tokens: Without those that begin, end and fill chunks.
        chunks: Of up to 75 tokens each.
    """

    tokens: int
    chunks: int


class PromptCache:
    """The embeddings of the last prompts, by text, syntax and what was composed into the text encoders.

    A prompt is always encoded alone: its numbers do not depend on which prompts it arrives with.

    Args:
        pipeline: Its tokenizers and text encoders are used.
        capacity: Chunks of 75 tokens that are remembered.
        device: Where the text encoders compute; without it the pipeline is asked, which walks all modules.
    """

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        *,
        capacity: int = 256,
        device: torch.device | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._device = device
        self._capacity = capacity
        self._entries: OrderedDict[tuple[str, str, str], PromptEmbedding] = OrderedDict()

    def encode(
        self,
        text: str,
        *,
        text_encoder_digest: str,
        syntax: str = "weighted",
        prepare: Callable[[], None] = lambda: None,
    ) -> PromptEmbedding:
        """Return the embedding of `text`.

        Args:
            text: One prompt.
            text_encoder_digest: What is composed into the text encoders now; part of the key, because the
                same prompt means something else to other weights.
            syntax: `weighted` (see `adapterhub.bases.prompt_syntax`), or `plain`: brackets are letters.
            prepare: Called before the text encoders are, which is not if the embedding is known.

        Raises:
            PromptError: It is no text, or has a weight that makes no sense.
            SettingError: There is no such syntax.
        """
        key = (text_encoder_digest, syntax, text)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        prepare()
        with torch.no_grad():
            entry = _encode(self._pipeline, text, syntax, self._device)
        self._entries[key] = entry
        length = self._pipeline.tokenizer_2.model_max_length
        room = self._capacity * length - sum(kept.states.shape[1] for kept in self._entries.values())
        while room < 0 and len(self._entries) > 1:
            room += self._entries.popitem(last=False)[1].states.shape[1]
        return entry

    def encode_negative(
        self,
        text: str | None,
        like: PromptEmbedding,
        *,
        text_encoder_digest: str,
        syntax: str = "weighted",
        prepare: Callable[[], None] = lambda: None,
    ) -> PromptEmbedding:
        """Return the negative embedding; None means zeros where the pipeline asks for them, as SDXL does."""
        if text is None and self._pipeline.config["force_zeros_for_empty_prompt"]:
            return PromptEmbedding(
                like.states.new_zeros(like.states.shape), like.pooled.new_zeros(like.pooled.shape)
            )
        return self.encode(
            text or "", text_encoder_digest=text_encoder_digest, syntax=syntax, prepare=prepare
        )

    def pad(
        self,
        embeddings: Sequence[PromptEmbedding],
        *,
        text_encoder_digest: str,
        prepare: Callable[[], None] = lambda: None,
    ) -> list[PromptEmbedding]:
        """Return embeddings as long as the longest of them: shorter ones get chunks of the empty prompt.

        A prompt and its negative prompt must have one length, and the web UI's setting `pad_cond_uncond` pads
        them so. The UNet reads the padding: pad these two, but never to the length of other pictures of a
        batch, or a picture depends on its neighbours.

        Args:
            embeddings: Of this cache.
            text_encoder_digest: That of the embeddings.
            prepare: See `encode`.
        """
        longest = max(entry.states.shape[1] for entry in embeddings)

        def longer(entry: PromptEmbedding) -> PromptEmbedding:
            empty = self.encode(
                "", text_encoder_digest=text_encoder_digest, syntax="plain", prepare=prepare
            ).states
            missing = (longest - entry.states.shape[1]) // empty.shape[1]
            return PromptEmbedding(torch.cat([entry.states, *[empty] * missing], dim=1), entry.pooled)

        return [entry if entry.states.shape[1] == longest else longer(entry) for entry in embeddings]


def count_tokens(pipeline: "StableDiffusionXLPipeline", text: str, *, syntax: str = "weighted") -> PromptSize:
    """Return how many tokens and chunks a prompt has.

    Raises:
        PromptError, SettingError: As `PromptCache.encode`.
    """
    chunks = _chunks(pipeline, text, parse_prompt(text, syntax))
    return PromptSize(sum(len(chunk) for chunk in chunks), len(chunks))


def plain_tokens(pipeline: "StableDiffusionXLPipeline", text: str) -> "Tensor":
    """Return the tokens that a plain text is encoded from, `(chunks, encoders, 77)`.

    Both text encoders, run on each chunk alone, give the numbers of `PromptCache.encode` with them.

    Raises:
        PromptError: It is no text.
    """
    sections = parse_prompt(text, "plain")
    chunks = _chunks(pipeline, text, sections)
    tokenizers = _tokenizers(pipeline)
    letters = "".join(span.text for section in sections for span in section)
    if len(chunks) == 1 and _fits(pipeline, letters):
        return torch.tensor([[_row(own, _numbers(pipeline, own, [letters])[0]) for own in tokenizers]])
    numbers = [[token.number for token in chunk] for chunk in chunks]
    return torch.tensor([[_row(own, chunk) for own in tokenizers] for chunk in numbers])


@dataclass(frozen=True)
class _Token:
    number: int
    weight: float


def _encode(
    pipeline: "StableDiffusionXLPipeline", text: str, syntax: str, device: torch.device | None
) -> PromptEmbedding:
    device = device or pipeline._execution_device
    sections = parse_prompt(text, syntax)
    chunks = _chunks(pipeline, text, sections)
    if len(chunks) == 1 and all(token.weight == 1 for token in chunks[0]):
        letters = "".join(span.text for section in sections for span in section)
        if _fits(pipeline, letters):
            states, _, pooled, _ = pipeline.encode_prompt(
                prompt=letters, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            return PromptEmbedding(states, pooled)
    encoded = [_encode_chunk(pipeline, chunk, device) for chunk in chunks]
    return PromptEmbedding(torch.cat([chunk.states for chunk in encoded], dim=1), encoded[0].pooled)


def _tokenizers(pipeline: "StableDiffusionXLPipeline") -> list[Any]:
    """Return the tokenizers; the refiner has the second one alone."""
    return [one for one in (pipeline.tokenizer, pipeline.tokenizer_2) if one is not None]


def _numbers(pipeline: "StableDiffusionXLPipeline", tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text, of any length."""
    if not texts:
        return []
    if any(not token.special for token in tokenizer.added_tokens_decoder.values()):
        # Textual inversions: one word may stand for several tokens.
        convert: Any = pipeline.maybe_convert_prompt
        texts = [convert(text, tokenizer) for text in texts]
    return tokenizer(texts, add_special_tokens=False, verbose=False).input_ids


def _fits(pipeline: "StableDiffusionXLPipeline", text: str) -> bool:
    """Say whether the pipeline encodes the whole text; its tokenizers may count in different ways."""
    return all(
        len(_numbers(pipeline, tokenizer, [text])[0]) <= tokenizer.model_max_length - 2
        for tokenizer in _tokenizers(pipeline)
    )


def _chunks(
    pipeline: "StableDiffusionXLPipeline", text: str, sections: Sequence[Sequence[Span]]
) -> list[list[_Token]]:
    """Return the tokens of each chunk; at least one chunk, which may be empty.

    They are those of the first tokenizer, for both text encoders, as in the web UI: so the encoders agree on
    the chunks. The vocabulary is the same, but to diffusers' second tokenizer every "!" is the padding.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise PromptError(text, "it holds half of a pair of surrogates, which is no character") from exc
    tokenizer = _tokenizers(pipeline)[0]
    numbers = iter(_numbers(pipeline, tokenizer, [span.text for section in sections for span in section]))
    rows = [
        [_Token(number, span.weight) for span in section for number in next(numbers)] for section in sections
    ]
    if len(rows) > 1 and not rows[-1]:
        del rows[-1]  # a BREAK at the end begins no chunk
    length, comma = tokenizer.model_max_length - 2, tokenizer.convert_tokens_to_ids(COMMA)
    return [chunk for row in rows for chunk in _cut(row, length, comma)]


def _cut(tokens: list[_Token], length: int, comma: int) -> Iterator[list[_Token]]:
    """Cut tokens into chunks, after a comma where there is one near the end of a chunk."""
    while len(tokens) > length:
        end = length
        if tokens[length].number != comma:
            near = range(length, length - COMMA_REACH, -1)
            end = next((place for place in near if tokens[place - 1].number == comma), length)
        yield tokens[:end]
        tokens = tokens[end:]
    yield tokens


def _row(tokenizer: Any, numbers: list[int]) -> list[int]:
    """Return the tokens of one chunk between those that begin, end and fill it."""
    row = [tokenizer.bos_token_id, *numbers, tokenizer.eos_token_id]
    return row + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))


def _encode_chunk(
    pipeline: "StableDiffusionXLPipeline", chunk: list[_Token], device: torch.device
) -> PromptEmbedding:
    """Encode one chunk, as `encode_prompt` encodes a prompt, and weigh the states of its tokens."""
    numbers = [token.number for token in chunk]
    encoders: list[Any] = [one for one in (pipeline.text_encoder, pipeline.text_encoder_2) if one is not None]
    outputs: list[Any] = []
    for tokenizer, encoder in zip(_tokenizers(pipeline), encoders, strict=True):
        row = torch.tensor([_row(tokenizer, numbers)], device=device)
        outputs.append(encoder(row, output_hidden_states=True))
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    weights = torch.ones(states.shape[1], device=states.device)
    weights[1 : 1 + len(chunk)] = torch.tensor([token.weight for token in chunk], device=states.device)
    weighed = (states.float() * weights[:, None]).to(device=device, dtype=encoders[-1].dtype)
    return PromptEmbedding(weighed, outputs[-1][0])
