"""Every schema that ever was opens with this release, whatever happened when it was opened first."""

import random
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.errors import DatabaseError
from adapterhub_registry.search import Filters
from adapterhub_registry.store import Registry
from tests.registry import processes
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home
from tests.registry.steps import count_steps, die_at, watched

SCHEMAS = sorted((Path(__file__).parent / "schemas").glob("*.sql"))


@pytest.fixture(params=SCHEMAS, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, home: Path) -> Path:
    """A home that an older release left, with all its blobs."""
    with closing(sqlite3.connect(home / "registry.db")) as database:
        database.executescript(request.param.read_text())
    for seed in (1, 2, 3):
        DirectoryBlobs(home).write([weights_bytes(seed)])
    return home


def schema_of(home: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the columns of each table: name, type, whether it may be null, place in the key."""
    with closing(sqlite3.connect(home / "registry.db")) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        found: dict[str, list[tuple[object, ...]]] = {}
        for (name,) in tables:
            columns = database.execute(f"PRAGMA table_info({name})").fetchall()
            found[name] = sorted((column[1], column[2], column[3], column[5]) for column in columns)
    return found


def open_home(home: Path) -> None:
    Registry(home).close()


def open_and_die(home: Path, step: int) -> None:
    with watched(die_at(step)):
        open_home(home)


def steps_to_open(home: Path) -> int:
    return len(count_steps(lambda: open_home(home)))


def test_an_old_database_migrates_and_works(old: Path) -> None:
    registry = Registry(old)
    assert [adapter.name for adapter in registry.search("inkw")] == ["me/ink"]
    assert [adapter.name for adapter in registry.search(filters=Filters(operation="merged"))] == ["me/both"]
    assert registry.resolve("me/ink").number == 2
    assert registry.show("me/ink").latest == 2
    assert registry.lineage("me/ink@1").children[0].label == "me/both@1"
    (old / "x").write_bytes(weights_bytes(2))
    assert [item.version.reference for item in registry.find_file(old / "x")] == ["me/ink@2"]
    assert [adapter.name for adapter in registry.search(filters=Filters(rank=2))] == ["me/both", "me/ink"]
    (old / "x").write_bytes(weights_bytes(30))
    assert registry.add(old / "x", name="me/ink").number == 3
    assert list(registry.verify()) == []
    check_home(old)


def test_an_old_database_becomes_what_a_new_one_is(old: Path, tmp_path: Path) -> None:
    open_home(old)
    open_home(tmp_path / "new")
    assert schema_of(old) == schema_of(tmp_path / "new")


def test_the_tables_are_those_that_the_rows_declare(home: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine
    from sqlmodel import SQLModel

    import adapterhub_registry.tables  # noqa: F401

    open_home(home)
    with create_engine(f"sqlite:///{home / 'registry.db'}").connect() as connection:
        # The tables of the full-text index are SQLite's own.
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or not name.startswith("search")},
        )
        assert compare_metadata(context, SQLModel.metadata) == []
    declared = {
        name: {(column.name, not column.nullable, column.primary_key) for column in table.columns}
        for name, table in SQLModel.metadata.tables.items()
    }
    found = schema_of(home)
    assert declared == {
        name: {(column, bool(is_set), key > 0) for column, _, is_set, key in found[name]} for name in declared
    }


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.long)])
def test_a_migration_that_is_killed_is_done_the_next_time(old: Path, tmp_path: Path, count: int) -> None:
    start, done = tmp_path / "start", tmp_path / "done"
    shutil.copytree(old, start)
    shutil.copytree(old, done)
    steps = processes.run(steps_to_open, done)
    for step in sorted(random.Random(count).sample(range(1, steps + 1), count)):
        shutil.rmtree(old)
        shutil.copytree(start, old)
        assert processes.exit_code(open_and_die, old, step) == -signal.SIGKILL
        assert schema_of(old) in (schema_of(start), schema_of(done))
        open_home(old)
        assert schema_of(old) == schema_of(done)
        check_home(old)


def test_a_database_of_a_newer_release_is_left_alone(home: Path) -> None:
    open_home(home)
    with sqlite3.connect(home / "registry.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    before = schema_of(home)
    with pytest.raises(DatabaseError, match="9999"):
        open_home(home)
    assert schema_of(home) == before
