r"""The syntax of prompts that AUTOMATIC1111's web UI made common: weights, escapes and `BREAK`.

    (word)       weight 1.1; ((word)) is 1.1 x 1.1
    [word]       weight 1 / 1.1
    (word:1.3)   weight 1.3, times that of the brackets around
    \( \) \[ \]  letters, not brackets; and so is \\, while a backslash before anything else is a letter
    BREAK        ends a chunk, also inside brackets

Brackets are read as `parse_prompt_attention` of its `modules/prompt_parser.py` reads them, so that none is
ever an error: round and square ones close apart from each other, one that is never closed weighs all that
follows, and one that closes nothing is a letter, `:1.3)` too. It differs where the web UI loses something: a
lone backslash vanishes there, and BREAK inside brackets is a word of negative weight. Its other syntax, such
as `[from:to:when]` and `AND`, is not read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapterhub.errors import PromptWeightError, SettingError

SYNTAXES = ("weighted", "plain")
BRACKET_WEIGHT = 1.1
MAX_WEIGHT = 10.0
"""Of a word, all brackets taken together; what is above is a slip of the pen, such as 12 for 1.2."""

_BRACKETS = r"()\[\]"
_MARK = re.compile(
    rf"\\(?P<escaped>[{_BRACKETS}\\])"
    r"|:\s*+(?P<weight>[+-]?(?:(?=\.*\d)[.\d]++(?:(?i:e)[+-]?\d++)?+|(?i:nan|inf(?:inity)?+)))\s*+\)"
    rf"|(?P<bracket>[{_BRACKETS}])"
    r"|\b(?P<end>BREAK)\b"
)
_OPENING = {"(": BRACKET_WEIGHT, "[": 1 / BRACKET_WEIGHT}
_CLOSING = {")": "(", "]": "["}


@dataclass(frozen=True)
class Span:
    """Letters of a prompt that have one weight.

    Attributes:
        text: The letters, without escapes.
        weight: What the states of their tokens are multiplied by.
    """

    text: str
    weight: float


def parse_prompt(text: str, syntax: str = "weighted") -> tuple[tuple[Span, ...], ...]:
    r"""Read a prompt as spans of one weight each, in sections between `BREAK`s.

    Args:
        text: Any text.
        syntax: `weighted`, or `plain`, in which every character is a letter.

    Returns:
        At least one section; a section may be empty, a span is not.

    Raises:
        PromptWeightError: A weight is no number, or not between -10 and 10.
        SettingError: There is no such syntax.

    Example:
        >>> parse_prompt(r"a (red \(hot\):1.3) cat")
        ((Span(text='a ', weight=1.0), Span(text='red (hot)', weight=1.3), Span(text=' cat', weight=1.0)),)
    """
    if syntax not in SYNTAXES:
        raise SettingError("the prompt syntax", syntax, f"it must be {' or '.join(SYNTAXES)}")
    sections: list[list[Span]] = [[]]
    weights = {"(": [1.0], "[": [1.0]}
    place = 0

    def add(letters: str) -> None:
        weight = weights["("][-1] * weights["["][-1]
        if not letters:
            return
        if not abs(weight) <= MAX_WEIGHT:
            raise PromptWeightError(f"{weight:g}", letters, f"not between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}")
        section = sections[-1]
        if section and section[-1].weight == weight:
            letters = section.pop().text + letters
        section.append(Span(letters, weight))

    marks = list(_MARK.finditer(text)) if syntax == "weighted" else []
    factors = _factors(text, marks)
    for number, mark in enumerate(marks):
        add(text[place : mark.start()])
        place = mark.end()
        factor = factors.get(number)
        if mark["escaped"]:
            add(mark["escaped"])
        elif mark["end"]:
            sections.append([])
        elif factor is not None:
            opened = weights[mark[0]]
            opened.append(opened[-1] * factor)
        elif number in factors:
            weights[_CLOSING[mark[0][-1]]].pop()
        else:
            add(mark[0])
    add(text[place:])
    return tuple(tuple(section) for section in sections)


def letters_of(text: str, syntax: str = "weighted") -> str:
    """Return what a prompt says without its weights, one line a section, single spaces between words.

    Raises:
        PromptWeightError, SettingError: As `parse_prompt`.

    Example:
        >>> letters_of("an (ink:1.2) [wash] BREAK rain")
        'an ink wash\\nrain'
    """
    sections = parse_prompt(text, syntax)
    return "\n".join(" ".join("".join(span.text for span in section).split()) for section in sections)


def escape(text: str) -> str:
    r"""Return text so that its brackets and backslashes are read as letters.

    Example:
        >>> escape("saber (fate)")
        'saber \\(fate\\)'
    """
    return re.sub(rf"[{_BRACKETS}\\]", r"\\\g<0>", text)


def _factors(text: str, marks: Sequence[re.Match[str]]) -> dict[int, float | None]:
    """Return, by number of mark, what an opening bracket weighs by, and None for those that close one."""
    factors: dict[int, float | None] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for number, mark in enumerate(marks):
        if mark["bracket"] in _OPENING:
            factors[number] = _OPENING[mark[0]]
            opened[mark[0]].append(number)
        elif (mark["bracket"] or mark["weight"]) and opened[_CLOSING[mark[0][-1]]]:
            start = opened[_CLOSING[mark[0][-1]]].pop()
            factors[number] = None
            if mark["weight"]:
                try:
                    factors[start] = float(mark["weight"])
                except ValueError as exc:
                    letters = text[marks[start].end() : mark.start()]
                    raise PromptWeightError(mark["weight"], letters, "no number") from exc
    return factors
