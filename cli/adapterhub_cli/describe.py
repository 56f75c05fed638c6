"""`adapterhub describe`: change what is said of an adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapterhub_cli.output import data_options, print_fields

if TYPE_CHECKING:
    from adapterhub_registry.publication import Adapter, Details


@click.command()
@click.argument("name")
@click.option("--title", help="The adapter's name for people.")
@click.option("--description", help="A sentence.")
@click.option("--kind", help="style, subject, concept, slider or other.")
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="What to generate with; NAME= takes one away.",
)
@click.option(
    "--card", type=click.Path(path_type=Path), help="A Markdown file, as the text of the model card."
)
@data_options
def describe(
    name: str,
    title: str | None,
    description: str | None,
    kind: str | None,
    settings: tuple[str, ...],
    card: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Change what is said of the adapter NAME, and print what is said then; versions stay as they are.

    \b
    Examples:
      adapterhub describe me/ink --title "Ink wash" --description "Soft grey drawings" --kind style
      adapterhub describe me/ink --setting steps=30 --setting guidance_scale=6 --setting scheduler=
      adapterhub describe me/ink --card README.md
    """
    from adapterhub_registry.describing import card_text
    from adapterhub_registry.publication import Details
    from adapterhub_registry.store import Registry

    wanted = Details(title, description, None if card is None else card_text(card), kind)
    changes = read_settings(settings)

    def change(adapter: "Adapter") -> "Details":
        kept = {key: value for key, value in {**adapter.settings, **changes}.items() if value}
        return replace(wanted, settings=kept if changes else None)

    adapter = Registry().update(name, change)
    fields = {
        "name": adapter.name,
        "title": adapter.title,
        "description": adapter.description,
        "kind": adapter.kind,
        "tags": list(adapter.tags) if as_json else ", ".join(adapter.tags),
        "settings": dict(adapter.settings) if as_json else settings_text(adapter.settings),
        "card": adapter.card if as_json else f"{len(adapter.card)} letters",
    }
    print_fields(fields, key="name", as_json=as_json, quiet=quiet)


def read_settings(words: Sequence[str]) -> dict[str, str]:
    """Read `NAME=VALUE` of `--setting`; a dash in a name counts as an underscore."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.strip():
            raise click.BadParameter(f'"{word}" is not NAME=VALUE', param_hint="--setting")
        found[name.strip().replace("-", "_")] = value.strip()
    return found


def settings_text(settings: Mapping[str, str]) -> str:
    """Return settings in one line."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())
