"""The list of runs: told from files, while runs go on and when they are dead."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapterhub.errors import RunBusyError, RunNotFoundError
from adapterhub.training import runs
from adapterhub.training.runs import find_run, find_runs, held_run, remove_run, run_directory
from adapterhub.training.status import AdapterStatus, RunStatus, thinned

HOLD = """
import sys
from pathlib import Path
from adapterhub.training.runs import held_run
from adapterhub.training.status import RunStatus
directory = Path(sys.argv[1])
with held_run(directory):
    RunStatus(directory.name, "running", 1.0, 2.0, []).write(directory)
    print("held", flush=True)
    sys.stdin.read()
"""


def status(run: str, state: str = "done", updated: float = 2.0) -> RunStatus:
    adapter = AdapterStatus("me/ink", 10, step=4, loss=0.5, curve=[(2, 1.0), (4, 0.5)], measured=[(0, 2.0)])
    return RunStatus(run, state, 1.0, updated, [adapter])


def test_a_dead_process_is_told_from_a_living_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PATIENCE_S", 0.05)
    directory = run_directory(home, "me--ink-1")
    words = [sys.executable, "-c", HOLD, directory]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert [found.state for found in find_runs(home)] == ["running"]
        with pytest.raises(RunBusyError, match="me--ink-1 goes on in another process"):
            remove_run(home, "me--ink-1")
        with pytest.raises(RunBusyError), held_run(directory):
            pass
        process.kill()
    assert find_run(home, "me--ink-1").state == "stopped"
    remove_run(home, "me--ink-1")
    assert list((home / "runs").iterdir()) == []


def test_a_status_is_read_as_it_was_written(home: Path) -> None:
    for run, updated in (("old", 5.0), ("new", 6.0)):
        directory = run_directory(home, run)
        directory.mkdir(parents=True)
        status(run, updated=updated).write(directory)
    assert find_runs(home) == [status("new", updated=6.0), status("old", updated=5.0)]


def test_what_is_no_run_is_left_out_and_named_nowhere(home: Path) -> None:
    assert find_runs(home) == []
    directory = run_directory(home, "me--ink-1")
    directory.mkdir(parents=True)
    status("me--ink-1").write(directory)
    (home / "runs" / "empty").mkdir()
    (home / "runs" / "odd").mkdir()
    (home / "runs" / "odd" / "status.json").write_text('{"format": 99}')
    assert [found.run for found in find_runs(home)] == ["me--ink-1"]
    for name in ("empty", "odd", "", "..", "../runs/me--ink-1"):
        with pytest.raises(RunNotFoundError):
            remove_run(home, name)
    with pytest.raises(RunNotFoundError, match="Did you mean me--ink-1"):
        find_run(home, "me--ink")


def test_curves_are_thinned_and_the_best_measurement_is_known() -> None:
    losses = [float(number) for number in range(1000)]
    curve = thinned(losses, most=10)
    assert curve[0] == (100, sum(losses[:100]) / 100)
    assert (len(curve), curve[-1]) == (10, (1000, sum(losses[900:]) / 100))
    assert thinned([]) == []
    adapter = AdapterStatus("me/ink", 10)
    outcomes = [adapter.add_measured(step, loss) for step, loss in ((0, 0.1), (2, 0.9), (4, 0.5), (6, 0.7))]
    assert (outcomes, adapter.best_step) == ([False, True, True, False], 4)
    adapter.add_measured(4, 0.8)  # a run that went on from before measures again
    assert (adapter.measured[2], adapter.best_step) == ((4, 0.8), 6)


def test_a_status_is_whole_whenever_it_is_read(home: Path) -> None:
    directory = run_directory(home, "me--ink-1")
    directory.mkdir(parents=True)
    program = (
        "import sys; from pathlib import Path\n"
        "from adapterhub.training.status import AdapterStatus, RunStatus\n"
        "many = [AdapterStatus('me/ink', 10, curve=[(n, 0.5) for n in range(3000)])]\n"
        "while True: RunStatus('me--ink-1', 'running', 1.0, 2.0, many).write(Path(sys.argv[1]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, directory], env=os.environ)
    try:
        deadline = time.monotonic() + 60
        while RunStatus.read(directory) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        found = [RunStatus.read(directory) for _ in range(100)]
    finally:
        process.kill()
        process.wait()
    assert all(one is not None and len(one.adapters[0].curve) == 3000 for one in found)
