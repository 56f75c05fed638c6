"""Whatever is killed on the way: nothing is half there, and the next try succeeds."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.registry import processes
from tests.registry.scenarios import SCENARIOS
from tests.registry.steps import count_steps, die_at, watched
from tests.registry.trials import Trial

COUNTS = [4, pytest.param(40, marks=pytest.mark.long)]


def die_in(trial: Trial, step: int) -> None:
    with watched(die_at(step)):
        trial.work()


@pytest.fixture
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Trial:
    return Trial(request.param, tmp_path)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("trial", SCENARIOS, indirect=True)
def test_what_is_killed_at_any_step_is_done_or_not_done(trial: Trial, count: int) -> None:
    trial.restart()
    steps = len(processes.run(count_steps, trial.work))
    chosen = sorted(random.Random(trial.name).sample(range(1, steps + 1), min(count, steps)))
    codes: list[int] = []
    for step in chosen:
        trial.restart()
        codes.append(processes.exit_code(die_in, trial, step))
        trial.check()
    # Threads do not always make the same number of steps, so that the last ones may not come.
    assert set(codes) <= {0, -signal.SIGKILL}
    assert codes.count(0) < len(chosen) / 4


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("trial", ["add", "pull", "push"], indirect=True)
def test_what_is_killed_at_any_moment_is_done_or_not_done(trial: Trial, count: int) -> None:
    trial.restart()
    start = time.monotonic()
    assert processes.exit_code(trial.work) == 0
    whole = time.monotonic() - start
    for number in range(count):
        trial.restart()
        processes.exit_code(trial.work, kill_after=whole * (number + 0.5) / count)
        trial.check()
