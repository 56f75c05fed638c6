"""`adapterhub backup`: copy the whole home, while it is in use."""

from dataclasses import asdict
from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_fields, progress, say


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--verify", "is_check", is_flag=True, help="Hash an existing backup instead.")
@data_options
def backup(directory: Path, is_check: bool, as_json: bool, quiet: bool) -> None:
    """Copy the whole home to DIRECTORY: the registry of one moment and every file, verified.

    Others may add, push and train meanwhile. Into a directory that holds a backup only what is missing is
    copied, and until the end the older backup stays whole. Caches and the trash are left out.

    \b
    Examples:
      adapterhub backup /mnt/disk/adapterhub
      adapterhub backup /mnt/disk/adapterhub --verify
      adapterhub restore /mnt/disk/adapterhub --home ~/adapterhub
    """
    from adapterhub_registry.backup import read_backup, verify_backup
    from adapterhub_registry.store import Registry

    if is_check:
        problems = list(verify_backup(directory, progress("hashing")))
        for problem in problems:
            say(problem)
        found, more = read_backup(directory)[0], {"problems": len(problems)}
    else:
        done = Registry().backup(directory, on_file=progress("copying"))
        for name in done.left_out:
            say(f"left out: {name}, which is a link")
        found, more = done.backup, {"files_copied": done.files_copied, "bytes_copied": done.bytes_copied}
    fields = {"backup": str(directory), **asdict(found), **more}
    print_fields(fields, key="backup", as_json=as_json, quiet=quiet)
    if is_check:
        if more["problems"]:
            say("remove the damaged files, and back up again: what is missing is copied anew")
            raise click.exceptions.Exit(1)
        say("every file is whole")
