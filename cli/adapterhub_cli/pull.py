"""`adapterhub pull`: fetch a version from a remote."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, locked_option, print_transfer


@click.command()
@click.argument("reference", metavar="REF", required=False)
@click.option("--from", "remote", help="The remote; needed if there are several and REF names none.")
@click.option("--as", "rename", metavar="NS/NAME", help="Take it under another name.")
@locked_option("Pull every version of a lock file instead")
@data_options
def pull(
    reference: str | None,
    remote: str | None,
    rename: str | None,
    locked: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pull REF, every byte verified; files that are here already are not fetched.

    \b
    Examples:
      adapterhub pull acme/corgi@prod --from team
      adapterhub pull team:acme/corgi --as me/corgi
      adapterhub pull --locked --from team
    """
    from adapterhub_registry.lockfile import read_lock
    from adapterhub_registry.references import parse_reference
    from adapterhub_registry.store import Registry

    if (reference is None) == (locked is None) or (locked is not None and rename is not None):
        raise click.UsageError("give either REF or --locked FILE; --as goes with REF alone")
    registry = Registry()
    if locked is not None:
        name = remote or registry.only_remote()
        for adapter in read_lock(locked).adapters:
            done = registry.pull(adapter.reference, remote=name)
            print_transfer(done, where="this registry", as_json=as_json, quiet=quiet)
        return
    reference = reference or ""
    name = parse_reference(reference).remote or remote or registry.only_remote()
    done = registry.pull(reference, remote=name, rename=rename)
    print_transfer(done, where="this registry", as_json=as_json, quiet=quiet)
