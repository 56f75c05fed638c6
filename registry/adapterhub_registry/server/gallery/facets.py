"""How many adapters are of which kind: one bit for each adapter, so that a page counts all in microseconds."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from adapterhub_registry.database import Read
from adapterhub_registry.search import Filters, match_expression

FACETS = ("kind", "architecture", "tag", "licence", "rank")
RELOAD_ABOVE = 200
"""So many changed adapters are not looked at one by one."""
ADAPTERS = """
    SELECT a.id, a.namespace, a.visibility = 'public', a.kind, v.architecture, v.licence, v.ranks,
        (SELECT group_concat(tag, ' ') FROM tag WHERE adapter_id = a.id)
    FROM adapter a JOIN version v ON v.id = a.head_id"""
MATCHES = "SELECT rowid FROM search WHERE search MATCH ?"
Mark = tuple[str, str]


@dataclass(frozen=True)
class Counts:
    """What is found.

    Attributes:
        total: Adapters.
        facets: Facet to its values with their numbers, the most frequent first; those of a facet that was
            chosen are counted as if it was not, because another value may be chosen in its place.
    """

    total: int
    facets: Mapping[str, Sequence[tuple[str, int]]]


@dataclass
class Facets:
    """Counts what the visible adapters are; follows the log of events, whichever process wrote them.

    Bits are numbered by the adapters' keys, and a set of adapters is one whole number.
    """

    _seen: int = -1
    _bits: dict[Mark, int] = field(default_factory=dict[Mark, int])
    _marks: dict[int, frozenset[Mark]] = field(default_factory=dict[int, frozenset[Mark]])
    _lock: Lock = field(default_factory=Lock)

    def count(self, read: Read, query: str, filters: Filters) -> Counts:
        """Count the adapters that a search finds.

        Args:
            read: A snapshot.
            query: Words.
            filters: `readable` must say what may be seen.
        """
        found = -1  # all bits
        if words := match_expression(query):
            found = _number(key for (key,) in read(MATCHES, [words]))
        with self._lock:
            self._follow(read)
            return self._count(found, filters)

    def _count(self, found: int, filters: Filters) -> Counts:
        visible = self._bits.get(("", "public"), 0)
        for namespace in filters.readable or ():
            visible |= self._bits.get(("namespace", namespace), 0)
        found &= visible
        if filters.namespace is not None:
            found &= self._bits.get(("namespace", filters.namespace), 0)
        chosen: dict[str, int] = {}
        for name, values in _chosen(filters).items():
            chosen[name] = -1
            for value in values:
                chosen[name] &= self._bits.get((name, value), 0)
        total = found
        for bits in chosen.values():
            total &= bits
        among = dict.fromkeys(FACETS, total)
        for name in chosen.keys() - {"tag"}:  # an adapter has many tags, and they narrow each other
            others = found
            for other, bits in chosen.items():
                others &= bits if other != name else -1
            among[name] = others
        tally: dict[str, Counter[str]] = {name: Counter() for name in FACETS}
        for (name, value), bits in self._bits.items():
            if name in tally and value and (count := (bits & among[name]).bit_count()):
                tally[name][value] = count
        facets = {
            name: sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            for name, counts in tally.items()
        }
        facets["rank"].sort(key=lambda item: int(item[0]))
        return Counts(total.bit_count(), facets)

    def _follow(self, read: Read) -> None:
        """Look at what changed since."""
        last = read("SELECT coalesce(max(id), 0) FROM event")[0][0]
        if last == self._seen:
            return
        rows = read("SELECT DISTINCT subject FROM event WHERE id > ? LIMIT ?", [self._seen, RELOAD_ABOVE + 1])
        if self._seen < 0 or last < self._seen or len(rows) > RELOAD_ABOVE:
            self._bits, self._marks = {}, {}
            for row in read(ADAPTERS):
                self._set(*row)
            # One assignment a mark: adding bit by bit would copy the whole number each time.
            keys: dict[Mark, list[int]] = {}
            for key, marks in self._marks.items():
                for mark in marks:
                    keys.setdefault(mark, []).append(key)
            self._bits = {mark: _number(found) for mark, found in keys.items()}
        else:
            for name in {str(subject).partition("@")[0] for (subject,) in rows}:
                self._look(read, name)
        self._seen = last

    def _look(self, read: Read, name: str) -> None:
        namespace, _, short = name.partition("/")
        for (key,) in read("SELECT id FROM adapter WHERE namespace = ? AND name = ?", [namespace, short]):
            for mark in self._marks.pop(key, ()):
                self._bits[mark] &= ~(1 << key)
            for row in read(f"{ADAPTERS} WHERE a.id = ?", [key]):
                self._set(*row)
                for mark in self._marks[key]:
                    self._bits[mark] = self._bits.get(mark, 0) | 1 << key

    def _set(
        self,
        key: int,
        namespace: str,
        is_public: int,
        kind: str,
        architecture: str,
        licence: str,
        ranks: str,
        tags: str | None,
    ) -> None:
        marks = {
            ("namespace", namespace),
            ("kind", kind),
            ("architecture", architecture),
            ("licence", licence),
        }
        marks |= {("rank", rank) for rank in ranks.split() if rank.isdecimal()}
        marks |= {("tag", tag) for tag in (tags or "").split()}
        if is_public:
            marks.add(("", "public"))
        self._marks[key] = frozenset(marks)


def _chosen(filters: Filters) -> dict[str, Sequence[str]]:
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
