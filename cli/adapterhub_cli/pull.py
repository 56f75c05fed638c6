"""`adapterhub pull`: fetch a version from a remote."""

import click

from adapterhub_cli.output import data_options, print_transfer


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--from", "remote", help="The remote; needed if there are several and REF names none.")
@click.option("--as", "rename", metavar="NS/NAME", help="Take it under another name.")
@data_options
def pull(reference: str, remote: str | None, rename: str | None, as_json: bool, quiet: bool) -> None:
    """Pull REF, every byte verified; files that are here already are not fetched.

    \b
    Examples:
      adapterhub pull acme/corgi@prod --from team
      adapterhub pull team:acme/corgi --as me/corgi
    """
    from adapterhub_registry.references import parse_reference
    from adapterhub_registry.store import Registry

    registry = Registry()
    name = parse_reference(reference).remote or remote or registry.only_remote()
    done = registry.pull(reference, remote=name, rename=rename)
    print_transfer(done, where="this registry", as_json=as_json, quiet=quiet)
