"""Captions: read from files, and varied from showing to showing by keyed random choices."""

import codecs
import math
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapterhub.errors import CaptionError, ConfigError
from adapterhub.randomness import keyed_generator
from adapterhub.training.batches import Showing

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # UTF-32's mark begins with that of UTF-16, so it must be tried first.
    codecs.BOM_UTF32_LE: "",
    codecs.BOM_UTF32_BE: "",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> tuple[str, str]:
    """Read a file of text: UTF-8, or UTF-16 that says so with a byte order mark.

    Returns:
        The text without the mark, and `utf-8` or `utf-16`.

    Raises:
        CaptionError: It cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CaptionError(path, f"cannot be opened ({exc.strerror or exc})") from exc
    marks = [mark for mark in BYTE_ORDER_MARKS if content.startswith(mark)]
    encoding = BYTE_ORDER_MARKS[marks[0]] if marks else "utf-8"
    if not encoding:
        raise CaptionError(path, "is UTF-32; save it as UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as exc:
        raise CaptionError(path, f"is no {encoding.upper()} (at byte {exc.start}); save it as UTF-8") from exc
    if "\0" in text:
        reason = "holds zero bytes, as UTF-16 without a byte order mark does; save it as UTF-8"
        raise CaptionError(path, reason)
    return text, encoding.removesuffix("-sig")


@dataclass(frozen=True)
class CaptionRules:
    """How a caption becomes what the text encoders read.

    First the whole caption may be left out; then tags, which commas separate, are dropped and shuffled, but
    for the first ones; then the template is filled in.

    Attributes:
        template: Text with the fields `{caption}` and `{trigger}`.
        trigger: The trigger word.
        shuffle: Put the tags into another order at each showing.
        keep_tokens: Tags at the start that are neither dropped nor moved.
        tag_dropout: How often each of the other tags is left out.
        caption_dropout: How often the whole caption is left out, the trigger word too.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.

    Example:
        >>> rules = CaptionRules(template="{trigger}, {caption}", trigger="inkwash")
        >>> rules.plain("a fox, snow")
        'inkwash, a fox, snow'
    """

    template: str = "{caption}"
    trigger: str = ""
    shuffle: bool = False
    keep_tokens: int = 0
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0

    def __post_init__(self) -> None:
        problems = self._template_problems()
        if self.keep_tokens < 0:
            problems.append(f"keep_tokens must not be negative, not {self.keep_tokens}")
        for name in ("tag_dropout", "caption_dropout"):
            if not (math.isfinite(getattr(self, name)) and 0 <= getattr(self, name) <= 1):
                problems.append(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if problems:
            raise ConfigError("the set of caption rules", problems)

    def _template_problems(self) -> list[str]:
        allowed = 'may have the fields {caption} and {trigger}, and writes other braces as "{{" and "}}"'
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as exc:
            return [f'template {allowed}, not "{self.template}" ({exc})']
        found = [part[1:] for part in parts if part[1] is not None]
        names = [name for name, _, _ in found]
        if any(field not in (("caption", "", None), ("trigger", "", None)) for field in found):
            return [f'template {allowed}, not "{self.template}"']
        if "trigger" in names and not self.trigger:
            return ["template names {trigger}, but there is no trigger word"]
        return []

    def plain(self, caption: str) -> str:
        """Return a caption with its template, and nothing dropped or moved."""
        text = self.template.format(caption=caption, trigger=self.trigger).strip()
        return text if caption else text.strip(", ")

    def vary(self, caption: str, showing: Showing, *, seed: int, name: str) -> str | None:
        """Return what the text encoders read at one showing; None means nothing at all.

        It depends on what is given here alone, so that every text of a training is known before it begins.

        Args:
            caption: As it stands in the data set.
            showing: Of its picture.
            seed: The adapter's.
            name: The adapter.
        """

        def generator(purpose: str) -> np.random.Generator:
            # Each choice has numbers of its own, so that one setting moves no other.
            return keyed_generator(seed, name, purpose, *showing.key)

        if self.caption_dropout and generator("caption-dropout").random() < self.caption_dropout:
            return None
        if self.tag_dropout or self.shuffle:
            tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
            kept, rest = tags[: self.keep_tokens], tags[self.keep_tokens :]
            if self.tag_dropout:
                drawn = generator("tag-dropout").random(len(rest))
                rest = [tag for tag, number in zip(rest, drawn, strict=True) if number >= self.tag_dropout]
            if self.shuffle:
                rest = [rest[place] for place in generator("tag-order").permutation(len(rest))]
            caption = ", ".join([*kept, *rest])
        return self.plain(caption)
