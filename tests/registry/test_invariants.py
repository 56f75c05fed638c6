"""The checks of other tests see what is wrong: each promise broken once."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from adapterhub_registry.store import Registry
from tests.registry.invariants import check_remote, home_problems, stored_digests
from tests.registry.scenarios import SCENARIOS

STATEMENTS = {
    "has the numbers": "UPDATE version SET number = 3 WHERE number = 2",
    "published 0 times": "DELETE FROM event WHERE subject = 'me/ink@2'",
    "published 2 times": "INSERT INTO event SELECT NULL, time, actor, action, subject, detail FROM event",
    "stands at 7, which is not there": "INSERT INTO alias VALUES (1, 'x', 7)",
    "were moved to": "INSERT INTO alias VALUES (1, 'x', 1)",
    "search holds": "UPDATE search SET title = 'other'",
    "another version is the newest": "UPDATE adapter SET head_id = 1",
    "hashes are not those": "UPDATE file_hash SET data_sha256 = sha256",
    "another manifest": "UPDATE version SET manifest = replace(manifest, 'word2', 'word3')",
    "another size": "UPDATE document SET size = 9",
    "has no blob": "UPDATE preview SET sha256 = 'ab'",
    "belongs to nothing": "INSERT INTO tag VALUES (9, 'x')",
}


def flip(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two versions of one adapter, and a remote with the first of them beside it."""
    SCENARIOS["push"].prepare(tmp_path / "root")
    assert list(home_problems(tmp_path / "root" / "home")) == []
    return tmp_path / "root" / "home"


@pytest.mark.parametrize(("problem", "statement"), STATEMENTS.items(), ids=list(STATEMENTS))
def test_a_row_that_is_wrong_is_seen(home: Path, problem: str, statement: str) -> None:
    with closing(sqlite3.connect(home / "registry.db")) as database:
        database.execute(statement)
        database.commit()
    assert problem in "\n".join(home_problems(home))


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("has no blob", lambda blob: blob.unlink()),
        ("other bytes", flip),
        ("is no blob", lambda blob: shutil.copy(blob, blob.with_name(f".{blob.name}"))),
        ("is no blob", lambda blob: shutil.copy(blob, blob.parent.parent / blob.name)),
    ],
)
def test_a_file_that_is_wrong_is_seen(home: Path, problem: str, change: Callable[[Path], object]) -> None:
    with closing(Registry(home)) as registry:
        blob = registry.blobs.path(registry.resolve("me/ink").files[0].sha256)
    change(blob)
    assert problem in "\n".join(home_problems(home))


def test_a_remote_that_lacks_a_file_is_seen(home: Path) -> None:
    share = home.with_name("share")
    check_remote(share)
    first = min(stored_digests(share))
    next(share.glob(f"blobs/sha256/*/*/{first}")).unlink()
    with pytest.raises(AssertionError, match="lacks the blobs"):
        check_remote(share)
