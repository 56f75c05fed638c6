"""The SQLite database: opening, migrating, and transactions that begin as writers."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from adapterhub_registry.errors import DatabaseError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlmodel import Session

HEAD = "0003"
MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_TIMEOUT_MS = 10_000


class Database:
    """One database file; safe to open from many processes at once.

    Raises:
        DatabaseError: The file cannot be read or written; so do `reading` and `writing`.
    """

    def __init__(self, path: Path) -> None:
        from sqlalchemy.exc import OperationalError

        self._path = path
        self._engine = _engine(path)
        try:
            self._migrate()
        except OperationalError as exc:
            raise DatabaseError(path, str(exc.orig)) from exc

    @contextmanager
    def reading(self) -> "Generator[Session]":
        """Open a session that sees one consistent state."""
        with self._session(is_writing=False) as session:
            yield session

    @contextmanager
    def writing(self) -> "Generator[Session]":
        """Open a transaction that holds the write lock from the start; it commits at the end, or not at all.

        Nothing slow belongs inside: no hashing, no network.
        """
        with self._session(is_writing=True) as session:
            yield session
            session.commit()

    def first(self, statement: str, values: Sequence[object]) -> "tuple[Any, ...] | None":
        """Return the first row of one reading statement, without a session, which takes most of the time."""
        from sqlalchemy.exc import OperationalError

        try:
            with closing(self._engine.raw_connection()) as connection:
                return connection.driver_connection.execute(statement, values).fetchone()  # pyright: ignore[reportOptionalMemberAccess]
        except (OperationalError, sqlite3.OperationalError) as exc:
            raise DatabaseError(self._path, str(exc)) from exc

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _session(self, *, is_writing: bool) -> "Generator[Session]":
        from sqlalchemy.exc import OperationalError
        from sqlmodel import Session

        engine = self._engine.execution_options(is_writing=is_writing)
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        except OperationalError as exc:
            raise DatabaseError(self._path, str(exc.orig)) from exc

    def _migrate(self) -> None:
        if self._revision() == HEAD:
            return
        from alembic import command
        from alembic.config import Config

        with FileLock(self._path.with_suffix(".lock")):
            if self._revision() == HEAD:
                return
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            with self._engine.execution_options(is_writing=True).begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def _revision(self) -> str | None:
        from alembic.runtime.migration import MigrationContext

        with self._engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()


def _engine(path: Path) -> "Engine":
    from sqlalchemy import create_engine, event

    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})

    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # BEGIN is said below, not by the driver
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Any) -> None:
        is_writing = connection.get_execution_options().get("is_writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine
