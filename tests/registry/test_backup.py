"""Backup and restore: one moment of a home in use, whole or not at all, and the same home again."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest
from PIL import Image

from adapterhub_registry.backup import MARKER, read_backup, restore, verify_backup
from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.errors import BackupError, DatabaseError, FieldError, OutputError
from adapterhub_registry.publication import Details
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home, live_digests, stored_digests

Weights = Callable[..., Path]


def nothing(_: int, __: int) -> None:
    """No progress is shown."""


@pytest.fixture
def registry(home: Path, weights: Weights, tmp_path: Path) -> Registry:
    """A home with some of everything."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "p.png")
    registry = Registry(home)
    (tmp_path / "share").mkdir()
    registry.add_remote("team", (tmp_path / "share").as_uri())
    registry.add(
        weights(1),
        name="me/ink",
        documents={"config.toml": b"x", "data.json": b"{}"},
        previews=[tmp_path / "p.png"],
        trigger_words=["inkwash"],
        tags=["portrait"],
    )
    registry.add(weights(2), name="me/ink", message="darker")
    registry.add(weights(3), name="me/ink")
    registry.add(weights(1), name="me/wash", kind="style")
    registry.set_alias("me/ink", "prod", 1)
    registry.set_alias("me/ink", "prod", 2)
    registry.yank("me/ink@1", "blurred")
    registry.delete("me/ink@3")
    registry.update("me/wash", Details(card="# Wash"))
    registry.directory(registry.resolve("me/wash"))
    (home / "runs" / "one").mkdir(parents=True)
    (home / "runs" / "one" / "checkpoint.bin").write_bytes(b"steps")
    (home / "keys.toml").write_text("secret")
    (home / "keys.toml").chmod(0o600)
    (home / "cache").mkdir()
    (home / "cache" / "made-again").write_bytes(b"x")
    return registry


def dump(home: Path) -> list[str]:
    with closing(sqlite3.connect(home / "registry.db")) as database:
        return list(database.iterdump())


def files_below(path: Path) -> dict[str, bytes]:
    return {
        str(item.relative_to(path)): item.read_bytes() for item in sorted(path.rglob("*")) if item.is_file()
    }


def test_a_restored_home_is_the_same(registry: Registry, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = registry.backup(tmp_path / "backup", on_file=lambda n, total: seen.append((n, total)))
    assert seen == [(n, len(seen)) for n in range(1, len(seen) + 1)]
    new = tmp_path / "new" / "home"
    backup = restore(tmp_path / "backup", new, nothing)
    assert backup == done.backup
    assert (backup.adapters, backup.versions) == (2, 3)

    assert dump(new) == dump(registry.home)
    other = Registry(new)
    assert other.events() == registry.events()
    assert other.list() == registry.list()
    assert other.remotes() == registry.remotes()
    for adapter in registry.list():
        assert other.versions(adapter.name) == registry.versions(adapter.name)
        for version in registry.versions(adapter.name):
            assert other.documents(version) == registry.documents(version)
            assert other.previews(version) == registry.previews(version)
            assert other.payload(version).read_bytes() == registry.payload(version).read_bytes()
    assert stored_digests(new) == live_digests(registry.home)
    check_home(new)
    assert list(other.verify()) == []
    assert (new / "runs" / "one" / "checkpoint.bin").read_bytes() == b"steps"
    assert (new / "keys.toml").read_text() == "secret"
    assert (new / "keys.toml").stat().st_mode & 0o777 == 0o600
    assert not (new / "cache").exists()
    assert sorted(path.name for path in new.parent.iterdir()) == ["home"]


def test_a_second_backup_copies_what_is_new_and_forgets_what_is_gone(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    first = registry.backup(target)
    assert first.files_copied == first.backup.files - 1  # its own index is not counted
    again = registry.backup(target)
    assert again.files_copied == 0
    version = registry.add(weights(9), name="me/new")
    gone = registry.resolve("me/ink@2").files[0].sha256
    registry.set_alias("me/ink", "prod", 1)
    registry.delete("me/ink@2")
    third = registry.backup(target)
    assert third.files_copied == 2  # the version's file and the database
    stored = stored_digests(target)
    assert version.files[0].sha256 in stored
    assert gone not in stored
    assert len(stored) == third.backup.files
    assert sum(path.stat().st_size for path in target.glob("blobs/sha256/*/*/*")) == third.backup.size
    assert list(verify_backup(target, nothing)) == []
    restore(target, tmp_path / "home", nothing)
    assert dump(tmp_path / "home") == dump(registry.home)


def test_two_backups_are_not_written_to_one_place_at_once(registry: Registry, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    registry.backup(target)

    def use(done: int, _: int) -> None:
        if done == 1:
            with pytest.raises(BackupError, match="another backup is being written there"):
                Registry(registry.home).backup(target)

    registry.backup(target, on_file=use)
    assert list(verify_backup(target, nothing)) == []


def test_only_its_owner_reads_a_backup(registry: Registry, tmp_path: Path) -> None:
    registry.backup(tmp_path / "backup")
    for name in ("blobs", "staging"):
        assert (tmp_path / "backup" / name).stat().st_mode & 0o777 == 0o700


def test_links_in_the_home_are_left_out_and_said(registry: Registry, tmp_path: Path) -> None:
    (registry.home / "runs" / "big").symlink_to(tmp_path)
    (registry.home / "note").symlink_to(tmp_path / "share")
    assert registry.backup(tmp_path / "backup").left_out == ("note", "runs/big")
    assert list(verify_backup(tmp_path / "backup", nothing)) == []


def test_damaged_and_missing_files_are_not_backed_up_over_whole_ones(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    registry.backup(target)
    before = dump(registry.home)
    version = registry.add(weights(9), name="me/new", documents={"a.txt": b"y"})
    path = registry.blobs.path(version.files[0].sha256)
    path.chmod(0o644)
    path.write_bytes(b"rot")
    registry.blobs.path(registry.documents(version)[0].sha256).unlink()
    with pytest.raises(BackupError, match="2 files of the registry") as caught:
        registry.backup(target)
    assert caught.value.path == target
    assert list(verify_backup(target, nothing)) == []
    restore(target, tmp_path / "home", nothing)
    assert dump(tmp_path / "home") == before


def test_a_damaged_database_is_not_backed_up(registry: Registry, tmp_path: Path) -> None:
    registry.close()
    path = registry.home / "registry.db"
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 9] = b"\xff" * 4096 * 6
    path.write_bytes(data)
    with pytest.raises(DatabaseError):
        registry.backup(tmp_path / "backup")
    assert not (tmp_path / "backup" / MARKER).exists()


@pytest.mark.parametrize("what", ["home", "inside", "full", "file"])
def test_a_backup_goes_only_where_nothing_else_is(registry: Registry, tmp_path: Path, what: str) -> None:
    targets = {
        "home": registry.home,
        "inside": registry.home / "backup",
        "full": tmp_path,
        "file": tmp_path / "p.png",
    }
    before = files_below(registry.home)
    with pytest.raises((FieldError, OutputError)):
        registry.backup(targets[what])
    assert files_below(registry.home) == before


def test_a_home_that_is_not_empty_is_not_restored_over(registry: Registry, tmp_path: Path) -> None:
    registry.backup(tmp_path / "backup")
    before = files_below(registry.home)
    for home in (registry.home, tmp_path / "p.png"):
        with pytest.raises(FieldError) as caught:
            restore(tmp_path / "backup", home, nothing)
        assert (caught.value.field, caught.value.value) == ("home", str(home))
    assert files_below(registry.home) == before
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "backup", tmp_path / "empty", nothing)
    assert dump(tmp_path / "empty") == dump(registry.home)


def test_every_damage_of_a_backup_is_named_and_nothing_is_restored(
    registry: Registry, tmp_path: Path
) -> None:
    whole, broken, home = tmp_path / "whole", tmp_path / "broken", tmp_path / "home"
    registry.backup(whole)
    _, index = read_backup(whole)
    for sha256 in index.digests:
        for damage in ("flipped", "cut", "missing"):
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(whole, broken)
            path = next(broken.glob(f"blobs/sha256/*/*/{sha256}"))
            data = path.read_bytes()
            path.unlink()
            if damage != "missing":
                path.write_bytes(data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
            kind = "missing" if damage == "missing" else "damaged"
            assert list(verify_backup(broken, nothing)) == [f"{kind}: {path}"]
            with pytest.raises(BackupError):
                restore(broken, home, nothing)
            assert not home.exists()
            assert [item for item in tmp_path.iterdir() if "restoring" in item.name] == []
    # What was named is copied anew once it is removed.
    path.unlink(missing_ok=True)
    registry.backup(broken)
    assert list(verify_backup(broken, nothing)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table | {"format": 2},
        lambda table: table | {"schema": "9999"},
        lambda table: table | {"index": "0" * 64},
        lambda _: {},
        lambda _: [],
    ],
)
def test_a_marker_that_is_not_understood_is_refused(
    registry: Registry, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    target = tmp_path / "backup"
    registry.backup(target)
    table = json.loads((target / MARKER).read_text())
    (target / MARKER).write_text(json.dumps(change(table)))
    with pytest.raises(BackupError) as caught:
        restore(target, tmp_path / "home", nothing)
    assert caught.value.path == target
    with pytest.raises(BackupError):
        list(verify_backup(target, nothing))
    (target / MARKER).unlink()
    with pytest.raises(BackupError, match="was the backup finished"):
        restore(target, tmp_path / "home", nothing)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "registry.db", "blobs/x"])
def test_a_path_that_leads_out_of_the_home_is_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    target = tmp_path / "backup"
    registry.backup(target)
    blobs, table = DirectoryBlobs(target), json.loads((target / MARKER).read_text())
    index = json.loads(b"".join(blobs.read(table["index"])))
    index["files"][name] = [index["database"], 0o644]
    table["index"], _ = blobs.write([json.dumps(index).encode()])
    (target / MARKER).write_text(json.dumps(table))
    with pytest.raises(BackupError, match="unsafe"):
        restore(target, tmp_path / "home", nothing)
    assert not (tmp_path / "home").exists()


WORK = """
import os, signal, sys
from pathlib import Path
from adapterhub_registry import backup
from adapterhub_registry.store import Registry
what, home, target, stop = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
def on_file(done, total):
    if done == stop:
        os.kill(os.getpid(), signal.SIGKILL)
if what == "backup":
    Registry(home).backup(target, on_file=on_file)
else:
    backup.restore(target, home, on_file)
"""


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_backup_that_is_killed_is_none_and_goes_on_the_next_time(
    registry: Registry, weights: Weights, tmp_path: Path, stop: int
) -> None:
    target = tmp_path / "backup"

    def killed(what: str, home: Path) -> None:
        words = [sys.executable, "-c", WORK, what, home, target, str(stop)]
        assert subprocess.run(words, check=False).returncode == -signal.SIGKILL

    killed("backup", registry.home)
    with pytest.raises(BackupError):
        restore(target, tmp_path / "home", nothing)
    done = registry.backup(target)
    assert done.files_copied <= done.backup.files - stop
    assert list((target / "staging").iterdir()) == []
    before = dump(registry.home)
    registry.add(weights(9), name="me/new")
    killed("backup", registry.home)
    assert list(verify_backup(target, nothing)) == []
    killed("restore", tmp_path / "home")
    assert not (tmp_path / "home").exists()
    restore(target, tmp_path / "home", nothing)
    assert dump(tmp_path / "home") == before


def test_a_backup_of_a_home_in_use_is_of_one_moment(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    waiting, before, new = Event(), dump(registry.home), tmp_path / "home"

    def collect() -> int:
        at_once = timedelta(0)
        return Registry(registry.home).collect(grace=at_once, keep=at_once, on_wait=waiting.set).trashed.files

    with ThreadPoolExecutor(1) as pool:
        collected: list[Future[int]] = []

        def use(done: int, _: int) -> None:
            if done == 1:  # what the snapshot needs is deleted while it is copied
                registry.set_alias("me/ink", "prod", 1)
                registry.delete("me/ink@2")
                registry.add(weights(9), name="me/new")
                collected.append(pool.submit(collect))
                assert waiting.wait(60)

        registry.backup(tmp_path / "backup", on_file=use)
        assert collected[0].result() == 2
    restore(tmp_path / "backup", new, nothing)
    assert dump(new) == before
    restored = Registry(new)
    assert list(restored.verify()) == []
    assert restored.payload(restored.resolve("me/ink@2")).read_bytes() == weights_bytes(2)
    check_home(registry.home)


def test_a_backup_is_restored_after_a_collection(registry: Registry, tmp_path: Path) -> None:
    registry.collect(grace=timedelta(hours=1))  # rows of condemned files, whose files are not backed up
    registry.backup(tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "home", nothing)
    other = Registry(tmp_path / "home")
    other.collect(grace=timedelta(0), keep=timedelta(0))
    assert list(other.verify()) == []
    check_home(other.home)
