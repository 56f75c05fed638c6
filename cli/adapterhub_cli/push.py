"""`adapterhub push`: send a version to a remote."""

import click

from adapterhub_cli.output import byte_progress, data_options, print_transfer, say


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--to", "remote", help="The remote or its URL; needed if there are several.")
@click.option("--renumber", is_flag=True, help="If the number is taken there, take the next one.")
@click.option("--alias", "aliases", multiple=True, help="An alias to point at it there; repeat for more.")
@click.option("--with-parents", is_flag=True, help="Push the versions it was made of before it.")
@click.option("--with-data", is_flag=True, help="Push its documents too: training config, data manifest.")
@data_options
def push(
    reference: str,
    remote: str | None,
    renumber: bool,
    aliases: tuple[str, ...],
    with_parents: bool,
    with_data: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Push REF with its previews and what is said of it; files that are there already are not sent.

    A push that was cut off goes on where it ended.

    \b
    Examples:
      adapterhub push me/ink --to team
      adapterhub push me/ink@3 --to team --alias prod --with-parents
      adapterhub push me/ink --to hf:owner/name
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    name = remote or registry.only_remote()
    done = registry.push(
        reference,
        remote=name,
        renumber=renumber,
        aliases=aliases,
        with_parents=with_parents,
        with_data=with_data,
        on_bytes=byte_progress("pushing"),
    )
    for parent in done.parents:
        say(f"{parent.name}@{parent.number} is in {name}" + ("" if parent.is_new else " already"))
    print_transfer(done, where=name, as_json=as_json, quiet=quiet)
