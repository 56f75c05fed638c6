"""`adapterhub admin`: who may do what on a registry's server."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterhub_cli.output import data_options, print_fields, print_rows, say

if TYPE_CHECKING:
    from adapterhub_registry.store import Registry

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class SizeType(click.ParamType[int]):
    """A number of bytes: `500MB`, `20G`; `none` for any number, which is -1 here."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read one."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,15})([KMGT]?)B?", str(value).upper())
        if str(value).lower() != "none" and found is None:
            self.fail(f'"{value}" is no size; write 500MB, 20GB or none', param, ctx)
        return -1 if found is None else int(found[1]) * UNITS[found[2]]


home_option = click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="The registry, if not ADAPTERHUB_HOME."
)


@click.group()
def admin() -> None:
    """Manage users, organisations, tokens, quotas, and who sees which adapter, on a registry's server.

    \b
    Examples:
      adapterhub admin user add alice
      adapterhub admin token add alice --label laptop
    """


@admin.group()
def user() -> None:
    """Add, list and remove users.

    \b
    Examples:
      adapterhub admin user list
    """


@user.command("add")
@click.argument("name")
@click.option("--title", default="", help="The name for people.")
@click.option("--quota", type=SizeType(), default="none", help="How much the adapters may hold: 20GB.")
@home_option
@data_options
def add_user(name: str, title: str, quota: int, home: Path | None, as_json: bool, quiet: bool) -> None:
    """Add a user, who owns the adapters NAME/...

    \b
    Examples:
      adapterhub admin user add alice
      adapterhub admin user add bob --title "Bob B." --quota 20GB
    """
    made = _people(home).add_user(name, title=title, quota=None if quota < 0 else quota)
    print_fields(dataclasses.asdict(made), key="name", as_json=as_json, quiet=quiet)
    if not as_json and not quiet:
        say(f"make a token with: adapterhub admin token add {made.name}")


@user.command("list")
@home_option
@data_options
def list_users(home: Path | None, as_json: bool, quiet: bool) -> None:
    """List the users.

    \b
    Examples:
      adapterhub admin user list
    """
    rows = [dataclasses.asdict(item) for item in _people(home).namespaces("user")]
    print_rows(rows, key="name", as_json=as_json, quiet=quiet)


@user.command("remove")
@click.argument("name")
@home_option
def remove_user(name: str, home: Path | None) -> None:
    """Remove a user and the tokens; the adapters stay.

    \b
    Examples:
      adapterhub admin user remove bob
    """
    _people(home).remove(name, "user")
    say(f"{name} and all tokens of {name} are gone")


@admin.group()
def org() -> None:
    """Add, list and remove organisations, and say who is in them.

    \b
    Examples:
      adapterhub admin org member acme bob writer
    """


@org.command("add")
@click.argument("name")
@click.option("--owner", required=True, help="The user who owns it first.")
@click.option("--title", default="", help="The name for people.")
@click.option("--quota", type=SizeType(), default="none", help="How much the adapters may hold: 20GB.")
@home_option
@data_options
def add_organisation(
    name: str, owner: str, title: str, quota: int, home: Path | None, as_json: bool, quiet: bool
) -> None:
    """Add an organisation, whose members share the adapters NAME/...

    \b
    Examples:
      adapterhub admin org add acme --owner alice
    """
    made = _people(home).add_organisation(name, owner=owner, title=title, quota=None if quota < 0 else quota)
    print_fields(dataclasses.asdict(made), key="name", as_json=as_json, quiet=quiet)


@org.command("list")
@home_option
@data_options
def list_organisations(home: Path | None, as_json: bool, quiet: bool) -> None:
    """List the organisations and their members.

    \b
    Examples:
      adapterhub admin org list --json
    """
    people = _people(home)
    rows: list[dict[str, Any]] = []
    for item in people.namespaces("organisation"):
        members = people.members(item.name)
        shown = dict(members) if as_json else ", ".join(f"{name} ({role})" for name, role in members.items())
        rows.append({**dataclasses.asdict(item), "members": shown})
    print_rows(rows, key="name", as_json=as_json, quiet=quiet)


@org.command("remove")
@click.argument("name")
@home_option
def remove_organisation(name: str, home: Path | None) -> None:
    """Remove an organisation; its adapters stay.

    \b
    Examples:
      adapterhub admin org remove acme
    """
    _people(home).remove(name, "organisation")
    say(f"{name} is gone")


@org.command("member")
@click.argument("name")
@click.argument("user")
@click.argument("role", type=click.Choice(["reader", "writer", "owner", "none"]))
@home_option
def set_member(name: str, user: str, role: str, home: Path | None) -> None:
    """Let USER be reader, writer or owner in the organisation NAME, or none of them.

    \b
    Examples:
      adapterhub admin org member acme bob writer
      adapterhub admin org member acme bob none
    """
    if role == "none":
        _people(home).remove_member(name, user)
    else:
        _people(home).set_member(name, user, role)
    say(f"{user} is {role} in {name} now" if role != "none" else f"{user} is not in {name} any more")


@admin.group()
def token() -> None:
    """Add, list and remove tokens.

    \b
    Examples:
      adapterhub admin token list
    """


@token.command("add")
@click.argument("user")
@click.option("--label", default="", help="What it is for.")
@click.option("--scope", type=click.Choice(["read", "write"]), default="write", show_default=True)
@click.option("--days", type=click.IntRange(1, 36_500), help="How long it holds; for ever if left out.")
@home_option
@data_options
def add_token(
    user: str, label: str, scope: str, days: int | None, home: Path | None, as_json: bool, quiet: bool
) -> None:
    """Make a token for USER and print it, this one time; the registry keeps its digest alone.

    \b
    Examples:
      adapterhub admin token add alice --label laptop
      export HF_TOKEN=$(adapterhub admin token add ci --scope read --days 30 --quiet)
    """
    from adapterhub_registry.server.tokens import Tokens

    text, made = Tokens(_registry(home).database).add(user, label=label, scope=scope, days=days)
    fields = {"token": text, **dataclasses.asdict(made)}
    print_fields(fields, key="token", as_json=as_json, quiet=quiet)
    if not as_json and not quiet:
        say("keep the token now: it is not shown again")


@token.command("list")
@click.argument("user", required=False)
@home_option
@data_options
def list_tokens(user: str | None, home: Path | None, as_json: bool, quiet: bool) -> None:
    """List the tokens, or those of USER, without their texts.

    \b
    Examples:
      adapterhub admin token list
      adapterhub admin token list alice --json
    """
    from adapterhub_registry.server.tokens import Tokens

    rows = [dataclasses.asdict(item) for item in Tokens(_registry(home).database).list(user)]
    print_rows(rows, key="id", as_json=as_json, quiet=quiet)


@token.command("remove")
@click.argument("number", type=int)
@home_option
def remove_token(number: int, home: Path | None) -> None:
    """Make the token with the id NUMBER worthless, from the next request on.

    \b
    Examples:
      adapterhub admin token remove 3
    """
    from adapterhub_registry.server.tokens import Tokens

    Tokens(_registry(home).database).remove(number)
    say(f"token {number} is worthless now")


@admin.command()
@click.argument("namespace")
@click.argument("size", type=SizeType())
@home_option
def quota(namespace: str, size: int, home: Path | None) -> None:
    """Say how much the adapters of a user or an organisation may hold: a SIZE, or none for any.

    \b
    Examples:
      adapterhub admin quota acme 200GB
      adapterhub admin quota acme none
    """
    _people(home).set_quota(namespace, None if size < 0 else size)
    say(f"{namespace} may hold {'any number of' if size < 0 else f'{size:,}'} bytes now")


@admin.command()
@click.argument("name")
@click.argument("visibility", type=click.Choice(["private", "public"]))
@home_option
def visibility(name: str, visibility: str, home: Path | None) -> None:
    """Let all who reach the server read the adapter NAME, or only its namespace.

    \b
    Examples:
      adapterhub admin visibility me/ink public
    """
    _registry(home).set_visibility(name, visibility)
    say(f"{name} is {visibility} now")


def _registry(home: Path | None) -> "Registry":
    from adapterhub_registry.store import Registry

    return Registry(home)


def _people(home: Path | None) -> Any:
    from adapterhub_registry.server.people import People

    return People(_registry(home).database)
