"""`adapterhub train --plan`, and `adapterhub cache`."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from adapterhub.training.cache import encoding_cache
from tests.cli.conftest import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ink"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (64, 64), (30 * number, 9, 9)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"inkwash blob {number}")
    return folder


def words(folder: Path) -> list[object]:
    return ["train", "--base", "mini", "--data", folder, "--name", "me/ink", "--trigger", "inkwash", "--plan"]


def test_every_problem_of_the_data_is_told_by_name(run: Run, folder: Path) -> None:
    for number in range(7):
        (folder / f"{number}.png").write_bytes(b"")
    assert run(*words(folder), code=1) == ""
    first, *problems = run.talk.splitlines()
    assert first == f"error: {folder} cannot be trained on, 7 problems:"
    assert problems == [f"  {number}.png is empty, it has no bytes" for number in range(7)]


def test_a_plan_tells_of_captions_cost_and_what_to_look_at(run: Run, folder: Path) -> None:
    (folder / "1.txt").write_text("dog " * 90)  # one token each
    (row,) = json.loads(run(*words(folder), "--batch-size", 16, "--steps", 300, "--json"))
    assert [length["tokens"] for length in row["captions"]][1] == 90
    assert (row["truncated"], row["without_trigger"]) == (["1.png"], 1)
    assert row["buckets"] == [{"size": [64, 64], "pictures": 8}]
    assert (row["efficiency"]["trainable"], row["efficiency"]["frozen"]) == (1_070_080, 10_069_988)
    needs = row["run_needs"]
    assert sum(needs["memory"].values()) == needs["peak_bytes"] > needs["memory"]["weights"] > 0
    told = [f"me/ink: warning: {text}" for text in row["warnings"]]
    assert run.talk.splitlines() == told
    assert row["warnings"] == [
        "each picture is shown 300 times: fewer steps may do",
        "1 caption without a trigger word",
        "1 caption too long for max_chunks = 1, and cut; 2 would read all: 1.png (90 tokens)",
        "batch_size is 16, and the fullest bucket shows 8 pictures: no pass is full",
    ]
    text = run(*words(folder))
    assert "parameters          1,070,080 of 10,069,988 (10.63%)\n" in text
    assert "to 90 tokens" in text
    assert "while training: weights 47.4 MB" in text


def test_the_cache_is_measured_and_emptied(run: Run, home: Path) -> None:
    cache = encoding_cache(home)
    for number in range(3):
        cache.get([number], lambda: {"mean": torch.zeros(1000)})
    fields = json.loads(run("cache", "--json"))
    assert (fields["directory"], fields["entries"]) == (str(home / "cache" / "encodings"), 3)
    run("cache", "gc", code=2)
    run("cache", "gc", "--max-bytes", "much", code=2)
    one = fields["bytes"] // 3
    assert json.loads(run("cache", "gc", "--max-bytes", 2 * one, "--json"))["deleted"] == 1
    assert run("cache", "gc", "--older-than", "1d", "-q") == "0\n"
    assert run.talk == "nothing was deleted\n"
    assert json.loads(run("cache", "gc", "--older-than", "0s", "--json"))["entries"] == 0
