"""How long captions are in tokens, counted by the tokenizers of a base alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

from adapterhub.bases.find import Base
from adapterhub.bases.prompts import count_tokens
from adapterhub.bases.tokenizers import load_tokenizer
from adapterhub.training.dataset import Example


@dataclass(frozen=True)
class CaptionLength:
    """How long a picture's caption is, with its template and nothing dropped.

    Attributes:
        picture: Its name in the data set.
        tokens: Without those that begin, end and fill chunks.
        chunks: Of up to 75 tokens.
    """

    picture: str
    tokens: int
    chunks: int


class CaptionRuler:
    """Counts the tokens of captions as the trainer reads them.

    Args:
        base: Whose tokenizers count.
    """

    def __init__(self, base: Base) -> None:
        self._tokenizers: Any = _Tokenizers(base)

    def lengths(self, examples: Sequence[Example]) -> list[CaptionLength]:
        """Return the length of each example's caption."""
        found: list[CaptionLength] = []
        for item in examples:
            size = count_tokens(self._tokenizers, item.source.rules.plain(item.caption), syntax="plain")
            found.append(CaptionLength(item.name, size.tokens, size.chunks))
        return found


class _Tokenizers(TextualInversionLoaderMixin):
    """What a pipeline has of text without its encoders."""

    def __init__(self, base: Base) -> None:
        self.tokenizer = load_tokenizer(base.config / "tokenizer")
        self.tokenizer_2 = load_tokenizer(base.config / "tokenizer_2")
