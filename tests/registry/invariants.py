"""What must hold of a home and of a remote at any moment, read without any of the library."""

import hashlib
import json
import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def check_home(home: Path) -> None:
    """Fail with everything that is wrong with a home."""
    problems = list(home_problems(home))
    assert not problems, "\n".join(problems)


def check_remote(root: Path) -> None:
    """Fail with everything that is wrong with a directory that others push to."""
    problems = [*blob_problems(root), *_remote_problems(root)]
    assert not problems, "\n".join(problems)


def home_problems(home: Path) -> Iterator[str]:
    """Name what is wrong with a home: its blobs, its database, and where the two disagree."""
    yield from blob_problems(home)
    with closing(sqlite3.connect(home / "registry.db")) as database:
        database.row_factory = sqlite3.Row
        (health,) = database.execute("PRAGMA integrity_check").fetchone()
        if health != "ok":
            yield f"the database is damaged: {health}"
        for table, *_ in database.execute("PRAGMA foreign_key_check"):
            yield f"a row of {table} belongs to nothing"
        if not database.execute("SELECT name FROM sqlite_master").fetchall():
            return  # who made it died before the tables were there
        yield from _version_problems(home, database)
        yield from _alias_problems(database)
        yield from _search_problems(database)


def blob_problems(root: Path) -> Iterator[str]:
    """Name blobs that are not what their names say, and files that are no blobs."""
    for path in root.glob("blobs/**/*"):
        if path.is_dir():
            continue
        place = f"{path.name[:2]}/{path.name[2:4]}/{path.name}"
        if not re.fullmatch(r"[0-9a-f]{64}", path.name) or path != root / "blobs" / "sha256" / place:
            yield f"{path} is no blob"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"{path} has other bytes than its name says"


def live_digests(home: Path) -> set[str]:
    """Return the digests of all blobs that versions need."""
    with closing(sqlite3.connect(home / "registry.db")) as database:
        database.row_factory = sqlite3.Row
        needed = {file["sha256"] for row in _versions(database) for file in _files(row)}
        for table in ("document", "preview"):
            needed |= {row["sha256"] for row in _rows(database, f"SELECT sha256 FROM {table}")}  # noqa: S608
    return needed


def stored_digests(root: Path) -> set[str]:
    """Return the digests of all blobs that are there."""
    return {path.name for path in root.glob("blobs/sha256/*/*/*")}


def _version_problems(home: Path, database: sqlite3.Connection) -> Iterator[str]:
    present = stored_digests(home)
    published = [row["subject"] for row in _rows(database, "SELECT * FROM event WHERE action = 'publish'")]
    numbers: dict[str, list[int]] = {}
    beside = _rows(
        database,
        "SELECT version_id, name AS path, sha256, size FROM document"
        " UNION ALL SELECT version_id, 'preview', sha256, size FROM preview",
    )
    for row in _versions(database):
        label = f"{row['adapter']}@{row['number']}"
        numbers.setdefault(row["adapter"], []).append(row["number"])
        if published.count(label) != 1:
            yield f"{label} was published {published.count(label)} times"
        if row["state"] == "deleted":
            continue
        if row["digest"] != f"sha256:{hashlib.sha256(row['manifest'].encode()).hexdigest()}":
            yield f"{label} has another manifest than its digest says"
        for file in [*_files(row), *(item for item in beside if item["version_id"] == row["id"])]:
            if file["sha256"] not in present:
                yield f"{label}: {file['path']} has no blob"
            elif blob_path(home, file["sha256"]).stat().st_size != file["size"]:
                yield f"{label}: {file['path']} has another size"
        yield from _hash_problems(home, database, row, label, present)
    for adapter, found in numbers.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"{adapter} has the numbers {sorted(found)}"
    if len(published) != sum(map(len, numbers.values())):
        yield f"{len(published)} versions were published, and {sum(map(len, numbers.values()))} are there"


def _hash_problems(
    home: Path, database: sqlite3.Connection, row: Row, label: str, present: set[str]
) -> Iterator[str]:
    rows = _rows(database, "SELECT * FROM file_hash WHERE version_id = ?", row["id"])
    if not rows and not row["payload_digest"]:
        return  # of an older release, and not yet read
    expected: dict[str, tuple[str, str]] = {}
    for file in _files(row):
        if file["path"].endswith(".safetensors") and file["sha256"] in present:
            content = blob_path(home, file["sha256"]).read_bytes()
            (length,) = struct.unpack("<Q", content[:8])
            data = hashlib.sha256(content[8 + length :]).hexdigest()
            expected[file["path"]] = (hashlib.sha256(content).hexdigest(), data)
    if {item["path"]: (item["sha256"], item["data_sha256"]) for item in rows} != expected:
        yield f"{label}: its hashes are not those of its files"


def _alias_problems(database: sqlite3.Connection) -> Iterator[str]:
    there = {(row["adapter_id"], row["number"]) for row in _versions(database) if row["state"] != "deleted"}
    moves: dict[str, int | None] = {}
    for event in _rows(database, "SELECT * FROM event WHERE action = 'alias' ORDER BY id"):
        moves[event["subject"]] = json.loads(event["detail"])["after"]
    stands: dict[str, int] = {}
    for row in _rows(
        database,
        "SELECT alias.*, namespace || '/' || adapter.name AS adapter FROM alias"
        " JOIN adapter ON adapter.id = alias.adapter_id",
    ):
        label = f"{row['adapter']}@{row['name']}"
        stands[label] = row["number"]
        if (row["adapter_id"], row["number"]) not in there:
            yield f"{label} stands at {row['number']}, which is not there"
    if stands != {label: number for label, number in moves.items() if number is not None}:
        yield f"aliases stand at {stands}, and were moved to {moves}"


def _search_problems(database: sqlite3.Connection) -> Iterator[str]:
    versions = _versions(database)
    expected: dict[int, tuple[str, ...]] = {}
    # A draft is found once its first version is there.
    for row in _rows(database, "SELECT * FROM adapter WHERE removed != 'draft'"):
        own = [v for v in versions if v["adapter_id"] == row["id"] and v["state"] == "published"]
        head = max(own, key=lambda version: version["number"], default=None)
        name = f"{row['namespace']}/{row['name']}"
        if row["head_id"] != (head["id"] if head else None):
            yield f"{name}: another version is the newest one than its row says"
        triggers = json.loads(head["manifest"])["trigger_words"] if head else []
        tags = _rows(database, "SELECT tag FROM tag WHERE adapter_id = ? ORDER BY tag", row["id"])
        words = " ".join(triggers), " ".join(tag["tag"] for tag in tags)
        expected[row["id"]] = (name, row["title"], row["description"], *words)
    found = {row["rowid"]: tuple(row)[1:] for row in database.execute("SELECT rowid, * FROM search")}
    if found != expected:
        yield f"search holds {found}, and should hold {expected}"


def _remote_problems(root: Path) -> Iterator[str]:
    present = stored_digests(root)
    for folder in root.glob("adapters/*/*"):
        label = f"{folder.parent.name}/{folder.name}"
        there: set[int] = set()
        for path in folder.glob("versions/*.json"):
            table = json.loads(path.read_text())
            there.add(table["number"])
            if path.name != f"{table['number']}.json":
                yield f"{path} holds the number {table['number']}"
            if table["digest"] != f"sha256:{hashlib.sha256(table['manifest'].encode()).hexdigest()}":
                yield f"{path} has another manifest than its digest says"
            files = [*json.loads(table["manifest"])["files"], *table["documents"], *table["previews"]]
            if missing := {file["sha256"] for file in files} - present:
                yield f"{path} lacks the blobs {sorted(missing)}"
        aliases = folder / "aliases.json"
        if aliases.exists() and not set(json.loads(aliases.read_text()).values()) <= there:
            yield f"{label} has aliases at versions that are not there"


def blob_path(root: Path, sha256: str) -> Path:
    """Return where a blob lies in a home or a remote."""
    return root / "blobs" / "sha256" / sha256[:2] / sha256[2:4] / sha256


def _versions(database: sqlite3.Connection) -> list[Row]:
    return _rows(
        database,
        "SELECT version.*, namespace || '/' || name AS adapter FROM version"
        " JOIN adapter ON adapter.id = version.adapter_id",
    )


def _files(version: Row) -> list[Row]:
    return json.loads(version["manifest"])["files"] if version["state"] != "deleted" else []


def _rows(database: sqlite3.Connection, statement: str, *values: object) -> list[Row]:
    return [dict(row) for row in database.execute(statement, values)]
