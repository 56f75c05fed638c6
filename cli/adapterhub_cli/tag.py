"""`adapterhub tag`: change the tags of an adapter."""

from typing import TYPE_CHECKING

import click

from adapterhub_cli.output import data_options, print_fields

if TYPE_CHECKING:
    from adapterhub_registry.publication import Adapter, Details


@click.command()
@click.argument("name")
@click.option("--add", "added", multiple=True, help="A tag to add; repeat for more.")
@click.option("--remove", "removed", multiple=True, help="A tag to remove; repeat for more.")
@data_options
def tag(name: str, added: tuple[str, ...], removed: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Add and remove tags of NAME, and print those that it has then.

    \b
    Examples:
      adapterhub tag me/ink --add portrait --add ink
      adapterhub tag me/ink --remove portrait
    """
    from adapterhub_registry.publication import Details
    from adapterhub_registry.store import Registry

    def change(adapter: "Adapter") -> "Details":
        wanted = {*adapter.tags, *(word.lower() for word in added)} - {word.lower() for word in removed}
        return Details(tags=sorted(wanted))

    registry = Registry()
    adapter = registry.update(name, change) if added or removed else registry.show(name)
    tags: list[str] | str = list(adapter.tags) if as_json else ", ".join(adapter.tags)
    print_fields({"name": adapter.name, "tags": tags}, key="tags", as_json=as_json, quiet=quiet)
