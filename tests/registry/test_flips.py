"""Whatever happens to the bytes of a file at rest: it is named, and nothing of it is taken."""

import hashlib
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.errors import AdapterHubError, DigestMismatchError
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import blob_path, check_home, stored_digests

COUNTS = [100, pytest.param(1000, marks=pytest.mark.long)]
NAMES = ("me/ink", "me/corgi")


def damage(content: bytes, draw: random.Random) -> bytes:
    """Flip a bit, cut off an end, or append something."""
    kind = draw.choice(("flip", "cut", "append"))
    if kind == "cut":
        return content[: draw.randrange(len(content))]
    if kind == "append":
        return content + draw.randbytes(draw.randint(1, 9))
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def overwrite(path: Path, content: bytes) -> None:
    """Change a blob in its place."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A remote with two adapters, which share a document."""
    (tmp_path / "share").mkdir()
    ours = Registry(tmp_path / "ours")
    ours.add_remote("team", (tmp_path / "share").as_uri())
    for seed, name in enumerate(NAMES):
        (tmp_path / "weights").write_bytes(weights_bytes(seed))
        Image.new("RGB", (4, 4), (seed, 0, 0)).save(tmp_path / "picture.png")
        ours.add(
            tmp_path / "weights",
            name=name,
            documents={"config.json": b"{}"},
            previews=[tmp_path / "picture.png"],
        )
        ours.push(name, remote="team", with_data=True)
    ours.close()
    return tmp_path / "share"


@pytest.fixture
def theirs(tmp_path: Path, share: Path) -> Registry:
    """A home that knows the remote and holds nothing."""
    registry = Registry(tmp_path / "theirs")
    registry.add_remote("team", share.as_uri())
    return registry


def users_of(registry: Registry) -> dict[str, set[tuple[str, str]]]:
    """Return (adapter, path) of everything that needs a blob, by its digest."""
    users: dict[str, set[tuple[str, str]]] = {}
    for version in map(registry.resolve, NAMES):
        beside = [*registry.documents(version), *registry.previews(version)]
        paths = [(file.path, file.sha256) for file in version.files]
        for path, sha256 in paths + [(item.name, item.sha256) for item in beside]:
            users.setdefault(sha256, set()).add((version.name, path))
    return users


@pytest.mark.parametrize("count", COUNTS)
def test_verify_names_every_damaged_file(share: Path, theirs: Registry, count: int) -> None:
    draw = random.Random(count)
    for name in NAMES:
        theirs.pull(name, remote="team")
    users = users_of(theirs)
    assert set(users) == stored_digests(share)
    for _ in range(count):
        sha256 = draw.choice(sorted(users))
        path = blob_path(theirs.home, sha256)
        good = path.read_bytes()
        overwrite(path, bad := damage(good, draw))
        problems = list(theirs.verify())
        named = {(problem.subject.split("@")[0], problem.path) for problem in problems}
        assert named == {(name, path.replace("preview-1.png", "a preview")) for name, path in users[sha256]}
        for problem in problems:
            assert problem.problem.startswith("damaged")
            assert hashlib.sha256(bad).hexdigest() in problem.problem
        overwrite(path, good)
    assert list(theirs.verify()) == []


@pytest.mark.parametrize("count", COUNTS)
def test_pull_takes_no_damaged_file(share: Path, theirs: Registry, count: int, tmp_path: Path) -> None:
    draw, users = random.Random(count), users_of(Registry(tmp_path / "ours"))
    for _ in range(count):
        sha256 = draw.choice(sorted(users))
        path = blob_path(share, sha256)
        good = path.read_bytes()
        overwrite(path, bad := damage(good, draw))
        for name, where in users[sha256]:
            with pytest.raises(DigestMismatchError) as caught:
                theirs.pull(name, remote="team")
            assert (caught.value.expected, caught.value.found) == (sha256, hashlib.sha256(bad).hexdigest())
            assert where in caught.value.source
        assert theirs.list() == []
        assert not list(theirs.home.glob("staging/*"))
        assert stored_digests(theirs.home) <= set(users) - {sha256}
        shutil.rmtree(theirs.home / "blobs", ignore_errors=True)
        overwrite(path, good)
    for name in NAMES:
        theirs.pull(name, remote="team")
    check_home(theirs.home)


@pytest.mark.parametrize("count", COUNTS)
def test_pull_takes_no_damaged_table(share: Path, theirs: Registry, count: int, tmp_path: Path) -> None:
    draw, tables = random.Random(count), sorted(share.glob("**/*.json"))
    digest = Registry(tmp_path / "ours").resolve(NAMES[0]).digest
    for number in range(count):
        path = draw.choice(tables)
        good = path.read_bytes()
        path.write_bytes(damage(good, draw))
        try:
            assert theirs.pull(NAMES[0], remote="team", rename=f"me/ink-{number}").digest == digest
        except AdapterHubError:
            assert not theirs.has_adapter(f"me/ink-{number}")
        path.write_bytes(good)
    check_home(theirs.home)


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_database_is_told(share: Path, tmp_path: Path, count: int) -> None:
    del share
    draw, home = random.Random(count), tmp_path / "ours"
    good = (home / "registry.db").read_bytes()
    (page,) = sqlite3.connect(home / "registry.db").execute("PRAGMA page_size").fetchone()
    told = 0
    for number in range(count):
        for left in home.glob("registry.db*"):
            left.unlink()
        bad = bytearray(good)
        start = draw.randrange(len(good) // page) * page
        if draw.random() < 0.5:
            bad[start : start + page] = draw.randbytes(page)
        else:
            del bad[start + draw.randrange(page) :]
        (home / "registry.db").write_bytes(bad)
        try:
            with closing(Registry(home)) as registry:
                registry.list()
                registry.search("ink")
                registry.resolve(NAMES[0])
                registry.set_alias(NAMES[0], f"a{number}", 1)
        except AdapterHubError:
            told += 1
    assert told > 0
