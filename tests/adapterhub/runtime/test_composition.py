"""Compositions in text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.errors import CompositionError
from adapterhub.runtime.composition import Composition, Term
from adapterhub_registry.references import Reference

names = st.from_regex(r"[a-z0-9][a-z0-9_]{0,8}", fullmatch=True)
selectors = st.one_of(
    st.just("latest"),
    st.integers(1, 10**8).map(str),
    st.from_regex(r"sha256:[0-9a-f]{12,64}", fullmatch=True),
    st.sampled_from(["prod", "stable", "my.alias"]),
)
weights = st.floats(allow_nan=False, allow_infinity=False)
letters = st.characters(exclude_characters="[]", exclude_categories=("Cs",))
blocks = st.text(letters, max_size=9).map(str.strip)
references = st.builds(Reference, names, names, selectors, st.one_of(st.just(""), names))
terms = st.builds(Term, references, weights, st.just({}), blocks)


def test_the_text_of_the_design_is_read() -> None:
    composition = Composition.parse("me/ink@prod:0.8 + me/corgi:1.0")
    assert composition.terms == (
        Term(Reference("me", "ink", "prod"), 0.8),
        Term(Reference("me", "corgi"), 1.0),
    )


def test_a_weight_that_is_left_out_is_one_and_negative_ones_are_legal() -> None:
    assert [term.weight for term in Composition.parse("a/b+c/d:-.5").terms] == [1.0, -0.5]


def test_a_digest_of_digits_is_not_taken_for_a_weight() -> None:
    (term,) = Composition.parse("me/ink@sha256:123456789012:0.5").terms
    assert (term.reference.selector, term.weight) == ("sha256:123456789012", 0.5)


@given(st.lists(terms, min_size=1, max_size=5))
def test_writing_and_reading_are_inverse(items: list[Term]) -> None:
    composition = Composition(tuple(items))
    text = str(composition)
    assert Composition.parse(text) == composition


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_our_error(text: str) -> None:
    try:
        composition = Composition.parse(text)
    except CompositionError as error:
        assert error.text == text
    else:
        assert composition.terms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "ink",
        "me/ink@",
        "me/ink:",
        "me/ink +",
        "me/ink me/corgi",
        "me/a--b",
        "me/x.git",
        "a/b:1e999",
    ],
)
def test_wrong_texts_are_refused_and_quoted(text: str) -> None:
    with pytest.raises(CompositionError) as caught:
        Composition.parse(text)
    assert f'"{text}"' in str(caught.value)
