"""Whatever call fails: the error says so, nothing is half there, and the next try succeeds."""

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterhub_registry.errors import AdapterHubError, DatabaseError, OutputError
from tests.registry import processes
from tests.registry.scenarios import SCENARIOS
from tests.registry.steps import count_steps, fail_at, watched
from tests.registry.trials import Trial

CLEANUPS = ("unlink", "remove", "rmdir")
ERRORS = (errno.ENOSPC, errno.EIO)


def fail_everywhere(trial: Trial, every: int) -> list[str]:
    """Let each step fail in turn, or some of them; return what went wrong with the failing."""
    trial.restart()
    steps = list(enumerate(count_steps(trial.work), 1))
    chosen = [(*step, code) for step in steps for code in ERRORS]
    return [
        problem for step in chosen[:: 2 * every + 1 if every > 1 else 1] for problem in fail(trial, *step)
    ]


def fail(trial: Trial, number: int, name: str, code: int) -> Iterator[str]:
    label = f"{errno.errorcode[code]} at step {number}, {name}"
    trial.restart()
    try:
        with watched(fail_at(number, code)):
            trial.work()
    except AdapterHubError:
        pass
    except BaseException as exc:  # noqa: BLE001 - all are told at once
        yield f"{label}: {exc!r}"
    if name not in CLEANUPS:
        for place in ("home", "share"):
            yield from (f"{label}: {path} was left" for path in trial.root.glob(f"{place}/staging/*"))
    try:
        trial.check()
    except Exception as exc:  # noqa: BLE001
        yield f"{label}: {exc!r}"


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_call_that_fails_is_told_and_leaves_nothing(name: str, every: int, tmp_path: Path) -> None:
    assert processes.run(fail_everywhere, Trial(name, tmp_path), every) == []


def fill_disk(trial: Trial, limits: range) -> list[str]:
    """Let files grow no larger than some limits; return the names of the errors."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    seen: list[str] = []
    for limit in limits:
        trial.restart()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            trial.work()
            seen.append("")
        except AdapterHubError as exc:
            seen.append(type(exc).__name__)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        trial.check()
    return seen


@pytest.mark.parametrize("step", [24_000, pytest.param(2_400, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["first add", "add", "pull", "delete"])
def test_a_disk_that_fills_under_the_database_is_told_and_leaves_nothing(
    name: str, step: int, tmp_path: Path
) -> None:
    seen = processes.run(fill_disk, Trial(name, tmp_path), range(0, 600_000, step))
    assert (seen[0], seen[-1]) == (DatabaseError.__name__, "")
    assert set(seen) <= {DatabaseError.__name__, OutputError.__name__, ""}
