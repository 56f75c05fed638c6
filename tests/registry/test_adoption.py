"""Adopting a folder of another tool: dialects, sidecars, broken files, duplicates, a renamed pickle."""

import json
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_cli.main import main
from adapterhub_registry.adoption import Adopted, adopt
from adapterhub_registry.errors import InputError
from adapterhub_registry.store import Registry
from tests.registry.conftest import bytes_read, weights_bytes


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
    (root / "more.zip").write_bytes(b"PK\x03\x04")
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
        "more.zip": "refused",
        "old.pt": "refused",
        "renamed.safetensors": "refused",
        "styles/copy.safetensors": "known",
        "styles/corgi.safetensors": "added",
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
    # Of two files with the same weights, the one with notes and a picture became the version.
    corgi = registry.resolve(found["styles/copy.safetensors"].version)
    assert corgi.trigger_words == ("corgidog",)
    assert len(registry.previews(corgi)) == 1
    assert snapshot(folder) == before


def test_the_notes_of_stability_matrix_are_taken(home: Path, tmp_path: Path) -> None:
    registry = Registry(home)
    (tmp_path / "a.safetensors").write_bytes(weights_bytes(1))
    notes = {
        "ModelName": "Ink",
        "ModelDescription": "<p>grey</p>",
        "TrainedWords": ["inkwash"],
        "Tags": ["x"],
    }
    (tmp_path / "a.cm-info.json").write_text(json.dumps(notes))
    list(adopt(registry, tmp_path, namespace="me"))
    adapter = registry.show("me/a")
    assert (adapter.title, adapter.description, adapter.tags) == ("Ink", "grey", ("x",))
    assert registry.resolve("me/a").trigger_words == ("inkwash",)


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


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what is read")
def test_each_file_is_read_once_on_its_way_in(home: Path, tmp_path: Path) -> None:
    registry, folder = Registry(home), tmp_path / "Lora"
    folder.mkdir()
    (folder / "first.safetensors").write_bytes(weights_bytes(1))
    list(adopt(registry, folder, namespace="me"))  # imports read files too
    for seed in range(4):
        (folder / f"{seed}.safetensors").write_bytes(weights_bytes(seed // 2, text_width=50_000))
    size = (folder / "0.safetensors").stat().st_size
    before = bytes_read()
    found = list(adopt(registry, folder, namespace="me", base="mini"))
    assert [item.outcome for item in found] == ["added", "known", "added", "known", "known"]
    assert 4 * size <= bytes_read() - before < 1.3 * 4 * size
    assert len(list(registry.blobs.digests())) == 3
    assert list(home.glob("staging/*")) == []


def test_the_same_weights_with_another_header_are_known_and_not_read_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(home)
    (tmp_path / "a.safetensors").write_bytes(weights_bytes(1))
    (tmp_path / "b.safetensors").write_bytes(weights_bytes(1, metadata={"title": "edited"}))
    for _ in range(2):
        found = list(adopt(registry, tmp_path, namespace="me"))
        assert [item.version for item in found] == ["me/a@1", "me/a@1"]
        monkeypatch.setattr(Path, "open", None)


def test_a_deleted_version_is_adopted_again_under_another_name(home: Path, tmp_path: Path) -> None:
    registry = Registry(home)
    (tmp_path / "ink.safetensors").write_bytes(weights_bytes(1))
    list(adopt(registry, tmp_path, namespace="me"))
    registry.delete("me/ink@1")
    (found,) = adopt(registry, tmp_path, namespace="me")
    assert found.outcome == "added"
    assert not found.version.startswith("me/ink@")


def test_a_folder_is_adopted_by_links(home: Path, folder: Path) -> None:
    registry, before = Registry(home), snapshot(folder)
    found = by_name(list(adopt(registry, folder, namespace="me", link=True)), folder)
    added = {name: item for name, item in found.items() if item.outcome == "added"}
    assert len(added) == 3
    for name, item in added.items():
        version = registry.resolve(item.version)
        assert item.is_linked
        assert registry.blobs.path(version.files[0].sha256).samefile(folder / name)
        assert registry.facts(version).linked == str((folder / name).resolve())
    assert not any(item.is_linked for name, item in found.items() if name not in added)
    assert snapshot(folder) == before
    assert list(registry.verify()) == []


def test_the_command_says_what_is_linked(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adopt", str(folder), "--namespace", "me", "--link", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "3 linked, not copied: who changes these files in place changes the versions too" in said.err
    assert "3 added, 1 known, 5 refused" in said.err
    ink = folder / "Ink Wash (v2).safetensors"
    assert main(["add", str(ink), "--name", "us/ink", "--quiet"]) == 0
    assert f"linked, not copied: who changes {ink} in place changes us/ink@1 too" in capsys.readouterr().err
    linked = ["me/ink-wash-v2@1", "me/corgi@1", "me/lora-corgi@1", "us/ink@1"]
    assert Registry(home).linked_versions() == linked


def test_a_dry_run_says_what_would_happen_and_changes_nothing(home: Path, folder: Path) -> None:
    (folder / "odd.safetensors").write_bytes(weights_bytes(5, text_width=77))
    registry = Registry(home)
    planned = list(adopt(registry, folder, namespace="me", dry_run=True))
    assert registry.list() == []
    assert registry.events() == []
    done = list(adopt(registry, folder, namespace="me"))
    assert [(item.path, item.outcome.replace("would add", "added")) for item in planned] == [
        (item.path, item.outcome) for item in done
    ]
    assert [item.version for item in planned] == [item.version.removesuffix("@1") for item in done]


def test_files_with_the_name_that_libraries_give_are_called_by_their_folder(
    home: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("adapter_model", "pytorch_lora_weights"), 1):
        folder = tmp_path / f"Robot {number}"
        folder.mkdir()
        (folder / f"{name}.safetensors").write_bytes(weights_bytes(number))
    (tmp_path / "Robot 1" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 6}'
    )
    registry = Registry(home)
    found = list(adopt(registry, tmp_path, namespace="me"))
    assert sorted(item.version for item in found) == ["me/robot-1@1", "me/robot-2@1"]
    names = [file.path for file in registry.resolve("me/robot-1").files]
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    assert registry.facts(registry.resolve("me/robot-1")).alphas == "6"
    assert [item.outcome for item in adopt(registry, tmp_path, namespace="me")] == ["known", "known"]


def test_peft_names_the_base_where_shapes_do_not_tell(home: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(weights_bytes(1, text_width=77))
    config = {"peft_type": "LORA", "base_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (added,) = adopt(Registry(home), tmp_path, namespace="me")
    assert Registry(home).resolve(added.version).architecture == "sdxl"


def test_shapes_that_tell_nothing_need_a_base(home: Path, tmp_path: Path) -> None:
    registry = Registry(home)
    (tmp_path / "odd.safetensors").write_bytes(weights_bytes(1, text_width=77))
    (refused,) = adopt(registry, tmp_path, namespace="me")
    assert "--base" in refused.reason
    (added,) = adopt(registry, tmp_path, namespace="me", base="mini")
    assert added.version == "me/odd@1"
    with pytest.raises(InputError):
        list(adopt(registry, tmp_path / "nowhere", namespace="me"))
