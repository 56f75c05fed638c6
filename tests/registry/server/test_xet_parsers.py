"""Xorbs and shards as they come in: read in any pieces, and refused in bounded memory if they are no such."""

import random
import struct
import tracemalloc
from collections.abc import Iterable

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub_registry.server.errors import XetFormatError
from adapterhub_registry.server.shards import ShardFile, ShardReader, Term
from adapterhub_registry.server.xorbs import MAX_CHUNK, MAX_XORB, XorbReader
from tests.registry.server.xet_format import MAGIC, pack, sha256_of, shard_bytes, split, xorb_bytes

COUNTS = [200, pytest.param(2000, marks=pytest.mark.long)]


def read_xorb(pieces: Iterable[bytes]) -> tuple[list[bytes], list[int]]:
    reader = XorbReader()
    chunks = [chunk for piece in pieces for chunk in reader.feed(piece)]
    reader.finish()
    return chunks, reader.sizes


def read_shard(pieces: Iterable[bytes]) -> list[ShardFile]:
    reader = ShardReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.finish()


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.long)])
def test_a_xorb_gives_its_chunks_back_in_whatever_pieces_it_comes(count: int) -> None:
    chunk = st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, MAX_CHUNK).map(bytes))
    chunks = st.lists(st.tuples(chunk, st.integers(0, 2)), min_size=1, max_size=6)

    @settings(max_examples=count, deadline=None)
    @given(chunks, st.integers(1, 5000), st.sampled_from([b"", b"XETBLOB\x01and more"]))
    def check(given: list[tuple[bytes, int]], size: int, footer: bytes) -> None:
        packed = b"".join(pack(*item) for item in given) + footer
        found, sizes = read_xorb(split(packed, size))
        assert found == [content for content, _ in given]
        assert sizes == [len(content) for content, _ in given]

    check()


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.long)])
def test_a_shard_gives_its_files_back_in_whatever_pieces_it_comes(count: int) -> None:
    digest = st.binary(min_size=1, max_size=8).map(sha256_of)
    start = st.integers(0, 2**31)
    term = st.tuples(digest, st.integers(0, 2**32 - 1), start, st.integers(2**31 + 1, 2**32 - 1))
    files = st.lists(
        st.tuples(digest, st.lists(term, max_size=4)), max_size=4, unique_by=lambda file: file[0]
    )

    @settings(max_examples=count, deadline=None)
    @given(files, st.sampled_from([1, 3]), st.integers(1, 200), st.binary(max_size=100))
    def check(
        given: list[tuple[str, list[tuple[str, int, int, int]]]], flags: int, size: int, rest: bytes
    ) -> None:
        found = read_shard(split(shard_bytes(given, flags) + rest, size))
        assert found == [
            ShardFile(sha256, tuple(Term(xorb, start, end, size) for xorb, size, start, end in terms))
            for sha256, terms in given
        ]

    check()


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_xorb_is_read_or_refused_and_nothing_else(count: int) -> None:
    whole = b"".join(pack(bytes(range(200)) * 3, scheme) for scheme in (0, 1, 2, 1))
    for seed in range(count):
        try:
            chunks, sizes = read_xorb(split(damaged(whole, seed), 500))
        except XetFormatError:
            continue
        assert [len(chunk) for chunk in chunks] == sizes
        assert sum(sizes) <= MAX_XORB


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_shard_is_read_or_refused_and_nothing_else(count: int) -> None:
    terms = [(sha256_of(b"x"), 9, 0, 3), (sha256_of(b"y"), 9, 1, 2)]
    whole = shard_bytes([(sha256_of(bytes([number])), terms) for number in range(3)])
    for seed in range(count):
        try:
            files = read_shard(split(damaged(whole, seed), 77))
        except XetFormatError:
            continue
        assert all(term.start < term.end for file in files for term in file.terms)


def damaged(whole: bytes, seed: int) -> bytes:
    """With bytes changed, taken away or put in."""
    chance, found = random.Random(seed), bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found))
        match chance.randrange(4):
            case 0:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                found[at : at + 4] = b"\xff" * 4
            case 2:
                del found[at : at + chance.randint(1, 60)]
            case _:
                found[at:at] = chance.randbytes(chance.randint(1, 60))
        if not found:
            break
    return bytes(found)


def head(packed: int, scheme: int, size: int, version: int = 0) -> bytes:
    return bytes([version]) + struct.pack("<I", packed)[:3] + bytes([scheme]) + struct.pack("<I", size)[:3]


ZEROS = lz4.frame.compress(bytes(MAX_CHUNK + 1))


@pytest.mark.parametrize(
    ("xorb", "reason"),
    [
        (b"", "has no chunks"),
        (b"XETBLOB\x01", "has no chunks"),
        (head(5, 0, 5) + b"ink", "chunk 0: it ends within"),
        (head(3, 0, 3) + b"ink" + b"x", "chunk 1: it ends within"),
        (head(3, 0, 3, version=1) + b"ink", "version 1 is unknown"),
        (head(3, 3, 3) + b"ink", "scheme 3 is unknown"),
        (head(3, 0, 4) + b"ink", "other than the 4 bytes"),
        (head(0, 0, 0), "would have 0 bytes"),
        (head(MAX_CHUNK + 1, 0, MAX_CHUNK + 1), "would have 131,073 bytes"),
        (head(0xFFFFFF, 1, 5), "would have 5 bytes"),
        (head(3, 1, 3) + b"ink", "does not end"),
        (head(20, 1, 3) + b"ink" * 6 + b"in", "no frame of LZ4"),
        (head(len(ZEROS), 1, MAX_CHUNK) + ZEROS, "other than the 131,072 bytes"),
        (head(len(ZEROS) + 1, 1, MAX_CHUNK) + ZEROS + b"x", "does not end"),
        (pack(b"x", 0) * 8193, "at most 8,192 chunks"),
        (pack(bytes(MAX_CHUNK), 1) * 513, "and 67,108,864 bytes"),
    ],
)
def test_what_is_no_xorb_is_refused_in_words(xorb: bytes, reason: str) -> None:
    with pytest.raises(XetFormatError, match=reason) as caught:
        read_xorb(split(xorb, 1 << 20))
    assert caught.value.kind == "xorb"


def test_a_frame_that_unpacks_to_too_much_is_not_unpacked() -> None:
    bomb = lz4.frame.compress(bytes(32 << 20))
    assert len(bomb) < 2 * MAX_CHUNK
    xorb = head(len(bomb), 1, MAX_CHUNK) + bomb
    tracemalloc.start()
    try:
        with pytest.raises(XetFormatError, match="does not end"):
            read_xorb([xorb])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_CHUNK + 2 * len(bomb)


START = MAGIC + struct.pack("<QQ", 2, 0)


def file_head(count: int, flags: int = 3) -> bytes:
    return bytes(32) + struct.pack("<IIQ", flags << 30, count, 0)


@pytest.mark.parametrize(
    ("shard", "reason"),
    [
        (b"", "ends before its files do"),
        (START, "ends before its files do"),
        (START + file_head(3), "ends before its files do"),
        (bytes(48), "does not begin"),
        (MAGIC + struct.pack("<QQ", 3, 0), "does not begin"),
        (START + file_head(2**32 - 1), "more than 10,000 files and 100,000 terms"),
        (START + (file_head(0, 1) + bytes(48)) * 10_001, "more than 10,000 files"),
        (shard_bytes([(sha256_of(b"x"), [(sha256_of(b"x"), 1, 2, 2)])]), "has the chunks 2 to 2"),
        (shard_bytes([(sha256_of(b"x"), [])], flags=2), "no SHA-256"),
    ],
)
def test_what_is_no_shard_is_refused_in_words(shard: bytes, reason: str) -> None:
    with pytest.raises(XetFormatError, match=reason) as caught:
        read_shard(split(shard, 1 << 20))
    assert caught.value.kind == "shard"


def test_a_xorb_of_one_chunk_is_the_smallest() -> None:
    assert read_xorb([xorb_bytes([b"x"], 0)]) == ([b"x"], [1])
