"""`adapterhub cache`: the pictures and captions that trainings have encoded."""

import re
from datetime import timedelta

import click

from adapterhub_cli.gc import duration
from adapterhub_cli.output import data_options, print_fields, say

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def size_bytes(text: str) -> int:
    """Read a number of bytes, `500MB` or `20GB`."""
    match = re.fullmatch(r"(\d{1,12}) ?([kMGT]?)B?", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no size; write 500MB or 20GB")
    return int(match[1]) * UNITS[match[2]]


@click.group(invoke_without_command=True)
@data_options
@click.pass_context
def cache(context: click.Context, as_json: bool, quiet: bool) -> None:
    """Say how much the pictures and captions take up that trainings have encoded.

    All trainings share them. What is deleted is encoded again when it is needed.

    \b
    Examples:
      adapterhub cache
      adapterhub cache gc --older-than 30d
      adapterhub cache gc --max-bytes 20GB
    """
    if context.invoked_subcommand is not None:
        return
    from adapterhub.training.cache import encoding_cache
    from adapterhub_registry.store import Registry

    found = encoding_cache(Registry().home)
    size = found.size()
    fields = {"directory": str(found.directory), "entries": size.entries, "bytes": size.size_bytes}
    print_fields(fields, key="directory", as_json=as_json, quiet=quiet)


@cache.command()
@click.option("--older-than", type=duration, help="Delete what was not used for so long, such as 30d.")
@click.option("--max-bytes", type=size_bytes, help="Delete what was not used for longest, down to this size.")
@data_options
def gc(older_than: timedelta | None, max_bytes: int | None, as_json: bool, quiet: bool) -> None:
    """Delete encoded pictures and captions; safe while trainings go on.

    \b
    Examples:
      adapterhub cache gc --older-than 30d
      adapterhub cache gc --max-bytes 20GB
    """
    if older_than is None and max_bytes is None:
        raise click.UsageError("say what to delete: --older-than 30d, or --max-bytes 20GB")
    from adapterhub.training.cache import encoding_cache
    from adapterhub_registry.store import Registry

    found = encoding_cache(Registry().home)
    seconds = None if older_than is None else older_than.total_seconds()
    done, left = found.collect(older_than_s=seconds, max_bytes=max_bytes), found.size()
    fields = {
        "deleted": done.entries,
        "deleted_bytes": done.size_bytes,
        "entries": left.entries,
        "bytes": left.size_bytes,
    }
    print_fields(fields, key="deleted", as_json=as_json, quiet=quiet)
    if not done.entries:
        say("nothing was deleted")
