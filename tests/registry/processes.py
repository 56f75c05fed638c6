"""Processes of their own for tests, forked from one that has imported everything and opened nothing."""

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *(f"tests.registry.test_{name}" for name in ("races", "kills", "faults", "migrations")),
        "alembic.command",
        "alembic.ddl.sqlite",
        "sqlalchemy.dialects.sqlite",
        "PIL.PngImagePlugin",
    ]
)
Work = Callable[..., Any]


def run_all(work: Work, values: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Do some work in as many processes as there are values, at once, and return what each returned.

    `work` must be a function of a module, and its values must pickle.
    """
    started: list[tuple[Any, Connection]] = []
    for words in values:
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_work, args=(theirs, work, words))
        process.start()
        theirs.close()
        started.append((process, ours))
    results = [_result(connection) for _, connection in started]
    for process, _ in started:
        process.join()
        process.close()
    failed = [error for is_good, error in results if not is_good]
    assert not failed, "\n\n".join(failed)
    return [value for _, value in results]


def run(work: Work, *words: Any) -> Any:
    """Do some work in another process, and return what it returned."""
    return run_all(work, [words])[0]


def exit_code(work: Work, *words: Any, kill_after: float | None = None) -> int:
    """Do some work in another process and return how it ended; kill it after so many seconds."""
    process = CONTEXT.Process(target=work, args=words)
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    code = process.exitcode
    process.close()
    assert code is not None
    return code


def _work(connection: Connection, work: Work, words: tuple[Any, ...]) -> None:
    try:
        connection.send((True, work(*words)))
    except BaseException:  # noqa: BLE001 - the one who waits tells it
        connection.send((False, traceback.format_exc()))


def _result(connection: Connection) -> tuple[bool, Any]:
    with connection:
        try:
            return connection.recv()
        except EOFError:
            return False, "a process died"
