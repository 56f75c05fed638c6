"""`adapterhub grid`: prompts x seeds x compositions x weights on a labelled sheet."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterhub_cli.composing_options import METHODS
from adapterhub_cli.output import Function, data_options, picture_path, print_rows, progress, say

if TYPE_CHECKING:
    from adapterhub.runtime.grid import DrawnGrid

SEED = click.IntRange(0, 2**32 - 1)
BASE = "base"
"""What stands for no adapters on the command line."""


def picture_options(function: Function) -> Function:
    """Add the options that say how each cell is drawn, and where."""
    options: list[Callable[[Function], Function]] = [
        click.option("-n", "--negative", help="What to avoid."),
        click.option("--base", default="mini", show_default=True, help="A name, a directory, or a hub id."),
        click.option("--steps", type=int, default=30, show_default=True, help="Denoising steps."),
        click.option(
            "--guidance", type=float, default=5.0, show_default=True, help="Classifier-free guidance."
        ),
        click.option("--scheduler", help="As in `generate`; by default the base's own."),
        click.option("--width", type=int, help="Pixels; by default what the base was trained for."),
        click.option("--height", type=int, help="Pixels."),
        click.option("--device", help="cpu, cuda or mps; by default the best there is."),
        click.option(
            "--dtype", help="float32, float16 or bfloat16; by default float32 on the CPU, else float16."
        ),
        click.option(
            "--cells",
            type=click.Path(path_type=Path, file_okay=False),
            help="Where single pictures are kept; by default beside the sheet, in its name with .cells.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.option(
    "-p", "--prompt", "prompts", multiple=True, required=True, help="What to draw; repeat for more."
)
@click.option(
    "--seed", "seeds", type=SEED, multiple=True, default=(0,), show_default=True, help="Repeat for more."
)
@click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="COMPOSITION",
    help='"me/ink:0.8 + me/corgi", or base; repeat for more.',
)
@click.option(
    "--weight", "weights", type=float, multiple=True, help="Multiplies all weights of --use; repeat for more."
)
@click.option(
    "--method", type=click.Choice(METHODS), default="sum", show_default=True, help="As in `generate`."
)
@click.option("--every", type=int, help="Steps between switches.  [default: 5]")
@picture_options
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A PNG; further ones get -2, -3, ..."
)
@data_options
def grid(
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    uses: tuple[str, ...],
    weights: tuple[float, ...],
    method: str,
    every: int | None,
    out: Path,
    as_json: bool,
    quiet: bool,
    **drawing: Any,
) -> None:
    """Draw every prompt with every seed under every composition at every weight, on a labelled sheet.

    Rows are prompts and, below each, seeds; columns are compositions and, beside each, weights. Every --use
    is a composition of its own; without one the base draws alone. Cells are kept with their records, and
    one that would come out the same is not drawn again: stop at any time and go on, or add a value to an
    axis.

    \b
    Examples:
      adapterhub grid -p "a cat" -p "a castle" --seed 1 --seed 2 --use base --use me/ink --out sheet.png
      adapterhub grid -p "a cat" --use me/ink --weight 0 --weight 0.5 --weight 1 --out weights.png
      adapterhub grid -p "a cat" --use me/ink --use "me/ink + me/corgi:0.7" --method switch --out switch.png
    """
    out = sheet_path(out)
    if every is not None and method != "switch":
        raise click.UsageError("--every goes with --method switch")
    if weights and not uses:
        raise click.UsageError("--weight multiplies the weights of --use; name a composition too")

    from adapterhub.runtime.composition import BASE as NO_ADAPTERS
    from adapterhub.runtime.composition import Composition

    compositions = [NO_ADAPTERS if use == BASE else Composition.parse(use) for use in uses] or [NO_ADAPTERS]
    axes = {"prompts": prompts, "seeds": seeds, "compositions": compositions, "weights": weights or (1.0,)}
    draw(axes | {"method": method, "every": every}, out, drawing, name="grid", as_json=as_json, quiet=quiet)


def sheet_path(out: Path) -> Path:
    """Return where a sheet goes, which is a PNG."""
    out = picture_path(out)
    if out.suffix.lower() != ".png":
        raise click.UsageError(f"{out} does not end in .png; sheets are PNG files")
    return out


def draw(
    axes: dict[str, Any], out: Path, drawing: dict[str, Any], *, name: str, as_json: bool, quiet: bool
) -> None:
    """Draw a grid and print its cells.

    Args:
        axes: Fields of `Grid`.
        out: The sheet.
        drawing: The values of `picture_options`.
        name: Of the progress bar.
        as_json: Whether to print JSON.
        quiet: Whether to print only the files.
    """
    from adapterhub.runtime.engine import Runtime
    from adapterhub.runtime.grid import Grid, draw_grid
    from adapterhub.sheet import save_picture
    from adapterhub_registry.files import make_directory
    from adapterhub_registry.settings import RegistrySettings, ensure_home

    ensure_home(RegistrySettings.from_environment().home)
    wanted = Grid(
        **axes,
        negative_prompt=drawing["negative"],
        steps=drawing["steps"],
        guidance_scale=drawing["guidance"],
        width=drawing["width"],
        height=drawing["height"],
        scheduler=drawing["scheduler"],
    )
    make_directory(out.parent)
    with Runtime.load(drawing["base"], device=drawing["device"], dtype=drawing["dtype"]) as runtime:
        drawn = draw_grid(
            runtime, wanted, drawing["cells"] or out.with_suffix(".cells"), on_step=progress(name)
        )
    for number, sheet in enumerate(drawn.sheets(), 1):
        path = out if number == 1 else out.with_name(f"{out.stem}-{number}.png")
        save_picture(sheet, path)
        say(f"look at {path}")
    _print(drawn, as_json, quiet)


def _print(drawn: "DrawnGrid", as_json: bool, quiet: bool) -> None:
    rows = [
        {
            "file": str(cell.path),
            "prompt": cell.prompt,
            "seed": cell.seed,
            "composition": cell.composition,
            **({"row": cell.row, "column": cell.column} if as_json else {}),
            "drawn": cell.is_new if as_json else "now" if cell.is_new else "before",
        }
        for cell in drawn.cells
    ]
    print_rows(rows, key="file", as_json=as_json, quiet=quiet)
    new = sum(cell.is_new for cell in drawn.cells)
    say(f"{new} pictures drawn, {len(rows) - new} were there already")
