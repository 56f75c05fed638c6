"""What a pass reads: its number decides it, and not who reads it, when, or what was encoded before."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.training.buckets import Buckets
from adapterhub.training.cache import EncodingCache
from adapterhub.training.captions import CaptionRules
from adapterhub.training.dataset import Source, read_sources
from adapterhub.training.executor import Rows
from adapterhub.training.rows import AdapterRows, Encoder, Reading

PASSES = 12  # of two pictures: four epochs of six pictures


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_pipeline(find_base("mini"), device="cpu", dtype="float32")


@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("readers", [1, 8])
def test_readers_that_take_turns_read_the_bytes_that_one_reads_in_order(
    readers: int, is_warm: bool, pipeline: Any, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    folder = pictures(6)
    for number in range(6):
        (folder / f"{number}.txt").write_text(f"inkwash, blob {number}, round, dark")
    rules = CaptionRules(shuffle=True, tag_dropout=0.3, caption_dropout=0.2)
    dataset = read_sources([Source(folder, flip=True, rules=rules)], buckets=Buckets.square(64))
    reading = Reading("me/ink", seed=3, batch_size=2)

    def reader(cache: EncodingCache) -> AdapterRows:
        """Return one that shares nothing but the files of the cache, as a process of its own would."""
        return AdapterRows(dataset, reading, Encoder(pipeline, cache))

    first = EncodingCache(tmp_path / "first")
    one = reader(first)
    expected = [one(number) for number in range(PASSES)]
    assert len({rows.states.numpy().tobytes() for rows in expected}) > 6  # chance has something to decide

    cache = EncodingCache(first.directory if is_warm else tmp_path / "second")
    several = [reader(cache) for _ in range(readers)]
    read = {number: several[number % readers](number) for number in reversed(range(PASSES))}
    assert (cache.misses == 0) == is_warm
    for number, rows in enumerate(expected):
        assert_same(read[number], rows)


def assert_same(rows: Rows, expected: Rows) -> None:
    for name in (item.name for item in fields(Rows)):
        ours, theirs = getattr(rows, name), getattr(expected, name)
        assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs, name
