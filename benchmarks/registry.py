"""How fast the registry answers at 10,000 adapters and 100,000 versions.

    python benchmarks/registry.py --mlflow-python OTHER/bin/python --out benchmarks/results/registry.json

Rows are put in by SQL, with the manifests that `add` would write; names and descriptions are words of a
Zipf-like vocabulary.

CPU time decides, because others use the machine too, and what is asked here waits for nothing; "elapsed" is
what the clock on the wall said meanwhile.

- Answers: every question goes through `Registry`, in one process, as an app asks it.
- Commands: the whole process, beside `python -c "import sqlmodel"`, in turn.
- MLflow: the same rows in the schema that MLflow makes, and the same questions, for pages of 50. Its registry
  has no full-text search; what comes nearest is `search_registered_models` with a `name LIKE '%word%'` for
  each word. That looks into names alone, where ours looks into names, titles, descriptions, trigger words and
  tags, and ranks what it finds. A tag is `tags.KEY = 'VALUE'` there.
"""

import json
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from startup import cpu_seconds

from adapterhub_registry.manifest import Manifest, PayloadFile
from adapterhub_registry.search import Filters
from adapterhub_registry.store import Registry

FLOOR = "import sqlmodel"
BOUNDS = {
    "resolve, ms, median": 0.2,
    "first page, ms, p95": 5.0,
    "deep page, ms, p95": 5.0,
    "two-word search, ms, p95": 10.0,
    f"adapterhub list, part of {FLOOR}": 1.3,
    f"adapterhub show REF, part of {FLOOR}": 1.3,
    "one-word search, part of MLflow's": 0.1,
    "two-word search, part of MLflow's": 0.1,
    "tag, part of MLflow's": 0.1,
}
COMMAND_ROUNDS = 9
TIME = "2026-01-01T00:00:00Z"


def fill(home: Path, adapters: int, versions: int) -> list[str]:
    """Put in rows, and return the vocabulary."""
    Registry(home).close()
    random = np.random.default_rng(1)
    vocabulary = [
        f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("ar", "el", "in", "on", "um") for c in "adeikost"
    ]
    weights = 1 / np.arange(1, len(vocabulary) + 1)
    weights /= weights.sum()
    database = sqlite3.connect(home / "registry.db")
    for number in range(1, adapters + 1):
        words = random.choice(vocabulary, 12, p=weights)
        name = f"{words[0]}-{words[1]}-{number}"
        database.execute(
            "INSERT INTO adapter "
            "(id, namespace, name, title, description, card, kind, created, updated, head_id) "
            "VALUES (?, ?, ?, ?, ?, '', 'style', ?, ?, ?)",
            (number, f"ns{number % 50}", name, name, " ".join(words[2:]), TIME, TIME, number * versions),
        )
        database.execute(
            "INSERT INTO search (rowid, name, title, description, triggers, tags) VALUES (?, ?, ?, ?, ?, ?)",
            (number, f"ns{number % 50}/{name}", name, " ".join(words[2:]), str(words[3]), str(words[4])),
        )
        database.execute("INSERT INTO tag VALUES (?, ?)", (number, str(words[4])))
        for version in range(1, versions + 1):
            sha256 = f"{number * versions + version:064x}"
            manifest = Manifest(
                (PayloadFile("w.safetensors", 1000, sha256),), "sdxl", lineage={"operation": "trained"}
            )
            database.execute(
                "INSERT INTO version (id, adapter_id, number, digest, manifest, state, yank_reason, message, "
                "author, created, architecture, algorithm, operation, ranks, alphas, targets, "
                "payload_digest) "
                "VALUES (?, ?, ?, ?, ?, 'published', '', '', 'me', ?, 'sdxl', 'lora', 'trained', '16', '8', "
                "'to_k 140, to_out.0 140, to_q 140, to_v 140', ?)",
                (
                    (number - 1) * versions + version,
                    number,
                    version,
                    manifest.digest,
                    manifest.to_json(),
                    TIME,
                    sha256,
                ),
            )
    database.commit()
    database.execute("ANALYZE")
    database.close()
    return vocabulary


def times(ask: Callable[[int], object], rounds: int) -> "np.ndarray":
    """Return the milliseconds of every round: of CPU time, and elapsed."""
    found: list[tuple[float, float]] = []
    for number in range(rounds):
        elapsed, used = time.perf_counter(), time.process_time()
        ask(number)
        found.append((time.process_time() - used, time.perf_counter() - elapsed))
    return 1000 * np.array(found)


def measure_answers(home: Path, vocabulary: list[str], rounds: int) -> dict[str, float]:
    """Ask one `Registry` everything, many times."""
    registry = Registry(home)
    known = [adapter.name for adapter in registry.list()]
    middle = None
    for _ in range(len(known) // 2 // 1000):
        middle = registry.search(limit=1000, after=middle).next
    pairs = word_pairs(vocabulary, rounds)
    asked: dict[str, Callable[[int], object]] = {
        "resolve, ms": lambda n: registry.resolve(known[n * 37 % len(known)]),
        "first page, ms": lambda _: registry.search(),
        "deep page, ms": lambda _: registry.search(after=middle),
        "two-word search, ms": lambda n: registry.search(" ".join(pairs[n])),
        "tag and architecture, ms": lambda n: registry.search(
            filters=Filters(tags=(vocabulary[n % 50],), architecture="sdxl"), sort="updated"
        ),
    }
    found: dict[str, float] = {}
    for name, ask in asked.items():
        used, elapsed = times(ask, rounds).T
        found[f"{name}, median"] = float(np.median(used))
        found[f"{name}, p95"] = float(np.percentile(used, 95))
        found[f"{name}, p95 elapsed"] = float(np.percentile(elapsed, 95))
    registry.close()
    return found


def word_pairs(vocabulary: list[str], rounds: int) -> list[tuple[str, str]]:
    """Return pairs of common words, the same in every run."""
    random = np.random.default_rng(2)
    return [tuple(map(str, random.choice(vocabulary[:100], 2))) for _ in range(rounds)]


def measure_commands(home: Path, rounds: int) -> dict[str, float]:
    """Run commands and `import sqlmodel` in turn; return medians of user and system time, and ratios."""
    registry = Registry(home)
    name = registry.list()[-1].name
    registry.close()
    programs = {
        FLOOR: ["-c", FLOOR],
        "adapterhub list": ["-m", "adapterhub_cli", "list"],
        "adapterhub show REF": ["-m", "adapterhub_cli", "show", name],
    }
    taken: dict[str, list[float]] = {program: [] for program in programs}
    for _ in range(rounds):
        for program, words in programs.items():
            taken[program].append(cpu_seconds(words, ADAPTERHUB_HOME=str(home)))
    medians = {program: float(np.median(seconds)) for program, seconds in taken.items()}
    found = {f"{program}, ms": 1000 * seconds for program, seconds in medians.items()}
    for program in list(programs)[1:]:
        found[f"{program}, part of {FLOOR}"] = medians[program] / medians[FLOOR]
    return found


def measure_mlflow(home: Path, vocabulary: list[str], rounds: int, python: str) -> dict[str, float]:
    """Ask MLflow and us the same; return medians and their ratios, or nothing where there is no MLflow."""
    seek = "import importlib.util, sys; sys.exit(importlib.util.find_spec('mlflow') is None)"
    if subprocess.run([python, "-c", seek], check=False).returncode != 0:  # noqa: S603
        print(f"MLflow: not measured: no mlflow in {python}")
        return {}
    pairs = word_pairs(vocabulary, rounds)
    theirs = {
        "one-word search": [f"name LIKE '%{first}%'" for first, _ in pairs],
        "two-word search": [f"name LIKE '%{first}%' AND name LIKE '%{second}%'" for first, second in pairs],
        "tag": [f"tags.tag = '{first}'" for first, _ in pairs],
    }
    registry = Registry(home)
    ours: dict[str, Callable[[int], object]] = {
        "one-word search": lambda n: registry.search(pairs[n][0]),
        "two-word search": lambda n: registry.search(" ".join(pairs[n])),
        "tag": lambda n: registry.search(tags=[pairs[n][0]]),
    }
    command = [python, str(Path(__file__).with_name("registry_mlflow.py")), str(home)]
    questions = "\n".join(question for kind in theirs.values() for question in kind)
    done = subprocess.run(command, input=questions, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    version, *lines = done.stdout.split()
    print(f"MLflow {version}")
    found: dict[str, float] = {}
    for kind, taken in zip(theirs, np.array(lines, float).reshape(len(theirs), rounds), strict=True):
        own = times(ours[kind], rounds)[:, 0]
        found[f"{kind}, ours, ms, median"] = float(np.median(own))
        found[f"{kind}, MLflow's, ms, median"] = float(np.median(taken))
        found[f"{kind}, part of MLflow's"] = float(np.median(own) / np.median(taken))
    registry.close()
    return found


@click.command()
@click.option("--adapters", type=int, default=10_000, show_default=True)
@click.option("--versions", type=int, default=10, show_default=True, help="Of each adapter.")
@click.option("--rounds", type=int, default=300, show_default=True)
@click.option("--mlflow-python", default=sys.executable, help="An interpreter that has MLflow.")
@click.option("--out", type=click.Path(path_type=Path))
def main(adapters: int, versions: int, rounds: int, mlflow_python: str, out: Path | None) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    print(f"{adapters} adapters, {adapters * versions} versions")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        vocabulary = fill(home, adapters, versions)
        measured = measure_answers(home, vocabulary, rounds)
        measured |= measure_commands(home, COMMAND_ROUNDS)
        measured |= measure_mlflow(home, vocabulary, rounds, mlflow_python)
    rows: list[dict[str, object]] = []
    for name, value in measured.items():
        row, verdict = {"measure": name, "value": round(value, 3)}, ""
        if (bound := BOUNDS.get(name)) is not None:
            row |= {"bound": bound, "kept": value <= bound}
            verdict = f"at most {bound}   {'kept' if row['kept'] else 'MISSED'}"
        rows.append(row)
        print(f"{name:48} {value:9.3f}   {verdict}".rstrip())
    if out is not None:
        facts = {"machine": platform.machine(), "adapters": adapters, "versions": adapters * versions}
        out.write_text(json.dumps(facts | {"measures": rows}, indent=2) + "\n")
    raise SystemExit(1 if any(row.get("kept") is False for row in rows) else 0)


if __name__ == "__main__":
    main()
