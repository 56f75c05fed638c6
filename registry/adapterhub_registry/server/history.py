"""The states of an adapter's files as git would have them: commits, their files, branches; read by plain SQL.

Versions are what counts; commits are how a Hugging Face client sees them. `main` is the newest published
version with what is said of the adapter, `v3` and every alias are the commit that published a version.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from adapterhub_registry.database import Read

MAIN = "main"
LFS_BYTES = 1 << 20
"""Files above are kept by Git LFS, whatever they are; weights always are."""
COMMITS = """
    SELECT id, sha, parent, number, told, title, message, author, created FROM hub_commit
    WHERE adapter_id = ? AND NOT is_gone AND """
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True)
class TreeFile:
    """A file of a commit.

    Attributes:
        size: Bytes.
        sha256: 64 hex digits.
        git_sha1: The name that git gives its bytes; empty where git would keep it by Git LFS.
        preview: Of a picture: the SHA-256 of the preview that was made of it.
    """

    size: int
    sha256: str
    git_sha1: str = ""
    preview: str = ""

    @property
    def is_lfs(self) -> bool:
        """Whether git would keep it by Git LFS."""
        return not self.git_sha1

    @property
    def etag(self) -> str:
        """What a client knows the bytes by."""
        return self.git_sha1 or self.sha256

    @property
    def blob_id(self) -> str:
        """The name that git gives it: of its bytes, or of the pointer that stands for them."""
        return self.git_sha1 or git_sha1(self.pointer)

    @property
    def pointer(self) -> bytes:
        """What git keeps in place of the bytes."""
        return POINTER.format(self.sha256, self.size).encode()


@dataclass(frozen=True)
class Commit:
    """One state of all files of an adapter.

    Attributes:
        id: Its key.
        sha: 40 hex digits.
        parent: The one before; empty for the first.
        number: The version whose payload it holds; None if it holds none.
        told: A digest of what was said of the adapter then.
        title: One line.
        message: What else was said of the change.
        author: Who made it.
        created: UTC time, ISO 8601.
    """

    id: int
    sha: str
    parent: str
    number: int | None
    told: str
    title: str
    message: str
    author: str
    created: str


@dataclass(frozen=True)
class Refs:
    """The names of commits: branches and tags to their SHA."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


def git_sha1(content: bytes) -> str:
    """Return the name that git gives to bytes.

    Example:
        >>> git_sha1(b"ink")
        '1b0194a362484d7dbcbbb9df648da33a86573b8a'
    """
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


def is_kept_by_lfs(path: str, size: int) -> bool:
    """Say whether a file comes by Git LFS, and is known by its SHA-256."""
    return size > LFS_BYTES or (size > 0 and path.lower().endswith(".safetensors"))


def find_commit(read: Read, adapter_id: int, revision: str) -> Commit | None:
    """Return what a branch, `v3`, an alias, or a SHA of 7 and more digits names; None if there is no such."""
    found = read_branch(read, adapter_id, revision)
    if found is not None:
        return found
    if match := re.fullmatch(r"v([0-9]{1,9})", revision):
        return version_commit(read, adapter_id, int(match[1]))
    numbers = read("SELECT number FROM alias WHERE adapter_id = ? AND name = ?", [adapter_id, revision])
    if numbers:
        return version_commit(read, adapter_id, numbers[0][0])
    if not re.fullmatch(r"[0-9a-f]{7,40}", revision):
        return None
    rows = read(f"{COMMITS} sha BETWEEN ? AND ? LIMIT 2", [adapter_id, revision, f"{revision}g"])
    return Commit(*rows[0]) if len(rows) == 1 else None


def read_branch(read: Read, adapter_id: int, name: str) -> Commit | None:
    """Return the commit at which a branch stands."""
    query = f"{COMMITS} id = (SELECT commit_id FROM hub_branch WHERE adapter_id = ? AND name = ?)"  # noqa: S608
    rows = read(query, [adapter_id, adapter_id, name])
    return Commit(*rows[0]) if rows else None


def version_commit(read: Read, adapter_id: int, number: int) -> Commit | None:
    """Return the commit that published a version."""
    rows = read(f"{COMMITS} number = ? ORDER BY id LIMIT 1", [adapter_id, number])
    return Commit(*rows[0]) if rows else None


def newest_commit(read: Read, adapter_id: int, number: int) -> Commit | None:
    """Return the newest commit that holds the payload of a version."""
    rows = read(f"{COMMITS} number = ? ORDER BY id DESC LIMIT 1", [adapter_id, number])
    return Commit(*rows[0]) if rows else None


def read_tree(read: Read, commit: Commit) -> dict[str, TreeFile]:
    """Return the files of a commit by path."""
    query = "SELECT path, size, sha256, git_sha1, preview FROM hub_file WHERE commit_id = ? ORDER BY path"
    return {path: TreeFile(*values) for path, *values in read(query, [commit.id])}


def list_commits(read: Read, adapter_id: int, start: Commit, limit: int) -> list[Commit]:
    """Return a commit and those before it, newest first."""
    query = f"""
        WITH RECURSIVE line(id, depth) AS (
            SELECT ?, 1 UNION ALL
            SELECT older.id, depth + 1 FROM line
            JOIN hub_commit newer ON newer.id = line.id
            JOIN hub_commit older ON older.adapter_id = newer.adapter_id AND older.sha = newer.parent
            WHERE depth < ?)
        {COMMITS} id IN (SELECT id FROM line) ORDER BY id DESC"""  # noqa: S608
    return [Commit(*row) for row in read(query, [start.id, limit, adapter_id])]


def list_refs(read: Read, adapter_id: int) -> Refs:
    """Return branches and tags; a tag is `v` and a version's number, or an alias."""
    branches = read(
        "SELECT name, sha FROM hub_branch JOIN hub_commit ON hub_commit.id = commit_id "
        "WHERE hub_branch.adapter_id = ? AND NOT is_gone ORDER BY name",
        [adapter_id],
    )
    query = (
        "SELECT number, sha FROM hub_commit WHERE id IN (SELECT min(id) FROM hub_commit "
        "WHERE adapter_id = ? AND number IS NOT NULL AND NOT is_gone GROUP BY number) ORDER BY number"
    )
    published = dict(read(query, [adapter_id]))
    aliases = read("SELECT name, number FROM alias WHERE adapter_id = ? ORDER BY name", [adapter_id])
    tags = {f"v{number}": sha for number, sha in published.items()}
    tags |= {name: published[number] for name, number in aliases if number in published}
    return Refs(dict(branches), tags)


def told_digest(read: Read, adapter_id: int) -> str:
    """Return a digest of what `main` shows: the newest version, what lies beside it, what is said."""
    (row,) = read(
        "SELECT title, description, card, kind, settings, head_id FROM adapter WHERE id = ?", [adapter_id]
    )
    *said, head = row
    versions = read("SELECT digest FROM version WHERE id = ?", [head])
    tags = read("SELECT tag FROM tag WHERE adapter_id = ? ORDER BY tag", [adapter_id])
    documents = read("SELECT name, sha256 FROM document WHERE version_id = ? ORDER BY name", [head])
    previews = read("SELECT sha256, prompt FROM preview WHERE version_id = ? ORDER BY id", [head])
    text = json.dumps([said, versions, tags, documents, previews])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
