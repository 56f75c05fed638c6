"""Garbage collection: what is needed stays, whatever comes meanwhile; what is not goes, all of it."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from sqlmodel import Session, select

from adapterhub_registry.collection import Tally, claim_blobs
from adapterhub_registry.database import Database
from adapterhub_registry.errors import BlobMissingError, OutputError
from adapterhub_registry.locks import keeping_blobs
from adapterhub_registry.publication import Publication
from adapterhub_registry.staging import new_draft
from adapterhub_registry.store import Registry
from adapterhub_registry.tables import AdoptedRow, CondemnedRow
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home, live_digests, stored_digests

Weights = Callable[..., Path]
AT_ONCE = {"grace": timedelta(0), "keep": timedelta(0)}
HOUR = timedelta(hours=1)


def rows(registry: Registry, table: type[CondemnedRow] | type[AdoptedRow]) -> list[object]:
    with Database(registry.home / "registry.db").reading() as session:
        return list(session.exec(select(table)))


def files_below(path: Path) -> list[Path]:
    return sorted(item for item in path.rglob("*") if item.is_file())


def test_files_that_no_version_needs_are_condemned_then_trashed_then_deleted(
    registry: Registry, weights: Weights
) -> None:
    kept = registry.add(weights(1), name="me/ink", documents={"a.txt": b"both"})
    gone = registry.add(weights(2), name="me/ink", documents={"a.txt": b"both", "b.txt": b"own"})
    registry.delete("me/ink@2")
    size = gone.files[0].size + len(b"own")

    first = registry.collect(grace=HOUR, keep=HOUR)
    assert (first.condemned, first.trashed, first.deleted) == (Tally(2, size), Tally(), Tally())
    assert first.live == Tally(2, kept.files[0].size + len(b"both"))
    again = registry.collect(grace=HOUR, keep=HOUR)
    assert (again.condemned, again.trashed) == (Tally(), Tally())
    assert len(stored_digests(registry.home)) == 4

    second = registry.collect(grace=timedelta(0), keep=HOUR)
    assert (second.condemned, second.trashed, second.deleted) == (Tally(), Tally(2, size), Tally())
    assert stored_digests(registry.home) == live_digests(registry.home)
    trashed = {path.name: path.read_bytes() for path in files_below(registry.home / "trash")}
    assert trashed[gone.files[0].sha256] == weights_bytes(2)

    third = registry.collect(**AT_ONCE)
    assert third.deleted == Tally(2, size)
    assert files_below(registry.home / "trash") == []
    assert rows(registry, CondemnedRow) == []
    check_home(registry.home)
    assert list(registry.verify()) == []


def test_the_grace_time_is_over_when_it_has_passed(registry: Registry, weights: Weights) -> None:
    registry.add(weights(1), name="me/ink")
    registry.delete("me/ink@1")
    registry.collect(grace=HOUR)
    with Database(registry.home / "registry.db").writing() as session:
        row = session.exec(select(CondemnedRow)).one()
        row.since = (datetime.now(UTC) - timedelta(minutes=59)).strftime("%Y-%m-%dT%H:%M:%SZ")
        session.add(row)
    assert registry.collect(grace=HOUR).trashed.files == 0
    assert registry.collect(grace=timedelta(minutes=59)).trashed.files == 1


def test_a_dry_run_says_what_happens_and_changes_nothing(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink")
    registry.directory(version)
    registry.delete("me/ink@1")
    (registry.home / "staging" / "left").write_bytes(b"12345")
    before = files_below(registry.home), registry.events()
    said = registry.collect(**AT_ONCE, dry_run=True)
    assert (files_below(registry.home), registry.events()) == before
    assert rows(registry, CondemnedRow) == []
    size = Tally(1, version.files[0].size)
    assert (said.condemned, said.trashed, said.deleted) == (size, size, size)
    assert (said.drafts, said.views) == (Tally(1, 5), Tally(1, 0))
    assert registry.collect(**AT_ONCE) == said
    registry.add(weights(2), name="me/ink")
    registry.delete("me/ink@2")
    registry.collect(grace=HOUR)
    said = registry.collect(grace=timedelta(0), dry_run=True)
    assert (said.condemned, said.trashed, said.deleted) == (Tally(), size, Tally())


def test_every_change_is_one_event(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink")
    assert registry.collect(**AT_ONCE).live.files == 1
    assert [event.action for event in registry.events()] == ["publish"]
    registry.delete("me/ink@1")
    registry.collect(**AT_ONCE)
    removed, condemned, *_ = registry.events()
    size = version.files[0].size
    assert (removed.action, removed.detail) == ("gc", {"removed": 1, "bytes": size})
    assert (condemned.action, condemned.detail) == ("gc", {"condemned": 1, "bytes": size})


def test_documents_previews_and_shared_files_are_needed(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "p.png")
    registry.add(weights(1), name="me/a", documents={"c.toml": b"x"}, previews=[tmp_path / "p.png"])
    registry.add(weights(1), name="me/b")
    registry.yank("me/a@1", "old")
    before = stored_digests(registry.home)
    assert len(before) == 3
    registry.collect(**AT_ONCE)
    assert stored_digests(registry.home) == before
    registry.delete("me/a@1")
    registry.collect(**AT_ONCE)
    assert stored_digests(registry.home) == {registry.resolve("me/b").files[0].sha256}


def test_a_condemned_file_that_a_version_needs_again_stays(registry: Registry, weights: Weights) -> None:
    registry.add(weights(1), name="me/a")
    registry.delete("me/a@1")
    registry.collect(grace=HOUR)
    assert len(rows(registry, CondemnedRow)) == 1
    registry.add(weights(1), name="me/b")
    assert rows(registry, CondemnedRow) == []
    assert registry.collect(**AT_ONCE).trashed.files == 0
    assert list(registry.verify()) == []


def test_a_row_that_an_older_release_left_does_not_take_a_needed_file(
    registry: Registry, weights: Weights
) -> None:
    version = registry.add(weights(1), name="me/a")
    with Database(registry.home / "registry.db").writing() as session:
        session.add(CondemnedRow(sha256=version.files[0].sha256, since="2000-01-01T00:00:00Z"))
        session.add(CondemnedRow(sha256="0" * 64, since="2000-01-01T00:00:00Z"))
    assert registry.collect(**AT_ONCE).trashed.files == 0
    assert rows(registry, CondemnedRow) == []
    assert list(registry.verify()) == []


def test_publishing_without_a_blob_changes_nothing(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/a", documents={"a.txt": b"x"})
    document = registry.documents(version)[0]
    registry.blobs.path(document.sha256).unlink()
    before = registry.events()
    with pytest.raises(BlobMissingError) as caught:
        registry.publish(Publication(name="me/b", manifest=version.manifest, documents=[document]))
    assert caught.value.sha256 == document.sha256
    registry.blobs.path(version.files[0].sha256).unlink()
    with pytest.raises(BlobMissingError) as caught:
        registry.publish(Publication(name="me/b", manifest=version.manifest))
    assert caught.value.sha256 == version.files[0].sha256
    assert [adapter.name for adapter in registry.list()] == ["me/a"]
    assert registry.events() == before


def test_files_that_are_taken_between_storing_and_publishing_are_stored_again(
    registry: Registry, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    other = Registry(tmp_path / "other")
    for one in (registry, other):
        one.add_remote("team", share.as_uri())
    collected: list[int] = []
    publish = Registry.publish

    def publish_late(self: Registry, publication: Publication) -> object:
        if not collected:
            collected.append(Registry(self.home).collect(**AT_ONCE).trashed.files)
        return publish(self, publication)

    monkeypatch.setattr(Registry, "publish", publish_late)
    version = registry.add(weights(1), name="me/ink", documents={"a.txt": b"x"})
    assert collected == [2]
    registry.push("me/ink", remote="team", with_data=True)
    collected.clear()
    assert other.pull("me/ink", remote="team").number == 1
    assert collected == [2]
    for one in (registry, other):
        assert one.resolve("me/ink") == version
        assert list(one.verify()) == []
        check_home(one.home)


def test_a_collector_waits_for_those_who_keep_blobs(registry: Registry, weights: Weights) -> None:
    registry.add(weights(1), name="me/ink")
    registry.delete("me/ink@1")
    with ThreadPoolExecutor(1) as pool:
        with keeping_blobs(registry.home), keeping_blobs(registry.home):
            waiting: list[int] = []
            collector = Registry(registry.home)
            done = pool.submit(collector.collect, **AT_ONCE, on_wait=lambda: waiting.append(1))
            while not waiting:
                assert len(stored_digests(registry.home)) == 1
            assert len(stored_digests(registry.home)) == 1
        assert done.result().trashed.files == 1
    assert stored_digests(registry.home) == set()


def test_a_claim_keeps_a_blob_or_says_that_it_is_gone(registry: Registry) -> None:
    sha256, _ = registry.blobs.write([b"preview"])
    registry.collect(grace=HOUR)
    database = Database(registry.home / "registry.db")
    with database.writing() as session:
        claim_blobs(session, registry.blobs, [sha256])
    assert rows(registry, CondemnedRow) == []
    with pytest.raises(BlobMissingError), database.writing() as session:
        claim_blobs(session, registry.blobs, ["0" * 64])


def test_drafts_of_dead_writers_go_and_those_of_living_ones_stay(registry: Registry, home: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from adapterhub_registry.staging import new_draft\n"
        "import os, signal\n"
        "with new_draft(Path(sys.argv[1])) as (path, file):\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, home / "staging"], check=False)
    assert len(files_below(home / "staging")) == 1
    with new_draft(home / "staging") as (path, file):
        file.write(b"whole")
        assert registry.collect(**AT_ONCE).drafts == Tally(1, 4)
        assert files_below(home / "staging") == [path]
    assert files_below(home / "staging") == []


def test_views_of_deleted_versions_go(registry: Registry, weights: Weights) -> None:
    first = registry.add(weights(1), name="me/ink")
    second = registry.add(weights(2), name="me/ink")
    kept, gone = registry.payload(first), registry.payload(second)
    registry.delete("me/ink@2")
    assert registry.collect(**AT_ONCE).views == Tally(1, 0)
    assert kept.read_bytes() == weights_bytes(1)
    assert not gone.parent.exists()


def test_adopted_files_of_deleted_versions_are_forgotten(registry: Registry, weights: Weights) -> None:
    for seed in (1, 2, 3):
        registry.add(weights(seed), name="me/ink")
        registry.remember_adopted(f"/loras/{seed}", seed, 1, 1, f"me/ink@{seed}")
    registry.delete("me/ink@1")
    assert [registry.adopted_before(f"/loras/{seed}", seed, 1, 1) for seed in (1, 2, 3)] == [
        *("", "me/ink@2", "me/ink@3")
    ]
    registry.delete("me/ink@2")
    registry.remember_adopted("/loras/2", 2, 1, 1, "me/ink@2")  # by a process that was slow
    registry.collect()
    assert registry.adopted_before("/loras/2", 2, 1, 1) == ""
    assert registry.adopted_before("/loras/3", 3, 1, 1) == "me/ink@3"


def test_a_damaged_manifest_keeps_every_file_that_it_may_name(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink")
    with Database(registry.home / "registry.db").writing() as session:
        damage(session, version.manifest.to_json()[:-40])
    assert registry.collect(**AT_ONCE).trashed.files == 0
    assert stored_digests(registry.home) == {version.files[0].sha256}


def damage(session: Session, manifest: str) -> None:
    session.connection().exec_driver_sql("UPDATE version SET manifest = ?", (manifest,))


def test_files_that_are_no_blobs_are_left_alone(registry: Registry, home: Path) -> None:
    stray = home / "blobs" / "sha256" / "ab" / "cd" / "notes.txt"
    stray.parent.mkdir(parents=True)
    stray.write_text("mine")
    (home / "trash" / "mine").mkdir(parents=True)
    registry.collect(**AT_ONCE)
    assert stray.read_text() == "mine"
    assert (home / "trash" / "mine").is_dir()


def test_what_cannot_be_moved_is_named_and_still_condemned(registry: Registry, weights: Weights) -> None:
    registry.add(weights(1), name="me/ink")
    registry.delete("me/ink@1")
    (registry.home / "trash").write_text("in the way")
    with pytest.raises(OutputError) as caught:
        registry.collect(grace=timedelta(0))
    assert registry.home / "trash" in (caught.value.path, *caught.value.path.parents)
    assert len(rows(registry, CondemnedRow)) == 1
    (registry.home / "trash").unlink()
    assert registry.collect(grace=timedelta(0)).trashed.files == 1
