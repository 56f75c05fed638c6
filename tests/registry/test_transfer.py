"""Push and pull over a directory: identical, verified, whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.errors import (
    AdapterNotFoundError,
    BlobMissingError,
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
    sent = ours.push("me/ink", remote="team", aliases=["prod"], with_data=True)
    assert (sent.is_new, sent.number, sent.files_transferred) == (True, 1, 3)
    got = theirs.pull("team:me/ink@prod")
    assert (got.is_new, got.number, got.digest, got.bytes_transferred) == (
        True,
        1,
        version.digest,
        sent.bytes_transferred,
    )
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
    assert (again.is_new, again.number, again.files_transferred) == (False, 1, 0)
    theirs.pull("me/ink", remote="team")
    again = theirs.pull("me/ink", remote="team")
    assert (again.is_new, again.number, again.files_transferred) == (False, 1, 0)


def test_only_missing_files_are_sent(ours: Registry, weights: Weights) -> None:
    ours.add(weights(1), name="me/ink", documents={"a.txt": b"same"})
    ours.add(weights(2), name="me/ink", documents={"a.txt": b"same"})
    assert ours.push("me/ink@1", remote="team", with_data=True).files_transferred == 2
    assert ours.push("me/ink@2", remote="team", with_data=True).files_transferred == 1


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
    assert theirs.remote("team").digests("me/ink") == {1: first.digest}

    assert theirs.push("me/ink", remote="team", renumber=True).number == 2
    assert theirs.resolve("me/ink").number == 1
    assert ours.pull("me/ink", remote="team").number == 2
    got = theirs.pull("me/ink@1", remote="team", rename="us/ink")
    assert (got.name, got.number, got.digest) == ("us/ink", 1, first.digest)


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


def test_what_arrived_before_a_failure_is_not_fetched_again(
    ours: Registry, theirs: Registry, share: Path, weights: Weights
) -> None:
    version = ours.add(weights(1), name="me/ink", documents={"a.txt": b"a", "b.txt": b"b"})
    ours.push("me/ink", remote="team", with_data=True)
    last = ours.documents(version)[-1].sha256
    path = next(share.glob(f"blobs/sha256/*/*/{last}"))
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(BlobMissingError):
        theirs.pull("me/ink", remote="team")
    assert theirs.list() == []
    path.write_bytes(content)
    assert theirs.pull("me/ink", remote="team").files_transferred == 1


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
        ("ftp://example.invalid/x", "no URL of a registry"),
        ("http://name:word@127.0.0.1", "no URL of a registry"),
        ("http://127.0.0.1:1", "nobody answers"),
        ("/plain/path", "no URL of a registry"),
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
