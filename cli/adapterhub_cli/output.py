"""What commands print: data on stdout as tables, JSON or bare values; talk on stderr."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def data_options(function: Function) -> Function:
    """Add `--json` and `--quiet` to a command that prints data."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option("-q", "--quiet", is_flag=True, help="Print only the names.")(function)


def print_rows(
    rows: Sequence[Mapping[str, Any]], *, key: str, as_json: bool = False, quiet: bool = False
) -> None:
    """Print rows as an aligned table, as a JSON array, or (quiet) the values of `key` alone."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2))
    elif quiet:
        for row in rows:
            click.echo(str(row[key]))
    elif rows:
        names = list(rows[0])
        cells = [[str(row[name]) for name in names] for row in rows]
        widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
        for line in [[name.replace("_", " ") for name in names], *cells]:
            padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
            click.echo("  ".join(padded).rstrip())


def print_fields(fields: Mapping[str, Any], *, key: str, as_json: bool = False, quiet: bool = False) -> None:
    """Print one thing: a line a field, a JSON object, or (quiet) the value of `key` alone."""
    if as_json:
        click.echo(json.dumps(dict(fields), indent=2))
    elif quiet:
        click.echo(str(fields[key]))
    else:
        width = max(len(name) for name in fields)
        for name, value in fields.items():
            click.echo(f"{name.replace('_', ' ').ljust(width)}  {value}")


def say(message: str) -> None:
    """Print a line for people, on stderr."""
    click.echo(message, err=True)


def progress(label: str) -> Callable[[int, int], None]:
    """Return a callback that draws a bar on stderr; it does nothing where stderr is no terminal."""
    is_terminal = sys.stderr.isatty()

    def draw(done: int, total: int) -> None:
        if not is_terminal:
            return
        filled = "#" * round(30 * done / total)
        end = "\n" if done == total else ""
        click.echo(f"\r{label} [{filled:<30}] {done}/{total}{end}", nl=False, err=True)

    return draw
