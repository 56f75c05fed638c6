"""`adapterhub diff`: what differs between two pictures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterhub_cli.output import print_rows, say

if TYPE_CHECKING:
    from adapterhub_registry.differences import PixelDifference


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with whole values.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the names of what differs.")
def diff(first: Path, second: Path, as_json: bool, quiet: bool) -> None:
    """Say what differs between the pictures A and B: every setting of their records, and the pixels.

    Adapters are matched by name. The exit code is 0 whether something differs or not; with -q nothing is
    printed if nothing does.

    \b
    Examples:
      adapterhub diff heart.png heart.replay.png
      adapterhub diff before.webp after.webp --json
    """
    from adapterhub_registry.differences import compare_pictures

    found = compare_pictures(first, second)
    pixels = found.pixels
    if as_json:
        table = {
            "first": str(first),
            "second": str(second),
            "settings": {name: list(pair) for name, pair in found.settings.items()},
            "pixels": {
                "equal": pixels.is_equal,
                "sizes": [list(pixels.first_size), list(pixels.second_size)],
                "largest": pixels.largest,
                "mean": pixels.mean,
                "psnr": pixels.psnr,
            },
        }
        click.echo(json.dumps(table, indent=2))
        return
    rows = [
        {"setting": name, "A": _text(one), "B": _text(other)} for name, (one, other) in found.settings.items()
    ]
    if quiet:
        print_rows(rows if pixels.is_equal else [*rows, {"setting": "pixels"}], key="setting", quiet=True)
        return
    print_rows(rows, key="setting")
    if not rows:
        say("every setting is the same")
    click.echo(f"pixels: {_pixels(pixels)}")


def _text(value: Any) -> str:
    """Return a value for a cell of the table; an adapter as version and strengths."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"version {value.get('version')}, strengths {json.dumps(value.get('strengths'))}"  # pyright: ignore[reportUnknownMemberType]
    return value if isinstance(value, str) else json.dumps(value)


def _pixels(found: "PixelDifference") -> str:
    if found.is_equal:
        return "every one is the same"
    if found.largest is None:
        sizes = [f"{width}x{height}" for width, height in (found.first_size, found.second_size)]
        return f"the sizes differ, {sizes[0]} and {sizes[1]}"
    apart = f"the largest difference is {found.largest} of 255, the mean {found.mean:.3g}"
    return f"{apart}, PSNR {found.psnr:.2f} dB"
