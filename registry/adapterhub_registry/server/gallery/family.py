"""Lineage drawn: columns from the oldest ancestor to the youngest descendant, as numbers for an SVG."""

from collections import deque
from collections.abc import Collection, Iterator
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
    nodes: dict[str, LineageNode] = {}
    edges: dict[tuple[str, str], str] = {}
    is_cut = False
    for found, parent, child, weight in _walk(node):
        if found.digest not in nodes and len(nodes) >= MOST:
            is_cut = True
            break
        is_cut |= found.is_cut
        nodes.setdefault(found.digest, found)
        if parent:
            edges[parent, child] = weight
    depths = _depths(node.digest, edges)
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


def _walk(node: LineageNode) -> Iterator[tuple[LineageNode, str, str, str]]:
    """Yield each version with the edge by which it was reached; of the one in the middle, none."""
    yield node, "", "", ""
    # The nearest first, so that they are the ones that are drawn.
    waiting = deque([node])
    while waiting:
        one = waiting.popleft()
        for parent in one.parents:
            yield parent, parent.digest, one.digest, parent.weight
        for child in one.children:
            yield child, one.digest, child.digest, child.weight
        waiting.extend([*one.parents, *one.children])


def _depths(middle: str, edges: Collection[tuple[str, str]]) -> dict[str, int]:
    """Return the column of each version: left of all that was made of it, right of all it was made of."""
    depths = {middle: 0}
    for _ in range(MOST):  # more rounds than the longest way has edges
        before = dict(depths)
        for parent, child in edges:
            if depths.get(child, 1) <= 0:
                depths[parent] = min(depths.get(parent, 0), depths[child] - 1)
            elif depths.get(parent, -1) >= 0:
                depths[child] = max(depths.get(child, 0), depths[parent] + 1)
        if depths == before:
            break
    return depths


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
