"""`adapterhub login`, `logout` and `whoami`: the token for a registry over HTTP."""

import sys

import click

from adapterhub_cli.output import data_options, print_fields, say

REMOTE = click.argument("remote", required=False)


@click.command()
@REMOTE
def login(remote: str | None) -> None:
    """Keep a token for REMOTE, a name or a URL; it is asked for, or read from stdin.

    Only you can read the file that it is kept in. Who runs the registry makes one, with: adapterhub admin
    token add.

    \b
    Examples:
      adapterhub login team
      adapterhub login https://adapters.example.org < token.txt
    """
    from adapterhub_registry.credentials import store_token
    from adapterhub_registry.http_remote import HttpRemote

    name, url = _remote(remote)
    if sys.stdin.isatty():
        token = click.prompt(f"Token for {name}", hide_input=True, err=True).strip()
    else:
        token = sys.stdin.readline().strip()
    if not token:
        raise click.UsageError("there is no token on stdin")
    found = HttpRemote(name, url, token).whoami()
    store_token(url, token)
    say(f"you are {found.name} in {name} now; the token may {found.scope}")


@click.command()
@REMOTE
def logout(remote: str | None) -> None:
    """Forget the token for REMOTE; it stays good, until who runs the registry removes it.

    \b
    Examples:
      adapterhub logout team
    """
    from adapterhub_registry.credentials import forget_token

    name, url = _remote(remote)
    say(f"the token for {name} is forgotten" if forget_token(url) else f"there was no token for {name}")


@click.command()
@REMOTE
@data_options
def whoami(remote: str | None, as_json: bool, quiet: bool) -> None:
    """Say who you are in REMOTE, and in which organisations you are what.

    \b
    Examples:
      adapterhub whoami team
    """
    from adapterhub_registry.credentials import token_for
    from adapterhub_registry.http_remote import HttpRemote

    name, url = _remote(remote)
    found = HttpRemote(name, url, token_for(name, url)).whoami()
    roles = dict(found.organisations)
    fields = {
        "name": found.name,
        "remote": name,
        "scope": found.scope,
        "organisations": roles if as_json else ", ".join(f"{key} ({role})" for key, role in roles.items()),
    }
    print_fields(fields, key="name", as_json=as_json, quiet=quiet)


def _remote(name: str | None) -> tuple[str, str]:
    """Return name and URL of a remote over HTTP."""
    from adapterhub_registry.errors import RemoteError
    from adapterhub_registry.store import Registry

    registry = Registry()
    name = name or registry.only_remote()
    url = registry.remote_url(name)
    if not url.startswith(("http://", "https://")):
        raise RemoteError(name, f"{url} knows no users; only registries over HTTP do")
    return name, url
