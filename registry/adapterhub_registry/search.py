"""Finding adapters by words and by what is known of them: SQLite's FTS5, filters, keyset paging."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adapterhub_registry.database import Read
from adapterhub_registry.errors import FieldError
from adapterhub_registry.publication import Adapter
from adapterhub_registry.reading import list_adapters

SORTS = ("relevance", "name", "updated", "created")
PAGE = 50
MAX_PAGE = 1000
SHORTEST_PREFIX = 2
# Weights of the columns name, title, description, triggers, tags in the ranking (bm25: smaller is better).
RANK = "bm25(search, 10.0, 8.0, 2.0, 6.0, 4.0)"


@dataclass(frozen=True)
class Filters:
    """What an adapter's newest published version, or the adapter itself, must be; None asks for nothing.

    Attributes:
        tags: All of these.
        kind: style, subject, concept, slider or other.
        architecture: `sdxl`, `mini`, ...
        algorithm: `lora`, `locon`, ...
        licence: As it was given.
        rank: One of its ranks.
        author: Who added the version.
        operation: `trained`, `imported`, `merged`, ...
        has_preview: Whether the version has a picture.
        namespace: The first part of the name.
        readable: Public, or in one of these namespaces; a server asks for it.
    """

    tags: Sequence[str] = ()
    kind: str | None = None
    architecture: str | None = None
    algorithm: str | None = None
    licence: str | None = None
    rank: int | None = None
    author: str | None = None
    operation: str | None = None
    has_preview: bool | None = None
    namespace: str | None = None
    readable: Sequence[str] | None = None


@dataclass(frozen=True)
class SearchPage:
    """One page of adapters, in order.

    Attributes:
        adapters: At most as many as were asked for.
        next: What to pass as `after` for the next page; None at the end.
    """

    adapters: tuple[Adapter, ...]
    next: str | None

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self.adapters)

    def __len__(self) -> int:
        return len(self.adapters)


def search(
    read: Read,
    query: str,
    filters: Filters,
    *,
    sort: str | None,
    limit: int,
    after: str | None,
) -> SearchPage:
    """Return a page of adapters; see `Registry.search`."""
    sort = sort or ("relevance" if query.strip() else "name")
    if sort not in SORTS:
        raise FieldError("sort", sort, f"one of {', '.join(SORTS)}")
    if not 1 <= limit <= MAX_PAGE:
        raise FieldError("limit", str(limit), f"1 to {MAX_PAGE}")
    words = match_expression(query)
    if sort == "relevance" and not words:
        sort = "name"
    where, values = _where(filters)
    is_of_version = any("v." in condition for condition in where)
    where.append("a.head_id IS NOT NULL")
    tables = "adapter a JOIN version v ON v.id = a.head_id" if is_of_version else "adapter a"
    keys = {
        "name": "a.namespace || '/' || a.name",
        "updated": "a.updated",
        "created": "a.created",
        "relevance": RANK,
    }
    key = keys[sort]
    if words:
        tables = f"search JOIN {tables}"
        where.append("a.id = search.rowid")
        where.append("search MATCH :words")
        values["words"] = words
    is_falling = sort in ("updated", "created")
    if after is not None:
        values["after_key"], values["after_id"] = _read_token(after, sort)
        sign = "<" if is_falling else ">"
        where.append(f"({key}, a.id) {sign} (:after_key, :after_id)")
    if sort == "name":
        order = "a.namespace, a.name"
        if after is not None:
            where[-1] = "(a.namespace, a.name) > (:after_namespace, :after_name)"
            namespace, _, name = str(values.pop("after_key")).partition("/")
            values.pop("after_id")
            values |= {"after_namespace": namespace, "after_name": name}
    else:
        order = f"{key} {'DESC' if is_falling else 'ASC'}, a.id {'DESC' if is_falling else 'ASC'}"
    values["limit"] = limit + 1
    condition = " AND ".join(where)
    # All text in this statement is ours; what users give is bound.
    statement = f"SELECT a.id, {key} AS key FROM {tables} WHERE {condition} ORDER BY {order} LIMIT :limit"  # noqa: S608
    found = read(statement, values)
    adapters = list_adapters(read, [found_id for found_id, _ in found[:limit]])
    token = None
    if len(found) > limit:
        last_id, last_key = found[limit - 1]
        token = base64.urlsafe_b64encode(json.dumps([sort, last_key, last_id]).encode()).decode()
    return SearchPage(tuple(adapters), token)


def match_expression(query: str) -> str:
    """Return an FTS5 expression that asks for every word, longer ones as prefixes; nothing of it is syntax.

    Example:
        >>> match_expression('Ink  wash "OR')
        '"ink"* "wash"* "or"*'
    """
    words = re.findall(r"\w+", query.lower().replace("_", " "))
    return " ".join(f'"{word}"*' if len(word) >= SHORTEST_PREFIX else f'"{word}"' for word in words)


def _where(filters: Filters) -> tuple[list[str], dict[str, Any]]:
    where: list[str] = []
    values: dict[str, Any] = {}
    columns = {
        "kind": "a.kind",
        "architecture": "v.architecture",
        "algorithm": "v.algorithm",
        "licence": "v.licence",
        "author": "v.author",
        "operation": "v.operation",
        "namespace": "a.namespace",
    }
    for name, column in columns.items():
        value = getattr(filters, name)
        if value is not None:
            where.append(f"{column} = :{name}")
            values[name] = value
    if filters.rank is not None:
        where.append("' ' || v.ranks || ' ' LIKE :rank")
        values["rank"] = f"% {filters.rank} %"
    if filters.readable is not None:
        among = ["a.visibility = 'public'"]
        for number, name in enumerate(filters.readable):
            among.append(f"a.namespace = :readable{number}")
            values[f"readable{number}"] = name
        where.append(f"({' OR '.join(among)})")
    for number, tag in enumerate(filters.tags):
        where.append(f"a.id IN (SELECT adapter_id FROM tag WHERE tag = :tag{number})")  # noqa: S608
        values[f"tag{number}"] = tag.strip().lower()
    if filters.has_preview is not None:
        found = "EXISTS (SELECT 1 FROM preview p WHERE p.version_id = a.head_id)"
        where.append(found if filters.has_preview else f"NOT {found}")
    return where, values


def _read_token(token: str, sort: str) -> tuple[Any, int]:
    try:
        kind, key, last = json.loads(base64.urlsafe_b64decode(token.encode()))
        if kind != sort or not isinstance(last, int) or not isinstance(key, str | float | int):
            raise ValueError(kind)
    except (ValueError, TypeError) as exc:
        raise FieldError("after", token, "what `next` of the page before said, with the same sort") from exc
    return key, last
