"""How fast the registry answers at 10,000 adapters and 100,000 versions.

    python benchmarks/registry.py --out benchmarks/results/registry.json

Rows are put in by SQL, with the manifests that `add` would write; names and descriptions are words of a
Zipf-like vocabulary. Every question goes through `Registry`, in one process, as an app asks it.
"""

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from adapterhub_registry.manifest import Manifest, PayloadFile
from adapterhub_registry.search import Filters
from adapterhub_registry.store import Registry

BOUNDS = {
    "resolve, ms, median": 0.2,
    "first page, ms, p95": 5.0,
    "deep page, ms, p95": 5.0,
    "two-word search, ms, p95": 10.0,
}
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
                "author, created, architecture, algorithm, operation, ranks, payload_digest) "
                "VALUES (?, ?, ?, ?, ?, 'published', '', '', 'me', ?, 'sdxl', 'lora', 'trained', '16', ?)",
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
    """Return the milliseconds of every round."""
    found: list[float] = []
    for number in range(rounds):
        began = time.perf_counter()
        ask(number)
        found.append((time.perf_counter() - began) * 1000)
    return np.array(found)


@click.command()
@click.option("--adapters", type=int, default=10_000, show_default=True)
@click.option("--versions", type=int, default=10, show_default=True, help="Of each adapter.")
@click.option("--rounds", type=int, default=300, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(adapters: int, versions: int, rounds: int, out: Path | None) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = fill(Path(folder), adapters, versions)
        registry = Registry(Path(folder))
        known = [adapter.name for adapter in registry.search(limit=1000)]
        after = None
        for _ in range(adapters // 2 // 1000):
            after = registry.search(limit=1000, after=after).next
        random = np.random.default_rng(2)
        pairs = [" ".join(random.choice(vocabulary[:100], 2)) for _ in range(rounds)]
        measured = {
            "resolve, ms, median": np.median(
                times(lambda n: registry.resolve(known[n % len(known)]), rounds)
            ),
            "first page, ms, p95": np.percentile(times(lambda _: registry.search(), rounds), 95),
            "deep page, ms, p95": np.percentile(times(lambda _: registry.search(after=after), rounds), 95),
            "two-word search, ms, p95": np.percentile(times(lambda n: registry.search(pairs[n]), rounds), 95),
            "tag and architecture, ms, p95": np.percentile(
                times(
                    lambda n: registry.search(
                        filters=Filters(tags=(vocabulary[n % 50],), architecture="sdxl"), sort="updated"
                    ),
                    rounds,
                ),
                95,
            ),
        }
        registry.close()
    rows = [
        {"measure": name, "value": round(float(value), 3), "bound": BOUNDS.get(name)}
        for name, value in measured.items()
    ]
    print(f"{adapters} adapters, {adapters * versions} versions")
    missed = 0
    for row in rows:
        verdict = ""
        if row["bound"] is not None:
            is_kept = row["value"] <= row["bound"]
            missed += not is_kept
            verdict = f"at most {row['bound']}   {'kept' if is_kept else 'MISSED'}"
        print(f"{row['measure']:32} {row['value']:8.3f}   {verdict}")
    if out is not None:
        facts = {"adapters": adapters, "versions": adapters * versions, "measures": rows}
        out.write_text(json.dumps(facts, indent=2) + "\n")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
