"""`adapterhub gc`: give back the disk space of what no version needs."""

import re
from datetime import timedelta

import click

from adapterhub_cli.output import data_options, print_rows, say

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """Read a number and a unit, `0s`, `12h` or `7d`."""
    match = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration; write 0s, 30m, 12h or 7d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


@click.command()
@click.option("--grace", type=duration, default="1d", show_default=True, help="How long unneeded files stay.")
@click.option("--keep", type=duration, default="7d", show_default=True, help="How long the trash is kept.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@data_options
def gc(grace: timedelta, keep: timedelta, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Remove the files that no version needs; safe while others add, push and pull.

    A file that no version needs is condemned; after the grace time it goes to the trash, from which `verify
    --repair` can still take it, and after the keeping time it is deleted. What dead processes left and the
    directories of deleted versions go at once.

    \b
    Examples:
      adapterhub gc --dry-run
      adapterhub gc
      adapterhub gc --grace 0s --keep 0s
    """
    from adapterhub_registry.store import Registry

    done = Registry().collect(
        grace=grace,
        keep=keep,
        dry_run=dry_run,
        on_wait=lambda: say("waiting for the end of a backup or of another gc"),
    )
    tallies = {
        "live": ("needed by a version", done.live),
        "condemned": ("needed by none from now on", done.condemned),
        "trashed": ("moved to the trash", done.trashed),
        "deleted": ("deleted from the trash", done.deleted),
        "drafts": ("left by dead processes", done.drafts),
        "views": ("of deleted versions' directories", done.views),
    }
    rows = [
        {"what": name if as_json or quiet else words, "files": tally.files, "bytes": tally.size}
        for name, (words, tally) in tallies.items()
    ]
    print_rows(rows, key="what", as_json=as_json, quiet=quiet)
    if dry_run:
        say("nothing was changed")
