"""What comes in: read once, linked if that was asked for, described by itself, refused if it may do harm."""

import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub_registry import intake
from adapterhub_registry.errors import (
    FieldError,
    InputError,
    PickleRefusedError,
    WeightsError,
)
from adapterhub_registry.files import share_bytes
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Publication, StoredFile
from adapterhub_registry.store import Registry
from tests.registry.conftest import bytes_read, tensors_file, weights_bytes

Weights = Callable[..., Path]
LARGE = 100_000
"""A text width that makes a file of 0.8 MB."""


def blob(registry: Registry, version: Version) -> Path:
    return registry.blobs.path(version.files[0].sha256)


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
