"""Finding: by words, by file, by picture, by descent; and states that hide or end a version."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapterhub_registry.ancestry import MAX_NODES, LineageNode
from adapterhub_registry.errors import (
    FieldError,
    RecordError,
    TombstoneError,
    VersionInUseError,
    VersionNotFoundError,
)
from adapterhub_registry.exif import exif_bytes
from adapterhub_registry.hashes import hash_file
from adapterhub_registry.record import parameters_text, picture_with_record
from adapterhub_registry.search import Filters, match_expression
from adapterhub_registry.server.gallery.family import MOST, draw_family
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.test_record import RECORD


def add(registry: Registry, seed: int, name: str, **settings: object) -> str:
    path = registry.home / f"{seed}.safetensors"
    path.write_bytes(weights_bytes(seed))
    settings.setdefault("base", "mini")
    return registry.add(path, name=name, **settings).reference  # pyright: ignore[reportArgumentType]


@pytest.fixture
def shelf(registry: Registry) -> Registry:
    add(
        registry,
        1,
        "me/ink-wash",
        title="Ink Wash",
        description="soft grey drawings",
        tags=["portrait", "grey"],
    )
    add(registry, 2, "me/corgi", trigger_words=["corgidog"], kind="subject", licence="MIT")
    add(registry, 3, "us/inkwell", description="a pot, and portrait of it", tags=["portrait"], kind="style")
    return registry


def names(found: object) -> list[str]:
    return [adapter.name for adapter in found]  # pyright: ignore[reportGeneralTypeIssues]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ink", ["me/ink-wash", "us/inkwell"]),
        ("wash ink", ["me/ink-wash"]),
        ("GREY draw", ["me/ink-wash"]),
        ("corgid", ["me/corgi"]),
        ("portrait", ["me/ink-wash", "us/inkwell"]),
        ("nothing", []),
        ('" OR * NEAR(', []),
        ("", ["me/corgi", "me/ink-wash", "us/inkwell"]),
    ],
)
def test_words_are_found_where_they_stand(shelf: Registry, query: str, expected: list[str]) -> None:
    assert sorted(names(shelf.search(query))) == expected


def test_adapters_of_one_name_are_found_in_every_namespace(shelf: Registry) -> None:
    add(shelf, 4, "us/corgi")
    assert shelf.adapters_named("Corgi") == ["me/corgi", "us/corgi"]
    assert shelf.adapters_named("cor") == []
    shelf.yank("us/corgi@1", "blurred")
    assert shelf.adapters_named("corgi") == ["me/corgi"]


def test_a_name_counts_for_more_than_a_description(shelf: Registry) -> None:
    add(shelf, 4, "me/other", description="ink ink ink")
    assert names(shelf.search("ink"))[-1] == "me/other"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(tags=("Portrait",)), ["me/ink-wash", "us/inkwell"]),
        (Filters(tags=("portrait", "grey")), ["me/ink-wash"]),
        (Filters(kind="subject"), ["me/corgi"]),
        (Filters(licence="MIT"), ["me/corgi"]),
        (Filters(architecture="sdxl"), []),
        (Filters(algorithm="lora", rank=2, namespace="us"), ["us/inkwell"]),
        (Filters(rank=3), []),
        (Filters(operation="imported"), ["me/corgi", "me/ink-wash", "us/inkwell"]),
        (Filters(has_preview=True), []),
        (Filters(has_preview=False, author="nobody"), []),
    ],
)
def test_filters_look_at_the_newest_version(shelf: Registry, filters: Filters, expected: list[str]) -> None:
    assert names(shelf.search(filters=filters)) == expected


@pytest.mark.parametrize("sort", ["name", "updated", "created", "relevance"])
def test_pages_hold_everything_once(registry: Registry, sort: str) -> None:
    everything = {add(registry, number, f"me/ink-{number}").split("@")[0] for number in range(7)}
    seen: list[str] = []
    after = None
    for _ in range(4):
        page = registry.search("ink", sort=sort, limit=2, after=after)
        seen += names(page)
        after = page.next
    assert after is None
    assert len(seen) == len(everything)
    assert set(seen) == everything
    if sort == "name":
        assert seen == sorted(seen)


def test_senseless_searches_are_refused(shelf: Registry) -> None:
    for settings in ({"sort": "beauty"}, {"limit": 0}, {"after": "x"}, {"limit": 5000}):
        with pytest.raises(FieldError):
            shelf.search("ink", **settings)  # pyright: ignore[reportArgumentType]
    token = shelf.search("ink", limit=1).next
    with pytest.raises(FieldError):
        shelf.search("ink", sort="name", after=token)


def test_what_is_said_later_is_found(shelf: Registry) -> None:
    from adapterhub_registry.publication import Details

    shelf.update("me/corgi", Details(title="Rain Dog", tags=["pets"]))
    assert names(shelf.search("rain")) == ["me/corgi"]
    assert names(shelf.search("pets")) == ["me/corgi"]
    add(shelf, 9, "me/corgi", trigger_words=["puppy"])
    assert names(shelf.search("puppy")) == ["me/corgi"]
    assert names(shelf.search("corgidog")) == []


@given(st.text(max_size=40))
def test_no_text_is_syntax(query: str) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE search USING fts5(name)")
    expression = match_expression(query)
    if expression:
        database.execute("SELECT * FROM search WHERE search MATCH ?", (expression,)).fetchall()
    database.close()


def test_a_file_is_known_by_its_bytes_and_by_its_weights(shelf: Registry, tmp_path: Path) -> None:
    (tmp_path / "same.bin").write_bytes(weights_bytes(2))
    (found,) = shelf.find_file(tmp_path / "same.bin")
    assert (found.version.reference, found.by) == ("me/corgi@1", "sha256")
    (tmp_path / "edited").write_bytes(weights_bytes(2, metadata={"title": "renamed"}))
    (found,) = shelf.find_file(tmp_path / "edited")
    assert (found.version.reference, found.by) == ("me/corgi@1", "payload")
    (tmp_path / "other").write_bytes(weights_bytes(50))
    assert shelf.find_file(tmp_path / "other") == []


def test_a_quoted_hash_is_known(shelf: Registry, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(weights_bytes(2))
    hashes = hash_file(tmp_path / "x")
    for text in (
        hashes.sha256,
        hashes.autov2.upper(),
        hashes.autov3,
        f"0x{hashes.data_sha256}",
        hashes.sha256[:8],
    ):
        assert [item.version.reference for item in shelf.find_hash(text)] == ["me/corgi@1"], text
    with pytest.raises(FieldError):
        shelf.find_hash("abc")
    with pytest.raises(FieldError):
        shelf.find_hash("not a hash at all")


def test_a_picture_names_its_adapters(shelf: Registry, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(weights_bytes(2))
    info = PngInfo()
    known = hash_file(tmp_path / "x").autov3
    info.add_text("parameters", f'a dog\nSteps: 20, Lora hashes: "corgi: {known}, gone: 0123456789ab"')
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    corgi, gone = shelf.find_image(tmp_path / "a.png")
    assert (corgi.name, [version.reference for version in corgi.found]) == ("corgi", ["me/corgi@1"])
    assert (gone.name, gone.found) == ("gone", ())
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(RecordError):
        shelf.find_image(tmp_path / "b.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_names_its_adapters_in_every_format_and_without_our_record(
    shelf: Registry, tmp_path: Path, kind: str
) -> None:
    corgi = shelf.resolve("me/corgi")
    used = {"reference": "me/corgi@1", "digest": corgi.digest, "strengths": {"unet": 0.8}}
    record = replace(RECORD, composition=[used])
    (tmp_path / "x").write_bytes(picture_with_record(Image.new("RGB", (8, 8)), record, kind))
    (found,) = shelf.find_image(tmp_path / "x")
    assert (found.name, found.hash, found.found) == ("me/corgi@1", corgi.digest, (corgi,))
    # Of a picture that another tool saved only the web UI's lines may be left.
    Image.new("RGB", (8, 8)).save(tmp_path / "y", kind, exif=exif_bytes("", parameters_text(record)))
    (found,) = shelf.find_image(tmp_path / "y")
    assert (found.name, found.hash, found.found) == ("corgi", corgi.digest[7:19], (corgi,))
    assert [item.by for item in shelf.find_hash(found.hash)] == ["version"]


def test_a_yanked_version_is_hidden_and_still_there(shelf: Registry) -> None:
    add(shelf, 10, "me/corgi")
    assert shelf.resolve("me/corgi").number == 2
    yanked = shelf.yank("me/corgi@2", "wrong pictures")
    assert (yanked.state, yanked.yank_reason) == ("yanked", "wrong pictures")
    assert shelf.resolve("me/corgi").number == 1
    assert shelf.resolve("me/corgi@2").yank_reason == "wrong pictures"
    shelf.yank("me/corgi@1", "too")
    assert names(shelf.search("corgi")) == []
    with pytest.raises(VersionNotFoundError):
        shelf.resolve("me/corgi")
    shelf.unyank("me/corgi@2")
    assert shelf.resolve("me/corgi").number == 2
    with pytest.raises(FieldError):
        shelf.yank("me/corgi@2", " ")


def test_a_deleted_version_leaves_its_number_and_digest(shelf: Registry) -> None:
    second = add(shelf, 10, "me/corgi")
    shelf.set_alias("me/corgi", "prod", 2)
    with pytest.raises(VersionInUseError) as caught:
        shelf.delete(second)
    assert caught.value.aliases == ["prod"]
    shelf.set_alias("me/corgi", "prod", 1)
    assert shelf.delete(second) == "me/corgi@2"
    assert [version.number for version in shelf.versions("me/corgi")] == [1]
    with pytest.raises(TombstoneError):
        shelf.resolve("me/corgi@2")
    with pytest.raises(TombstoneError) as refused:
        add(shelf, 10, "me/corgi")
    assert refused.value.number == 2
    assert add(shelf, 11, "me/corgi") == "me/corgi@3"
    assert [event.action for event in shelf.events(subject="me/corgi@2")] == ["delete", "publish"]


def test_lineage_is_a_tree_both_ways(shelf: Registry) -> None:
    ink, corgi = (shelf.resolve(name) for name in ("me/ink-wash", "me/corgi"))
    parents = {
        "parent.1": ink.digest,
        "parent.1.name": ink.reference,
        "parent.1.weight": "0.7",
        "parent.2": "sha256:" + "0" * 64,
        "parent.2.name": "loose.safetensors",
    }
    both = add(shelf, 20, "me/both", lineage={"operation": "merged", **parents})
    small = {"operation": "resized", "parent.1": shelf.resolve(both).digest, "parent.1.name": both}
    add(shelf, 21, "me/small", lineage=small)
    node = shelf.lineage(both)
    assert [(p.label, p.weight, p.is_here) for p in node.parents] == [
        ("me/ink-wash@1", "0.7", True),
        ("loose.safetensors", "", False),
    ]
    assert [child.label for child in node.children] == ["me/small@1"]
    assert shelf.lineage("me/ink-wash").children[0].children[0].label == "me/small@1"
    assert shelf.lineage("me/small").parents[0].parents[0].label == "me/ink-wash@1"
    assert node.as_lines()[1] == "├─ made of me/ink-wash@1  (imported, weight 0.7)"
    chart = node.as_mermaid()
    assert chart.startswith("graph TD\n")
    assert "-->|0.7|" in chart
    assert json.loads(json.dumps(node.as_json()))["parents"][1]["is_here"] is False
    assert shelf.lineage(corgi.reference).parents == ()


def test_lineage_of_diamonds_shows_each_version_with_its_relatives_once(shelf: Registry) -> None:
    name = add(shelf, 30, "me/chain")
    for seed in range(31, 51):  # a million paths
        digest = shelf.resolve(name).digest
        twice = {"operation": "merged", "parent.1": digest, "parent.2": digest}
        name = add(shelf, seed, "me/chain", lineage=twice)
    assert len(shelf.lineage(name).as_lines()) == len(shelf.lineage("me/chain@1").as_lines()) == 1 + 2 * 20
    first, second = shelf.lineage(name).parents
    assert (first.label, second.label) == ("me/chain@20", "me/chain@20")
    assert (len(first.parents), len(second.parents)) == (2, 0)
    drawing = draw_family(shelf.lineage(name))
    assert drawing is not None
    assert len({box.x for box in drawing.boxes}) == len(drawing.boxes) == 21


def test_lineage_that_is_too_large_says_that_it_was_cut(shelf: Registry) -> None:
    parents = {f"parent.{number}": f"sha256:{number:064x}" for number in range(1, MAX_NODES + 2)}
    node = shelf.lineage(add(shelf, 60, "me/many", lineage={"operation": "merged", **parents}))
    assert (len(node.parents), node.is_cut) == (MAX_NODES, True)
    assert "not all is listed" in node.as_lines()[0]
    drawing = draw_family(node)
    assert drawing is not None
    assert (len(drawing.boxes), drawing.is_cut) == (MOST, True)


def test_parents_are_drawn_left_of_their_children_where_ways_differ_in_length() -> None:
    def node(label: str, *parents: LineageNode) -> LineageNode:
        return LineageNode(label, label, "merged", "", True, parents)

    short = node("both", node("old"))
    long = node("step", node("both"))  # met a second time, without its relatives
    drawing = draw_family(node("new", short, long))
    assert drawing is not None
    assert [box.label for box in sorted(drawing.boxes, key=lambda box: box.x)] == [
        "old",
        "both",
        "step",
        "new",
    ]
    assert len({box.x for box in drawing.boxes}) == 4
