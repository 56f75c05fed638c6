"""Stage `tokenizers`: learn one byte-pair vocabulary and save it as SDXL's two CLIP tokenizers."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import load_pictures, split_pictures

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's own splitting rule (Radford et al. 2021), as transformers' CLIPTokenizer spells it.
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizers(recipe: Recipe, work: Path) -> None:
    """Write `tokenizer/` and `tokenizer_2/`; they differ in the padding token, as SDXL's do."""
    if (work / "tokenizer_2" / "tokenizer_config.json").exists():
        return
    pictures, _ = split_pictures(load_pictures(work))
    texts = [*pictures.names, *(word for words in pictures.keywords for word in words)]
    merges = _learn_merges(texts, recipe.tokenizers.vocabulary_size)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [a + b for a, b in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    for folder, pad in (("tokenizer", END), ("tokenizer_2", "!")):
        tokenizer = CLIPTokenizer(
            vocab=vocabulary,
            merges=merges,  # pyright: ignore[reportArgumentType] - pairs are what tokenizers' BPE takes
            pad_token=pad,
            model_max_length=recipe.tokenizers.max_length,
        )
        tokenizer.save_pretrained(work / folder)


def _learn_merges(texts: list[str], size: int) -> list[tuple[str, str]]:
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # The trainer's own alphabet is smaller than the 512 byte tokens that CLIP keeps, hence the difference.
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(texts, trainer)
    found = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    return found[: size - 2 * 256 - 2]
