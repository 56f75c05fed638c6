"""Lineage as a tree, both ways: what a version was made of, and what was made of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from adapterhub_registry.tables import AdapterRow, ParentRow, VersionRow

MAX_DEPTH = 50


@dataclass(frozen=True)
class LineageNode:
    """One version in a lineage.

    Attributes:
        label: `namespace/name@number`; for what is not in this registry, the name that the child recorded.
        digest: Of the version, or of the file that it was.
        operation: How it came about: `trained`, `merged`, ...; empty if it is not here.
        weight: With which weight it went into its child; empty where there is none.
        is_here: Whether this registry has it.
        parents: What it was made of.
        children: What was made of it; only of the version that was asked for, and of its children in turn.
    """

    label: str
    digest: str
    operation: str
    weight: str
    is_here: bool
    parents: Sequence["LineageNode"] = ()
    children: Sequence["LineageNode"] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as dicts and lists."""
        return {
            "label": self.label,
            "digest": self.digest,
            "operation": self.operation,
            "weight": self.weight,
            "is_here": self.is_here,
            "parents": [node.as_json() for node in self.parents],
            "children": [node.as_json() for node in self.children],
        }

    def as_mermaid(self) -> str:
        """Return a Mermaid flow chart, parents above children."""
        lines = ["graph TD"]
        names: dict[str, str] = {}
        edges: dict[tuple[str, str], str] = {}

        def name_of(node: LineageNode) -> str:
            if node.digest not in names:
                names[node.digest] = f"n{len(names)}"
                text = f"{node.label}<br>{node.operation}" if node.operation else node.label
                lines.append(f'  {names[node.digest]}["{text}"]')
            return names[node.digest]

        def walk(node: LineageNode) -> None:
            own = name_of(node)
            for parent in node.parents:
                edges[name_of(parent), own] = parent.weight
                walk(parent)
            for child in node.children:
                edges[own, name_of(child)] = child.weight
                walk(child)

        walk(self)
        for (first, second), weight in edges.items():
            lines.append(f"  {first} -->|{weight}| {second}" if weight else f"  {first} --> {second}")
        return "\n".join(lines)

    def as_lines(self) -> list[str]:
        """Return a tree of text: ancestors indented below, then descendants."""
        lines = [self._line(), *self._branch(self.parents, "made of ", "parents")]
        return lines + self._branch(self.children, "used in ", "children")

    def _branch(self, nodes: Sequence["LineageNode"], word: str, side: str) -> list[str]:
        lines: list[str] = []
        for number, node in enumerate(nodes):
            is_last = number == len(nodes) - 1
            lines.append(f"{'└─ ' if is_last else '├─ '}{word}{node._line()}")
            rest = node._branch(getattr(node, side), word, side)
            lines += [f"{'   ' if is_last else '│  '}{line}" for line in rest]
        return lines

    def _line(self) -> str:
        facts = [self.operation, f"weight {self.weight}" if self.weight else ""]
        facts.append("" if self.is_here else "not in this registry")
        told = ", ".join(fact for fact in facts if fact)
        return f"{self.label}  ({told})" if told else self.label


def lineage_of(session: Session, adapter: AdapterRow, row: VersionRow) -> LineageNode:
    """Return the tree around a version."""
    parents = tuple(_parents(session, row, {row.digest}))
    children = tuple(_children(session, row.digest, {row.digest}))
    return _node(row, adapter, "", parents=parents, children=children)


def _parents(session: Session, row: VersionRow, seen: set[str]) -> Iterator[LineageNode]:
    edges = session.exec(
        select(ParentRow).where(ParentRow.version_id == row.id).order_by(col(ParentRow.position))
    ).all()
    for edge in edges:
        found = _by_digest(session, edge.digest)
        if not found or edge.digest in seen or len(seen) > MAX_DEPTH:
            yield LineageNode(edge.name or edge.digest[:19], edge.digest, "", edge.weight, bool(found))
            continue
        above = tuple(_parents(session, found[0], {*seen, edge.digest}))
        yield _node(*found, edge.weight, parents=above)


def _children(session: Session, digest: str, seen: set[str]) -> Iterator[LineageNode]:
    rows = session.exec(
        select(ParentRow, VersionRow, AdapterRow)
        .join(VersionRow, col(VersionRow.id) == ParentRow.version_id)
        .join(AdapterRow, col(AdapterRow.id) == VersionRow.adapter_id)
        .where(ParentRow.digest == digest, VersionRow.state != "deleted")
        .order_by(col(AdapterRow.namespace), col(AdapterRow.name), col(VersionRow.number))
    ).all()
    for edge, row, adapter in rows:
        below = ()
        if row.digest not in seen and len(seen) <= MAX_DEPTH:
            below = tuple(_children(session, row.digest, {*seen, row.digest}))
        yield _node(row, adapter, edge.weight, children=below)


def _by_digest(session: Session, digest: str) -> tuple[VersionRow, AdapterRow] | None:
    return session.exec(
        select(VersionRow, AdapterRow)
        .join(AdapterRow, col(AdapterRow.id) == VersionRow.adapter_id)
        .where(VersionRow.digest == digest)
        .order_by(col(VersionRow.id))
    ).first()


def _node(
    row: VersionRow,
    adapter: AdapterRow,
    weight: str,
    *,
    parents: Sequence[LineageNode] = (),
    children: Sequence[LineageNode] = (),
) -> LineageNode:
    label = f"{adapter.namespace}/{adapter.name}@{row.number}"
    operation = "deleted" if row.state == "deleted" else row.operation
    return LineageNode(label, row.digest, operation, weight, True, parents, children)
