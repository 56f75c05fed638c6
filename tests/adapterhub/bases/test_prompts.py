"""Encoding prompts: chunks and weights, compared with the pipeline's own text encoders called by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.bases.prompts import PromptCache, PromptSize, count_tokens
from adapterhub.errors import PromptError, PromptWeightError, SettingError

Chunk = Sequence[tuple[str, float]]
"""What a chunk says, with weights."""

WORDS = ["star", "cat", "rain", "red", "a"]
"""Each is one token of the mini base."""


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    return load_pipeline(find_base("mini"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def cache(pipeline: StableDiffusionXLPipeline) -> PromptCache:
    return PromptCache(pipeline)


def by_hand(pipeline: Any, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
    """The states and the pooled output of chunks that were cut and weighed by hand."""
    rows, firsts = [], []
    for chunk in chunks:
        numbers, weights = [], []
        for text, weight in chunk:
            found = pipeline.tokenizer(text, add_special_tokens=False).input_ids
            numbers += found
            weights += [weight] * len(found)
        parts: list[Tensor] = []
        for tokenizer, encoder in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        ):
            ids = [tokenizer.bos_token_id, *numbers, tokenizer.eos_token_id]
            ids += [tokenizer.pad_token_id] * (77 - len(ids))
            with torch.no_grad():
                output = encoder(torch.tensor([ids]), output_hidden_states=True)
            parts.append(output.hidden_states[-2])
            pooled = output[0]
        weights = torch.tensor([1.0, *weights, *[1.0] * (76 - len(weights))])
        rows.append(torch.cat(parts, -1) * weights[:, None])
        firsts.append(pooled)
    return torch.cat(rows, 1), firsts[0]


def stock(pipeline: StableDiffusionXLPipeline, text: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(
            prompt=text, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    return states, pooled


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("", ""),
        ("a red heart, in the rain", None),
        ("wow!!! a cat)", None),
        (r"a cat \(black\)", "a cat (black)"),
        ("(a star:1.0) BREAK", "a star"),
        (" ".join(WORDS * 15), None),
    ],
)
def test_a_short_prompt_without_weights_is_what_the_pipeline_makes_of_it(
    pipeline: StableDiffusionXLPipeline, cache: PromptCache, text: str, letters: str | None
) -> None:
    entry = cache.encode(text, text_encoder_digest="")
    states, pooled = stock(pipeline, text if letters is None else letters)
    assert torch.equal(entry.states, states)
    assert torch.equal(entry.pooled, pooled)


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("a (red:1.3) star, [rain]", [[("a", 1), ("red", 1.3), ("star,", 1), ("rain", 1 / 1.1)]]),
        ("a (cat!!:-0.5)", [[("a", 1), ("cat!!", -0.5)]]),
        ("(a star BREAK rain:0) cat", [[("a star", 0)], [("rain", 0), ("cat", 1)]]),
        ("BREAK a star", [[], [("a star", 1)]]),
        ("a BREAK BREAK star BREAK", [[("a", 1)], [], [("star", 1)]]),
        ("cat " * 80, [[("cat " * 75, 1)], [("cat " * 5, 1)]]),
        ("cat " * 75 + "(rain:2)", [[("cat " * 75, 1)], [("rain", 2)]]),
        ("(" + "cat " * 160 + ":2)", [[("cat " * 75, 2)], [("cat " * 75, 2)], [("cat " * 10, 2)]]),
    ],
)
def test_chunks_are_encoded_alone_and_joined_and_weights_multiply_the_states_of_their_tokens(
    pipeline: StableDiffusionXLPipeline, cache: PromptCache, text: str, chunks: list[Chunk]
) -> None:
    entry = cache.encode(text, text_encoder_digest="")
    states, pooled = by_hand(pipeline, chunks)
    assert entry.states.shape == (1, 77 * len(chunks), states.shape[2])
    torch.testing.assert_close(entry.states, states, rtol=1e-6, atol=1e-6)
    assert torch.equal(entry.pooled, pooled)
    assert count_tokens(pipeline, text).chunks == len(chunks)


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        (55, 30, 56),  # the comma is the first of the last 20 tokens of a chunk
        (54, 30, 75),  # it is the one before
        (74, 30, 75),  # it is the last
        (75, 30, 75),  # it is the first of the next chunk
        (60, 14, 75),  # all of it fits
    ],
)
def test_a_chunk_ends_after_a_comma_near_its_end(
    pipeline: StableDiffusionXLPipeline, cache: PromptCache, before: int, after: int, first: int
) -> None:
    words = ["cat"] * before + [","] + ["rain"] * after
    entry = cache.encode(" ".join(words), text_encoder_digest="")
    chunks = [[(" ".join(part), 1.0)] for part in (words[:first], words[first:]) if part]
    torch.testing.assert_close(entry.states, by_hand(pipeline, chunks)[0], rtol=1e-6, atol=1e-6)


def test_in_plain_syntax_brackets_are_letters_and_long_prompts_are_cut_all_the_same(
    pipeline: StableDiffusionXLPipeline, cache: PromptCache
) -> None:
    text = "a (red:1.3) [star] BREAK"
    plain = cache.encode(text, text_encoder_digest="", syntax="plain")
    assert torch.equal(plain.states, stock(pipeline, text)[0])
    assert not torch.equal(plain.states, cache.encode(text, text_encoder_digest="").states)
    long = cache.encode("(cat) " * 30, text_encoder_digest="", syntax="plain")
    states, _ = by_hand(pipeline, [[("(cat) " * 25, 1)], [("(cat) " * 5, 1)]])
    torch.testing.assert_close(long.states, states, rtol=1e-6, atol=1e-6)


def test_shorter_embeddings_are_padded_with_chunks_of_the_empty_prompt(
    pipeline: StableDiffusionXLPipeline, cache: PromptCache
) -> None:
    long = cache.encode("a BREAK b BREAK c", text_encoder_digest="")
    short = cache.encode("a (star:1.2)", text_encoder_digest="")
    first, second = cache.pad([long, short], text_encoder_digest="")
    assert first is long
    assert torch.equal(second.states[:, :77], short.states)
    empty, _ = stock(pipeline, "")
    assert torch.equal(second.states[:, 77:], torch.cat([empty, empty], 1))
    assert torch.equal(second.pooled, short.pooled)
    assert cache.pad([short, short], text_encoder_digest="") == [short, short]


def test_no_negative_prompt_is_zeros_as_long_as_the_prompt(cache: PromptCache) -> None:
    long = cache.encode("a BREAK b", text_encoder_digest="")
    zeros = cache.encode_negative(None, long, text_encoder_digest="")
    assert zeros.states.shape == long.states.shape
    assert not zeros.states.any()
    assert not zeros.pooled.any()


def test_a_negative_prompt_is_read_in_the_same_syntax(cache: PromptCache) -> None:
    like = cache.encode("a star", text_encoder_digest="")
    for syntax in ("weighted", "plain"):
        entry = cache.encode_negative("(blue)", like, text_encoder_digest="", syntax=syntax)
        assert entry is cache.encode("(blue)", text_encoder_digest="", syntax=syntax)


def test_entries_are_kept_by_text_syntax_and_text_encoders_up_to_a_number_of_chunks(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    cache = PromptCache(pipeline, capacity=4)
    star = cache.encode("(star)", text_encoder_digest="a")
    assert cache.encode("(star)", text_encoder_digest="a") is star
    assert cache.encode("(star)", text_encoder_digest="b") is not star
    assert cache.encode("(star)", text_encoder_digest="a", syntax="plain") is not star
    cache.encode("BREAK BREAK a", text_encoder_digest="")
    again = cache.encode("(star)", text_encoder_digest="a")
    assert again is not star  # three chunks left room for one
    assert torch.equal(again.states, star.states)
    large = cache.encode("BREAK " * 9, text_encoder_digest="")
    assert cache.encode("BREAK " * 9, text_encoder_digest="") is large


@given(st.lists(st.sampled_from([*WORDS, ","]), max_size=300))
def test_every_token_is_in_a_chunk_and_chunks_are_well_filled(
    pipeline: StableDiffusionXLPipeline, words: list[str]
) -> None:
    size = count_tokens(pipeline, " ".join(words))
    assert size.tokens == len(words)
    assert math.ceil(len(words) / 75) <= size.chunks <= max(1, math.ceil(len(words) / 56))


def test_the_size_of_a_prompt_does_not_count_brackets_and_weights(
    pipeline: StableDiffusionXLPipeline,
) -> None:
    assert count_tokens(pipeline, "a (red star:1.3) BREAK rain") == PromptSize(tokens=4, chunks=2)
    assert count_tokens(pipeline, "(star)", syntax="plain") == PromptSize(tokens=3, chunks=1)
    assert count_tokens(pipeline, "") == PromptSize(tokens=0, chunks=1)


def test_a_text_encoder_alone_and_another_dtype_are_encoded_too() -> None:
    whole = load_pipeline(find_base("mini"), device="cpu", dtype="bfloat16")
    parts = {**whole.components, "tokenizer": None, "text_encoder": None}
    refiner = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    both = PromptCache(whole).encode("a (red:1.3) star", text_encoder_digest="")
    alone = PromptCache(refiner).encode("a (red:1.3) star", text_encoder_digest="")
    assert both.states.dtype == torch.bfloat16
    assert torch.equal(alone.states, both.states[:, :, -alone.states.shape[2] :])
    assert torch.equal(alone.pooled, both.pooled)
    expected, _ = by_hand(whole, [[("a", 1), ("red", 1.3), ("star", 1)]])  # it multiplies in float32
    assert torch.equal(both.states, expected.to(torch.bfloat16))


def test_textual_inversions_of_several_tokens_count_and_are_weighed_as_such() -> None:
    pipeline: Any = load_pipeline(find_base("mini"), device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(1)
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        vectors = torch.randn(3, encoder.config.hidden_size, generator=generator)
        pipeline.load_textual_inversion(vectors, token="<toy>", tokenizer=tokenizer, text_encoder=encoder)  # noqa: S106
    cache = PromptCache(pipeline)
    assert count_tokens(pipeline, "a <toy>").tokens == 4
    assert torch.equal(cache.encode("a <toy>", text_encoder_digest="").states, stock(pipeline, "a <toy>")[0])
    weighed = cache.encode("a (<toy>:1.5)", text_encoder_digest="")
    states, _ = by_hand(pipeline, [[("a", 1), ("<toy> <toy>_1 <toy>_2", 1.5)]])
    torch.testing.assert_close(weighed.states, states, rtol=1e-6, atol=1e-6)


def test_nothing_is_cut_off_where_only_the_second_tokenizer_counts_more_than_75() -> None:
    pipeline: Any = load_pipeline(find_base("mini"), device="cpu", dtype="float32")
    vectors = torch.randn(9, pipeline.text_encoder_2.config.hidden_size)
    pipeline.load_textual_inversion(
        vectors,
        token="star",  # noqa: S106
        tokenizer=pipeline.tokenizer_2,
        text_encoder=pipeline.text_encoder_2,
    )
    text = "cat " * 70 + "star"
    entry = PromptCache(pipeline).encode(text, text_encoder_digest="")
    torch.testing.assert_close(entry.states, by_hand(pipeline, [[(text, 1)]])[0], rtol=1e-6, atol=1e-6)


def test_what_cannot_be_encoded_is_refused_and_not_kept(cache: PromptCache) -> None:
    with pytest.raises(PromptWeightError):
        cache.encode("a (hat:12)", text_encoder_digest="")
    with pytest.raises(SettingError):
        cache.encode("a hat", text_encoder_digest="", syntax="compel")
    with pytest.raises(PromptError) as caught:
        cache.encode("half of \ud83d", text_encoder_digest="")
    assert caught.value.text == "half of \ud83d"
    assert str(caught.value).encode()  # it can be printed
