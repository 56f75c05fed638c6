"""`adapterhub sweep` and `adapterhub retrain`."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.store import Registry
from tests.cli.conftest import Run


@pytest.fixture
def ink(tmp_path: Path) -> Path:
    """A config of one adapter, and its pictures."""
    folder = tmp_path / "ink"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 20, 90)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"blob {number}")
    file = tmp_path / "ink.toml"
    file.write_text(
        'base = { model = "mini", device = "cpu", threads = 1 }\n[[adapters]]\nname = "me/ink"\n'
        'data = "ink"\n'
        "steps = 3\nbatch_size = 1\nnetwork.rank = 2\nvalidation.held_out = 0.25\n"
    )
    return file


GRID = ("--set", "sweep.grid.optimizer.learning_rate=[1e-5, 1e-3]")


def test_a_sweep_prints_its_candidates(run: Run, ink: Path) -> None:
    lines = run("sweep", str(ink), *GRID, "--plan").splitlines()
    assert lines[0].split() == ["candidate", "learning", "rate", "steps", "compared", "at"]
    assert lines[1].split() == ["me/ink#1", "1e-05", "3", "1,", "3"]
    assert "2 candidates, at most 4 steps of 6" in run.talk
    rows = json.loads(run("sweep", str(ink), *GRID, "--keep", "2", "--json"))
    assert [(row["state"], row["step"], row["version"]) for row in rows] == [
        ("kept", 3, "me/ink@2"),
        ("kept", 3, "me/ink@1"),
    ]
    assert rows[0]["validation_loss"] <= rows[1]["validation_loss"]
    assert "there is no contact sheet" in run.talk
    assert {line.split()[1] for line in run("runs").splitlines()[1:]} == {"me/ink#1", "me/ink#2"}
    run("sweep", str(ink), code=1)
    assert "there must be a table [sweep.grid]" in run.talk


def test_a_version_is_trained_again_from_its_record(run: Run, ink: Path, home: Path) -> None:
    run("train", str(ink))
    assert "differences  none" in run("retrain", "me/ink", "--plan")
    assert json.loads(run("retrain", "me/ink", "--json"))["same_bytes"] is True
    assert "the same bytes as me/ink@1: nothing published" in run.talk
    assert run("versions", "me/ink", "-q").splitlines() == ["me/ink@1"]

    assert run("retrain", "me/ink@1", "--set", "seed=5", "-q") == "me/ink@2\n"
    assert "seed is 5, and was 0" in run.talk
    assert "me/ink@1" in run("lineage", "me/ink@2")
    assert Registry(home).resolve("me/ink@2").lineage["operation"] == "retrained"
    run("retrain", "me/ink@1", "--set", "steps=none", code=1)
    assert "--set steps=none: " in run.talk

    moved = shutil.move(ink.parent / "ink", ink.parent / "moved")
    run("retrain", "me/ink@1", code=1)
    shutil.rmtree(home / "runs")
    run("retrain", "me/ink@1", code=1)
    assert "where its pictures are is not known here; say it with --data DIR" in run.talk
    assert run("retrain", "me/ink@1", "--data", str(moved), "-q") == "me/ink@1\n"

    (moved / "0.txt").write_text("another")
    (moved / "1.png").unlink()
    (moved / "1.txt").unlink()
    run("retrain", "me/ink@1", "--data", str(moved), code=1)
    assert "cannot be trained again: 0.png has another caption; 1.png is gone" in run.talk


def test_what_was_not_trained_here_cannot_be_trained_again(run: Run, ink: Path, home: Path) -> None:
    run("train", str(ink))
    version = Registry(home).resolve("me/ink")
    run("add", str(Registry(home).payload(version)), "--name", "me/other", "--base", "mini")
    run("retrain", "me/other", code=1)
    assert "no config.json and no data.json and no run.json lies beside it" in run.talk
