"""Verify and repair: what is wrong is named, and put right from whole copies."""

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from sqlite3 import connect

import pytest

from adapterhub_registry.care import Problem
from adapterhub_registry.collection import Tally
from adapterhub_registry.errors import AdapterNotFoundError, RemoteError, VersionNotFoundError
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home

Weights = Callable[..., Path]


@pytest.fixture
def share(tmp_path: Path, registry: Registry) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    registry.add_remote("team", path.as_uri())
    return path


def blob(registry: Registry, version: Version) -> Path:
    return registry.blobs.path(version.files[0].sha256)


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def change(registry: Registry, statement: str, *values: object) -> None:
    with closing(connect(registry.home / "registry.db")) as database:
        database.execute(statement, values)
        database.commit()


def kinds(problems: Iterable[Problem]) -> list[tuple[str, str]]:
    return [(item.subject, item.problem.split(":")[0]) for item in problems]


def test_every_version_that_shares_a_damaged_file_is_named(registry: Registry, weights: Weights) -> None:
    first = registry.add(weights(1), name="me/a")
    registry.add(weights(1), name="me/b")
    registry.add(weights(2), name="me/c")
    hashed: list[tuple[int, int]] = []
    assert list(registry.verify(on_blob=lambda done, total: hashed.append((done, total)))) == []
    assert hashed == [(1, 2), (2, 2)]
    overwrite(blob(registry, first), b"rot")
    problems = list(registry.verify())
    assert kinds(problems) == [("me/a@1", "damaged"), ("me/b@1", "damaged")]
    assert hashlib.sha256(b"rot").hexdigest() in problems[0].problem
    assert kinds(registry.verify("me/b")) == [("me/b@1", "damaged")]
    assert list(registry.verify("me/c")) == []


def test_rows_are_compared_with_each_other(registry: Registry, weights: Weights) -> None:
    for seed in (1, 2, 3):
        registry.add(weights(seed), name="me/ink")
    registry.set_alias("me/ink", "prod", 3)
    digest = registry.resolve("me/ink@2").digest
    change(registry, "UPDATE file_hash SET sha256 = ? WHERE version_id = 1", "0" * 64)
    change(registry, "UPDATE version SET manifest = replace(manifest, 'mini', 'maxi') WHERE number = 2")
    change(registry, "UPDATE alias SET number = 9")
    problems = list(registry.verify())
    assert kinds(problems) == [("me/ink@2", "manifest"), ("me/ink@1", "hashes"), ("me/ink@prod", "alias")]
    assert digest in problems[0].problem
    assert "9" in problems[2].problem
    assert kinds(registry.verify("me/ink@1")) == [("me/ink@1", "hashes")]
    assert kinds(registry.verify("me/ink@2")) == [("me/ink@2", "manifest")]


def test_what_is_not_there_cannot_be_verified(registry: Registry, weights: Weights) -> None:
    registry.add(weights(1), name="me/ink")
    with pytest.raises(VersionNotFoundError):
        list(registry.verify("me/ink@7"))
    with pytest.raises(AdapterNotFoundError):
        list(registry.verify("me/inc"))
    with pytest.raises(RemoteError):
        registry.verify(repair=True, remote="team")


def test_files_that_no_version_needs_are_counted(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink")
    assert registry.unneeded() == Tally()
    registry.delete("me/ink@1")
    assert registry.unneeded() == Tally(1, version.files[0].size)
    assert list(registry.verify()) == []


def test_what_the_trash_still_has_is_restored(registry: Registry, weights: Weights) -> None:
    first = registry.add(weights(1), name="me/ink")
    registry.delete("me/ink@1")
    registry.collect(grace=timedelta(0))
    second = registry.add(weights(1), name="me/wash")
    view = registry.payload(second)
    overwrite(blob(registry, second), b"rot")
    assert view.read_bytes() == b"rot"
    (problem,) = registry.verify(repair=True)
    assert (problem.subject, problem.repair, problem.is_repaired) == (
        *("me/wash@1", "restored from the trash", True),
    )
    assert blob(registry, second).read_bytes() == weights_bytes(1)
    assert blob(registry, second).stat().st_mode & 0o777 == 0o444
    assert registry.payload(second).read_bytes() == weights_bytes(1)
    assert registry.payload(second).samefile(blob(registry, first))
    assert list(registry.verify()) == []
    event = registry.events()[0]
    assert (event.action, event.subject) == ("repair", "me/wash@1")
    assert event.detail == {
        "file": "pytorch_lora_weights.safetensors",
        "versions": 1,
        "problem": "damaged",
        "repair": "restored from the trash",
    }


def test_what_a_remote_has_is_restored(registry: Registry, share: Path, weights: Weights) -> None:
    assert share.is_dir()
    version = registry.add(weights(1), name="me/ink", documents={"a.txt": b"x"})
    other = registry.add(weights(2), name="me/other")
    registry.push("me/ink", remote="team", with_data=True)
    before = (registry.resolve("me/ink"), registry.documents(version))
    overwrite(blob(registry, version), b"rot")
    registry.blobs.path(registry.documents(version)[0].sha256).unlink()
    blob(registry, other).unlink()
    change(registry, "UPDATE version SET manifest = 'torn' WHERE id = 1")
    problems = list(registry.verify(repair=True))
    assert kinds(problems) == [
        ("me/ink@1", "manifest"),
        ("me/other@1", "missing"),
        ("me/ink@1", "missing"),
        ("me/ink@1", "damaged"),
    ]
    assert [item.is_repaired for item in problems] == [True, False, True, True]
    assert [item.repair for item in problems] == [
        *("restored from team", "no whole copy in the trash, team"),
        *("restored from team", "restored from team"),
    ]
    assert (registry.resolve("me/ink"), registry.documents(version)) == before
    assert kinds(registry.verify()) == [("me/other@1", "missing")]


def test_a_damaged_copy_is_passed_over(registry: Registry, share: Path, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink")
    registry.push("me/ink", remote="team")
    sha256 = version.files[0].sha256
    trashed = registry.home / "trash" / "20250101T000000Z" / sha256
    trashed.parent.mkdir(parents=True)
    trashed.write_bytes(b"rot too")
    overwrite(blob(registry, version), b"rot")
    (problem,) = registry.verify(repair=True)
    assert problem.repair == "restored from team"

    overwrite(blob(registry, version), b"rot")
    overwrite(next(share.glob(f"blobs/sha256/*/*/{sha256}")), b"rot as well")
    (problem,) = registry.verify(repair=True)
    assert not problem.is_repaired
    assert hashlib.sha256(b"rot as well").hexdigest() in problem.repair
    assert blob(registry, version).read_bytes() == b"rot"
    assert list(registry.home.glob("staging/*")) == []


def test_a_remote_that_is_away_is_named(registry: Registry, share: Path, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink")
    share.rmdir()
    blob(registry, version).unlink()
    (problem,) = registry.verify(repair=True)
    assert problem.repair == "no whole copy in the trash; team cannot be used now"
    with pytest.raises(RemoteError):
        registry.verify(repair=True, remote="team")


def test_only_the_remote_that_was_named_is_asked(
    registry: Registry, share: Path, weights: Weights, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    registry.add_remote("second", (tmp_path / "second").as_uri())
    version = registry.add(weights(1), name="me/ink")
    registry.push("me/ink", remote="team")
    blob(registry, version).unlink()
    (problem,) = registry.verify(repair=True, remote="second")
    assert problem.repair == "no whole copy in the trash, second"
    (problem,) = registry.verify("me/ink", repair=True, remote="team")
    assert problem.repair == "restored from team"
    assert share.is_dir()


def test_hashes_are_read_again(registry: Registry, weights: Weights) -> None:
    registry.add(weights(1), name="me/ink")
    check_home(registry.home)
    change(registry, "DELETE FROM file_hash")
    (problem,) = registry.verify(repair=True)
    assert (problem.repair, problem.is_repaired) == ("read again", True)
    check_home(registry.home)
    assert list(registry.verify()) == []


def test_a_file_that_others_can_change_is_named_and_made_the_registrys_own(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    writable = registry.add(weights(1), name="me/a")
    linked = registry.add(weights(2), name="me/b")
    view = registry.payload(linked)
    assert list(registry.verify()) == []
    blob(registry, writable).chmod(0o644)
    outside = tmp_path / "mine.safetensors"
    os.link(blob(registry, linked), outside)
    assert kinds(registry.verify()) == [("me/a@1", "writable"), ("me/b@1", "linked")]
    problems = list(registry.verify(repair=True))
    assert [item.repair for item in problems] == ["made read-only", "made a file of its own"]
    assert list(registry.verify()) == []
    overwrite(outside, b"edited in place")
    assert list(registry.verify()) == []
    assert registry.payload(linked) == view
    assert view.read_bytes() == weights_bytes(2)


def test_a_link_that_was_asked_for_is_no_problem_until_it_is_repaired(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    version = registry.add(weights(1), name="me/a")
    os.link(blob(registry, version), tmp_path / "mine.safetensors")
    change(registry, "UPDATE version SET linked = ?", str(tmp_path / "mine.safetensors"))
    assert list(registry.verify()) == []
    assert registry.linked_versions() == ["me/a@1"]
    (problem,) = registry.verify(repair=True)
    assert problem.repair == "made a file of its own"
    assert blob(registry, version).stat().st_nlink == 1
    assert registry.linked_versions() == []


def test_a_link_whose_other_name_was_edited_is_damaged_and_restored(
    registry: Registry, share: Path, weights: Weights, tmp_path: Path
) -> None:
    assert share.is_dir()
    version = registry.add(weights(1), name="me/a")
    registry.push("me/a", remote="team")
    outside = tmp_path / "mine.safetensors"
    os.link(blob(registry, version), outside)
    change(registry, "UPDATE version SET linked = ?", str(outside))
    overwrite(outside, b"edited")
    assert kinds(registry.verify()) == [("me/a@1", "damaged")]
    (problem,) = registry.verify(repair=True)
    assert problem.is_repaired
    assert outside.read_bytes() == b"edited"
    assert registry.linked_versions() == []
    assert list(registry.verify()) == []


def test_a_file_that_cannot_be_read_is_named(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/a")
    path = blob(registry, version)
    path.unlink()
    path.mkdir()
    (problem,) = registry.verify()
    assert problem.problem == f"unreadable: sha256:{path.name}: Is a directory"
