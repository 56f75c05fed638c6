"""What people say of adapters: settings, alias history, pictures, model cards, and how they travel."""

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.card import parse_card, render_card
from adapterhub_registry.errors import (
    AdapterNotFoundError,
    AliasMovedError,
    CardError,
    FieldError,
    InputError,
    PictureError,
)
from adapterhub_registry.intake import PreviewPicture
from adapterhub_registry.publication import SETTINGS, AliasMove, Details
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes

Weights = Callable[..., Path]


@pytest.fixture
def registry(home: Path, weights: Weights) -> Registry:
    found = Registry(home)
    for seed in (1, 2, 3):
        found.add(weights(seed), name="me/ink", base="mini", trigger_words=["inkwash"])
    return found


def picture(path: Path, colour: str) -> Path:
    Image.new("RGB", (16, 16), colour).save(path)
    return path


def actions(registry: Registry, subject: str = "me/ink") -> list[str]:
    return [event.action for event in registry.events(subject=subject)]


def test_every_move_of_an_alias_is_kept(registry: Registry) -> None:
    registry.set_alias("me/ink", "prod", 1, expected=None)
    registry.set_alias("me/ink", "prod", 2)
    registry.set_alias("me/ink", "production", 3)
    registry.set_alias("me/ink", "prod", 2)  # it stands there already
    registry.remove_alias("me/ink", "PROD", expected=2)
    moves = registry.alias_moves("me/ink", "prod")
    assert [(move.before, move.after) for move in moves] == [(None, 1), (1, 2), (2, None)]
    assert isinstance(moves[0], AliasMove)
    assert moves[0].time <= moves[-1].time
    assert [move.alias for move in registry.alias_moves("me/ink")] == ["prod", "prod", "production", "prod"]
    assert registry.show("me/ink").aliases == {"production": 3}
    with pytest.raises(AdapterNotFoundError):
        registry.alias_moves("me/nothing")


def test_an_alias_is_removed_only_where_it_is_expected(registry: Registry) -> None:
    registry.set_alias("me/ink", "prod", 1)
    with pytest.raises(AliasMovedError) as moved:
        registry.remove_alias("me/ink", "prod", expected=2)
    assert (moved.value.expected, moved.value.found) == (2, 1)
    with pytest.raises(FieldError) as missing:
        registry.remove_alias("me/ink", "stable")
    assert missing.value.rule == "me/ink has none of that name; it has prod"
    assert registry.show("me/ink").aliases == {"prod": 1}


def test_an_update_is_one_event_with_what_changed(registry: Registry) -> None:
    details = Details(title="Ink wash", settings={"steps": "30"}, tags=["ink"], card="# Ink\n\nBy hand.")
    adapter = registry.update("me/ink", details)
    assert (adapter.title, adapter.settings, adapter.card) == (
        "Ink wash",
        {"steps": "30"},
        "# Ink\n\nBy hand.",
    )
    event = registry.events(subject="me/ink")[0]
    assert event.action == "update"
    assert event.detail["title"] == {"before": "", "after": "Ink wash"}
    assert event.detail["settings"] == {"before": {}, "after": {"steps": "30"}}
    assert set(event.detail) == {"title", "settings", "tags", "card"}
    assert "By hand" not in json.dumps(event.detail)
    registry.update("me/ink", details)
    assert actions(registry).count("update") == 1


ADD_STEPS = """
import sys
from adapterhub_registry.publication import Details
from adapterhub_registry.store import Registry
registry = Registry()
for number in range(int(sys.argv[2])):
    registry.update("me/ink", lambda a: Details(tags=[*a.tags, f"{sys.argv[1]}-{number}"]))
"""


@pytest.mark.parametrize("each", [3, pytest.param(30, marks=pytest.mark.long)])
def test_changes_of_many_processes_are_all_kept(registry: Registry, each: int) -> None:
    words = [sys.executable, "-c", ADD_STEPS]
    writers = [subprocess.Popen([*words, name, str(each)], env=os.environ) for name in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    expected = {f"{name}-{number}" for name in "abcd" for number in range(each)}
    assert set(registry.show("me/ink").tags) == expected


GOOD = {
    "steps": "30",
    "guidance_scale": "6.5",
    "scheduler": "DPM++ 2M Karras",
    "width": "1024",
    "height": "768",
    "negative_prompt": "photo, text",
    "clip_skip": "2",
}


def test_every_setting_has_a_rule(registry: Registry) -> None:
    assert GOOD.keys() == SETTINGS.keys()
    assert registry.update("me/ink", Details(settings=GOOD)).settings == GOOD
    for name, value in (
        ("steps", "0"),
        ("steps", "many"),
        ("steps", "30 "),
        ("guidance_scale", "-1"),
        ("guidance_scale", "nan"),
        ("scheduler", "euler\x1b"),
        ("width", "1001"),
        ("height", "0"),
        ("negative_prompt", "two\nlines"),
        ("clip_skip", "13"),
    ):
        with pytest.raises(FieldError) as wrong:
            registry.update("me/ink", Details(settings={name: value}))
        assert (wrong.value.field, wrong.value.value) == (f"setting {name}", value)
        assert wrong.value.rule == SETTINGS[name][1]
    with pytest.raises(FieldError) as unknown:
        registry.update("me/ink", Details(settings={"colour": "red"}))
    assert all(name in unknown.value.rule for name in SETTINGS)
    assert registry.show("me/ink").settings == GOOD


def test_pictures_are_added_to_a_version_once(registry: Registry, tmp_path: Path) -> None:
    version = registry.resolve("me/ink@2")
    red, blue = picture(tmp_path / "red.png", "red"), picture(tmp_path / "blue.png", "blue")
    drawn = PreviewPicture(red, "a castle", 7, {"steps": "20"})
    (added,) = registry.add_previews(version, [drawn, red])
    assert (added.name, added.prompt, added.seed, added.settings) == (
        "preview-1.png",
        "a castle",
        7,
        {"steps": "20"},
    )
    assert [item.name for item in registry.add_previews(version, [blue, red])] == ["preview-2.png"]
    assert registry.add_previews(version, [blue]) == []
    assert actions(registry, "me/ink@2") == ["preview", "preview", "publish"]
    assert registry.resolve("me/ink@2").digest == version.digest
    assert registry.previews(registry.resolve("me/ink@1")) == []

    registry.remove_preview(version, 1)
    (left,) = registry.previews(version)
    assert (left.name, left.sha256) == ("preview-1.png", registry.previews(version)[0].sha256)
    with pytest.raises(FieldError, match="has 1 of them"):
        registry.remove_preview(version, 2)


def test_one_bad_picture_keeps_all_out(registry: Registry, tmp_path: Path) -> None:
    version = registry.resolve("me/ink")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    good = picture(tmp_path / "good.png", "red")
    with pytest.raises(PictureError):
        registry.add_previews(version, [good, tmp_path / "bad.png"])
    with pytest.raises(InputError):
        registry.add_previews(version, [good, tmp_path / "missing.png"])
    assert registry.previews(version) == []
    assert actions(registry, version.reference) == ["publish"]


def test_a_picture_that_was_condemned_is_kept(registry: Registry, tmp_path: Path) -> None:
    version, red = registry.resolve("me/ink"), picture(tmp_path / "red.png", "red")
    (added,) = registry.add_previews(version, [red])
    registry.remove_preview(version, 1)
    registry.collect()
    (again,) = registry.add_previews(version, [red])
    assert again.sha256 == added.sha256
    with sqlite3.connect(registry.home / "registry.db") as database:
        condemned = [sha256 for (sha256,) in database.execute("SELECT sha256 FROM condemned")]
    assert added.sha256 not in condemned


def test_settings_and_pictures_travel(registry: Registry, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    version = registry.resolve("me/ink")
    registry.update("me/ink", Details(settings=GOOD, card="# Ink"))
    drawn = PreviewPicture(picture(tmp_path / "red.png", "red"), "a castle", 7, {"steps": "20"})
    registry.add_previews(version, [drawn])
    registry.add_remote("team", share.as_uri())
    registry.push("me/ink", remote="team")
    other = Registry(tmp_path / "other")
    other.add_remote("team", share.as_uri())
    other.pull("me/ink", remote="team")
    assert other.show("me/ink").settings == GOOD
    assert other.previews(other.resolve("me/ink")) == registry.previews(version)
    assert parse_card(other.card("me/ink")) == parse_card(registry.card("me/ink"))


def test_remotes_of_before_settings_are_read(registry: Registry, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    registry.add_previews(registry.resolve("me/ink"), [picture(tmp_path / "red.png", "red")])
    registry.add_remote("team", share.as_uri())
    registry.push("me/ink", remote="team")
    for path in share.glob("adapters/me/ink/**/*.json"):
        table = json.loads(path.read_text())
        table.pop("settings", None)
        for preview in table.get("previews", ()):
            del preview["settings"]
        path.write_text(json.dumps(table))
    other = Registry(tmp_path / "other")
    other.add_remote("team", share.as_uri())
    other.pull("me/ink", remote="team")
    assert other.show("me/ink").settings == {}
    assert len(other.previews(other.resolve("me/ink"))) == 1


def test_the_card_is_written_from_what_the_registry_knows(registry: Registry, tmp_path: Path) -> None:
    registry.update("me/ink", Details(title="Ink", settings={"steps": "30"}))
    registry.set_alias("me/ink", "prod", 2)
    registry.add_previews(
        registry.resolve("me/ink@2"), [PreviewPicture(picture(tmp_path / "r.png", "red"), "castle", 1)]
    )
    card = parse_card(registry.card("me/ink@prod"))
    assert (card.title, card.trigger_words, card.prompts) == ("Ink", ("inkwash",), ("castle",))
    assert "me/ink@2" in registry.card("me/ink@prod")
    assert parse_card(registry.card("me/ink@1")).prompts == ()


CARD = """---
license: cc-by-4.0
tags: [lora, Soft Light]
instance_prompt: inkwash, soft
---
# Ink wash

Soft grey drawings.

Made at night.
"""


def test_a_card_says_what_nobody_else_said(registry: Registry, weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(CARD)
    version = registry.add(weights(8), name="me/new", base="mini", card=tmp_path / "card.md")
    adapter = registry.show("me/new")
    assert (adapter.title, adapter.description, adapter.tags) == (
        "Ink wash",
        "Soft grey drawings.",
        ("soft-light",),
    )
    assert (version.trigger_words, version.manifest.licence) == (("inkwash", "soft"), "CC-BY-4.0")
    assert adapter.card.endswith("Made at night.")
    given = registry.add(
        weights(9),
        name="me/given",
        base="mini",
        card=tmp_path / "card.md",
        title="Mine",
        trigger_words=["mine"],
        licence="MIT",
        tags=["own"],
    )
    assert (given.trigger_words, given.manifest.licence) == (("mine",), "MIT")
    assert (registry.show("me/given").title, registry.show("me/given").tags) == ("Mine", ("own",))


def test_a_repository_of_the_hub_is_read_with_its_card(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    for name in ("pytorch_lora_weights.safetensors", "other.safetensors"):
        (folder / name).write_bytes(weights_bytes(20))
    found = registry.add(folder / "pytorch_lora_weights.safetensors", name="me/found", base="mini")
    assert found.trigger_words == ("inkwash", "soft")
    # Beside a file of any other name, a README.md may be about anything.
    assert registry.add(folder / "other.safetensors", name="me/other", base="mini").trigger_words == ()


def test_our_own_card_comes_back_whole(registry: Registry, weights: Weights, tmp_path: Path) -> None:
    registry.update("me/ink", Details(title="Ink", kind="style", settings=GOOD, tags=["ink"]))
    (tmp_path / "card.md").write_text(registry.card("me/ink@3"))
    registry.add(weights(3), name="me/copy", base="mini", card=tmp_path / "card.md")
    ink, copy = registry.show("me/ink"), registry.show("me/copy")
    assert (copy.title, copy.kind, copy.settings, copy.tags, copy.card) == (
        "Ink",
        "style",
        GOOD,
        ("ink",),
        "",
    )
    assert registry.resolve("me/copy").digest == registry.resolve("me/ink").digest
    assert render_card(ink, registry.resolve("me/ink")).count("\n") > 30


def test_a_card_that_cannot_be_read(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    weights = folder / "pytorch_lora_weights.safetensors"
    weights.write_bytes(weights_bytes(21))
    (folder / "README.md").write_text("---\ntags: &a [*a]\n---\n")
    with caplog.at_level(logging.WARNING):
        registry.add(weights, name="me/odd", base="mini")
    assert 'README.md is passed over: the model card cannot be read, line 2, field "tags"' in caplog.text
    with pytest.raises(CardError):
        registry.add(weights, name="me/odder", base="mini", card=folder / "README.md")
    with pytest.raises(InputError):
        registry.add(weights, name="me/odder", base="mini", card=folder / "missing.md")
    assert not registry.has_adapter("me/odder")
