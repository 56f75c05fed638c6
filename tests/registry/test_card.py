"""Model cards: what is rendered comes back, the Hub's own library reads it, and hostile text is refused."""

import re
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub_registry.card import MAX_CARD_BYTES, ParsedCard, hub_licence, parse_card, render_card, tidy
from adapterhub_registry.errors import CardError
from adapterhub_registry.manifest import Manifest, PayloadFile, Version, decimal_text
from adapterhub_registry.publication import KINDS, Adapter, StoredFile

FILE = PayloadFile("pytorch_lora_weights.safetensors", 123456, "a" * 64)
PREVIEWS = [
    StoredFile("preview-1.png", "c" * 64, 10, "a corgi, inkwash", 7, {"negative_prompt": "photo"}),
    StoredFile("preview-2.png", "d" * 64, 10),
]


def version_of(architecture: str = "sdxl", algorithm: str = "lora", **fields: Any) -> Version:
    manifest = Manifest((FILE,), architecture, algorithm=algorithm, **fields)
    return Version("me/ink", 3, manifest, "published", "", "me", "2026-01-01T00:00:00Z")


def adapter_of(**fields: Any) -> Adapter:
    known = {"title": "", "description": "", "card": "", "kind": "other", "tags": ()}
    return Adapter("me/ink", **{**known, **fields}, aliases={}, latest=3, created="2026-01-01T00:00:00Z")


INK = version_of(
    trigger_words=("inkwash", "soft"),
    recommended_weight="0.8",
    licence="Apache-2.0",
    lineage={
        "operation": "merged",
        "parent.1": "sha256:1",
        "parent.1.name": "me/a@1",
        "parent.1.weight": "0.7",
    },
)
WASH = adapter_of(
    title="Ink: wash",
    description="Soft grey drawings.",
    kind="style",
    tags=("ink",),
    settings={"steps": "30"},
)


def test_the_hub_reads_our_card() -> None:
    text = render_card(WASH, INK, PREVIEWS, facts={"rank": "16"})
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert data["base_model_relation"] == "adapter"
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "diffusers",
        "text-to-image",
        "apache-2.0",
    )
    assert data["instance_prompt"] == "inkwash, soft"
    assert data["tags"] == ["text-to-image", "diffusers", "lora", "template:sd-lora", "ink"]
    assert data["widget"] == [
        {
            "text": "a corgi, inkwash",
            "output": {"url": "preview-1.png"},
            "parameters": {"negative_prompt": "photo"},
        },
        {"text": "-", "output": {"url": "preview-2.png"}},
    ]
    assert ModelCard(text).text.strip().startswith("<!-- Written by AdapterHub")


def test_the_text_says_how_to_use_it_and_what_it_was_made_of() -> None:
    text = render_card(WASH, INK, PREVIEWS, facts={"rank": "16"})
    for expected in (
        "# Ink: wash\n\nSoft grey drawings.\n\n<Gallery />",
        "Say `inkwash`, `soft` in the prompt.",
        "adapterhub generate -p 'inkwash, soft' --use me/ink@3:0.8",
        "adapterhub export me/ink@3 --format diffusers --out ink.safetensors",
        'pipeline.set_adapters("ink", 0.8)',
        "num_inference_steps=30",
        "- operation: `merged`\n- of `me/a@1` at `0.7`",
        "| weight | 0.8 |\n| steps | 30 |",
        "| rank | 16 |",
        f"| digest | {INK.digest} |",
    ):
        assert expected in text


def test_other_algorithms_and_bases_get_code_that_fits_them() -> None:
    assert 'adapterhub.load_into(pipeline, "me/ink@3", weight=1)' in render_card(
        WASH, version_of("mini", "loha")
    )
    unknown = render_card(WASH, version_of("sd1"))
    assert "diffusers import" not in unknown
    assert ModelCard(unknown).data.to_dict().get("base_model") is None
    language = render_card(WASH, version_of("transformers/causal_lm"))
    assert ModelCard(language).data.library_name == "peft"
    assert "adapterhub export me/ink@3 --format peft --out ink" in language


def test_we_read_what_the_hub_writes() -> None:
    data = ModelCardData(
        license="cc-by-nc-4.0",
        tags=["Text To Image", "lora", "Water Colour", "base_model:x/y", "ink"],
        base_model="stabilityai/stable-diffusion-xl-base-1.0",
        instance_prompt="a photo of sks dog",
        widget=[{"text": "sks dog in the rain", "output": {"url": "image_0.png"}}, {"text": "-"}],
    )
    card = ModelCard.from_template(
        data, template_str="---\n{{ card_data }}\n---\n\n# Sks dog\n\nA dog.\n\nMore."
    )
    assert parse_card(str(card)) == ParsedCard(
        title="Sks dog",
        description="A dog.",
        licence="CC-BY-NC-4.0",
        tags=("water-colour", "ink"),
        trigger_words=("a photo of sks dog",),
        base_model="stabilityai/stable-diffusion-xl-base-1.0",
        prompts=("sks dog in the rain",),
        body="# Sks dog\n\nA dog.\n\nMore.",
    )


def test_a_template_that_nobody_filled_in_says_nothing(tmp_path: Path) -> None:
    ModelCard.from_template(ModelCardData(license="mit", library_name="peft")).save(tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "# Model Card for Model ID" in text
    assert parse_card(text) == ParsedCard(licence="MIT")


def test_an_edited_card_is_the_authors_own() -> None:
    text = render_card(WASH, INK)
    assert parse_card(text).body == ""
    edited = parse_card(text.replace("Soft grey drawings.", "Hard black drawings."))
    assert edited.description == "Hard black drawings."
    assert edited.body.startswith("# Ink: wash\n\nHard black drawings.")


def test_the_authors_own_text_is_the_body() -> None:
    own = "# My ink\n\nDrawn at night.\n\n- by hand"
    text = render_card(adapter_of(title="Ink", description="Soft.", card=own), INK)
    assert text.endswith(f"---\n\n{own}\n")
    card = parse_card(text)
    assert (card.title, card.description, card.body) == ("Ink", "Soft.", own)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ParsedCard()),
        ("# Ink", ParsedCard(title="Ink", body="# Ink")),
        ("---\n---\n", ParsedCard()),
        ("---\nno end", ParsedCard(body="---\nno end")),
        ("---\r\nlicense: mit\r\n---\r\nx\r\n", ParsedCard(licence="MIT", body="x")),
        ("\ufeff---\nlicense: MIT\n---\n", ParsedCard(licence="MIT")),
        ("---\ninstance_prompt: null\ntags:\n---\n", ParsedCard()),
        (
            "---\ninstance_prompt: 007\ntags: [no, 1.0]\n---\n",
            ParsedCard(trigger_words=("007",), tags=("no", "1.0")),
        ),
        ("---\nlicense: other\nlicense_name: mine\n---\n", ParsedCard(licence="mine")),
        ("---\nlicense: [mit]\nbase_model: [a/b]\n---\n", ParsedCard(licence="MIT", base_model="a/b")),
        ("---\nwidget: [x, {text: y}, {text: [z]}]\n---\n", ParsedCard(prompts=("y",))),
    ],
)
def test_cards_in_the_wild(text: str, expected: ParsedCard) -> None:
    assert parse_card(text) == expected


@pytest.mark.parametrize(
    ("front", "field", "line"),
    [
        ("tags:\n- a\n- {b: c}", "tags", 2),
        ("license: mit\ninstance_prompt: {a: b}", "instance_prompt", 3),
        ("base: &x [a]\ntags: *x", "base", 2),
        ("tags: !!python/object/apply:os.system [ls]", "tags", 2),
        ("license: mit\nlicense: apache-2.0", "license", 3),
        ("license: mit\n  x: [", "", 3),
        ("a: " + "[" * 30 + "]" * 30, "a", 2),
        ("just words", "", 2),
        ("[a]: b", "", 2),
        ('title: "\\ud800"', "title", 2),
        ('title: "\\UFFFFFFFF"', "title", 0),
        ("adapterhub: [a]", "adapterhub", 2),
        ("adapterhub:\n  tags: x", "adapterhub.tags", 2),
        ("adapterhub:\n  settings: {colour: red}", "adapterhub", 2),
        ("adapterhub:\n  recommended_weight: heavy", "adapterhub", 2),
        ("license: mit\n... \nmore", "", 4),
    ],
)
def test_what_is_wrong_is_named_with_its_field_and_line(front: str, field: str, line: int) -> None:
    with pytest.raises(CardError) as caught:
        parse_card(f"---\n{front}\n---\n")
    assert (caught.value.field, caught.value.line) == (field, line)


def test_bombs_cost_little() -> None:
    bombs = [
        b"x" * (MAX_CARD_BYTES + 1),
        b"---\n" + b"a: b\n" * 30000 + b"---\n",
        b"---\na: " + b"[" * 100000 + b"\n---\n",
        b"---\na: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n---\n",
        b"\xff\xfe",
    ]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for bomb in bombs:
        with pytest.raises(CardError):
            parse_card(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert time.process_time() - began < 5


def test_licences_are_written_as_the_hub_does() -> None:
    assert hub_licence("") == {}
    assert hub_licence("CC-BY-SA-4.0") == {"license": "cc-by-sa-4.0"}
    assert hub_licence("GPL-3.0-or-later") == {"license": "other", "license_name": "GPL-3.0-or-later"}
    assert hub_licence("ask me") == {"license": "other", "license_name": "ask me"}


LINE = st.text(max_size=40).filter(lambda text: not re.search("[\0\ud800-\udfff]", text))
TAGS = st.sets(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True) | st.just("lora"), max_size=4)
WORDS = st.lists(LINE.map(str.strip).filter(bool), max_size=4, unique=True).map(tuple)
MARKDOWN = st.lists(
    st.sampled_from(["# Ink", "---", "", "Text.", "```", "<!-- x -->", "- a", "[More Information Needed]"])
    | LINE,
    max_size=8,
).map("\n".join)
SETTINGS = st.fixed_dictionaries(
    {}, optional={"steps": st.integers(1, 100).map(str), "negative_prompt": st.just("no: photo # here")}
)


@pytest.mark.parametrize("count", [1000, pytest.param(10000, marks=pytest.mark.long)])
def test_what_is_rendered_comes_back(count: int) -> None:
    @settings(max_examples=count, deadline=None)
    @given(
        title=LINE,
        description=LINE | MARKDOWN,
        card=MARKDOWN,
        kind=st.sampled_from(KINDS),
        tags=TAGS,
        words=WORDS,
        licence=st.sampled_from(["MIT", "mit", "Apache-2.0", "odbl", "null", "- x"]) | LINE,
        weight=st.just("") | st.decimals(-10, 10, places=3).map(str).map(decimal_text),
        chosen=SETTINGS,
        architecture=st.sampled_from(["sdxl", "mini", "sd1", "transformers/causal_lm"]),
        previews=st.sampled_from([[], PREVIEWS]),
    )
    def check(
        title: str,
        description: str,
        card: str,
        kind: str,
        tags: set[str],
        words: tuple[str, ...],
        licence: str,
        weight: str,
        chosen: dict[str, str],
        architecture: str,
        previews: list[StoredFile],
    ) -> None:
        version = version_of(architecture, trigger_words=words, licence=licence, recommended_weight=weight)
        adapter = adapter_of(
            title=title,
            description=description,
            card=card,
            kind=kind,
            tags=tuple(sorted(tags)),
            settings=chosen,
        )
        rendered = render_card(adapter, version, previews)
        found = parse_card(rendered)
        assert found == ParsedCard(
            title=title,
            description=description,
            licence=licence,
            tags=adapter.tags,
            trigger_words=words,
            recommended_weight=weight,
            kind=kind,
            settings=chosen,
            base_model="stabilityai/stable-diffusion-xl-base-1.0" if architecture == "sdxl" else "",
            prompts=("a corgi, inkwash",) if previews else (),
            body=tidy(card),
        )
        assert ModelCard(rendered).data.to_dict()["adapterhub"]["version"] == "me/ink@3"

    check()


YAML_PIECES = st.sampled_from(
    [
        *"[]{}:,-?&*!|>'\"%@#~\\ \n\t",
        "tags",
        "license",
        "widget",
        "adapterhub",
        "null",
        "---",
        "\\x",
        "\\U",
        "<<",
    ]
)


@pytest.mark.parametrize("count", [1000, pytest.param(10000, marks=pytest.mark.long)])
def test_no_card_raises_anything_else(count: int) -> None:
    @settings(max_examples=count, deadline=None)
    @given(st.lists(YAML_PIECES | st.text(max_size=5), max_size=30).map("".join) | st.binary(max_size=60))
    def check(front: str | bytes) -> None:
        data = front if isinstance(front, bytes) else front.encode(errors="replace")
        for content in (
            data,
            b"---\n" + data + b"\n---\n# Title\n",
            b"---\nadapterhub:\n " + data + b"\n---\n",
        ):
            try:
                parse_card(content)
            except CardError as exc:
                assert exc.reason

    check()
