"""Labelled contact sheets: a grid of pictures to look at."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from adapterhub_registry.files import write_atomically

MARGIN = 8
INK = (32, 32, 32)
PAPER = (255, 255, 255)
LINE = (225, 225, 225)


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
        column_labels: One above each column.
        row_labels: One left of each row; long ones are wrapped.
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
    top = MARGIN + (24 if column_labels else 0)
    step_x = cell + MARGIN
    step_y = cell + MARGIN + (18 if captions else 0)
    columns = max((len(row) for row in rows), default=0)
    size = (left + columns * step_x + MARGIN, top + len(rows) * step_y)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        middle = left + column * step_x + cell / 2
        draw.text((middle, MARGIN + 8), _shorten(label, font, step_x), INK, font, anchor="mm")
    for number, row in enumerate(rows):
        y = top + number * step_y
        if row_labels:
            text = "\n".join(_wrap(row_labels[number], font, 140))
            draw.multiline_text((MARGIN, y + cell / 2), text, INK, font, anchor="lm", spacing=3)
        for column, picture in enumerate(row):
            x = left + column * step_x
            longest = max(picture.size)
            filter_ = Image.Resampling.NEAREST if cell % longest == 0 else Image.Resampling.LANCZOS
            fitted = ImageOps.contain(picture.convert("RGB"), (cell, cell), filter_)
            sheet.paste(fitted, (x + (cell - fitted.width) // 2, y + (cell - fitted.height) // 2))
            draw.rectangle((x - 1, y - 1, x + cell, y + cell), outline=LINE)
            if captions:
                text = _shorten(captions[number][column], small, cell)
                draw.text((x + cell / 2, y + cell + 9), text, INK, small, anchor="mm")
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


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
