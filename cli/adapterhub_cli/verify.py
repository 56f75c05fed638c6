"""`adapterhub verify`: hash every stored file again, and put right what is wrong."""

import re
from typing import TYPE_CHECKING, Any

import click

from adapterhub_cli.output import data_options, print_rows, progress, say

if TYPE_CHECKING:
    from adapterhub_registry.care import Problem

DIGEST = r"(sha256:[0-9a-f]{12})[0-9a-f]{52}"


@click.command()
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--repair", is_flag=True, help="Put right what can be, from the trash or a remote.")
@click.option("--from", "remote", metavar="REMOTE", help="With --repair: the only remote to ask.")
@data_options
def verify(reference: str | None, repair: bool, remote: str | None, as_json: bool, quiet: bool) -> None:
    """Hash the files of REF, or of all versions, compare them with the rows, and list what is wrong.

    Exits with 1 if anything is wrong, or with --repair if anything stays wrong.

    \b
    Examples:
      adapterhub verify
      adapterhub verify me/ink@3
      adapterhub verify --repair --from team
    """
    from adapterhub_registry.store import Registry

    if remote is not None and not repair:
        raise click.UsageError("--from goes with --repair")
    registry = Registry()
    found = registry.verify(reference, repair=repair, remote=remote, on_blob=progress("hashing"))
    problems = list(found)
    rows = [_row(item, repair=repair, as_json=as_json) for item in problems]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)
    if reference is None:
        spare, linked = registry.unneeded(), registry.linked_versions()
        if spare.files:
            say(f"no version needs {spare.size} bytes in {spare.files} files; see: adapterhub gc --dry-run")
        if linked:
            say(f"{len(linked)} versions are links to files outside; --repair makes them the registry's own")
    wrong = [item for item in problems if not item.is_repaired]
    if problems and not wrong:
        say("everything is repaired")
    if wrong:
        if not repair:
            say("see what can be put right with: adapterhub verify --repair")
        raise click.exceptions.Exit(1)
    if not problems:
        say("every file is whole")


def _row(item: "Problem", *, repair: bool, as_json: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"version": item.subject, "file": item.path, "problem": item.problem}
    if repair:
        row |= {"repaired": item.is_repaired, "repair": item.repair}
    if not as_json:  # half a line of digits tells people nothing
        row = {name: re.sub(DIGEST, r"\1...", str(value)) for name, value in row.items()}
        row |= {"repaired": "yes" if item.is_repaired else "NO"} if repair else {}
    return row
