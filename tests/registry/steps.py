"""A process that dies, or a disk that fails, at any step: at a call that changes files or the database.

Only processes of their own may be watched (see `processes`): every thread counts.
"""

import builtins
import errno
import fcntl
import io
import itertools
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from sqlite3 import dbapi2
from typing import Any

CALLS = (
    *("fsync", "replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "chmod"),
    *("write", "truncate", "ftruncate", "sendfile", "copy_file_range", "utime"),
)
OnStep = Callable[[int, str], None]


@contextmanager
def watched(on_step: OnStep) -> Iterator[None]:
    """Call `on_step(number, name)` before every step of this process, from number 1."""
    numbers = itertools.count(1)

    def tick(name: str) -> None:
        on_step(next(numbers), name)

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            tick(name)
            return function(*words, **named)

        return call

    def open_descriptor(path: Any, flags: int, *words: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            tick("open")
        return real_os["open"](path, flags, *words, **named)

    def open_file(file: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return real_open(file, mode, *words, **named)
        if not isinstance(file, int):
            tick("open")
        return _File(real_open(file, mode, *words, **named), tick)

    def connect(*words: Any, **named: Any) -> sqlite3.Connection:
        class Cursor(sqlite3.Cursor):
            def execute(self, *words: Any, **named: Any) -> Any:
                tick("sql")
                return super().execute(*words, **named)

            def executemany(self, *words: Any, **named: Any) -> Any:
                tick("sql")
                return super().executemany(*words, **named)

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = Cursor) -> Any:
                return super().cursor(factory)

            def execute(self, *words: Any, **named: Any) -> Any:
                tick("sql")
                return super().execute(*words, **named)

            def commit(self) -> None:
                tick("commit")
                super().commit()

            def backup(self, *words: Any, **named: Any) -> None:
                tick("backup")
                super().backup(*words, **named)

        return real_connect(*words, **{"factory": Connection, **named})

    real_os = {name: getattr(os, name) for name in (*CALLS, "open")}
    real_open, real_connect, real_ioctl = io.open, dbapi2.connect, fcntl.ioctl
    try:
        for name in CALLS:
            setattr(os, name, counted(name, real_os[name]))
        os.open = open_descriptor
        io.open = builtins.open = open_file
        sqlite3.connect = dbapi2.connect = connect
        fcntl.ioctl = counted("ioctl", real_ioctl)
        yield
    finally:
        for name, function in real_os.items():
            setattr(os, name, function)
        io.open = builtins.open = real_open
        sqlite3.connect = dbapi2.connect = real_connect
        fcntl.ioctl = real_ioctl


class _File:
    """A file whose writes are steps."""

    def __init__(self, file: Any, tick: Callable[[str], None]) -> None:
        self._file, self._tick = file, tick

    def write(self, data: Any) -> int:
        self._tick("write")
        return self._file.write(data)

    def flush(self) -> None:
        self._tick("flush")
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)


def count_steps(work: Callable[[], object]) -> list[str]:
    """Do some work and return the names of its steps."""
    names: list[str] = []
    with watched(lambda _, name: names.append(name)):
        work()
    return names


def die_at(step: int) -> OnStep:
    """Kill this process, as `kill -9` does, before a step."""

    def on_step(number: int, _: str) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


def fail_at(step: int, code: int) -> OnStep:
    """Let one step fail with an error number, as the system or SQLite would."""

    def on_step(number: int, name: str) -> None:
        if number != step:
            return
        if name in ("sql", "commit", "backup"):
            full = "database or disk is full"
            raise sqlite3.OperationalError(full if code == errno.ENOSPC else "disk I/O error")
        raise OSError(code, os.strerror(code))

    return on_step
