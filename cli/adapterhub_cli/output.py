"""What commands print: data on stdout as tables, JSON or bare values; talk on stderr."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from adapterhub_cli.terminal import columns_of, field_lines, shortened, table_lines, terminal_width

LOCK_FILE = "adapterhub.lock"
"""What `lock` writes and `--locked` reads where no file is named."""
LEAST_BAR, MOST_BAR = 4, 24
"""Of a bar that shares its line with facts, in columns."""
REDRAW_S = 0.1
"""Between two drawings of a line that moves."""
Function = TypeVar("Function", bound=Callable[..., Any])


def data_options(function: Function) -> Function:
    """Add `--json` and `--quiet` to a command that prints data."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option("-q", "--quiet", is_flag=True, help="Print only the names.")(function)


def locked_option(use: str) -> Callable[[Function], Function]:
    """Add `--locked [FILE]` to a command; `use` says what for."""
    return click.option(
        "--locked",
        type=click.Path(path_type=Path),
        is_flag=False,
        flag_value=LOCK_FILE,
        help=f"{use}, {LOCK_FILE} if none is named.",
    )


def print_rows(
    rows: Sequence[Mapping[str, Any]], *, key: str, as_json: bool = False, quiet: bool = False
) -> None:
    """Print rows as a table that fits the terminal, a JSON array, or (quiet) the values of `key` alone."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2))
    elif quiet:
        for value in filter(None, (str(row[key]) for row in rows)):
            click.echo(value)
    elif rows:
        names = list(rows[0])
        cells = [[str(row[name]) for name in names] for row in rows]
        heads = [name.replace("_", " ") for name in names]
        click.echo("\n".join(table_lines([heads, *cells], terminal_width())))


def print_fields(fields: Mapping[str, Any], *, key: str, as_json: bool = False, quiet: bool = False) -> None:
    """Print one thing: a line a field, a JSON object, or (quiet) the value of `key` alone."""
    if as_json:
        click.echo(json.dumps(dict(fields), indent=2))
    elif quiet:
        click.echo(str(fields[key]))
    else:
        names = [name.replace("_", " ") for name in fields]
        values = [str(value) for value in fields.values()]
        click.echo("\n".join(field_lines(names, values, terminal_width())))


def say(message: str) -> None:
    """Print a line for people, on stderr."""
    click.echo(message, err=True)


def say_outcomes(outcomes: Sequence[str], *, none: str) -> None:
    """Say how often each outcome came about, or `none` if there were none."""
    from collections import Counter

    say(", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(outcomes).items())) or none)


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


def byte_progress(label: str) -> Callable[[int, int], None]:
    """Return a callback that draws a bar of megabytes on stderr, if that is a terminal; from any thread."""
    is_terminal, shown = sys.stderr.isatty(), -1

    def draw(done: int, total: int) -> None:
        nonlocal shown
        step = 200 * done // total if total else 0
        if not is_terminal or not total or step == shown:
            return
        shown = step
        bar, end = "#" * round(30 * done / total), "\n" if done == total else ""
        text = f"{done / 1e6:.1f}/{total / 1e6:.1f} MB"
        click.echo(f"\r{label} [{bar:<30}] {text}{end}", nl=False, err=True)

    return draw


def picture_path(out: Path) -> Path:
    """Return where a picture goes: the name that was given, or with `.png` behind one that has no suffix.

    Raises:
        click.UsageError: It has the suffix of another kind of file.
    """
    from adapterhub_registry.encoding import picture_format
    from adapterhub_registry.errors import PictureFormatError

    if out.name and not out.suffix:
        out = out.with_name(f"{out.name}.png")
        say(f"the name has no suffix; the picture will be {out}")
    try:
        picture_format(out)
    except PictureFormatError as exc:
        raise click.UsageError(str(exc)) from exc
    return out


def print_transfer(done: Any, *, where: str, as_json: bool, quiet: bool) -> None:
    """Print what a push or a pull did."""
    reference = f"{done.name}@{done.number}"
    if not done.is_new:
        say(f"nothing changed: {where} has this digest already as {reference}")
    fields = {
        "version": reference,
        "digest": done.digest,
        "files_transferred": done.files_transferred,
        "bytes_transferred": done.bytes_transferred,
    }
    print_fields(fields, key="version", as_json=as_json, quiet=quiet)


def training_progress() -> Callable[[Any], None]:
    """Return a callback that keeps one line on stderr up to date, if it is a terminal; it is drawn seldom.

    Adapters that are trained together share the bar; each has a line of its own when it is done.
    """
    states: dict[str, Any] = {}
    drawn = 0.0

    def draw(state: Any) -> None:
        nonlocal drawn
        now = time.monotonic()
        states[state.name] = state
        is_done = state.step == state.steps
        if not sys.stderr.isatty() or (now - drawn < REDRAW_S and not is_done):
            return
        drawn = now
        width = shutil.get_terminal_size().columns - 1
        line = training_line([state] if is_done else list(states.values()), width)
        if is_done:
            del states[state.name]
        click.echo(f"\r{shortened(line, width):<{width}}" + ("\n" if is_done else ""), nl=False, err=True)

    return draw


def training_line(states: Sequence[Any], width: int) -> str:
    """Return how far adapters are that are trained together, in one line; its bar takes what room there is.

    Args:
        states: Of each; at least one. See `adapterhub.training.progress.Progress`.
        width: In columns.
    """
    step, steps, steps_per_s, pictures_per_s, loss = (
        sum(getattr(state, name) for state in states)
        for name in ("step", "steps", "steps_per_s", "pictures_per_s", "loss")
    )
    name = states[0].name if len(states) == 1 else f"{len(states)} adapters"
    facts = [
        f" {step}/{steps}",
        f"loss {loss / len(states):.4f}",
        f"{steps_per_s:.3g} steps/s",
        f"{pictures_per_s:.3g} pictures/s",
        f"{time_text(max(state.seconds_left for state in states))} left",
        f"{max(state.memory_bytes for state in states) / 1e9:.3g} GB",
        *_mean_scores(states),
    ]
    text = "  ".join(facts)
    room = min(width - columns_of(name) - columns_of(text) - 3, MOST_BAR)
    bar = f" [{'#' * round(room * step / steps):<{room}}]" if room >= LEAST_BAR else ""
    return f"{name}{bar}{text}"


def _mean_scores(states: Sequence[Any]) -> list[str]:
    """Return the scores of sample pictures: means over the adapters that have them."""
    names = dict.fromkeys(name for state in states for name in state.scores)
    means: list[str] = []
    for name in names:
        values = [state.scores[name] for state in states if name in state.scores]
        means.append(f"{name.replace('_', '-')} {sum(values) / len(values):.3f}")
    return means


def efficiency_text(cost: Any) -> str:
    """Return in one line what an adapter costs beside full fine-tuning; see `Efficiency`."""
    return "; ".join(f"{what} {own} of {full} ({share})" for what, own, full, share in cost.rows())


def time_text(seconds: float) -> str:
    """Return how long something takes: minutes and seconds, after hours where there are any.

    Example:
        >>> time_text(4000)
        '1:06:40'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def print_derived(version: Any, facts: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print a version that was made of others, and what there is to say of how."""
    fields = {"version": version.reference, "digest": version.digest, "architecture": version.architecture}
    print_fields(fields | dict(facts), key="version", as_json=as_json, quiet=quiet)
