"""Pictures and terminal bars of a report, and a picture of a comparison."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import mean

from PIL import Image, ImageDraw, ImageFont

from adapterhub.lora.blocks import block_of
from adapterhub.lora.compare import Comparison
from adapterhub.lora.inspect import AdapterReport
from adapterhub.lora.weights import MODEL, Target
from adapterhub.sheet import INK, LINE, MARGIN, PAPER

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Kind = tuple[str, str]
"""A group of modules, and the module in it: `("attn1", "q")`."""

PALE_TO_DARK: tuple[Colour, ...] = (
    (250, 250, 240),
    (178, 220, 190),
    (78, 160, 172),
    (38, 88, 144),
    (28, 24, 84),
)
BLUE_TO_RED: tuple[Colour, ...] = (
    (36, 84, 160),
    (150, 186, 222),
    (250, 250, 250),
    (236, 166, 142),
    (172, 36, 40),
)
FAINT = (170, 170, 170)
LABEL_WIDTH, HEADING_WIDTH = 220, 150
"""How long labels of rows and of columns are at most, in pixels; what is longer loses its middle."""
HEAT_CELL = (50, 20)
MATRIX_CELL = (58, 36)
MOST_KINDS = 30  # further ones share a column
LEAST_WIDTH = 24
EIGHTHS = " ▏▎▍▌▋▊▉█"

OTHER: Kind = ("", "other")
KINDS: Mapping[str, Kind] = {
    **{f"attn1.to_{part}": ("attn1 (self)", part) for part in ("q", "k", "v", "out")},
    **{f"attn2.to_{part}": ("attn2 (cross)", part) for part in ("q", "k", "v", "out")},
    "ff.net.proj": ("ff", "in"),
    "ff.net": ("ff", "out"),
    "proj_in": ("proj", "in"),
    "proj_out": ("proj", "out"),
    "resnets.conv1": ("resnet", "conv1"),
    "resnets.conv2": ("resnet", "conv2"),
    "resnets.time_emb_proj": ("resnet", "time"),
    "resnets.conv_shortcut": ("resnet", "skip"),
    "downsamplers.conv": ("", "sampler"),
    "upsamplers.conv": ("", "sampler"),
    **{f"self_attn.{part}_proj": ("attn1 (self)", part) for part in ("q", "k", "v", "out")},
    "mlp.fc1": ("ff", "in"),
    "mlp.fc2": ("ff", "out"),
}
"""The end of a module's path, without its numbers, to its kind."""


def heat_map(report: AdapterReport) -> Image.Image:
    """Draw where an adapter acts: a row for each block, a column for each kind of module.

    The colour is the mean Frobenius norm of the deltas in the cell, from 0 (pale) to the largest (dark). A
    dot is a cell without layers, a question mark one whose norms are not known. The norm of each block, all
    its layers together, stands at the right.

    Returns:
        An RGB picture.

    Example:
        >>> import torch
        >>> from adapterhub.lora.inspect import inspect
        >>> from adapterhub.lora.weights import AdapterTensors, LowRank
        >>> layer = LowRank(torch.ones(1, 4), torch.ones(4, 1))
        >>> report = inspect(AdapterTensors({Target("unet", "mid_block.attentions.0.proj_in"): layer}))
        >>> heat_map(report).mode
        'RGB'
    """
    kinds = {layer.target: kind_of(layer.target) for layer in report.layers}
    order = list(dict.fromkeys([*KINDS.values(), *kinds.values()]))
    groups = [group for group, _ in order]
    columns = sorted(
        set(kinds.values()) - {OTHER}, key=lambda kind: (groups.index(kind[0]), order.index(kind))
    )
    columns = columns[:MOST_KINDS]
    found: dict[tuple[str, Kind], list[float | None]] = {}
    for layer in report.layers:
        kind = kinds[layer.target]
        place = block_of(layer.target), kind if kind in columns else OTHER
        found.setdefault(place, []).append(layer.norm)
    if any(kind == OTHER for _, kind in found):
        columns.append(OTHER)
    norms = {place: [norm for norm in listed if norm is not None] for place, listed in found.items()}
    means = {place: mean(listed) for place, listed in norms.items() if listed}
    largest = max(means.values(), default=0.0)

    def cell(block: str, kind: Kind) -> tuple[Colour | None, str]:
        if (block, kind) in means:
            return _colour(PALE_TO_DARK, means[block, kind] / largest if largest else 0.0), ""
        return None, "?" if (block, kind) in found else "·"

    table = _Table(
        rows=list(report.blocks),
        columns=[leaf for _, leaf in columns],
        groups=[group for group, _ in columns],
        cells=[[cell(block, kind) for kind in columns] for block in report.blocks],
        margins={"norm": [_number(totals.norm) for totals in report.blocks.values()]},
        size=HEAT_CELL,
    )
    legend = _legend(PALE_TO_DARK, ("0", _number(largest / 2), _number(largest)), "mean norm of the deltas")
    return _below(_drawn(table), legend)


def matrix(comparison: Comparison) -> Image.Image:
    """Draw the cosines of adapters as a labelled matrix, with their norms and suggested weights beside it.

    Red is alike, blue opposite, white unrelated.

    Returns:
        An RGB picture.
    """
    cosines = comparison.cosines.tolist()
    table = _Table(
        rows=comparison.names,
        columns=comparison.names,
        cells=[[(_colour(BLUE_TO_RED, (value + 1) / 2), _signed(value)) for value in row] for row in cosines],
        margins={
            "norm": [_number(norm) for norm in comparison.norms.tolist()],
            "suggested weight": [f"{weight:.2f}" for weight in comparison.weights.values()],
        },
        size=MATRIX_CELL,
    )
    return _below(_drawn(table), _legend(BLUE_TO_RED, ("-1", "0", "1"), "cosine of the deltas"))


def bars(report: AdapterReport, width: int) -> list[str]:
    """Return one line of text for each block: its name, a bar, and the norm of all its deltas together.

    Args:
        report: The report.
        width: Columns of the terminal; lines are as wide, but never less than `LEAST_WIDTH`.

    Example:
        >>> import torch
        >>> from adapterhub.lora.inspect import inspect
        >>> from adapterhub.lora.weights import AdapterTensors, LowRank
        >>> layer = LowRank(torch.ones(1, 4), torch.ones(4, 1))
        >>> report = inspect(AdapterTensors({Target("unet", "mid_block.attentions.0.proj_in"): layer}))
        >>> bars(report, 30)
        ['mid_block ██████████████████ 4']
    """
    width = max(width, LEAST_WIDTH)
    longest = max((len(block) for block in report.blocks), default=0)
    label_width = min(longest, width // 2)
    values = [_number(totals.norm) for totals in report.blocks.values()]
    value_width = max((len(value) for value in values), default=0)
    bar_width = width - label_width - value_width - 2
    largest = max((totals.norm for totals in report.blocks.values()), default=0.0)
    lines: list[str] = []
    for (block, totals), value in zip(report.blocks.items(), values, strict=True):
        label = _shortened(block, lambda text: len(text) <= label_width)
        bar = _bar(totals.norm / largest if largest else 0.0, bar_width)
        lines.append(f"{label:<{label_width}} {bar:<{bar_width}} {value:>{value_width}}")
    return lines


def kind_of(target: Target) -> Kind:
    """Return what kind of module a target is, the same for all blocks.

    Example:
        >>> kind_of(Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"))
        ('attn1 (self)', 'out')
        >>> kind_of(Target("model", "model.layers.3.self_attn.o_proj"))
        ('self_attn', 'o_proj')
    """
    names = [part for part in target.module.split(".") if not part.isdigit()]
    if target.component == MODEL:
        return names[-2] if len(names) > 1 else "", names[-1]
    return next((KINDS[end] for count in (3, 2, 1) if (end := ".".join(names[-count:])) in KINDS), OTHER)


@dataclass(frozen=True)
class _Table:
    """Cells of a colour (or None) and a text, between labels; neighbours of one group share a heading."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[tuple[Colour | None, str]]]
    margins: Mapping[str, Sequence[str]]
    size: tuple[int, int]
    groups: Sequence[str] = field(default_factory=list[str])


def _drawn(table: _Table) -> Image.Image:
    width, height = table.size
    font, small = ImageFont.load_default(13), ImageFont.load_default(12)
    rows = [_fitted(label, font, LABEL_WIDTH) for label in table.rows]
    columns = [_fitted(label, small, HEADING_WIDTH) for label in table.columns]
    is_turned = any(small.getlength(label) > width - 4 for label in columns)
    head = max((round(small.getlength(label)) for label in columns), default=0) + 6 if is_turned else 16
    left = MARGIN + max((round(font.getlength(label)) for label in rows), default=0) + 8
    top = MARGIN + (20 if table.groups else 0) + head
    right = left + len(columns) * width + 6
    margins = {
        label: max(round(small.getlength(text)) for text in (label, *texts)) + 16
        for label, texts in table.margins.items()
    }
    size = (right + sum(margins.values()) + MARGIN, top + len(rows) * height + MARGIN)
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    start = left
    for group, members in groupby(table.groups):
        end = start + len(list(members)) * width
        text = _fitted(group, small, end - start - 2)
        draw.text(((start + end) / 2, MARGIN + 7), text, INK, small, anchor="mm")
        if group:
            draw.line((start + 3, MARGIN + 17, end - 4, MARGIN + 17), FAINT)
        start = end
    for number, label in enumerate(columns):
        middle = left + number * width + width // 2
        if is_turned:
            _paste_turned(picture, label, small, (middle, top - 4))
        else:
            draw.text((middle, top - 8), label, INK, small, anchor="mm")
    for label, margin_width in margins.items():
        right += margin_width
        draw.text((right, top - 8), label, INK, small, anchor="rm")
        for number, text in enumerate(table.margins[label]):
            draw.text((right, top + (number + 0.5) * height), text, INK, small, anchor="rm")
    for number, (label, cells) in enumerate(zip(rows, table.cells, strict=True)):
        y = top + number * height
        middle = y + height / 2
        draw.text((left - 8, middle), label, INK, font, anchor="rm")
        for column, (colour, text) in enumerate(cells):
            x = left + column * width
            if colour is not None:
                draw.rectangle((x, y, x + width - 2, y + height - 2), colour, LINE)
            ink = FAINT if colour is None else _readable_on(colour)
            draw.text((x + width / 2 - 1, middle - 1), text, ink, font, anchor="mm")
    return picture


def _legend(scale: Sequence[Colour], ticks: tuple[str, str, str], title: str) -> Image.Image:
    font = ImageFont.load_default(12)
    length, x = 160, 3 * MARGIN + round(font.getlength(title))
    picture = Image.new("RGB", (x + length + 4 * MARGIN, 40), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 9), title, INK, font, anchor="lm")
    for offset in range(length):
        draw.line((x + offset, 3, x + offset, 15), _colour(scale, offset / (length - 1)))
    draw.rectangle((x - 1, 2, x + length, 16), outline=FAINT)
    for offset, tick in zip((0, length // 2, length - 1), ticks, strict=True):
        draw.text((x + offset, 24), tick, INK, font, anchor="mm")
    return picture


def _below(picture: Image.Image, legend: Image.Image) -> Image.Image:
    size = (max(picture.width, legend.width), picture.height + legend.height)
    whole = Image.new("RGB", size, PAPER)
    whole.paste(picture, (0, 0))
    whole.paste(legend, (0, picture.height))
    return whole


def _paste_turned(picture: Image.Image, text: str, font: Font, foot: tuple[int, int]) -> None:
    """Write from `foot` upwards."""
    box = Image.new("L", (round(font.getlength(text)) + 2, 16))
    ImageDraw.Draw(box).text((0, 8), text, 255, font, anchor="lm")
    mask = box.rotate(90, expand=True)
    picture.paste(INK, (foot[0] - mask.width // 2, foot[1] - mask.height), mask)


def _colour(scale: Sequence[Colour], part: float) -> Colour:
    """Return the colour at a part, 0 to 1, of a scale, between its nearest two."""
    place = part * (len(scale) - 1)
    index = min(int(place), len(scale) - 2)
    low, high = scale[index], scale[index + 1]
    red, green, blue = (round(a + (b - a) * (place - index)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _readable_on(colour: Colour) -> Colour:
    """Ink or paper, by ITU-R BT.601's luma."""
    return INK if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 else PAPER


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"


def _fitted(text: str, font: Font, width: int) -> str:
    return _shortened(text, lambda shown: font.getlength(shown) <= width)


def _shortened(text: str, fits: Callable[[str], bool]) -> str:
    """Cut the middle out: names differ most at their ends."""
    shown, kept = text, len(text)
    while kept > 0 and not fits(shown):
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept + 1) // 2 :]}"
    return shown


def _bar(part: float, width: int) -> str:
    """A bar of block elements, exact to an eighth of a column; never empty for what is not 0."""
    eighths = max(round(part * width * 8), 1) if part > 0 else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
