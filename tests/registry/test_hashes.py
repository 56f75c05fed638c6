"""Hashes: those of their definitions, whether a file is read or comes in piece by piece."""

import hashlib
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.errors import WeightsError
from adapterhub_registry.hashes import IncomingHasher, hash_file
from adapterhub_registry.partial import open_partial
from tests.registry.conftest import weights_bytes

WEIGHTS = weights_bytes(1, text_width=200_000)
START = 8 + int.from_bytes(WEIGHTS[:8], "little")
DATA_SHA256 = hashlib.sha256(WEIGHTS[START:]).hexdigest()
AUTOV1 = hashlib.sha256(WEIGHTS[0x100000:0x110000]).hexdigest()[:8]


def test_the_hashes_are_those_of_their_definitions(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(WEIGHTS)
    found = hash_file(tmp_path / "x", crc32=True)
    assert found.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (found.data_sha256, found.autov1) == (DATA_SHA256, AUTOV1)
    assert int(found.crc32, 16) == zlib.crc32(WEIGHTS)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 20), st.integers(1, 1 << 20)), max_size=12))
def test_they_are_the_same_in_whatever_pieces_a_file_comes(sizes: list[int]) -> None:
    hasher, rest = IncomingHasher(), memoryview(WEIGHTS)
    for size in sizes:
        hasher.update(rest[:size])
        rest = rest[size:]
    hasher.update(rest)
    found = hasher.hashes()
    assert hasher.is_weights
    assert hasher.size == len(WEIGHTS)
    assert found.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (found.data_sha256, found.autov1) == (DATA_SHA256, AUTOV1)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\x89PNG" + bytes(200_000), bytes(200_000), b"\2\0\0\0\0\0\0\0[]", b"\xff" * 8 + b"{" * 99],
)
def test_what_is_no_weights_is_told_by_its_beginning(content: bytes) -> None:
    hasher = IncomingHasher()
    hasher.update(content)
    assert hasher.sha256 == hashlib.sha256(content).hexdigest()
    assert not hasher.is_weights


def test_of_a_blob_that_came_in_no_hash_is_taken_again(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    sha256, _ = blobs.write([WEIGHTS[:70_000], WEIGHTS[70_000:]])
    blobs.path(sha256).chmod(0o644)
    blobs.path(sha256).write_bytes(b"not read")
    assert blobs.hashes(sha256).data_sha256 == DATA_SHA256
    with pytest.raises(WeightsError):
        DirectoryBlobs(tmp_path).hashes(sha256)


@pytest.mark.parametrize("cut", [0, 5, 70_000, len(WEIGHTS)])
def test_what_came_before_a_cut_counts(tmp_path: Path, cut: int) -> None:
    blobs = DirectoryBlobs(tmp_path)
    with open_partial(blobs, tmp_path, "x") as part:
        part.start_at(0)
        part.write(WEIGHTS[:cut])
    with open_partial(blobs, tmp_path, "x") as part:
        part.start_at(part.size)
        part.write(WEIGHTS[cut:])
        sha256 = hashlib.sha256(WEIGHTS).hexdigest()
        part.keep(sha256, source="the test")
    assert blobs.path(sha256).read_bytes() == WEIGHTS
    assert blobs.hashes(sha256).data_sha256 == DATA_SHA256
