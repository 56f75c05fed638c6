"""Whatever is read from outside is taken or refused by name, and never anything else."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from adapterhub_registry.errors import (
    ManifestError,
    ReferenceSyntaxError,
)
from adapterhub_registry.manifest import Manifest, PayloadFile, decimal_text
from adapterhub_registry.references import Reference, parse_reference
from tests.registry.fuzzing import COUNTS, SCALARS, canonical, damaged, fuzz, mutated

# References.

NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[a-z0-9][a-z0-9._-]{0,95}", re.ASCII)
SELECTOR = re.compile(r"v?[0-9]{1,9}|sha256:[0-9a-f]{12,64}|(?!v[0-9]+$)[a-z][a-z0-9._-]{0,63}", re.ASCII)
PARTS = st.sampled_from(
    [
        *(
            "me",
            "Ink",
            "a--b",
            "a..b",
            "..",
            "-",
            ".",
            "",
            "a/b",
            "v3",
            "V007",
            "3",
            "1234567890",
            "v1234567890",
        ),
        *(
            "sha256:abcdef01234",
            "SHA256:ABCDEF012345",
            "x" * 64,
            "x" * 97,
            "latest",
            "Prod",
            " ",
            "a\n",
            "a\0",
        ),
        *("\u017f", "\u212a", "a\u0130", "\u0131", "\u00e9", "a.git", "a.GIT", "0", "00", "a:b", "a@b"),
    ]
)
names = st.text("abz059._-", min_size=1, max_size=9).filter(NAME.fullmatch)
selectors = names.filter(SELECTOR.fullmatch) | st.integers(0, 10**9 - 1).map("v{:03}".format)
selectors |= st.text("0123456789abcdef", min_size=12, max_size=64).map("sha256:{}".format)


def is_reference(text: str) -> bool:
    """Say what the grammar says: `[remote:]namespace/name[@selector]`, whatever the case."""
    if not text.isascii():
        return False
    place, at, selector = text.strip().lower().partition("@")
    remote, colon, path = place.rpartition(":")
    parts = path.split("/")
    is_named = len(parts) == 2 and all(NAME.fullmatch(part) for part in parts)
    is_remote = not colon or re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,95}", remote) is not None
    return is_named and is_remote and (not at or SELECTOR.fullmatch(selector) is not None)


@COUNTS
def test_a_reference_is_read_if_it_follows_the_grammar(count: int) -> None:
    def check(text: str) -> None:
        try:
            reference = parse_reference(text)
        except ReferenceSyntaxError as exc:
            assert exc.text == text
            assert not is_reference(text)
        else:
            assert is_reference(text)
            assert parse_reference(str(reference)) == reference

    forms = st.sampled_from(
        ["{0}/{1}@{2}", "{3}:{0}/{1}@{2}", "{0}/{1}", "{3}:{0}/{1}", " {0}/{1}@{2}\n", "{0}@{2}"]
    )
    parts = st.tuples(*[names | PARTS] * 2, selectors | PARTS, names | PARTS)
    written = st.builds(lambda form, words: form.format(*words), forms, parts)
    fuzz(check, written | st.text(max_size=20), count=count)


@COUNTS
def test_a_reference_is_what_it_was_made_of(count: int) -> None:
    def check(namespace: str, name: str, selector: str, remote: str) -> None:
        text = f"{remote}:{namespace}/{name}@{selector}"
        number = selector.removeprefix("v")
        expected = str(int(number)) if number.isdigit() else selector
        for written in (text, text.upper()):
            assert parse_reference(written) == Reference(namespace, name, expected, remote)

    fuzz(check, names, names, selectors, names, count=count)


# Manifests.

MANIFESTS = [
    Manifest((PayloadFile("pytorch_lora_weights.safetensors", 2348, "ab" * 32),), "mini"),
    Manifest(
        files=(
            PayloadFile("adapter_config.json", 0, "0" * 64),
            PayloadFile("adapter_model.safetensors", 2**40, "f" * 64),
            PayloadFile("text/encoder.safetensors", 9, "01" * 32),
        ),
        architecture="sdxl",
        base_identity="sha256:" + "cd" * 32,
        algorithm="locon",
        trigger_words=("inkwash", "\u58a8\u7d75"),
        recommended_weight="-0.8",
        licence="CC-BY-4.0",
        lineage={"operation": "merged", "parent.1": "sha256:" + "1" * 64, "parent.1.weight": "0.5"},
    ),
]


def check_manifest(text: str) -> None:
    """Read it; what was read is safe to keep and to write to disk."""
    try:
        manifest = Manifest.from_json(text)
    except ManifestError:
        return
    assert manifest.to_json() == text
    words = [manifest.architecture, manifest.base_identity, manifest.algorithm, manifest.licence]
    words += [*manifest.trigger_words, *manifest.lineage, *manifest.lineage.values()]
    for word in words:
        assert isinstance(word, str)
        word.encode()
    for file in manifest.files:
        assert type(file.size) is int
        assert 0 <= file.size < 2**63
        target = Path("/home/versions") / file.path
        assert target.resolve().relative_to("/home/versions").as_posix() == file.path
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    places = [file.path for file in manifest.files]
    assert not any(other.startswith(f"{place}/") for place in places for other in places)


@COUNTS
def test_a_manifest_is_read_as_it_was_written_whatever_the_order_of_its_keys(count: int) -> None:
    def check(words: list[str], lineage: dict[str, str], weight: int, is_backwards: bool) -> None:
        parts = {
            "trigger_words": tuple(words),
            "recommended_weight": decimal_text(weight / 8),
            "licence": words[0],
        }
        ordered = dict(sorted(lineage.items(), reverse=is_backwards))
        manifest = Manifest(MANIFESTS[1].files, "mini", **parts, lineage=ordered)
        assert Manifest.from_json(manifest.to_json()) == manifest
        text = canonical({"format": 1, **dataclasses.asdict(manifest)})
        assert manifest.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
    listed, tables = st.lists(words, min_size=1, max_size=3), st.dictionaries(words, words, max_size=3)
    fuzz(check, listed, tables, st.integers(-80, 80), st.booleans(), count=count)


@COUNTS
def test_any_other_manifest_is_refused(count: int) -> None:
    tables = [json.loads(manifest.to_json()) for manifest in MANIFESTS]
    changed = damaged([manifest.to_json().encode() for manifest in MANIFESTS])
    texts = changed.map(lambda content: content.decode("utf-8", "replace"))
    fuzz(check_manifest, mutated(tables).map(canonical) | texts, count=count)


@COUNTS
def test_a_decimal_has_one_form(count: int) -> None:
    def check(value: Any) -> None:
        try:
            text = decimal_text(value)
        except ManifestError:
            return
        assert decimal_text(text) == text
        assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", text)
        assert len(text) < 500

    fuzz(check, st.floats() | st.text("-+.0019_eE", max_size=9) | SCALARS, count=count)
