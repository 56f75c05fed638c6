"""Text that fits a terminal: columns shortened, values wrapped, nothing that moves the cursor."""

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

NARROWEST = 8
GAP = "  "


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def printable(text: str) -> str:
    """Return text in one line without control characters: descriptions come from anybody.

    Example:
        >>> printable("soft\\nink \\x1b[31m")
        'soft ink ?[31m'
    """
    joined = " ".join(text.split())
    if joined.isprintable():
        return joined
    return "".join("?" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in joined)


def columns_of(text: str) -> int:
    """Return how many columns a terminal needs for a text."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(letter) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def shortened(text: str, width: int) -> str:
    """Return text in at most that many columns, with an ellipsis for what was left out.

    Example:
        >>> shortened("watercolour", 6)
        'water…'
    """
    if columns_of(text) <= width:
        return text
    while text and columns_of(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def table_lines(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return rows as aligned lines; the widest columns are shortened until all fits the width.

    Args:
        rows: Cells, the same number in each row.
        width: In columns; None for as wide as it gets.
    """
    cells = [[printable(text) for text in row] for row in rows]
    widths = [max(columns_of(row[number]) for row in cells) for number in range(len(cells[0]))]
    gaps = len(GAP) * (len(widths) - 1)
    while width is not None and sum(widths) + gaps > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    lines: list[str] = []
    for row in cells:
        short = [shortened(text, size) for text, size in zip(row, widths, strict=True)]
        padded = [text + " " * (size - columns_of(text)) for text, size in zip(short, widths, strict=True)]
        lines.append(GAP.join(padded).rstrip())
    return lines


def field_lines(names: Sequence[str], values: Sequence[str], width: int | None) -> list[str]:
    """Return a line for each name and value; long values go on below themselves.

    Args:
        names: Of the fields.
        values: Of the fields; may be empty.
        width: In columns; None for one line each.
    """
    indent = max(map(len, names)) + len(GAP)
    room = None if width is None else max(width - indent, 2 * NARROWEST)
    lines: list[str] = []
    for name, value in zip(names, values, strict=True):
        text = printable(value)
        parts = [text] if room is None else textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        lines.append(f"{name.ljust(indent)}{parts[0]}".rstrip())
        lines += [f"{' ' * indent}{part}" for part in parts[1:]]
    return lines
