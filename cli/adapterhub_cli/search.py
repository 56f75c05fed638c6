"""`adapterhub search`: find adapters by words and by what they are."""

import click

from adapterhub_cli.output import data_options, print_rows, say


@click.command()
@click.argument("query", nargs=-1)
@click.option("--tag", "tags", multiple=True, help="All of these; repeat for more.")
@click.option("--kind", help="style, subject, concept, slider or other.")
@click.option("--architecture", help="sdxl, mini, ...")
@click.option("--algorithm", help="lora, locon, loha, ...")
@click.option("--licence", help="As it was given.")
@click.option("--rank", type=int, help="One of its ranks.")
@click.option("--author", help="Who added the newest version.")
@click.option("--operation", help="trained, imported, merged, ...")
@click.option("--preview/--no-preview", "has_preview", default=None, help="With or without a picture.")
@click.option("--sort", type=click.Choice(["relevance", "name", "updated", "created"]))
@click.option("--limit", type=int, default=50, show_default=True)
@click.option("--after", help="What the page before ended with.")
@data_options
def search(
    query: tuple[str, ...],
    tags: tuple[str, ...],
    kind: str | None,
    architecture: str | None,
    algorithm: str | None,
    licence: str | None,
    rank: int | None,
    author: str | None,
    operation: str | None,
    has_preview: bool | None,
    sort: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find adapters by words in names, titles, descriptions, triggers and tags; beginnings are enough.

    \b
    Examples:
      adapterhub search ink wash
      adapterhub search --tag portrait --architecture sdxl --sort updated
    """
    from adapterhub_registry.search import Filters
    from adapterhub_registry.store import Registry

    filters = Filters(
        tags=tags,
        kind=kind,
        architecture=architecture,
        algorithm=algorithm,
        licence=licence,
        rank=rank,
        author=author,
        operation=operation,
        has_preview=has_preview,
    )
    page = Registry().search(" ".join(query), filters=filters, sort=sort, limit=limit, after=after)
    rows = [
        {
            "name": adapter.name,
            "latest": adapter.latest,
            "kind": adapter.kind,
            "tags": list(adapter.tags) if as_json else ", ".join(adapter.tags),
            "description": adapter.description,
        }
        for adapter in page
    ]
    if not rows and not as_json:
        say("nothing found")
    print_rows(rows, key="name", as_json=as_json, quiet=quiet)
    if page.next is not None:
        say(f"there is more: --after {page.next}")
