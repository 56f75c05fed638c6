"""An index of the adapters in memory: a bit for each, so that a page finds and counts in microseconds."""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from adapterhub_registry.database import Read
from adapterhub_registry.search import RANK, Filters, match_expression

FACETS = ("kind", "architecture", "tag", "licence", "rank")
SORTS = ("relevance", "updated", "created", "name")
RELOAD_ABOVE = 200
"""So many changed adapters are not looked at one by one."""
RANKED = 2000
"""Words that more adapters have say little; those are ordered by time."""
REMEMBERED = 256
ADAPTERS = """
    SELECT a.id, a.namespace, a.name, a.created, a.updated, a.visibility = 'public', a.kind,
        v.architecture, v.licence, v.ranks, (SELECT group_concat(tag, ' ') FROM tag WHERE adapter_id = a.id)
    FROM adapter a JOIN version v ON v.id = a.head_id"""
MATCHES = "SELECT rowid FROM search WHERE search MATCH ?"
RANKS = f"SELECT rowid FROM search WHERE search MATCH ? ORDER BY {RANK}, rowid"  # noqa: S608 - our own text
Mark = tuple[str, str]


@dataclass(frozen=True)
class Found:
    """What is found.

    Attributes:
        total: How many adapters.
        keys: Of those on the page, in order.
        facets: Facet to its values with their numbers, the most frequent first; those of a facet that was
            chosen are counted as if it was not, because another value may be chosen in its place.
    """

    total: int
    keys: Sequence[int]
    facets: Mapping[str, Sequence[tuple[str, int]]]


@dataclass(frozen=True)
class Entry:
    """What is remembered of an adapter: what it is found by, and what it is ordered by."""

    marks: frozenset[Mark]
    name: tuple[str, str]
    created: str
    updated: str


@dataclass(frozen=True)
class Matches:
    """The adapters that have some words: as bits, and by relevance if they are not too many."""

    bits: int
    keys: Sequence[int]


@dataclass
class Index:
    """Finds, counts and orders adapters; follows the log of events, whichever process wrote them.

    Bits are numbered by the adapters' keys, and a set of adapters is one whole number.
    """

    _seen: int = -1
    _bits: dict[Mark, int] = field(default_factory=dict[Mark, int])
    _entries: dict[int, Entry] = field(default_factory=dict[int, Entry])
    _orders: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    _words: OrderedDict[str, Matches] = field(default_factory=OrderedDict[str, Matches])
    _lock: Lock = field(default_factory=Lock)

    def find(self, read: Read, query: str, filters: Filters, *, sort: str, start: int, count: int) -> Found:
        """Return a page of adapters, and how many there are of what.

        Args:
            read: A snapshot.
            query: Words.
            filters: `readable` must say what may be seen; of the others those that are facets, and
                `namespace`, are followed.
            sort: One of `SORTS`.
            start: How many come before.
            count: How many are wanted.
        """
        with self._lock:
            self._follow(read)
            matches = self._matches(read, query)
            visible, chosen = self._visible(filters), self._chosen(filters)
            found = visible if matches is None else visible & matches.bits
            total = found
            for bits in chosen.values():
                total &= bits
            order = self._order(sort)
            if sort == "relevance" and matches is not None and matches.keys:
                order = matches.keys
            return Found(total.bit_count(), _page(order, total, start, count), self._facets(found, chosen))

    def _matches(self, read: Read, query: str) -> Matches | None:
        """Return the adapters that have all words; None without words."""
        words = match_expression(query)
        if not words:
            return None
        known = self._words.get(words)
        if known is None:
            keys = [key for (key,) in read(MATCHES, [words])]
            ranked = [key for (key,) in read(RANKS, [words])] if len(keys) <= RANKED else []
            known = self._words[words] = Matches(_number(keys), ranked)
            if len(self._words) > REMEMBERED:
                self._words.popitem(last=False)
        return known

    def _visible(self, filters: Filters) -> int:
        visible = self._bits.get(("", "public"), 0)
        for namespace in filters.readable or ():
            visible |= self._bits.get(("namespace", namespace), 0)
        if filters.namespace is not None:
            visible &= self._bits.get(("namespace", filters.namespace), 0)
        return visible

    def _chosen(self, filters: Filters) -> dict[str, int]:
        """Return facet to the adapters that have all values that were chosen."""
        chosen: dict[str, int] = {}
        for name, values in _wanted(filters).items():
            chosen[name] = -1
            for value in values:
                chosen[name] &= self._bits.get((name, value), 0)
        return chosen

    def _facets(self, found: int, chosen: Mapping[str, int]) -> Mapping[str, Sequence[tuple[str, int]]]:
        among: dict[str, int] = {}
        for name in FACETS:
            among[name] = found
            for other, bits in chosen.items():
                # An adapter has many tags, and they narrow each other.
                among[name] &= bits if other != name or name == "tag" else -1
        tally: dict[str, Counter[str]] = {name: Counter() for name in FACETS}
        for (name, value), bits in self._bits.items():
            if name in tally and value and (count := (bits & among[name]).bit_count()):
                tally[name][value] = count
        facets = {
            name: sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            for name, counts in tally.items()
        }
        facets["rank"].sort(key=lambda item: int(item[0]))
        return facets

    def _order(self, sort: str) -> list[int]:
        """Return all adapters in an order, which stays until one is changed."""
        if sort not in self._orders:
            if sort == "name":
                keys = sorted(self._entries, key=lambda key: self._entries[key].name)
            elif sort == "created":
                keys = sorted(self._entries, key=lambda key: (self._entries[key].created, key), reverse=True)
            else:
                keys = sorted(self._entries, key=lambda key: (self._entries[key].updated, key), reverse=True)
            self._orders[sort] = keys
        return self._orders[sort]

    def _follow(self, read: Read) -> None:
        """Look at what changed since."""
        last = read("SELECT coalesce(max(id), 0) FROM event")[0][0]
        if last <= self._seen:  # a snapshot may be older than another reader's
            return
        rows = read("SELECT DISTINCT subject FROM event WHERE id > ? LIMIT ?", [self._seen, RELOAD_ABOVE + 1])
        self._orders.clear()
        self._words.clear()
        if self._seen < 0 or len(rows) > RELOAD_ABOVE:
            self._entries = {row[0]: _entry(*row[1:]) for row in read(ADAPTERS)}
            keys: dict[Mark, list[int]] = {}
            for key, entry in self._entries.items():
                for mark in entry.marks:
                    keys.setdefault(mark, []).append(key)
            self._bits = {mark: _number(found) for mark, found in keys.items()}
        else:
            for name in {str(subject).partition("@")[0] for (subject,) in rows}:
                self._look(read, name)
        self._seen = last

    def _look(self, read: Read, name: str) -> None:
        """Look at an adapter again."""
        namespace, _, short = name.partition("/")
        for (key,) in read("SELECT id FROM adapter WHERE namespace = ? AND name = ?", [namespace, short]):
            if (before := self._entries.pop(key, None)) is not None:
                for mark in before.marks:
                    self._bits[mark] &= ~(1 << key)
            for row in read(f"{ADAPTERS} WHERE a.id = ?", [key]):
                self._entries[key] = _entry(*row[1:])
                for mark in self._entries[key].marks:
                    self._bits[mark] = self._bits.get(mark, 0) | 1 << key


def _entry(
    namespace: str,
    name: str,
    created: str,
    updated: str,
    is_public: int,
    kind: str,
    architecture: str,
    licence: str,
    ranks: str,
    tags: str | None,
) -> Entry:
    marks = {("namespace", namespace), ("kind", kind), ("architecture", architecture), ("licence", licence)}
    marks |= {("rank", rank) for rank in ranks.split() if rank.isdecimal()}
    marks |= {("tag", tag) for tag in (tags or "").split()}
    if is_public:
        marks.add(("", "public"))
    return Entry(frozenset(marks), (namespace, name), created, updated)


def _page(order: Iterable[int], wanted: int, start: int, count: int) -> list[int]:
    """Return the keys from a place on, of those whose bits are set."""
    bits, page = wanted.to_bytes((wanted.bit_length() >> 3) + 1, "little"), list[int]()
    size = len(bits)
    for key in order:
        if key >> 3 < size and bits[key >> 3] >> (key & 7) & 1:
            if start:
                start -= 1
                continue
            page.append(key)
            if len(page) == count:
                break
    return page


def _wanted(filters: Filters) -> dict[str, Sequence[str]]:
    """Return facet to the values that must all be there."""
    one = {"kind": filters.kind, "architecture": filters.architecture, "licence": filters.licence}
    chosen: dict[str, Sequence[str]] = {name: [value] for name, value in one.items() if value is not None}
    if filters.rank is not None:
        chosen["rank"] = [str(filters.rank)]
    if filters.tags:
        chosen["tag"] = [tag.strip().lower() for tag in filters.tags]
    return chosen


def _number(keys: Iterable[int]) -> int:
    """Return the whole number in which the bits of these places are set."""
    found = sorted(keys)
    bits = bytearray((found[-1] >> 3) + 1 if found else 0)
    for key in found:
        bits[key >> 3] |= 1 << (key & 7)
    return int.from_bytes(bits, "little")


def shown_values(
    values: Sequence[tuple[str, int]], chosen: Sequence[str], most: int
) -> list[tuple[str, int]]:
    """Return the first values, and those that were chosen wherever they stand."""
    known = dict(values)
    kept = list(values[:most])
    return kept + [(value, known.get(value, 0)) for value in chosen if value not in dict(kept)]


def is_rank(text: str) -> bool:
    """Say whether a text is a rank to look for."""
    return re.fullmatch(r"[1-9]\d{0,6}", text) is not None
