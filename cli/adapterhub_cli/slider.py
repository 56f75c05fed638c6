"""`adapterhub slider`: a row of pictures over a range of weights."""

from pathlib import Path
from typing import Any

import click

from adapterhub_cli.grid import SEED, draw, picture_options, sheet_path
from adapterhub_cli.output import data_options


@click.command()
@click.argument("reference", metavar="REF")
@click.option("-p", "--prompt", "prompts", multiple=True, help="What to draw; by default the trigger words.")
@click.option(
    "--seed", "seeds", type=SEED, multiple=True, default=(0,), show_default=True, help="Repeat for more."
)
@click.option("--from", "first", type=float, default=-1.0, show_default=True, help="The first weight.")
@click.option("--to", "last", type=float, default=1.0, show_default=True, help="The last weight.")
@click.option(
    "--frames",
    type=click.IntRange(2, 100),
    default=5,
    show_default=True,
    help="Pictures in a row, evenly apart.",
)
@picture_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="A PNG; by default the adapter's name with -slider.png."
)
@data_options
def slider(
    reference: str,
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    first: float,
    last: float,
    frames: int,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **drawing: Any,
) -> None:
    """Draw REF at weights from one end to the other, a row for each prompt and seed.

    It is a grid of one composition, so cells are kept, and drawn once. REF may be a composition; its weights
    are multiplied.

    \b
    Examples:
      adapterhub slider me/age --from -1 --to 1 -p "portrait of a woman" --seed 7 --out age.png
      adapterhub slider me/ink --from 0 --to 1.5 --frames 7 -p "a cat" -p "a castle"
    """
    from adapterhub.runtime.composition import Composition
    from adapterhub_registry.store import Registry

    composition = Composition.parse(reference)
    named = composition.terms[0].reference
    out = sheet_path(out or Path(f"{named.name}-slider.png"))
    if not prompts:
        words = Registry().resolve(named).trigger_words
        if not words:
            raise click.UsageError(f"{named} has no trigger words; say with -p what to draw")
        prompts = (", ".join(words),)
    places = [first + (last - first) * number / (frames - 1) for number in range(frames)]
    weights = [float(f"{round(place, 9):.3g}") for place in places]  # as short as somebody would write them
    axes = {"prompts": prompts, "seeds": seeds, "compositions": [composition], "weights": weights}
    draw(axes, out, drawing, name="slider", as_json=as_json, quiet=quiet)
