"""The peer of `registry.py`: the same adapters in MLflow's model registry, asked the same questions.

`registry.py` runs it in an interpreter that has MLflow, which is no dependency of this project:

    python benchmarks/registry_mlflow.py HOME

MLflow makes its own schema, and the rows of HOME/registry.db are put into it by SQL. A line of standard input
is a filter of `SqlAlchemyStore.search_registered_models`, in which the search of MLflow's client and of its
server ends; the line of output that answers it says how many milliseconds of CPU time that took.
"""

import sqlite3
import sys
import time
from pathlib import Path

import mlflow
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

PAGE = 50
# MLflow forbids `/` in names.
NAME = "namespace || '.' || adapter.name"
ROWS = f"""
    INSERT INTO registered_models (name, creation_time, last_updated_time, description)
        SELECT {NAME}, 0, 0, description FROM ours.adapter;
    INSERT INTO registered_model_tags (key, value, name)
        SELECT 'tag', tag, {NAME} FROM ours.tag JOIN ours.adapter ON id = adapter_id;
    INSERT INTO model_versions
        (name, version, creation_time, last_updated_time, user_id, current_stage, source, status)
        SELECT {NAME}, number, 0, 0, author, 'None', manifest, 'READY'
        FROM ours.version JOIN ours.adapter ON adapter.id = adapter_id;
    ANALYZE;
"""  # noqa: S608


def fill(home: Path) -> SqlAlchemyStore:
    """Make MLflow's database beside ours, with our rows."""
    path = home / "mlflow.db"
    store = SqlAlchemyStore(f"sqlite:///{path}")
    database = sqlite3.connect(path)
    database.execute("ATTACH ? AS ours", [str(home / "registry.db")])
    database.executescript(ROWS)
    database.close()
    return store


def main() -> None:
    """Say MLflow's version, and answer every question."""
    store = fill(Path(sys.argv[1]))
    print(mlflow.__version__)
    for question in sys.stdin:
        began = time.process_time()
        store.search_registered_models(question.strip(), max_results=PAGE)
        print((time.process_time() - began) * 1000)


if __name__ == "__main__":
    main()
