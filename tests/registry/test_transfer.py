"""Push and pull over a directory: identical, verified, whole."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.errors import (
    AdapterNotFoundError,
    DigestMismatchError,
    FieldError,
    RemoteError,
    VersionConflictError,
    VersionNotFoundError,
)
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes

Weights = Callable[..., Path]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    return path


@pytest.fixture
def ours(tmp_path: Path, share: Path) -> Registry:
    registry = Registry(tmp_path / "ours")
    registry.add_remote("team", share.as_uri())
    return registry


@pytest.fixture
def theirs(tmp_path: Path, share: Path) -> Registry:
    registry = Registry(tmp_path / "theirs")
    registry.add_remote("team", share.as_uri())
    return registry


def test_a_pulled_version_is_identical(
    ours: Registry, theirs: Registry, weights: Weights, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "p.png")
    version = ours.add(
        weights(1),
        name="me/ink",
        documents={"config.json": b"{}"},
        previews=[tmp_path / "p.png"],
        tags=["ink"],
        kind="style",
        title="Ink wash",
        message="first",
    )
    sent = ours.push("me/ink", remote="team", aliases=["prod"])
    assert (sent.is_new, sent.number, sent.files_sent) == (True, 1, 3)
    got = theirs.pull("team:me/ink@prod")
    assert (got.is_new, got.number, got.digest, got.bytes_sent) == (True, 1, version.digest, sent.bytes_sent)
    pulled = theirs.resolve("me/ink@1")
    assert pulled == version
    assert theirs.read(pulled.files[0].sha256) == weights_bytes(1)
    assert theirs.documents(pulled) == ours.documents(version)
    assert theirs.previews(pulled) == ours.previews(version)
    adapter = theirs.show("me/ink")
    assert (adapter.title, adapter.kind, adapter.tags, adapter.aliases) == ("Ink wash", "style", ("ink",), {})
    assert list(theirs.verify()) == []


def test_pushing_and_pulling_again_moves_nothing(ours: Registry, theirs: Registry, weights: Weights) -> None:
    ours.add(weights(1), name="me/ink")
    ours.push("me/ink", remote="team")
    again = ours.push("me/ink", remote="team")
    assert (again.is_new, again.number, again.files_sent) == (False, 1, 0)
    theirs.pull("me/ink", remote="team")
    again = theirs.pull("me/ink", remote="team")
    assert (again.is_new, again.number, again.files_sent) == (False, 1, 0)


def test_only_missing_files_are_sent(ours: Registry, weights: Weights) -> None:
    ours.add(weights(1), name="me/ink", documents={"a.txt": b"same"})
    ours.add(weights(2), name="me/ink", documents={"a.txt": b"same"})
    assert ours.push("me/ink@1", remote="team").files_sent == 2
    assert ours.push("me/ink@2", remote="team").files_sent == 1


def test_a_number_that_another_digest_has_taken_is_a_conflict(
    ours: Registry, theirs: Registry, weights: Weights
) -> None:
    first = ours.add(weights(1), name="me/ink")
    ours.push("me/ink", remote="team")
    other = theirs.add(weights(2), name="me/ink")
    with pytest.raises(VersionConflictError) as caught:
        theirs.push("me/ink", remote="team")
    assert (caught.value.ours, caught.value.theirs) == (other.digest, first.digest)
    assert "--renumber" in str(caught.value)
    with pytest.raises(VersionConflictError) as caught:
        theirs.pull("me/ink", remote="team")
    assert (caught.value.ours, caught.value.theirs) == (other.digest, first.digest)
    assert theirs.versions("me/ink") == [other]
    assert [v.manifest.digest for v in theirs.remote("team").versions("me/ink").values()] == [first.digest]

    assert theirs.push("me/ink", remote="team", renumber=True).number == 2
    assert theirs.resolve("me/ink").number == 1
    assert ours.pull("me/ink", remote="team").number == 2
    got = theirs.pull("me/ink@1", remote="team", rename="us/ink")
    assert (got.name, got.number, got.digest) == ("us/ink", 1, first.digest)


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_one_flipped_byte_in_the_remote_is_refused_with_both_digests(
    ours: Registry, theirs: Registry, share: Path, weights: Weights, count: int
) -> None:
    import hashlib

    version = ours.add(weights(1), name="me/ink")
    ours.push("me/ink", remote="team")
    sha256 = version.files[0].sha256
    path = next(share.glob(f"blobs/sha256/*/*/{sha256}"))
    good = path.read_bytes()
    path.chmod(0o644)
    for offset in range(0, len(good), max(len(good) // count, 1)):
        bad = bytearray(good)
        bad[offset] ^= 0x40
        path.write_bytes(bad)
        with pytest.raises(DigestMismatchError) as caught:
            theirs.pull("me/ink", remote="team")
        assert (caught.value.expected, caught.value.found) == (sha256, hashlib.sha256(bad).hexdigest())
        assert sha256 in str(caught.value)
        assert caught.value.found in str(caught.value)
    for bad in (good[:-1], good + b"\0", b""):
        path.write_bytes(bad)
        with pytest.raises(DigestMismatchError):
            theirs.pull("me/ink", remote="team")
    assert theirs.list() == []
    assert list(theirs.blobs.digests()) == []
    assert list((theirs.home / "staging").iterdir()) == []
    path.write_bytes(good)
    assert theirs.pull("me/ink", remote="team").is_new


def test_a_changed_manifest_in_the_remote_is_refused(
    ours: Registry, theirs: Registry, share: Path, weights: Weights
) -> None:
    ours.add(weights(1), name="me/ink", trigger_words=["inkwash"])
    ours.push("me/ink", remote="team")
    path = share / "adapters" / "me" / "ink" / "versions" / "1.json"
    path.write_text(path.read_text().replace("inkwash", "inkwosh"))
    with pytest.raises(DigestMismatchError):
        theirs.pull("me/ink", remote="team")
    path.write_text(path.read_text()[:-30])
    with pytest.raises(RemoteError):
        theirs.pull("me/ink", remote="team")
    assert theirs.list() == []


PULL = """
import sys
from pathlib import Path
from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.store import Registry
registry = Registry(Path(sys.argv[1]))
stop_after, wrote = int(sys.argv[2]), []
original = DirectoryBlobs.write
def write(self, pieces, **settings):
    if len(wrote) == stop_after:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    wrote.append(1)
    return original(self, pieces, **settings)
DirectoryBlobs.write = write
getattr(registry, sys.argv[3])("me/ink", remote="team")
"""


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_pull_that_is_killed_leaves_nothing_visible_and_goes_on_next_time(
    ours: Registry, theirs: Registry, weights: Weights, killed_at: int
) -> None:
    ours.add(weights(1), name="me/ink", documents={"a.txt": b"a", "b.txt": b"b"})
    ours.push("me/ink", remote="team")
    done = subprocess.run([sys.executable, "-c", PULL, theirs.home, str(killed_at), "pull"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert theirs.list() == []
    assert theirs.pull("me/ink", remote="team").files_sent == 3 - killed_at
    assert list(theirs.verify()) == []


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_push_that_is_killed_leaves_nothing_visible_and_goes_on_next_time(
    ours: Registry, theirs: Registry, weights: Weights, killed_at: int
) -> None:
    ours.add(weights(1), name="me/ink", documents={"a.txt": b"a", "b.txt": b"b"})
    done = subprocess.run([sys.executable, "-c", PULL, ours.home, str(killed_at), "push"], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(AdapterNotFoundError):
        theirs.pull("me/ink", remote="team")
    assert ours.push("me/ink", remote="team").files_sent == 3 - killed_at
    theirs.pull("me/ink", remote="team")
    assert list(theirs.verify()) == []


def test_a_disk_that_fills_in_mid_push_lists_nothing(
    ours: Registry, theirs: Registry, share: Path, weights: Weights
) -> None:
    path = weights(1, metadata={"comment": "x" * 300_000})
    ours.add(path, name="me/ink", documents={"a.txt": b"a"})
    program = (
        "import sys; from pathlib import Path; from adapterhub_registry.store import Registry\n"
        "try: Registry(Path(sys.argv[1])).push('me/ink', remote='team')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, ours.home],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000)),
    )
    assert done.stdout == "OutputError\n"
    assert list((share / "staging").iterdir()) == []
    with pytest.raises(AdapterNotFoundError):
        theirs.pull("me/ink", remote="team")
    assert ours.push("me/ink", remote="team").is_new


def test_what_the_remote_does_not_have_is_named(ours: Registry, theirs: Registry, weights: Weights) -> None:
    ours.add(weights(1), name="me/ink")
    ours.push("me/ink", remote="team", aliases=["prod"])
    with pytest.raises(AdapterNotFoundError) as missing:
        theirs.pull("me/inc", remote="team")
    assert missing.value.near == ["me/ink"]
    with pytest.raises(VersionNotFoundError) as caught:
        theirs.pull("me/ink@7", remote="team")
    assert (caught.value.versions, caught.value.aliases) == ([1], ["prod"])


def test_remotes_are_checked_when_they_are_added_and_when_they_are_used(
    ours: Registry, share: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_text("")
    for url, reason in (
        ((tmp_path / "missing").as_uri(), "there is no directory"),
        ((tmp_path / "full").as_uri(), "holds other files"),
        ("https://example.invalid/x", "no URL of a directory"),
        ("/plain/path", "no URL of a directory"),
    ):
        with pytest.raises(RemoteError, match=reason):
            ours.add_remote("other", url)
    with pytest.raises(FieldError):
        ours.add_remote("a b", share.as_uri())
    assert ours.remotes() == {"team": share.as_uri()}
    share.rename(tmp_path / "moved")
    with pytest.raises(RemoteError, match="there is no directory"):
        ours.remote("team")
    ours.remove_remote("team")
    with pytest.raises(RemoteError, match="there is no remote of that name"):
        ours.remove_remote("team")
