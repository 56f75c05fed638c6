"""The SQLite database: opening, migrating, and transactions that begin as writers."""

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adapterhub_registry.errors import DatabaseError, FieldError
from adapterhub_registry.locks import locked

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlmodel import Session

HEAD = "0004"
MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_TIMEOUT_MS = 10_000
Values = Sequence[object] | Mapping[str, object]


class Read(Protocol):
    """Runs one reading statement, with `?` or `:name` where values go, and returns all its rows."""

    def __call__(self, statement: str, values: Values = (), /) -> list[tuple[Any, ...]]:
        """Run it."""
        ...


class Database:
    """One database file; safe to open from many processes at once.

    Opening one whose schema is current, and reading in a `snapshot`, import no SQLAlchemy and no alembic.

    Raises:
        DatabaseError: The file cannot be read or written; so do `snapshot`, `reading` and `writing`.
        FieldError: Text or a number cannot be kept in a database, from `snapshot`, `reading` and `writing`.
        OutputError: The lock beside it cannot be made, to migrate it; so does `writing`.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, path.with_suffix(".lock")
        self._idle: list[sqlite3.Connection] = []
        if self._revision() != HEAD:
            self._migrate()

    @contextmanager
    def snapshot(self) -> Generator[Read]:
        """See one consistent state by plain SQL: a small part of a session's cost, and no heavy import."""
        try:
            connection = self._borrow()
            try:
                connection.execute("BEGIN")
                yield lambda statement, values=(), /: connection.execute(statement, values).fetchall()
            finally:
                connection.rollback()
                self._idle.append(connection)
        except sqlite3.DatabaseError as exc:
            raise DatabaseError(self._path, str(exc)) from exc
        except (UnicodeEncodeError, OverflowError) as exc:
            raise _field_error(exc) from exc

    @contextmanager
    def reading(self) -> "Generator[Session]":
        """Open a session that sees one consistent state."""
        with self._session(is_writing=False) as session:
            yield session

    @contextmanager
    def writing(self) -> "Generator[Session]":
        """Open a transaction that holds the write lock from the start; it commits at the end, or not at all.

        Nothing slow belongs inside: no hashing, no network. Writers wait at a lock of our own, because SQLite
        asks for its lock now and then: among many, one may miss it each time until it gives up.
        """
        with locked(self._lock), self._session(is_writing=True) as session:
            yield session
            session.commit()

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()
        if "_engine" in vars(self):
            self._engine.dispose()

    @contextmanager
    def _session(self, *, is_writing: bool) -> "Generator[Session]":
        from sqlalchemy import exc as errors
        from sqlmodel import Session

        engine = self._engine.execution_options(is_writing=is_writing)
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        except errors.DatabaseError as exc:
            if type(exc) not in (errors.OperationalError, errors.DatabaseError):
                raise  # a constraint, or wrong SQL: our own fault
            raise DatabaseError(self._path, str(exc.orig)) from exc
        except (UnicodeEncodeError, OverflowError) as exc:
            raise _field_error(exc) from exc

    def _borrow(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return _connect(self._path)

    @cached_property
    def _engine(self) -> "Engine":
        from sqlalchemy import create_engine, event

        def on_begin(connection: Any) -> None:
            is_writing = connection.get_execution_options().get("is_writing", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

        engine = create_engine(f"sqlite:///{self._path}", creator=lambda: _connect(self._path))
        event.listen(engine, "begin", on_begin)
        return engine

    def _revision(self) -> str | None:
        with self.snapshot() as read:
            if not read("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"):
                return None
            rows = read("SELECT version_num FROM alembic_version")
        return rows[0][0] if rows else None

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config
        from sqlalchemy.exc import OperationalError

        with locked(self._lock):
            revision = self._revision()
            if revision == HEAD:
                return
            if revision is not None and revision > HEAD:
                reason = f"a newer release wrote it (schema {revision}; this one knows {HEAD})"
                raise DatabaseError(self._path, reason, "Use that release, or set ADAPTERHUB_HOME")
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            try:
                with self._engine.execution_options(is_writing=True).begin() as connection:
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
            except OperationalError as exc:
                raise DatabaseError(self._path, str(exc.orig)) from exc


def _field_error(error: UnicodeEncodeError | OverflowError) -> FieldError:
    """Return the error for what SQLite cannot hold: bytes that were no text, numbers of more than 63 bits."""
    if isinstance(error, UnicodeEncodeError):
        shown = error.object.encode("ascii", "backslashreplace").decode()
        return FieldError("text", shown, "it holds bytes that are no letters in UTF-8")
    return FieldError("number", "given", "it must be below 2 to the power of 63")


def _connect(path: Path) -> sqlite3.Connection:
    # BEGIN is said above, not by the driver; one thread at a time uses a connection, not always the same one.
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
