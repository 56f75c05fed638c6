"""Adopting a folder of another tool: dialects, sidecars, broken files, duplicates, a renamed pickle."""

import json
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from adapterhub_registry.adoption import Adopted, adopt
from adapterhub_registry.errors import InputError
from adapterhub_registry.sidecars import read_sidecars
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "Lora"
    (root / "styles").mkdir(parents=True)
    (root / "Ink Wash (v2).safetensors").write_bytes(weights_bytes(1, metadata={"ss_output_name": "ink"}))
    (root / "Ink Wash (v2).civitai.info").write_text(
        json.dumps(
            {
                "trainedWords": ["inkwash, soft", "grey"],
                "description": "<p>Soft <b>drawings</b></p>",
                "model": {"name": "Ink Wash", "tags": ["Portrait", "soft light"]},
            }
        )
    )
    Image.new("RGB", (8, 8), "red").save(root / "Ink Wash (v2).preview.png")
    (root / "styles" / "corgi.safetensors").write_bytes(weights_bytes(2))
    (root / "styles" / "corgi.json").write_text('{"activation text": "corgidog", "preferred weight": 0.8}')
    Image.new("RGB", (8, 8), "blue").save(root / "styles" / "corgi.jpg")
    (root / "styles" / "copy.safetensors").write_bytes(weights_bytes(2))
    (root / "corgi.safetensors").write_bytes(weights_bytes(3))
    (root / "corgi.json").write_text("{broken")
    (root / "old.pt").write_bytes(pickle.dumps({"a": 1}))
    (root / "renamed.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (root / "cut.safetensors").write_bytes(weights_bytes(4)[:-9])
    (root / "empty.safetensors").write_bytes(b"")
    (root / "readme.md").write_text("no adapter")
    return root


def by_name(found: list[Adopted], folder: Path) -> dict[str, Adopted]:
    return {str(item.path.relative_to(folder)): item for item in found}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_is_adopted_with_what_lies_beside_its_files(home: Path, folder: Path) -> None:
    registry, before = Registry(home), snapshot(folder)
    found = by_name(list(adopt(registry, folder, namespace="me")), folder)
    assert {name: item.outcome for name, item in found.items()} == {
        "Ink Wash (v2).safetensors": "added",
        "corgi.safetensors": "added",
        "cut.safetensors": "refused",
        "empty.safetensors": "refused",
        "old.pt": "refused",
        "renamed.safetensors": "refused",
        "styles/copy.safetensors": "added",
        "styles/corgi.safetensors": "known",
    }
    ink = registry.resolve("me/ink-wash-v2")
    assert ink.trigger_words == ("inkwash", "soft", "grey")
    adapter = registry.show(ink.name)
    assert (adapter.title, adapter.description, adapter.tags) == (
        "Ink Wash",
        "Soft drawings",
        ("portrait", "soft-light"),
    )
    assert len(registry.previews(ink)) == 1
    assert ink.lineage == {"operation": "imported", "file": "Ink Wash (v2).safetensors"}
    assert "no JSON" in found["corgi.safetensors"].reason
    assert "pickled" in found["renamed.safetensors"].reason
    assert found["styles/corgi.safetensors"].version == found["styles/copy.safetensors"].version
    assert snapshot(folder) == before


def test_weights_and_pictures_of_the_web_ui_are_taken(home: Path, folder: Path) -> None:
    registry = Registry(home)
    (folder / "styles" / "copy.safetensors").unlink()
    list(adopt(registry, folder / "styles", namespace="me"))
    corgi = registry.resolve("me/corgi")
    assert (corgi.trigger_words, corgi.manifest.recommended_weight) == (("corgidog",), "0.8")
    assert registry.read(registry.previews(corgi)[0].sha256).startswith(b"\x89PNG")


def test_a_second_run_reads_nothing_twice(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(home)
    first = list(adopt(registry, folder, namespace="me"))
    added = {item.path for item in first if item.outcome in ("added", "known")}
    opened: list[Path] = []
    real = Path.open

    def watched(path: Path, *words: object, **named: object) -> object:
        opened.append(path)
        return real(path, *words, **named)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(Path, "open", watched)
    second = list(adopt(registry, folder, namespace="me"))
    assert {item.outcome for item in second if item.path in added} == {"known"}
    assert not added & set(opened)
    monkeypatch.undo()
    changed = folder / "corgi.safetensors"
    changed.write_bytes(weights_bytes(9))
    os.utime(changed, ns=(1, 1))
    third = by_name(list(adopt(registry, folder, namespace="me")), folder)
    assert third["corgi.safetensors"].outcome == "added"


def test_a_dry_run_changes_nothing(home: Path, folder: Path) -> None:
    registry = Registry(home)
    found = list(adopt(registry, folder, namespace="me", dry_run=True))
    assert sum(item.outcome == "would add" for item in found) == 4
    assert registry.list() == []
    assert registry.events() == []


def test_shapes_that_tell_nothing_need_a_base(home: Path, tmp_path: Path) -> None:
    registry = Registry(home)
    (tmp_path / "odd.safetensors").write_bytes(weights_bytes(1, text_width=77))
    (refused,) = adopt(registry, tmp_path, namespace="me")
    assert "--base" in refused.reason
    (added,) = adopt(registry, tmp_path, namespace="me", base="mini")
    assert added.version == "me/odd@1"
    with pytest.raises(InputError):
        list(adopt(registry, tmp_path / "nowhere", namespace="me"))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["trainedWords", "model", "name", "tags", "description", "activation text", "preferred weight"]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(FIELDS, JSON, max_size=5), st.binary(max_size=40))
def test_no_sidecar_stops_an_adoption(tmp_path: Path, table: dict[str, object], rest: bytes) -> None:
    (tmp_path / "x.civitai.info").write_text(json.dumps(table))
    (tmp_path / "x.json").write_bytes(rest)
    (tmp_path / "x.txt").write_bytes(rest)
    found = read_sidecars(tmp_path / "x.safetensors", {})
    assert len(found.description) <= 2000
    assert len(found.trigger_words) <= 50
