"""Labelled contact sheets: a grid of pictures to look at."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from adapterhub_registry.files import write_atomically

MARGIN = 8
INK = (32, 32, 32)
PAPER = (255, 255, 255)
LINE = (225, 225, 225)
LABEL_WIDTH = 142
"""Of row labels, in pixels."""
LINE_HEIGHT = 16
HEAD_LINES = 5
"""So many lines a column label has at most."""


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    cell: int = 128,
) -> Image.Image:
    """Lay pictures out in a grid with labels.

    Args:
        rows: Rows of pictures; all rows have the same length.
        column_labels: One above each column, in lines that fit it.
        row_labels: One left of each row, likewise. Of labels that are too long the first paragraph is cut.
        captions: One below each picture, in the shape of `rows`.
        cell: Width and height in pixels of the square that each picture is fitted into.

    Returns:
        An RGB picture.

    Example:
        >>> red = Image.new("RGB", (64, 64), "red")
        >>> contact_sheet([[red, red]], column_labels=["one", "two"], cell=64).size
        (160, 104)
    """
    font = ImageFont.load_default(13)
    small = ImageFont.load_default(11)
    left = MARGIN + (150 if row_labels else 0)
    step_x = cell + MARGIN
    heads = [_wrap(label, font, cell, HEAD_LINES) for label in column_labels]
    top = MARGIN + (max(map(len, heads)) * LINE_HEIGHT + 8 if heads else 0)
    step_y = cell + MARGIN + (18 if captions else 0)
    columns = max((len(row) for row in rows), default=0)
    size = (left + columns * step_x + MARGIN, top + len(rows) * step_y)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(heads):
        middle = left + column * step_x + cell / 2
        for line, text in enumerate(lines):
            draw.text((middle, MARGIN + 8 + line * LINE_HEIGHT), text, INK, font, anchor="mm")
    for number, row in enumerate(rows):
        y = top + number * step_y
        if row_labels:
            text = "\n".join(_wrap(row_labels[number], font, LABEL_WIDTH, step_y // LINE_HEIGHT))
            draw.multiline_text((MARGIN, y + cell / 2), text, INK, font, anchor="lm", spacing=3)
        for column, picture in enumerate(row):
            x = left + column * step_x
            fitted = fit(picture, cell)
            sheet.paste(fitted, (x + (cell - fitted.width) // 2, y + (cell - fitted.height) // 2))
            draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=LINE)
            if captions:
                text = _shorten(captions[number][column], small, cell)
                draw.text((x + cell / 2, y + cell + 9), text, INK, small, anchor="mm")
    return sheet


def fit(picture: Image.Image, cell: int) -> Image.Image:
    """Return a picture as large as a cell holds it, unsmoothed where a pixel becomes several whole ones."""
    is_whole = cell % max(picture.size) == 0
    filter_ = Image.Resampling.NEAREST if is_whole else Image.Resampling.LANCZOS
    return ImageOps.contain(picture.convert("RGB"), (cell, cell), filter_)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """Return a label in lines; if they are too many, the first paragraph gives way to the others."""
    first, *others = (_lines(paragraph, font, width) for paragraph in text.split("\n"))
    rest = [line for lines in others for line in lines]
    room = max(most - len(rest), 1)
    if len(first) > room:
        first = [*first[: room - 1], _shorten(f"{first[room - 1]} {first[room]}", font, width)]
    return [*first, *rest]


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        # A reference can be longer than a line: it is broken behind one of its marks, or behind any letter.
        lines.append("")
        for part in re.findall(r"[^/@:]*[/@:]?", word) if font.getlength(word) > width else [word]:
            for piece in [part] if font.getlength(part) <= width else part:
                if font.getlength(lines[-1] + piece) > width:
                    lines.append("")
                lines[-1] += piece
    return lines if lines[0] or len(lines) == 1 else lines[1:]


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a chart as a PNG.

    Raises:
        OutputError: It cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
