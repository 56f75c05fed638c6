"""Which pictures are held out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub.errors import DatasetError
from adapterhub.training.dataset import Dataset, Source, read_sources
from adapterhub.training.holdout import hold_out

Pictures = Callable[..., Path]


def names(dataset: Dataset) -> tuple[set[str], set[str]]:
    return {item.name for item in dataset.examples}, {item.name for item in dataset.held_out}


def test_held_out_pictures_are_not_trained_and_stand_in_the_manifest(pictures: Pictures) -> None:
    whole = read_sources([Source(pictures(10))])
    split = hold_out(whole, 0.3)
    trained, held = names(split)
    assert (len(trained), len(held)) == (7, 3)
    assert trained | held == {item.name for item in whole.examples}
    rows = json.loads(split.manifest())["pictures"]
    assert {row["file"] for row in rows if row.get("held_out")} == held
    assert split.notes[-1].startswith("held out for validation, and never trained on: ")
    assert hold_out(whole, 0.0) is whole
    assert len(hold_out(whole, 0.01).held_out) == 1


def test_a_new_picture_moves_at_most_one_other(pictures: Pictures) -> None:
    folder = pictures(12)
    before = hold_out(read_sources([Source(folder)]), 0.25)
    assert names(hold_out(read_sources([Source(folder)]), 0.25)) == names(before)
    for suffix in ("png", "txt"):
        (folder / f"11.{suffix}").unlink()
    after = hold_out(read_sources([Source(folder)]), 0.25)
    assert len((names(before)[1] - {"11.png"}) ^ names(after)[1]) <= 1


def test_copies_go_together_and_priors_stay(pictures: Pictures) -> None:
    folder, prior = pictures(4), pictures(2, name="prior")
    for number in range(4):
        for suffix in ("png", "txt"):
            shutil.copy(folder / f"{number}.{suffix}", folder / f"copy-{number}.{suffix}")
    split = hold_out(read_sources([Source(folder), Source(prior, is_prior=True)]), 0.5)
    held = {item.sha256 for item in split.held_out}
    assert len(split.held_out) == 2 * len(held)
    assert held.isdisjoint(item.sha256 for item in split.examples)
    assert sum(item.source.is_prior for item in split.examples) == 2


def test_something_must_be_left_to_train_on(pictures: Pictures) -> None:
    with pytest.raises(DatasetError, match=r"held_out 0\.9 would hold out 2 of 2 different pictures"):
        hold_out(read_sources([Source(pictures(2))]), 0.9)
