"""Trigger words, and adapters named in prompts."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageChops

from adapterhub.bases.prompt_syntax import letters_of
from adapterhub.errors import (
    AdapterHubError,
    AdapterNameError,
    AdapterTagError,
    PromptWeightError,
    SettingError,
)
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.runtime.composition import Composition, Term
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.prompting import extract_adapters, with_triggers
from adapterhub_registry.references import Reference
from adapterhub_registry.store import Registry

NAMES = ["me/ink", "you/ink", "me/corgi", "me/ink-wash-v2", "me/a.-b"]

words = st.text(st.sampled_from("abcAB ()[]\\1.:"), min_size=1, max_size=8)
prompts = st.text(st.sampled_from("abcAB ,()[]\\"), max_size=20)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry of the adapters `NAMES`."""
    home = tmp_path_factory.mktemp("shelf")
    registry = Registry(home)
    target = Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    adapter = AdapterTensors({target: LowRank(torch.ones(1, 128), torch.ones(128, 1), 1.0, "config")})
    (home / "one.safetensors").write_bytes(diffusers_bytes(adapter))
    for name in NAMES:
        registry.add(home / "one.safetensors", name=name, base="mini")
    return registry


@pytest.mark.parametrize(
    ("prompt", "words", "prepended", "appended"),
    [
        ("a cat", ["ink"], "ink, a cat", "a cat, ink"),
        ("a cat", ["ink", "wash"], "ink, wash, a cat", "a cat, ink, wash"),
        ("", ["ink", "wash"], "ink, wash", "ink, wash"),
        (" a cat, ", ["ink"], "ink, a cat, ", " a cat, ink"),
        ("a cat", [], "a cat", "a cat"),
        ("a cat", ["", " "], "a cat", "a cat"),
        ("an INK cat", ["ink"], "an INK cat", "an INK cat"),
        ("a cat, (ink:1.2)", ["ink"], "a cat, (ink:1.2)", "a cat, (ink:1.2)"),
        ("((soft) ink  wash) cat", ["soft ink wash"], "((soft) ink  wash) cat", "((soft) ink  wash) cat"),
        ("pink inks", ["ink"], "ink, pink inks", "pink inks, ink"),
        ("ink BREAK wash", ["ink wash"], "ink wash, ink BREAK wash", "ink BREAK wash, ink wash"),
        ("a cat", ["ink", "INK", "ink wash", "wash"], "ink, ink wash, a cat", "a cat, ink, ink wash"),
        ("a <s0>cat", ["<s0>"], "a <s0>cat", "a <s0>cat"),
        ("a cat", ["saber (fate)"], r"saber \(fate\), a cat", r"a cat, saber \(fate\)"),
        (r"saber \(fate\)", ["saber (fate)"], r"saber \(fate\)", r"saber \(fate\)"),
        ("a cat", [r"saber \(fate\)"], r"saber \(fate\), a cat", r"a cat, saber \(fate\)"),
        ("a bold cat", ["(bold:1.2)", "(ink:1.2)"], "(ink:1.2), a bold cat", "a bold cat, (ink:1.2)"),
    ],
)
def test_trigger_words_are_said_once(prompt: str, words: list[str], prepended: str, appended: str) -> None:
    assert with_triggers(prompt, words, "prepend") == prepended
    assert with_triggers(prompt, words, "append") == appended
    assert with_triggers(prompt, words, "off") == prompt


def test_in_a_plain_prompt_triggers_have_no_escapes() -> None:
    words = ["saber (fate)", r"ink \(wash\)"]
    said = with_triggers("a (cat", words, "append", syntax="plain")
    assert said == "a (cat, saber (fate), ink (wash)"
    assert with_triggers(said, words, "append", syntax="plain") == said


@given(prompts, st.lists(words, max_size=4), st.sampled_from(["prepend", "append"]))
def test_saying_triggers_twice_changes_nothing_and_loses_nothing(
    prompt: str, words: list[str], mode: str
) -> None:
    try:
        once = with_triggers(prompt, words, mode)
    except PromptWeightError:
        return
    assert with_triggers(once, words, mode) == once
    assert prompt.strip(", ") in once
    said = letters_of(once).casefold()
    plain = [word for word in words if not re.search(r"[\\:]", word)]
    assert all(" ".join(word.split()).casefold() in said for word in plain)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(SettingError) as caught:
        with_triggers("a cat", ["ink"], "before")
    assert caught.value.value == "before"
    assert "off, prepend, append" in str(caught.value)


INK, CORGI = Reference("me", "ink"), Reference("me", "corgi")
TEXT = ("text_encoder", "text_encoder_2")


@pytest.mark.parametrize(
    ("tag", "term"),
    [
        ("<lora:me/ink>", Term(INK)),
        ("<lora:Me/Ink:0.8>", Term(INK, 0.8)),
        ("<LORA: me/ink : -.5 >", Term(INK, -0.5)),
        ("<lyco:me/ink:1e-1>", Term(INK, 0.1)),
        ("<lora:me/ink@prod:0.8>", Term(Reference("me", "ink", "prod"), 0.8)),
        ("<lora:me/ink@v3>", Term(Reference("me", "ink", "3"))),
        (f"<lora:me/ink@sha256:{'0' * 12}:2>", Term(Reference("me", "ink", f"sha256:{'0' * 12}"), 2.0)),
        ("<lora:me/ink:0.5:1>", Term(INK, 1.0, dict.fromkeys(TEXT, 0.5))),
        ("<lora:me/ink:0.5:0.5>", Term(INK, 0.5)),
        ("<lora:me/ink:te=0.5:unet=1>", Term(INK, 1.0, dict.fromkeys(TEXT, 0.5))),
        ("<lora:me/ink:unet=0.3>", Term(INK, 0.3, dict.fromkeys(TEXT, 1.0))),
        ("<lora:me/ink:te=0.3>", Term(INK, 0.3)),
        ("<lora:me/ink:0.8:te=0>", Term(INK, 0.0)),
        ("<lora:corgi:0.8>", Term(CORGI, 0.8)),
        ("<lora:Corgi@2>", Term(Reference("me", "corgi", "2"))),
        ("<lora:Ink Wash (v2):1>", Term(Reference("me", "ink-wash-v2"))),
        ("<lora:a.-b>", Term(Reference("me", "a.-b"))),
    ],
)
def test_a_tag_is_read_as_the_web_ui_reads_it(shelf: Registry, tag: str, term: Term) -> None:
    prompt, composition = extract_adapters(f"a {tag}cat", shelf)
    assert prompt == "a cat"
    assert composition == Composition((term,))


def test_several_tags_keep_their_order_and_the_rest_of_the_prompt_stays(shelf: Registry) -> None:
    text = "(a cat:1.2),<lora:corgi:0.5> <hypernet:x:1> <b> 1 < 2 <lora:me/ink> <lora:corgi:0.1>"
    prompt, composition = extract_adapters(text, shelf)
    assert prompt == "(a cat:1.2), <hypernet:x:1> <b> 1 < 2  "
    assert str(composition) == "me/corgi:0.5 + me/ink:1.0 + me/corgi:0.1"
    assert extract_adapters("a cat", shelf) == ("a cat", Composition())


def test_bare_names_are_looked_up_in_the_home_if_no_registry_is_given(home: Path) -> None:
    assert extract_adapters("<lora:me/ink>")[1].terms == (Term(INK),)
    assert not (home / "registry.db").exists()
    with pytest.raises(AdapterNameError):
        extract_adapters("<lora:ink>")


@pytest.mark.parametrize(
    ("tag", "named", "candidates", "message"),
    [
        ("<lora:ink:0.8>", "ink", ["me/ink", "you/ink"], '2 adapters are called "ink": me/ink, you/ink'),
        ("<lora:Corgy:0.8>", "Corgy", ["me/corgi"], 'no adapter is called "Corgy", but there is me/corgi'),
        ("<lora:ÏÏÏ>", "ÏÏÏ", [], 'no adapter is called "ÏÏÏ" (see them with: adapterhub list)'),
    ],
)
def test_a_bare_name_of_no_adapter_or_of_several_is_refused_with_candidates(
    shelf: Registry, tag: str, named: str, candidates: list[str], message: str
) -> None:
    with pytest.raises(AdapterNameError) as caught:
        extract_adapters(f"a cat {tag}", shelf)
    assert (caught.value.tag, caught.value.name, caught.value.candidates) == (tag, named, candidates)
    assert message in str(caught.value)
    assert "<lora:namespace/name@selector:weight>" in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:",
        "<lora:me/ink:0.8",
        "<lora:>",
        "<lora::0.8>",
        "<lora:@3>",
        "<lora:me/ink:>",
        "<lora:me/ink:strong>",
        "<lora:me/ink:nan>",
        "<lora:me/ink:1e999>",
        "<lora:me/ink:1:1:8>",
        "<lora:me/ink:1:lbw=IN02>",
        "<lora:me/ink:te=1:te=2>",
        "<lora:me/ink@>",
        "<lora:me/x.git>",
        "<lora:me/ink/wash>",
        "<lora:corgi@latest one>",
    ],
)
def test_a_malformed_tag_is_refused_and_quoted(shelf: Registry, tag: str) -> None:
    with pytest.raises(AdapterTagError) as caught:
        extract_adapters(f"a cat {tag}", shelf)
    assert caught.value.tag == tag
    assert f'"{tag}"' in str(caught.value)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("ab ,()<>"), max_size=6), st.sampled_from(NAMES), finite, finite)
    )
)
def test_what_is_written_as_tags_is_read_back(parts: list[tuple[str, str, float, float]]) -> None:
    text = "".join(f"{before}<lora:{name}:{te}:unet={unet}>" for before, name, te, unet in parts)
    prompt, composition = extract_adapters(text)
    assert prompt == "".join(before for before, *_ in parts)
    assert [term.reference.adapter for term in composition.terms] == [name for _, name, _, _ in parts]
    found = [(term.strength("text_encoder_2"), term.strength("unet")) for term in composition.terms]
    assert found == [(te, unet) for _, _, te, unet in parts]


@given(st.text(max_size=20) | st.text(st.sampled_from("ink/@:=.1te"), max_size=12))
def test_any_tag_is_read_or_refused_with_our_error(shelf: Registry, inside: str) -> None:
    text = f"a <lora:{inside}>"
    try:
        prompt, composition = extract_adapters(text, shelf)
    except AdapterHubError:
        return
    assert composition.terms
    assert "<lora:" not in prompt.casefold()


def test_a_prompt_with_tags_and_triggers_draws_what_is_composed_by_hand(
    runtime: Runtime, registry: Registry, base_again: None
) -> None:
    del base_again
    prompt, composition = extract_adapters("a (star:1.3) <lora:ink:0.8>", registry)
    versions = runtime.compose(composition)
    tagged = runtime.generate(with_triggers(prompt, ["inkwash"], "prepend"), seed=3, steps=2)
    assert [version.reference for version in versions] == ["me/ink@1"]
    runtime.compose("me/ink:0.8")
    by_hand = runtime.generate("inkwash, a (star:1.3)", seed=3, steps=2)
    assert ImageChops.difference(tagged.images[0], by_hand.images[0]).getbbox() is None
    lighter = runtime.generate("inkwash, a (star:1.0)", seed=3, steps=2)
    assert ImageChops.difference(lighter.images[0], by_hand.images[0]).getbbox() is not None
