"""`adapterhub pull`: fetch a version from a remote."""

from pathlib import Path

import click

from adapterhub_cli.output import byte_progress, data_options, locked_option, print_transfer, say


@click.command()
@click.argument("reference", metavar="REF", required=False)
@click.option("--from", "remote", help="The remote or its URL; needed if there are several.")
@click.option("--as", "rename", metavar="NS/NAME", help="Take it under another name.")
@click.option("--file", help="Of a repository of a hub with several files of weights: which one.")
@locked_option("Pull every version of a lock file instead")
@data_options
def pull(
    reference: str | None,
    remote: str | None,
    rename: str | None,
    file: str | None,
    locked: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pull REF, every byte verified; files that are here already are not fetched.

    A pull that was cut off goes on where it ended. A repository of the Hugging Face Hub, hf:owner/name, that
    AdapterHub did not publish becomes the next version here.

    \b
    Examples:
      adapterhub pull acme/corgi@prod --from team
      adapterhub pull team:acme/corgi --as me/corgi
      adapterhub pull --locked --from team
      adapterhub pull hf:owner/name@main --file ink.safetensors --as me/ink
    """
    from adapterhub_registry.hub import is_hub
    from adapterhub_registry.lockfile import read_lock
    from adapterhub_registry.references import parse_reference
    from adapterhub_registry.store import Registry

    if (reference is None) == (locked is None) or (locked is not None and (rename or file)):
        raise click.UsageError("give either REF or --locked FILE; --as and --file go with REF alone")
    registry = Registry()
    if locked is not None:
        name = remote or registry.only_remote()
        for adapter in read_lock(locked).adapters:
            done = registry.pull(adapter.reference, remote=name, on_bytes=byte_progress(adapter.name))
            print_transfer(done, where="this registry", as_json=as_json, quiet=quiet)
        return
    reference = reference or ""
    if is_hub(reference) or parse_reference(reference).remote:
        name = None
    else:
        name = remote or registry.only_remote()
    on_bytes = byte_progress("pulling")
    done = registry.pull(reference, remote=name, rename=rename, file=file, on_bytes=on_bytes)
    if done.yank_reason:
        say(f"warning: {done.name}@{done.number} is yanked there: {done.yank_reason}")
    print_transfer(done, where="this registry", as_json=as_json, quiet=quiet)
