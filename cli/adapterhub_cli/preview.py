"""`adapterhub preview`: pictures of a version."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapterhub_cli.describe import settings_text
from adapterhub_cli.output import data_options, print_rows, progress, say

if TYPE_CHECKING:
    from adapterhub_registry.publication import StoredFile

SEED = click.IntRange(0, 2**62)
"""What torch and the database can hold, with room for the seeds behind it."""


@click.command()
@click.argument("reference", metavar="REF")
@click.option("-p", "--prompt", "prompts", multiple=True, help="What to draw; repeat for more.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the first prompt.")
@click.option("--weight", type=float, help="The strength; by default the recommended one, or 1.")
@click.option("--steps", type=int, help="Denoising steps; by default the recommended ones, or 30.")
@click.option("--base", help="By default the one that it was made on, or one of its architecture.")
@click.option("--device", help="cpu, cuda or mps; by default the best there is.")
@click.option("--out", type=click.Path(path_type=Path), help="A PNG for base and adapter side by side.")
@click.option(
    "--add", "files", multiple=True, type=click.Path(path_type=Path), help="Add a picture; draw none."
)
@click.option("--list", "only_list", is_flag=True, help="Print those that are there; draw none.")
@click.option("--remove", type=int, metavar="N", help="Take the picture at place N away; draw none.")
@data_options
def preview(
    reference: str,
    prompts: tuple[str, ...],
    seed: int,
    weight: float | None,
    steps: int | None,
    base: str | None,
    device: str | None,
    out: Path | None,
    files: tuple[Path, ...],
    only_list: bool,
    remove: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw REF with the base alone and with the adapter, and keep the adapter's pictures with the version.

    Without prompts its trigger words are drawn, or captions that it was trained on. A picture that is there
    already is not kept twice.

    \b
    Examples:
      adapterhub preview me/ink --out ink.png
      adapterhub preview me/ink@prod -p "a castle, inkwash" -p "a corgi, inkwash" --seed 7 --steps 20
      adapterhub preview me/ink --add castle.png --add corgi.png
      adapterhub preview me/ink --list
    """
    from adapterhub_registry.store import Registry

    drawing = {"--prompt": prompts, "--weight": weight, "--steps": steps, "--base": base, "--out": out}
    given = [name for name, value in drawing.items() if value not in (None, ())]
    modes = [bool(files), only_list, remove is not None]
    if sum(modes) > 1 or (any(modes) and given):
        raise click.UsageError("draw, or give one of --add, --list and --remove")
    registry = Registry()
    version = registry.resolve(reference)
    if files:
        _print(registry.add_previews(version, files), as_json, quiet)
    elif remove is not None:
        registry.remove_preview(version, remove)
        say(f"preview {remove} of {version.reference} is gone")
    elif only_list:
        _print(registry.previews(version), as_json, quiet, only_list=True)
    else:
        from adapterhub.previews import draw_previews
        from adapterhub.sheet import save_picture

        found = draw_previews(
            version.reference,
            registry=registry,
            prompts=prompts,
            seed=seed,
            weight=weight,
            steps=steps,
            base=base,
            device=device,
            on_step=progress("preview"),
        )
        if out is not None:
            save_picture(found.sheet, out)
            say(f"wrote {out}")
        _print(found.added, as_json, quiet)


def _print(pictures: "Iterable[StoredFile]", as_json: bool, quiet: bool, *, only_list: bool = False) -> None:
    rows = [
        {
            "name": item.name,
            "prompt": item.prompt,
            "seed": item.seed,
            "settings": dict(item.settings) if as_json else settings_text(item.settings),
            **({"sha256": item.sha256, "size": item.size} if as_json else {}),
        }
        for item in pictures
    ]
    print_rows(rows, key="name", as_json=as_json, quiet=quiet)
    if not rows:
        say("there is none" if only_list else "nothing changed: no picture is new")
