"""Lineage as a tree, both ways: what a version was made of, and what was made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from adapterhub_registry.tables import AdapterRow, ParentRow, VersionRow

MAX_DEPTH = 50
MAX_NODES = 500
"""Each way; who wants more of a family asks for the lineage of one of its members."""


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
        is_cut: Whether it has more relatives, which were left out because there are too many. One that is met
            a second time has none either, but they stand where it was met first.
    """

    label: str
    digest: str
    operation: str
    weight: str
    is_here: bool
    parents: Sequence["LineageNode"] = ()
    children: Sequence["LineageNode"] = ()
    is_cut: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as dicts and lists."""
        return {
            "label": self.label,
            "digest": self.digest,
            "operation": self.operation,
            "weight": self.weight,
            "is_here": self.is_here,
            "is_cut": self.is_cut,
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
        facts.append("not all is listed" if self.is_cut else "")
        told = ", ".join(fact for fact in facts if fact)
        return f"{self.label}  ({told})" if told else self.label


def lineage_of(session: Session, adapter: AdapterRow, row: VersionRow) -> LineageNode:
    """Return the tree around a version."""
    parents, has_more_parents = _Walk(session, row.digest).parents(row)
    children, has_more_children = _Walk(session, row.digest).children(row)
    return _node(row, adapter, "", parents, children, is_cut=has_more_parents or has_more_children)


class _Walk:
    """One way from a version: relatives of each digest once, because in diamonds the paths double each time.

    Args:
        session: Where to look.
        digest: Of the version.
    """

    def __init__(self, session: Session, digest: str) -> None:
        self._session, self._seen, self._left = session, {digest}, MAX_NODES

    def parents(self, row: VersionRow, depth: int = 0) -> tuple[list[LineageNode], bool]:
        """Return what a version was made of, and whether some of it was left out."""
        edges = self._session.exec(
            select(ParentRow)
            .where(ParentRow.version_id == row.id)
            .order_by(col(ParentRow.position))
            .limit(self._left + 1)
        ).all()
        nodes: list[LineageNode] = []
        for edge in edges:
            if not self._may_go_on(depth):
                return nodes, True
            found = _by_digest(self._session, edge.digest)
            if not found:
                name = edge.name or edge.digest[:19]
                nodes.append(LineageNode(name, edge.digest, "", edge.weight, is_here=False))
                continue
            above, is_cut = self.parents(found[0], depth + 1) if self._is_first(edge.digest) else ([], False)
            nodes.append(_node(*found, edge.weight, parents=above, is_cut=is_cut))
        return nodes, False

    def children(self, row: VersionRow, depth: int = 0) -> tuple[list[LineageNode], bool]:
        """Return what was made of a version, and whether some of it was left out."""
        rows = self._session.exec(
            select(ParentRow, VersionRow, AdapterRow)
            .join(VersionRow, col(VersionRow.id) == ParentRow.version_id)
            .join(AdapterRow, col(AdapterRow.id) == VersionRow.adapter_id)
            .where(ParentRow.digest == row.digest, VersionRow.state != "deleted")
            .order_by(col(AdapterRow.namespace), col(AdapterRow.name), col(VersionRow.number))
            .limit(self._left + 1)
        ).all()
        nodes: list[LineageNode] = []
        for edge, child, adapter in rows:
            if not self._may_go_on(depth):
                return nodes, True
            below, is_cut = self.children(child, depth + 1) if self._is_first(child.digest) else ([], False)
            nodes.append(_node(child, adapter, edge.weight, children=below, is_cut=is_cut))
        return nodes, False

    def _may_go_on(self, depth: int) -> bool:
        if self._left == 0 or depth > MAX_DEPTH:
            return False
        self._left -= 1
        return True

    def _is_first(self, digest: str) -> bool:
        is_first = digest not in self._seen
        self._seen.add(digest)
        return is_first


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
    parents: Sequence[LineageNode] = (),
    children: Sequence[LineageNode] = (),
    *,
    is_cut: bool,
) -> LineageNode:
    label = f"{adapter.namespace}/{adapter.name}@{row.number}"
    operation = "deleted" if row.state == "deleted" else row.operation
    return LineageNode(label, row.digest, operation, weight, True, tuple(parents), tuple(children), is_cut)
