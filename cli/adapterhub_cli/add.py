"""`adapterhub add`: put a file of weights into the registry."""

from pathlib import Path

import click

from adapterhub_cli.describe import read_settings
from adapterhub_cli.output import data_options, print_fields, say


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="namespace/name.")
@click.option("--base", help="The base that it was made on; its architecture must fit.")
@click.option("--trigger", "triggers", multiple=True, help="What a prompt must say; repeat for more.")
@click.option("--tag", "tags", multiple=True, help="A label for search; repeat for more.")
@click.option(
    "--preview", "previews", multiple=True, type=click.Path(path_type=Path), help="A picture of it."
)
@click.option("--kind", help="style, subject, concept, slider or other.")
@click.option("--weight", help="The strength to start with, for example 0.8.")
@click.option("--licence", default="", help="SPDX identifier, or words.")
@click.option("--title", help="The adapter's name for people.")
@click.option("--description", help="A sentence.")
@click.option("--setting", "settings", multiple=True, metavar="NAME=VALUE", help="What to generate with.")
@click.option("--card", type=click.Path(path_type=Path), help="A model card, for what is not given here.")
@click.option("--link", is_flag=True, help="Keep a hard link to the file, not a copy.")
@click.option("-m", "--message", default="", help="What to say of this version.")
@data_options
def add(
    path: Path,
    name: str,
    base: str | None,
    triggers: tuple[str, ...],
    tags: tuple[str, ...],
    previews: tuple[Path, ...],
    kind: str | None,
    weight: str | None,
    licence: str,
    title: str | None,
    description: str | None,
    settings: tuple[str, ...],
    card: Path | None,
    link: bool,
    message: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Add PATH, a safetensors file or a PEFT directory, as the next version of an adapter.

    A hard link takes no room, but a tool that changes PATH in place changes the version too; `verify` finds
    that, and `verify --repair` makes the version independent.

    \b
    Examples:
      adapterhub add ink.safetensors --name me/ink --base mini --trigger inkwash
      adapterhub add ink.safetensors --name me/ink --setting steps=30 --card README.md
      adapterhub add ./peft-corgi --name me/corgi --base mini --kind subject --preview corgi.png
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    known = {version.number for version in registry.known_versions(name)}
    version = registry.add(
        path,
        name=name,
        base=base,
        trigger_words=triggers,
        recommended_weight=weight,
        licence=licence,
        previews=previews,
        message=message,
        title=title,
        description=description,
        kind=kind,
        tags=tags or None,
        settings=read_settings(settings) or None,
        card=card,
        link=link,
    )
    if version.number in known:
        say(f"nothing changed: these weights are there already as {version.reference}")
    linked = registry.facts(version).linked
    if linked:
        say(f"linked, not copied: who changes {linked} in place changes {version.reference} too")
    print_fields(
        {"version": version.reference, "digest": version.digest, "architecture": version.architecture},
        key="version",
        as_json=as_json,
        quiet=quiet,
    )
