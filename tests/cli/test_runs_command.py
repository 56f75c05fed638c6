"""`adapterhub runs`, and the line that `train` keeps up to date."""

import io
import json
import sys
import time
from pathlib import Path

import pytest

from adapterhub.training import runs
from adapterhub.training.progress import Progress
from adapterhub.training.runs import held_run, run_directory
from adapterhub.training.status import AdapterStatus, RunStatus
from adapterhub_cli.output import training_line
from adapterhub_cli.runs import sparkline
from tests.cli.conftest import Run


@pytest.fixture
def ink(home: Path) -> Path:
    """A run of two adapters, one of which has ended; its process is dead."""
    directory = run_directory(home, "me--ink-and-1-abc")
    curve = [(step, 4.0 - step) for step in range(1, 4)]
    samples = "me--ink/samples.png"
    adapters = [
        AdapterStatus("me/ink", 10, 3, 0.25, curve, [(0, 0.5), (2, 0.375)], 2, 60.0, samples),
        AdapterStatus("me/wash", 2, 2, 0.5, version=4),
    ]
    directory.mkdir(parents=True)
    RunStatus(directory.name, "running", time.time() - 9000, time.time() - 7500, adapters).write(directory)
    return directory


def test_runs_are_listed_with_their_state_and_curve(run: Run, ink: Path) -> None:
    lines = run("runs").splitlines()
    assert lines[0].split() == ["run", "name", "state", "step", "loss", "curve", "samples", "age"]
    sheet = str(ink / "me--ink" / "samples.png")
    assert lines[1].split() == [ink.name, "me/ink", "stopped", "3/10", "0.2500", "█▅▁", sheet, "2", "h"]
    assert lines[2].split() == [ink.name, "me/wash", "done", "2/2", "0.5000", "2", "h"]
    assert run("runs", "--quiet") == f"{ink.name}\n"
    with held_run(ink):
        first, second = json.loads(run("runs", "--json"))
    assert (first["state"], first["curve"], first["validation_loss"]) == (
        "running",
        [3, 2, 1],
        [[0, 0.5], [2, 0.375]],
    )
    assert (second["state"], second["version"]) == ("done", "me/wash@4")
    assert 7500 <= first["age_s"] < 7600


def test_a_run_is_shown(run: Run, ink: Path) -> None:
    text = run("runs", "show", ink.name)
    assert f"directory  {ink}" in text
    assert "validation loss  0.5000 of the base, 0.3750 at step 2" in text
    table = json.loads(run("runs", "show", ink.name, "--json"))
    assert table["state"] == "stopped"
    assert [adapter["name"] for adapter in table["adapters"]] == ["me/ink", "me/wash"]
    run("runs", "show", "me--ink", code=1)
    assert f"Did you mean {ink.name}?" in run.talk


def test_a_run_is_removed_when_it_is_over(run: Run, ink: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PATIENCE_S", 0.05)
    with held_run(ink):
        run("runs", "remove", ink.name, "--yes", code=1)
    assert "goes on in another process" in run.talk
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    run("runs", "remove", ink.name, code=130)
    assert ink.is_dir()
    run("runs", "remove", ink.name, "--yes")
    assert not ink.exists()
    assert run("runs") == ""


def test_a_curve_is_drawn_in_so_many_letters() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([float(n) for n in range(800)], width=8) == "▁▂▃▄▅▆▇█"


def test_a_line_of_progress_gives_its_bar_the_room_that_is_left() -> None:
    ink = Progress("me/ink", 5, 20, 0.25, 95.0, 2.0, 8.0, 1_500_000_000)
    wash = Progress("me/wash", 5, 20, 0.75, 3700.0, 1.0, 4.0, 1_500_000_000)
    facts = "5/20  loss 0.2500  2 steps/s  8 pictures/s  1:35 left  1.5 GB"
    assert training_line([ink], 200) == f"me/ink [######{' ' * 18}] {facts}"
    assert training_line([ink], 80) == f"me/ink [##{' ' * 7}] {facts}"
    assert len(training_line([ink], 80)) == 80
    assert training_line([ink], 70) == f"me/ink {facts}"
    both = "10/40  loss 0.5000  3 steps/s  12 pictures/s  1:01:40 left  1.5 GB"
    assert training_line([ink, wash], 70) == f"2 adapters {both}"
