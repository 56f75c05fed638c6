"""Exporting a whole registry as the folder of another tool, and adopting it back."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adapterhub.errors import ExportBlockedError, InputError
from adapterhub.export_folder import MANIFEST
from adapterhub.layouts import Exported, export_all
from adapterhub_registry.adoption import adopt
from adapterhub_registry.hashes import hash_file
from adapterhub_registry.probe import probe
from adapterhub_registry.publication import Details
from adapterhub_registry.store import Registry

KOHYA = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
DOTTED = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that writes a small adapter of the mini base in one of two layouts."""

    def write(seed: int, layout: str = "kohya") -> Path:
        generator = torch.Generator().manual_seed(seed)
        down, up = torch.randn(2, 160, generator=generator), torch.randn(96, 2, generator=generator)
        names = (f"{DOTTED}.lora_A.weight", f"{DOTTED}.lora_B.weight")
        tensors = dict(zip(names, (down, up), strict=True))
        if layout == "kohya":
            parts = ("lora_down.weight", "lora_up.weight", "alpha")
            tensors = {
                f"{KOHYA}.{part}": x for part, x in zip(parts, (down, up, torch.tensor(2.0)), strict=True)
            }
        path = tmp_path / f"{layout}-{seed}.safetensors"
        save_file(tensors, path)
        return path

    return write


@pytest.fixture
def registry(home: Path, make: Make, tmp_path: Path) -> Registry:
    """Two adapters that the web UI reads, one of them twice, and one that it does not read."""
    found = Registry(home)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "ink.png")
    found.add(
        make(1),
        name="me/ink.v2",
        base="mini",
        trigger_words=["inkwash", "soft lines"],
        recommended_weight=0.8,
        licence="CC-BY-4.0",
        previews=[tmp_path / "ink.png"],
        title="Ink: wash",
        description="Soft drawings, grey & black.",
        kind="style",
        tags=["ink", "soft-light"],
        settings={"negative_prompt": "photo"},
    )
    found.add(make(2), name="me/bare", base="mini")
    found.set_alias("me/bare", "prod", 1)
    found.add(make(3), name="me/bare", base="mini")
    found.add(make(4, "dotted"), name="acme/corgi", base="mini", trigger_words=["corgidog"], title="Corgi")
    return found


def outcomes(found: list[Exported]) -> dict[str, str]:
    return {item.version: item.outcome for item in found}


def files_of(folder: Path) -> dict[str, int]:
    """Path to the time at which it was written, of all but the list."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def test_the_web_ui_finds_weights_words_and_pictures(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "Lora"
    found = list(export_all(registry, out, layout="a1111"))
    assert outcomes(found) == {"acme/corgi@1": "written", "me/bare@2": "written", "me/ink.v2@1": "written"}
    assert list(files_of(out)) == [
        "acme/corgi.json",
        "acme/corgi.safetensors",
        "me/bare.json",
        "me/bare.safetensors",
        "me/ink.v2.json",
        "me/ink.v2.preview.png",
        "me/ink.v2.safetensors",
    ]
    notes = json.loads((out / "me" / "ink.v2.json").read_text())
    assert notes["activation text"] == "inkwash, soft lines"
    assert notes["preferred weight"] == 0.8
    assert notes["description"] == "Soft drawings, grey & black."
    assert notes["negative text"] == "photo"
    assert notes["sd version"] == "Unknown"
    with Image.open(out / "me" / "ink.v2.preview.png") as shown:
        assert shown.size == (8, 8)


def test_what_the_tool_reads_is_copied_and_the_rest_converted(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "Lora"
    list(export_all(registry, out, layout="a1111"))
    stored = registry.blobs.path(registry.resolve("me/bare").files[0].sha256)
    copied = out / "me" / "bare.safetensors"
    assert copied.read_bytes() == stored.read_bytes()
    assert copied.stat().st_ino != stored.stat().st_ino
    assert copied.stat().st_nlink == 1
    copied.open("r+b").close()  # the stored file is read-only; the copy is not
    corgi = registry.blobs.path(registry.resolve("acme/corgi").files[0].sha256)
    assert probe(corgi).layouts == ("diffusers",)
    assert probe(out / "acme" / "corgi.safetensors").layouts == ("kohya",)


def test_an_alias_a_namespace_and_a_dry_run(registry: Registry, tmp_path: Path) -> None:
    found = list(
        export_all(registry, tmp_path / "x", layout="comfy", namespace="me", alias="prod", dry_run=True)
    )
    assert outcomes(found) == {"me/bare@1": "would write", "me/ink.v2@1": "would write"}
    assert not (tmp_path / "x").exists()
    registry.yank("acme/corgi@1", "no")
    assert "acme/corgi" not in {
        item.version[:10] for item in export_all(registry, tmp_path / "x", layout="comfy")
    }
    assert (tmp_path / "x" / "me" / "ink.v2.txt").read_text() == "inkwash, soft lines\n"


def test_only_what_changed_is_written_again(registry: Registry, tmp_path: Path, make: Make) -> None:
    out = tmp_path / "Lora"
    list(export_all(registry, out, layout="a1111"))
    before = files_of(out)
    again = list(export_all(registry, out, layout="a1111"))
    assert set(outcomes(again).values()) == {"unchanged"}
    assert files_of(out) == before
    registry.update("me/ink.v2", Details(title="Ink"))
    registry.add(make(9), name="me/bare", base="mini")
    registry.remove_preview(registry.resolve("me/ink.v2"), 1)
    third = outcomes(list(export_all(registry, out, layout="a1111")))
    assert third == {"acme/corgi@1": "unchanged", "me/bare@3": "written", "me/ink.v2@1": "written"}
    after = files_of(out)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    expected = {"me/bare.json", "me/bare.safetensors", "me/ink.v2.json", "me/ink.v2.preview.png"}
    assert changed == expected
    assert "me/ink.v2.preview.png" not in after


def test_an_export_that_died_goes_on(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "Lora"
    begun = export_all(registry, out, layout="a1111")
    assert next(begun).version == "acme/corgi@1"
    begun.close()
    first = files_of(out)
    (out / MANIFEST).unlink()  # it died before it could be written
    rest = outcomes(list(export_all(registry, out, layout="a1111")))
    assert rest == {"acme/corgi@1": "unchanged", "me/bare@2": "written", "me/ink.v2@1": "written"}
    assert first.items() <= files_of(out).items()
    assert set(outcomes(list(export_all(registry, out, layout="a1111"))).values()) == {"unchanged"}


@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.long)])
def test_a_killed_export_leaves_no_half_file(
    registry: Registry, tmp_path: Path, make: Make, count: int
) -> None:
    for seed in range(30):
        registry.add(make(100 + seed), name=f"many/a{seed}", base="mini")
    stored = set(registry.blobs.digests())
    command = [
        sys.executable,
        "-m",
        "adapterhub_cli",
        "export",
        "--all",
        "--layout",
        "a1111",
        "--namespace",
        "many",
    ]
    for number in range(count):
        out = tmp_path / f"Lora-{number}"
        process = subprocess.Popen(
            [*command, "--out", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wanted = 1 + number * 28 // max(count - 1, 1)
        while len(list(out.glob("many/*.safetensors"))) < wanted and process.poll() is None:
            pass
        process.kill()
        process.wait()
        for path in files_of(out):
            if path.endswith(".safetensors"):
                assert hash_file(out / path).sha256 in stored
            elif path.endswith(".json"):
                json.loads((out / path).read_text())
        rest = outcomes(list(export_all(registry, out, layout="a1111", namespace="many")))
        assert len(rest) == 30
        assert set(rest.values()) <= {"written", "unchanged"}
        assert len(files_of(out)) == 60


def test_no_file_of_others_is_touched(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "Lora"
    (out / "me").mkdir(parents=True)
    theirs = out / "me" / "bare.safetensors"
    theirs.write_bytes(b"theirs")
    with pytest.raises(ExportBlockedError) as caught:
        list(export_all(registry, out, layout="a1111"))
    assert caught.value.paths == [theirs]
    assert list(files_of(out)) == ["me/bare.safetensors"]
    dry = {item.version: item.reason for item in export_all(registry, out, layout="a1111", dry_run=True)}
    assert dry["me/bare@2"] == "in the way: me/bare.safetensors"
    theirs.unlink()
    theirs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportBlockedError):
        list(export_all(registry, out, layout="a1111"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_was_changed_since_is_the_users_own(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "Lora"
    list(export_all(registry, out, layout="a1111"))
    notes = out / "me" / "bare.json"
    notes.write_text('{"notes": "mine"}')
    with pytest.raises(ExportBlockedError) as caught:
        list(export_all(registry, out, layout="a1111"))
    assert caught.value.paths == [notes]
    assert notes.read_text() == '{"notes": "mine"}'


def test_a_folder_is_for_one_tool(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "Lora"
    list(export_all(registry, out, layout="a1111"))
    with pytest.raises(InputError, match="an export for a1111"):
        list(export_all(registry, out, layout="comfy"))
    (out / MANIFEST).write_text('{"format": 1}')
    with pytest.raises(InputError, match="no list of exported files"):
        list(export_all(registry, out, layout="a1111"))


def test_a_list_cannot_lead_out_of_the_folder(registry: Registry, tmp_path: Path) -> None:
    out, outside = tmp_path / "Lora", tmp_path / "outside"
    outside.write_text("mine")
    list(export_all(registry, out, layout="a1111"))
    table = json.loads((out / MANIFEST).read_text())
    stat = outside.stat()
    entry = {"adapter": "me/bare", "key": "x", "sha256": "x", "size": 4, "mtime_ns": stat.st_mtime_ns}
    table["files"]["../outside"] = entry
    (out / MANIFEST).write_text(json.dumps(table))
    with pytest.raises(InputError, match="is no file of an adapter"):
        list(export_all(registry, out, layout="a1111"))
    assert outside.read_text() == "mine"


def test_a_damaged_file_is_refused_and_the_others_go_on(registry: Registry, tmp_path: Path) -> None:
    version = registry.resolve("me/bare")
    stored = registry.blobs.path(version.files[0].sha256)
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    found = {item.version: item for item in export_all(registry, tmp_path / "Lora", layout="a1111")}
    assert found["me/bare@2"].outcome == "refused"
    assert version.files[0].sha256 in found["me/bare@2"].reason
    assert found["me/ink.v2@1"].outcome == "written"
    assert not list((tmp_path / "Lora" / "me").glob("*bare*"))


def test_what_no_tool_reads_is_named(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(
        {
            f"base_model.model.model.layers.0.self_attn.q_proj.lora_{name}.weight": torch.ones(shape)
            for name, shape in (("A", (2, 8)), ("B", (8, 2)))
        },
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    registry.add(folder, name="me/speech")
    generator = torch.Generator().manual_seed(5)
    scaled = {
        f"{KOHYA}.weight": torch.randn(96, generator=generator),
        f"{KOHYA}.on_input": torch.tensor(False),
    }
    save_file(scaled, tmp_path / "ia3.safetensors")
    registry.add(tmp_path / "ia3.safetensors", name="me/scaled", base="mini")
    found = {item.version: item for item in export_all(registry, tmp_path / "ui", layout="comfy")}
    assert "transformers/causal_lm" in found["me/speech@1"].reason
    assert "ComfyUI reads no (IA)^3" in found["me/scaled@1"].reason
    assert found["me/ink.v2@1"].outcome == "written"
    assert outcomes(list(export_all(registry, tmp_path / "web", layout="a1111")))["me/scaled@1"] == "written"


@pytest.mark.parametrize("layout", ["a1111", "comfy"])
def test_the_way_back_gives_the_same(registry: Registry, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "Lora"
    list(export_all(registry, out, layout=layout))
    assert {item.outcome for item in adopt(registry, out, namespace="again")} == {"known"}
    other = Registry(tmp_path / "other")
    assert {item.outcome for item in adopt(other, out / "me", namespace="me")} == {"added"}
    assert {item.outcome for item in adopt(other, out / "acme", namespace="acme", base="mini")} == {"added"}
    for adapter in registry.list():
        before, after = registry.resolve(adapter.name), other.resolve(adapter.name)
        adopted = other.show(adapter.name)
        expected = adapter.title or adapter.name.split("/")[1]
        assert (adopted.title, adopted.description) == (expected, adapter.description)
        assert (adopted.tags, adopted.kind, adopted.settings) == (
            adapter.tags,
            adapter.kind,
            adapter.settings,
        )
        assert after.trigger_words == before.trigger_words
        assert after.manifest.recommended_weight == before.manifest.recommended_weight
        assert after.manifest.licence == before.manifest.licence
        assert len(other.previews(after)) == len(registry.previews(before))
        written = hash_file(out / f"{adapter.name}.safetensors").data_sha256
        assert hash_file(other.blobs.path(after.files[0].sha256)).data_sha256 == written
        if adapter.name != "acme/corgi":  # that one was converted
            assert after.files[0].sha256 == before.files[0].sha256
