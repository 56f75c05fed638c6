"""Grids: every prompt with every seed, under every composition at every weight, on labelled sheets.

Rows are prompts and, below each, its seeds; columns are compositions and, beside each, its weights. Every
cell is a file of its own with its record, so that a grid goes on where it stopped.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from adapterhub.errors import EmptyPromptError, SettingError
from adapterhub.runtime.cells import WantedCell, pinned, wanted_settings
from adapterhub.runtime.composition import BASE, Composition, Term
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.generating import OnCount
from adapterhub.runtime.schedule import METHOD_NAMES, named_plan
from adapterhub.sheet import MARGIN, contact_sheet, fit
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.record import png_with_record

MOST_CELLS = 10_000
SHEET_SIDE = 8192
"""Cells on a sheet shrink until it is about so many pixels wide and high."""
CELL = (64, 128, 384)
"""Side of a cell on a sheet: the smallest; what small pictures are enlarged to; the largest."""


@dataclass(frozen=True)
class Grid:
    """What to draw; a value that comes twice on an axis counts once.

    Attributes:
        prompts: At least one.
        seeds: At least one, from 0 to 2**32 - 1; every prompt is drawn with each.
        compositions: At least one; the empty one is the base.
        weights: What all weights of a composition are multiplied by; at least one.
        method: As `named_plan` knows it, for all compositions.
        every: Steps between switches; None for the default of `Switch`.
        negative_prompt: As in `Runtime.generate`, and so are the others.
        steps: Denoising steps.
        guidance_scale: Classifier-free guidance.
        width: Pixels.
        height: Pixels.
        scheduler: A name.

    Raises:
        EmptyPromptError: There is no prompt.
        SettingError: Another axis is empty, a value makes no sense, or there are more than 10,000 cells.

    Example:
        >>> ink = Composition.parse("me/ink")
        >>> grid = Grid(["a star"], seeds=[1, 2], compositions=[BASE, ink], weights=[0.5, 1])
        >>> [label(composition) for composition in grid.columns]
        ['base', 'me/ink:0.5', 'me/ink:1']
    """

    prompts: Sequence[str]
    seeds: Sequence[int] = (0,)
    compositions: Sequence[Composition] = (BASE,)
    weights: Sequence[float] = (1.0,)
    method: str = "sum"
    every: int | None = None
    negative_prompt: str | None = None
    steps: int = 30
    guidance_scale: float = 5.0
    width: int | None = None
    height: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise EmptyPromptError
        for name in ("seeds", "compositions", "weights"):
            if not getattr(self, name):
                raise SettingError(f"the list of {name}", "empty", "at least one is needed")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise SettingError("the seed", seed, "it must be from 0 to 2**32 - 1")
        for weight in self.weights:
            if not math.isfinite(weight):
                raise SettingError("the weight", weight, "it must be finite")
        if self.method not in METHOD_NAMES:
            raise SettingError("the method", self.method, f"it must be one of {', '.join(METHOD_NAMES)}")
        rows, columns = len(set(self.prompts)) * len(set(self.seeds)), len(self.columns)
        if rows * columns > MOST_CELLS:
            rule = f"a grid has at most {MOST_CELLS:,} cells; draw several grids"
            raise SettingError("the number of cells", f"{rows:,} rows of {columns:,}", rule)

    @property
    def rows(self) -> list[tuple[str, int]]:
        """Prompt and seed of each row."""
        return list(product(dict.fromkeys(self.prompts), dict.fromkeys(self.seeds)))

    @property
    def columns(self) -> list[Composition]:
        """What is composed in each column, with its weights multiplied."""
        scaled = [_scaled(one, weight) for one, weight in product(self.compositions, self.weights)]
        return list({repr(composition): composition for composition in scaled}.values())


@dataclass(frozen=True)
class GridCell:
    """One picture of a grid.

    Attributes:
        path: A PNG with its record.
        row: From 0.
        column: From 0.
        prompt: What was drawn.
        seed: Of the starting noise.
        composition: What was composed, as on the sheet.
        is_new: Whether it was drawn just now; else it was there already.
    """

    path: Path
    row: int
    column: int
    prompt: str
    seed: int
    composition: str
    is_new: bool


@dataclass(frozen=True)
class DrawnGrid:
    """The cells of a grid, row by row.

    Attributes:
        grid: What was to be drawn.
        cells: All of them.
    """

    grid: Grid
    cells: Sequence[GridCell]

    def sheets(self) -> Iterator[Image.Image]:
        """Yield the sheets, one unless rows or columns are too many for cells of 64 pixels."""
        rows = [f"{prompt}\nseed {seed}" for prompt, seed in self.grid.rows]
        columns = [label(composition) for composition in self.grid.columns]
        with Image.open(self.cells[0].path) as first:
            wanted = min(max(*first.size, CELL[1]), CELL[2])
        cell = max(min(wanted, SHEET_SIDE // max(len(rows), len(columns)) - MARGIN), CELL[0])
        most = SHEET_SIDE // (cell + MARGIN)
        for top, left in product(range(0, len(rows), most), range(0, len(columns), most)):
            shown = [range(len(rows))[top : top + most], range(len(columns))[left : left + most]]
            yield contact_sheet(
                [
                    [self._fitted(row * len(columns) + column, cell) for column in shown[1]]
                    for row in shown[0]
                ],
                row_labels=[rows[row] for row in shown[0]],
                column_labels=[columns[column] for column in shown[1]],
                cell=cell,
            )

    def _fitted(self, number: int, cell: int) -> Image.Image:
        with Image.open(self.cells[number].path) as picture:
            return fit(picture, cell)


def draw_grid(runtime: Runtime, grid: Grid, folder: Path, *, on_step: OnCount | None = None) -> DrawnGrid:
    """Draw the cells of a grid that are not there yet, each in a batch of its own, column by column.

    A cell is there if a PNG in `folder` has the record that drawing it now would give: the same base,
    versions by digest, strengths and settings, on the same kind of device with the same libraries. Aliases
    are resolved once, at the start. An interrupt leaves whole files, and the next call draws the others.

    Args:
        runtime: What draws; its composition is put back afterwards.
        grid: What to draw.
        folder: Where the cells lie; created if need be.
        on_step: Called after each denoising step with (steps done, steps) of all cells that are to be drawn.

    Raises:
        SettingError: A setting makes no sense.
        ArchitectureError: An adapter is for another architecture; nothing was drawn.
        OutputError: A cell cannot be written.
        AdapterHubError: As `Runtime.compose`.

    Example:
        >>> from tempfile import mkdtemp
        >>> with Runtime.load("mini", device="cpu") as runtime:
        ...     drawn = draw_grid(runtime, Grid(["a star"], seeds=[1, 2], steps=2), Path(mkdtemp()))
        >>> [cell.is_new for cell in drawn.cells], [sheet.size for sheet in drawn.sheets()]
        ([True, True], [(302, 304)])
    """
    plans = [
        named_plan(pinned(runtime, composition), grid.method, every=grid.every)
        for composition in grid.columns
    ]
    generation: dict[str, Any] = {
        "negative_prompt": grid.negative_prompt,
        "steps": grid.steps,
        "guidance_scale": grid.guidance_scale,
        "width": grid.width,
        "height": grid.height,
        "scheduler": grid.scheduler,
    }
    settings = wanted_settings(runtime, **generation)
    asked = [
        (WantedCell(prompt, seed, settings, plan, folder), row, column)
        for row, (prompt, seed) in enumerate(grid.rows)
        for column, plan in enumerate(plans)
    ]
    missing = {cell.path: (cell, column) for cell, _, column in asked if not cell.is_there()}
    done, total = 0, len(missing) * grid.steps

    def count(_: int, __: int) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, total)

    before = runtime.composition
    try:
        for cell, _ in sorted(missing.values(), key=lambda entry: entry[1]):
            if runtime.composition != cell.plan:
                runtime.compose(cell.plan)
            result = runtime.generate(cell.prompt, seed=cell.seed, on_step=count, **generation)
            make_directory(folder)
            write_atomically(cell.path, png_with_record(result.images[0], result.record))
    finally:
        if runtime.composition != before:
            runtime.compose(before)
    labels = [label(composition) for composition in grid.columns]
    cells = [
        GridCell(cell.path, row, column, cell.prompt, cell.seed, labels[column], cell.path in missing)
        for cell, row, column in asked
    ]
    return DrawnGrid(grid, cells)


def label(composition: Composition) -> str:
    """Return a composition for people: weights in six digits, and `base` for none."""
    return " + ".join(map(_term_label, composition.terms)) or "base"


def _scaled(composition: Composition, weight: float) -> Composition:
    # Rounded, so that 0.7 x 0.1 is the 0.07 that somebody would write; and 0.0 is added against -0.0.
    def times(strength: float) -> float:
        return round(strength * weight, 12) + 0.0

    return Composition(
        tuple(
            replace(
                term,
                weight=times(term.weight),
                components={name: times(strength) for name, strength in term.components.items()},
            )
            for term in composition.terms
        )
    )


def _term_label(term: Term) -> str:
    components = ", ".join(f"{name} {strength:g}" for name, strength in term.components.items())
    blocks = f"[{term.blocks}]" if term.blocks else ""
    return f"{term.reference}:{term.weight:g}{blocks}{f' ({components})' if components else ''}"
