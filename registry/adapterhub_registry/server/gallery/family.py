"""Lineage drawn: columns from the oldest ancestor to the youngest descendant, as numbers for an SVG."""

from collections.abc import Iterator
from dataclasses import dataclass

from adapterhub_registry.ancestry import LineageNode

WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 208, 52, 76, 18, 10
MOST = 60
"""Versions that are drawn; beyond them a picture tells nobody anything."""
LABEL = 25


@dataclass(frozen=True)
class Box:
    """A version in the drawing.

    Attributes:
        label: As it fits the box.
        title: All of it.
        note: How it came about.
        link: Its page; empty for what is not here.
        is_focus: Whether the drawing is about it.
        x: Of the left upper corner.
        y: Likewise.
    """

    label: str
    title: str
    note: str
    link: str
    is_focus: bool
    x: int
    y: int


@dataclass(frozen=True)
class Line:
    """What goes from a parent to its child: a path, and the weight with where it is written."""

    path: str
    weight: str
    x: int
    y: int


@dataclass(frozen=True)
class Drawing:
    """A lineage, drawn."""

    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]
    is_cut: bool


def draw_family(node: LineageNode) -> Drawing | None:
    """Return the drawing of a lineage; None where there is nothing but the version itself."""
    if not node.parents and not node.children:
        return None
    depths: dict[str, int] = {}
    nodes: dict[str, LineageNode] = {}
    edges: dict[tuple[str, str], str] = {}
    is_cut = False
    for found, depth, parent, child, weight in _walk(node):
        if found.digest not in nodes and len(nodes) >= MOST:
            is_cut = True
            continue
        nodes.setdefault(found.digest, found)
        # One that is met twice stands where all its children are to the right.
        known = depths.setdefault(found.digest, depth)
        depths[found.digest] = min(known, depth) if depth < 0 else max(known, depth)
        if parent in nodes and child in nodes:
            edges[parent, child] = weight
    first = min(depths.values())
    columns: dict[int, list[str]] = {}
    for digest, depth in depths.items():
        columns.setdefault(depth - first, []).append(digest)
    tallest = max(len(column) for column in columns.values())
    height = tallest * (HEIGHT + DOWN) - DOWN + 2 * MARGIN
    places: dict[str, tuple[int, int]] = {}
    for column, digests in columns.items():
        used = len(digests) * (HEIGHT + DOWN) - DOWN
        for row, digest in enumerate(digests):
            y = (height - used) // 2 + row * (HEIGHT + DOWN)
            places[digest] = MARGIN + column * (WIDTH + ACROSS), y
    boxes = [_box(nodes[digest], *place, digest == node.digest) for digest, place in places.items()]
    lines = [_line(places[one], places[other], weight) for (one, other), weight in edges.items()]
    width = len(columns) * (WIDTH + ACROSS) - ACROSS + 2 * MARGIN
    return Drawing(width, height, boxes, lines, is_cut)


def _walk(node: LineageNode, depth: int = 0) -> Iterator[tuple[LineageNode, int, str, str, str]]:
    """Yield each version with its column, and the edge by which it was reached."""
    if depth == 0:
        yield node, 0, "", "", ""
    if depth <= 0:
        for parent in node.parents:
            yield parent, depth - 1, parent.digest, node.digest, parent.weight
            yield from _walk(parent, depth - 1)
    if depth >= 0:
        for child in node.children:
            yield child, depth + 1, node.digest, child.digest, child.weight
            yield from _walk(child, depth + 1)


def _box(node: LineageNode, x: int, y: int, is_focus: bool) -> Box:
    label = node.label if len(node.label) <= LABEL else f"{node.label[: LABEL - 1]}…"
    is_linked = node.is_here and node.operation != "deleted" and "/" in node.label and not is_focus
    name, _, number = node.label.rpartition("@")
    link = f"/{name}?version={number}" if is_linked else ""
    note = node.operation if node.is_here else "not in this registry"
    return Box(label, node.label, note, link, is_focus, x, y)


def _line(start: tuple[int, int], end: tuple[int, int], weight: str) -> Line:
    x1, y1 = start[0] + WIDTH, start[1] + HEIGHT // 2
    x2, y2 = end[0], end[1] + HEIGHT // 2
    middle = (x1 + x2) // 2
    return Line(f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}", weight, middle, (y1 + y2) // 2 - 6)
