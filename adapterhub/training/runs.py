"""The runs of a home, told from the files of their directories alone, while they go on too."""

import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from adapterhub.errors import OutputError, RunBusyError, RunNotFoundError
from adapterhub.training.status import RunStatus
from adapterhub_registry.files import make_directory

FOLDER = "runs"
LOCK = "run.lock"
PATIENCE_S = 2.0
"""Who lists runs holds each lock for a moment; a training that begins waits so long."""


def run_directory(home: Path, run: str) -> Path:
    """Return where a run's files are, or would be."""
    return home / FOLDER / run


@contextmanager
def held_run(directory: Path) -> Generator[None]:
    """Make a run's directory and hold it, so that nobody else trains there; a process that dies lets go.

    Raises:
        RunBusyError: Somebody holds it.
        OutputError: It cannot be made.
    """
    make_directory(directory)
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout as exc:
        raise RunBusyError(directory.name) from exc
    except OSError as exc:
        raise OutputError(directory / LOCK, exc.strerror or str(exc)) from exc
    try:
        yield
    finally:
        lock.release()


def is_held(directory: Path) -> bool:
    """Return whether a living process trains there."""
    path = directory / LOCK
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a home that cannot be written to
        return False
    lock.release()
    return False


def find_runs(home: Path) -> list[RunStatus]:
    """Return all runs, the one that was written last first.

    One whose process died without a word is `stopped`. A directory that holds no status of a run is left out.
    """
    found = [status for path in _directories(home) if (status := _read(path)) is not None]
    return sorted(found, key=lambda status: (-status.updated, status.run))


def find_run(home: Path, run: str) -> RunStatus:
    """Return one run; see `find_runs`.

    Raises:
        RunNotFoundError: There is none of that name.
    """
    directories = {path.name: path for path in _directories(home)}
    status = _read(directories[run]) if run in directories else None
    if status is None:
        raise RunNotFoundError(run, sorted(directories))
    return status


def remove_run(home: Path, run: str) -> None:
    """Delete a run's directory: checkpoints, samples and reports; versions that it made stay.

    Raises:
        RunNotFoundError: There is none of that name.
        RunBusyError: It goes on.
        OutputError: It cannot be deleted.
    """
    find_run(home, run)
    directory = run_directory(home, run)
    doomed = directory.with_name(f".{run}.{uuid.uuid4().hex}")
    try:
        with held_run(directory):
            directory.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as exc:
        raise OutputError(directory, exc.strerror or str(exc)) from exc


def _directories(home: Path) -> list[Path]:
    return [path for path in (home / FOLDER).glob("*/") if not path.name.startswith(".")]


def _read(directory: Path) -> RunStatus | None:
    # Looked at before the status is read: a run that ends in between has said so by then.
    is_alive = is_held(directory)
    status = RunStatus.read(directory)
    if status is not None and status.state == "running" and not is_alive:
        return replace(status, state="stopped")
    return status
