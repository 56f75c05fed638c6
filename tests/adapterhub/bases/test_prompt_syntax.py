"""Weights, escapes and BREAK in prompts."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.bases.prompt_syntax import Span, escape, letters_of, parse_prompt
from adapterhub.errors import PromptWeightError, SettingError

Piece = str | tuple[str, float, list["Piece"]]
"""Letters, or what stands in brackets: how it is written, what that weighs by, and the pieces inside."""

words = st.text(st.characters(exclude_characters="()[]\\:", exclude_categories=("Cs",)), max_size=6).filter(
    lambda text: "BREAK" not in text
)
brackets = st.one_of(
    st.just(("({})", 1.1)),
    st.just(("[{}]", 1 / 1.1)),
    st.integers(-20, 20).map(lambda tenths: (f"({{}}:{tenths / 10})", tenths / 10)),
    st.integers(1, 20).map(lambda tenths: (f"({{}}: +{tenths / 10} )", tenths / 10)),
)
pieces = st.recursive(
    st.lists(words, max_size=3),
    lambda inner: st.lists(st.one_of(words, st.builds(lambda b, i: (*b, i), brackets, inner)), max_size=4),
    max_leaves=12,
)
noise = st.text(st.sampled_from("ab ,:()[]\\"), max_size=40)


def written(tree: list[Piece]) -> str:
    return "".join(piece if isinstance(piece, str) else piece[0].format(written(piece[2])) for piece in tree)


def weighed(tree: list[Piece], weight: float = 1.0) -> list[tuple[str, float]]:
    """Letters with their weights, by walking the tree."""
    found: list[tuple[str, float]] = []
    for piece in tree:
        if isinstance(piece, str):
            found += [(letter, weight) for letter in piece]
        else:
            found += weighed(piece[2], weight * piece[1])
    return found


def letters(text: str) -> list[tuple[str, float]]:
    (section,) = parse_prompt(text)
    return [(letter, span.weight) for span in section for letter in span.text]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("", []),
        ("a cat", [("a cat", 1)]),
        ("a (cat)", [("a ", 1), ("cat", 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("a [cat]", [("a ", 1), ("cat", 1 / 1.1)]),
        ("(a cat:1.3), rain", [("a cat", 1.3), (", rain", 1)]),
        ("(a (b:0.5) c:2)", [("a ", 2), ("b", 1), (" c", 2)]),
        ("(a:-1)", [("a", -1)]),
        ("(a:.5)(b:1.)", [("a", 0.5), ("b", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
    ],
)
def test_the_syntax_is_read(text: str, spans: list[tuple[str, float]]) -> None:
    (section,) = parse_prompt(text)
    assert [span.text for span in section] == [text for text, _ in spans]
    assert [span.weight for span in section] == pytest.approx([weight for _, weight in spans])


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a (cat", [("a ", 1), ("cat", 1.1)]),
        ("a [cat", [("a ", 1), ("cat", 1 / 1.1)]),
        ("a cat)", [("a cat)", 1)]),
        ("a cat]:)", [("a cat]:)", 1)]),
        ("cat:1.3)", [("cat:1.3)", 1)]),
        ("[cat:1.3]", [("cat:1.3", 1 / 1.1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(wait:...)", [("wait:...", 1.1)]),
        (r"\o/ C:\cats", [(r"\o/ C:\cats", 1)]),
        ("()", []),
        ("(:99)", []),
    ],
)
def test_brackets_that_do_not_match_are_read_and_never_an_error(
    text: str, spans: list[tuple[str, float]]
) -> None:
    (section,) = parse_prompt(text)
    assert [span.text for span in section] == [text for text, _ in spans]
    assert [span.weight for span in section] == pytest.approx([weight for _, weight in spans])


@given(pieces)
def test_nested_brackets_weigh_the_letters_inside_and_no_others(tree: list[Piece]) -> None:
    expected = weighed(tree)
    if any(abs(weight) > 9.99 for _, weight in expected):
        return
    found = letters(written(tree))
    assert [letter for letter, _ in found] == [letter for letter, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@given(noise)
def test_no_letter_is_lost_in_any_text(text: str) -> None:
    found = "".join(letter for letter, _ in letters(text))
    assert re.sub(r"[()\[\]\\]", "", found) == re.sub(r"[()\[\]\\]", "", text)


@given(st.text(max_size=40) | st.text(st.sampled_from("a(:1.e9)[] \\BREAK"), max_size=40))
def test_any_text_is_read_or_refused_with_our_error(text: str) -> None:
    try:
        sections = parse_prompt(text)
    except PromptWeightError as error:
        assert error.weight
        return
    assert all(span.text and abs(span.weight) <= 10 for section in sections for span in section)
    assert all(a.weight != b.weight for s in sections for a, b in pairwise(s))


@given(st.text(max_size=40).filter(lambda text: "BREAK" not in text) | noise)
def test_escaped_text_is_read_as_it_was(text: str) -> None:
    assert parse_prompt(escape(text)) == (((Span(text, 1.0),) if text else ()),)
    assert letters_of(escape(text)) == " ".join(text.split())


@given(st.text(max_size=40))
def test_in_plain_text_every_character_is_a_letter(text: str) -> None:
    assert parse_prompt(text, "plain") == (((Span(text, 1.0),) if text else ()),)


def test_break_ends_a_section_also_inside_brackets() -> None:
    a, b = parse_prompt("(a BREAK b:1.3) c")
    assert a == (Span("a ", 1.3),)
    assert b == (Span(" b", 1.3), Span(" c", 1.0))
    assert [len(section) for section in parse_prompt("BREAK a BREAKBREAK b BREAK")] == [0, 1, 0]
    assert letters_of("an (ink:1.2)\n  [wash] BREAK rain") == "an ink wash\nrain"


@pytest.mark.parametrize(
    ("text", "weight", "letters"),
    [
        ("a (hat:12) b", "12", "hat"),
        ("a (hat:-10.1)", "-10.1", "hat"),
        ("((a:5):5)", "25", "a"),
        ("(a:1.2.3)", "1.2.3", "a"),
        ("(a:nan)", "nan", "a"),
        ("(a:-Inf)", "-inf", "a"),
        (f"(a:{'9' * 400})", "inf", "a"),
        ("(a:1e3)", "1000", "a"),
        ("(" * 100_000 + "a", "inf", "a"),
        ("([" * 100_000 + "a", "inf", "a"),
    ],
)
def test_weights_that_make_no_sense_are_refused(text: str, weight: str, letters: str) -> None:
    with pytest.raises(PromptWeightError) as caught:
        parse_prompt(text)
    assert (caught.value.weight, caught.value.text) == (weight, letters)
    assert f'"{letters}"' in str(caught.value)
    assert weight in str(caught.value)


def test_an_unknown_syntax_is_refused() -> None:
    with pytest.raises(SettingError) as caught:
        parse_prompt("a", "compel")
    assert (caught.value.setting, caught.value.value) == ("the prompt syntax", "compel")
