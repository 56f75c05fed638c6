"""What comes in: read once, linked if that was asked for, described by itself, refused if it may do harm."""

import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapterhub_registry import intake
from adapterhub_registry.errors import (
    FieldError,
    InputError,
    PickleRefusedError,
    PictureError,
    WeightsError,
)
from adapterhub_registry.facts import VersionFacts
from adapterhub_registry.files import share_bytes
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Publication, StoredFile
from adapterhub_registry.record import png_with_record
from adapterhub_registry.store import Registry
from tests.registry.conftest import MODULE, bytes_read, weights_bytes
from tests.registry.test_record import RECORD

Weights = Callable[..., Path]
LARGE = 100_000
"""A text width that makes a file of 0.8 MB."""


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(home)


def blob(registry: Registry, version: Version) -> Path:
    return registry.blobs.path(version.files[0].sha256)


def tensors_file(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


# Reading.


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what is read")
@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_is_added_is_read_once(registry: Registry, weights: Weights, link: bool) -> None:
    registry.add(weights(1), name="me/first")  # imports read files too
    path = weights(2, text_width=LARGE)
    before = bytes_read()
    registry.add(path, name="me/ink", base="mini", link=link)
    assert path.stat().st_size <= bytes_read() - before < 1.3 * path.stat().st_size


def test_the_hashes_of_an_added_file_are_those_of_its_bytes(registry: Registry, weights: Weights) -> None:
    path = weights(1, text_width=200_000)
    registry.add(path, name="me/ink", base="mini")
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    with sqlite3.connect(registry.home / "registry.db") as connection:
        (row,) = connection.execute("SELECT sha256, data_sha256, autov1 FROM file_hash").fetchall()
    assert row == (
        hashlib.sha256(content).hexdigest(),
        hashlib.sha256(data).hexdigest(),
        hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
    )
    assert blob(registry, registry.resolve("me/ink")).read_bytes() == content
    assert registry.facts(registry.resolve("me/ink")).payload_digest == row[1]


def test_a_file_that_changes_while_it_is_read_is_refused(registry: Registry, weights: Weights) -> None:
    path = weights(1)
    payload = intake.read_payload(path)
    path.write_bytes(weights_bytes(2, metadata={"longer": "header"}))
    with pytest.raises(InputError, match="changed while it was read"), intake.stage(registry.blobs, payload):
        pass
    path.unlink()
    with pytest.raises(InputError) as caught, intake.stage(registry.blobs, payload):
        pass
    assert caught.value.path == path
    assert list(registry.home.glob("staging/*")) == []


def test_what_is_staged_and_not_kept_is_dropped(registry: Registry, weights: Weights) -> None:
    payload = intake.read_payload(weights(1))
    with intake.stage(registry.blobs, payload) as staged:
        assert len(list(registry.home.glob("staging/*"))) == 1
        assert staged.hashes.sha256 == hashlib.sha256(weights_bytes(1)).hexdigest()
    assert list(registry.home.glob("staging/*")) == []
    assert list(registry.blobs.digests()) == []


def test_what_was_kept_and_collected_since_is_read_again(registry: Registry, weights: Weights) -> None:
    with intake.stage(registry.blobs, intake.read_payload(weights(1))) as staged:
        for _ in range(2):
            (file,), *_ = intake.store_files(registry.blobs, staged, {}, [])
            assert registry.blobs.path(file.sha256).read_bytes() == weights_bytes(1)
            registry.blobs.path(file.sha256).unlink()


def test_a_clone_shares_its_bytes_until_it_is_written_to(registry: Registry, weights: Weights) -> None:
    path = weights(1)
    with path.open("rb") as source, (registry.home / "clone").open("wb") as target:
        if not share_bytes(source, target):
            pytest.skip("the file system of the temporary directory has no clones")
    assert (registry.home / "clone").read_bytes() == weights_bytes(1)
    version = registry.add(path, name="me/ink")
    path.write_bytes(b"edited in place")
    assert blob(registry, version).read_bytes() == weights_bytes(1)
    assert blob(registry, version).stat().st_mode & 0o777 == 0o444


# Links.


def test_a_link_is_another_name_of_the_file_and_leaves_it_as_it_is(
    registry: Registry, weights: Weights
) -> None:
    path = weights(1)
    path.chmod(0o640)
    os.utime(path, ns=(1, 2))
    version = registry.add(path, name="me/ink", link=True)
    found = path.stat()
    assert blob(registry, version).samefile(path)
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o640, 2)
    assert registry.facts(version).linked == str(path.resolve())
    assert (registry.directory(version) / "pytorch_lora_weights.safetensors").samefile(path)
    assert list(registry.verify()) == []


def test_a_copy_is_noted_as_a_link_where_its_bytes_are_one_already(
    registry: Registry, weights: Weights
) -> None:
    path = weights(1)
    registry.add(path, name="me/ink", link=True)
    copy = weights(1, name="copy.safetensors")
    version = registry.add(copy, name="me/wash")
    assert registry.facts(version).linked == str(path.resolve())
    assert registry.facts(registry.add(weights(2), name="me/wash")).linked == ""


def test_a_link_to_a_file_by_a_symbolic_link_is_to_the_file(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    path = weights(1)
    (tmp_path / "other.safetensors").symlink_to(path)
    version = registry.add(tmp_path / "other.safetensors", name="me/ink", link=True)
    assert not blob(registry, version).is_symlink()
    assert blob(registry, version).samefile(path)


def test_an_edit_of_a_linked_file_is_found(registry: Registry, weights: Weights) -> None:
    path = weights(1)
    registry.add(path, name="me/ink", link=True)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    (problem,) = registry.verify()
    assert "damaged" in problem.problem


def test_where_a_link_is_impossible_a_copy_is_made_and_said(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir() or memory.stat().st_dev == registry.home.stat().st_dev:
        pytest.skip("there is no second file system")
    path = memory / f"adapterhub-{os.getpid()}.safetensors"
    path.write_bytes(weights_bytes(1))
    try:
        with caplog.at_level(logging.WARNING):
            version = registry.add(path, name="me/ink", link=True)
    finally:
        path.unlink()
    assert "was copied, not linked: Invalid cross-device link" in caplog.text
    assert registry.facts(version).linked == ""
    assert blob(registry, version).read_bytes() == weights_bytes(1)
    assert blob(registry, version).stat().st_mode & 0o777 == 0o444


# Facts.


def test_ranks_alphas_targets_and_training_are_read_from_the_file(registry: Registry, tmp_path: Path) -> None:
    tensors: dict[str, tuple[str, list[int], bytes]] = {}
    for number, (module, dtype, alpha) in enumerate(
        [
            ("lora_unet_input_blocks_4_1_proj_in", "F16", struct.pack("<e", 4)),
            ("lora_unet_input_blocks_4_1_proj_out", "F32", struct.pack("<f", 0.5)),
            ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "BF16", struct.pack("<f", 8)[2:]),
        ]
    ):
        rank = 4 * (number + 1)
        tensors[f"{module}.lora_down.weight"] = ("F16", [rank, 3], bytes(2 * rank * 3))
        tensors[f"{module}.lora_up.weight"] = ("F16", [5, rank], bytes(2 * rank * 5))
        tensors[f"{module}.alpha"] = (dtype, [], alpha)
    metadata = {
        "ss_steps": "1200",
        "ss_epoch": "10",
        "ss_num_train_images": "40",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_avr_loss": "0.083",
        "ss_tag_frequency": '{"a": {"b": 1}}',
        "ss_network_alpha": "99",
    }
    content = tensors_file(tensors, metadata)
    (tmp_path / "kohya.safetensors").write_bytes(content)
    version = registry.add(tmp_path / "kohya.safetensors", name="me/ink", base="mini")
    header = int.from_bytes(content[:8], "little")
    assert registry.facts(version) == VersionFacts(
        ranks="4 8 12",
        alphas="0.5 4 8",
        targets="unet 2, text_encoder 1",
        parameters=24 * (3 + 5) + 3,
        size=len(content),
        payload_digest=hashlib.sha256(content[8 + header :]).hexdigest(),
        metrics={
            "steps": "1200",
            "epoch": "10",
            "images": "40",
            "unet_learning_rate": "0.0001",
            "avr_loss": "0.083",
        },
        linked="",
    )


def test_of_very_many_alphas_the_least_and_the_greatest_are_kept(registry: Registry, tmp_path: Path) -> None:
    tensors = {
        f"lora_unet_input_blocks_{number}_1_proj_in.{part}": ("F32", shape, struct.pack("<f", number))
        for number in range(33)
        for part, shape in (("lora_down.weight", [1, 1]), ("lora_up.weight", [1, 1]), ("alpha", []))
    }
    (tmp_path / "x").write_bytes(tensors_file(tensors, {}))
    assert registry.facts(registry.add(tmp_path / "x", name="me/ink", base="mini")).alphas == "0 ... 32"


@pytest.mark.parametrize(
    ("metadata", "alphas"),
    [
        ({}, ""),
        ({"ss_network_alpha": "16"}, "16"),
        ({"ss_network_alpha": "Dynamic"}, ""),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_k": 0.5}}'}, "0.5 8"),
        ({"lora_adapter_metadata": '["unet.lora_alpha"]'}, ""),
        ({"lora_adapter_metadata": "{broken"}, ""),
    ],
)
def test_alphas_come_from_the_header_where_no_tensor_has_them(
    registry: Registry, weights: Weights, metadata: dict[str, str], alphas: str
) -> None:
    version = registry.add(weights(1, metadata=metadata), name="me/ink")
    assert registry.facts(version).alphas == alphas
    assert registry.facts(version).targets == "unet 1"


def test_alphas_and_ranks_of_a_peft_directory_come_from_its_config(
    registry: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights_bytes(1))
    config = {"r": 2, "lora_alpha": 4, "alpha_pattern": {MODULE: 6}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    version = registry.add(folder, name="me/ink", link=True)
    facts = registry.facts(version)
    assert (facts.ranks, facts.alphas) == ("2", "4 6")
    assert facts.linked == str(folder)
    for file in version.files:
        assert registry.blobs.path(file.sha256).samefile(folder / file.path)


def test_what_our_trainer_reports_is_kept_with_the_facts(registry: Registry, weights: Weights) -> None:
    report = {"steps": 200, "final_loss": 0.0123, "losses": [0.5], "environment": {"torch": "2"}}
    version = registry.add(
        weights(1), name="me/ink", documents={"run.json": json.dumps(report).encode(), "note.txt": b"x"}
    )
    assert registry.facts(version).metrics == {"steps": "200", "final_loss": "0.0123"}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what is read")
def test_facts_that_an_older_schema_left_out_are_read_from_the_header_alone(
    registry: Registry, weights: Weights
) -> None:
    path = weights(1, text_width=LARGE, metadata={"ss_steps": "7", "ss_network_alpha": "1"})
    version = registry.add(path, name="me/ink", base="mini")
    registry.add(path, name="me/gone", base="mini")
    expected = registry.facts(version)
    with sqlite3.connect(registry.home / "registry.db") as connection:
        connection.execute("UPDATE version SET alphas = '', targets = '', metrics = '{}'")
    before = bytes_read()
    assert registry.facts(version) == expected
    assert bytes_read() - before < path.stat().st_size / 4
    assert expected.metrics == {"steps": "7"}


def test_pulled_versions_have_the_same_facts(registry: Registry, weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    version = registry.add(
        weights(1, metadata={"ss_network_alpha": "3"}), name="me/ink", documents={"run.json": b'{"steps": 9}'}
    )
    other = Registry(tmp_path / "other")
    for place in (registry, other):
        place.add_remote("team", (tmp_path / "share").as_uri())
    registry.push("me/ink", remote="team")
    other.pull("team:me/ink")
    assert other.facts(other.resolve("me/ink")) == registry.facts(version)


# What is refused.


def archives() -> dict[str, bytes]:
    content = weights_bytes(1)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("ink.safetensors", content)
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        info = tarfile.TarInfo("../../ink.safetensors")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return {
        "zip": zipped.getvalue(),
        "tar": tarred.getvalue(),
        "gzip": gzip.compress(content),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
        "rar": b"Rar!\x1a\x07\x01\x00" + bytes(100),
    }


@pytest.mark.parametrize("kind", ["zip", "tar", "gzip", "7z", "rar"])
def test_an_archive_is_refused_by_its_content(registry: Registry, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(archives()[kind])
    with pytest.raises(WeightsError, match=f"a {kind} archive; unpack it"):
        registry.add(path, name="me/ink", base="mini")
    assert registry.list() == []


def test_an_archive_of_pickles_is_refused_as_pickle(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    with pytest.raises(PickleRefusedError):
        registry.add(path, name="me/ink", base="mini")


def test_what_is_no_file_is_refused_without_waiting_for_it(registry: Registry, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError):
        registry.add(tmp_path / "x.safetensors", name="me/ink", base="mini")


def test_a_header_of_many_keys_and_a_megabyte_of_tags_is_read(registry: Registry, tmp_path: Path) -> None:
    tags = json.dumps({"10_ink": {f"tag {number}": number for number in range(70_000)}})
    assert len(tags) > 1 << 20
    tensors = {
        f"lora_unet_input_blocks_{number}_1_proj_in.{part}.weight": ("F16", [1, 1], b"ab")
        for number in range(1250)
        for part in ("lora_down", "lora_up")
    }
    (tmp_path / "x").write_bytes(tensors_file(tensors, {"ss_tag_frequency": tags}))
    version = registry.add(tmp_path / "x", name="me/ink", base="mini")
    assert registry.facts(version).targets == "unet 1250"


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "..", "", "C:x", "a\0b", "x" * 256])
def test_a_document_with_an_unsafe_name_is_refused(registry: Registry, weights: Weights, name: str) -> None:
    with pytest.raises(FieldError) as caught:
        registry.add(weights(1), name="me/ink", documents={name: b"x"})
    assert caught.value.value == name
    manifest = registry.add(weights(1), name="me/ink").manifest
    publication = Publication("me/other", manifest, documents=[StoredFile(name, "0" * 64, 1)])
    with pytest.raises(FieldError):
        registry.publish(publication)


# Previews.


def only_preview(registry: Registry, weights: Weights, *paths: Path) -> StoredFile:
    version = registry.add(weights(1), name="me/ink", previews=paths)
    (preview,) = registry.previews(version)
    return preview


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_preview_is_kept_as_png_without_what_it_carries(
    registry: Registry, weights: Weights, tmp_path: Path, kind: str
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret"
    Image.new("RGB", (8, 4), "red").save(tmp_path / "x", kind, exif=exif, icc_profile=b"secret")
    stored = registry.read(only_preview(registry, weights, tmp_path / "x").sha256)
    assert b"secret" in (tmp_path / "x").read_bytes() or kind == "PNG"  # PNG packs its profile
    assert b"secret" not in stored
    with Image.open(io.BytesIO(stored)) as picture:
        picture.load()
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (8, 4))
        assert picture.info == {}
        with Image.open(tmp_path / "x") as before:
            assert picture.tobytes() == before.convert("RGB").tobytes()


def test_equal_pictures_give_equal_bytes(registry: Registry, weights: Weights, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("comment", "one of two")
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", pnginfo=info, compress_level=1)
    picture.save(tmp_path / "c.webp", lossless=True)
    only_preview(registry, weights, *(tmp_path / name for name in ("a.png", "b.png", "c.webp", "a.png")))


def test_a_preview_keeps_its_transparency_and_its_camera_s_turn(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the left
    Image.new("RGB", (8, 4), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    version = registry.add(
        weights(1), name="me/ink", previews=[tmp_path / "turned.jpg", tmp_path / "clear.png"]
    )
    turned, clear = (Image.open(io.BytesIO(registry.read(p.sha256))) for p in registry.previews(version))
    assert turned.size == (4, 8)
    assert clear.getpixel((0, 0)) == (1, 2, 3, 0)


def test_a_preview_keeps_what_its_record_says_in_the_row(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    import dataclasses

    used = {"reference": "me/ink@1", "digest": "sha256:" + "ab" * 32, "strengths": {"unet": 0.8}}
    record = dataclasses.replace(RECORD, composition=[used], negative_prompt="blur")
    (tmp_path / "x.png").write_bytes(png_with_record(Image.new("RGB", (8, 8)), record))
    preview = only_preview(registry, weights, tmp_path / "x.png")
    assert (preview.prompt, preview.seed) == ("a red heart", 7)
    assert preview.settings == {
        "steps": "30",
        "guidance_scale": "5",
        "width": "64",
        "height": "64",
        "scheduler": "EulerDiscreteScheduler",
        "base": "mini",
        "negative_prompt": "blur",
        "weight": "0.8",
    }
    assert b"red heart" not in registry.read(preview.sha256)


def test_a_preview_keeps_what_the_web_ui_wrote_into_it(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a cat,\nin the rain <lora:ink:0.8>\nNegative prompt: dog\n"
        'Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 123, Size: 64x32, Lora hashes: "ink: 0a, b: 1"',
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    preview = only_preview(registry, weights, tmp_path / "x.png")
    assert (preview.prompt, preview.seed) == ("a cat,\nin the rain <lora:ink:0.8>", 123)
    assert preview.settings == {
        "steps": "20",
        "guidance_scale": "7",
        "width": "64",
        "height": "32",
        "scheduler": "DPM++ 2M",
        "negative_prompt": "dog",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"GIF89a" + bytes(20), "no PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64 << 20), "64 MiB"),
    ],
    ids=["svg", "xml", "gif", "large"],
)
def test_what_is_no_picture_for_a_preview_is_refused_with_a_reason(
    registry: Registry, weights: Weights, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(PictureError, match=reason):
        registry.add(weights(1), name="me/ink", previews=[tmp_path / "x.png"])
    assert registry.list() == []


def test_settings_of_previews_travel_and_remotes_without_them_are_read(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "x.png").write_bytes(png_with_record(Image.new("RGB", (8, 8)), RECORD))
    version = registry.add(weights(1), name="me/ink", previews=[tmp_path / "x.png"])
    registry.add_remote("team", share.as_uri())
    registry.push("me/ink", remote="team")
    pulled = registry.pull("team:me/ink", rename="us/ink")
    assert registry.previews(registry.resolve(pulled.name)) == registry.previews(version)
    (listed,) = share.glob("adapters/*/*/versions/1.json")
    table = json.loads(listed.read_text())
    del table["previews"][0]["settings"]
    listed.write_text(json.dumps(table))
    pulled = registry.pull("team:me/ink", rename="old/ink")
    (preview,) = registry.previews(registry.resolve(pulled.name))
    assert (preview.prompt, preview.settings) == ("a red heart", {})
