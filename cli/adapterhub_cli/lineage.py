"""`adapterhub lineage`: what a version was made of, and what was made of it."""

import json

import click


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--format", "format_name", type=click.Choice(["tree", "mermaid", "json"]), default="tree")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def lineage(reference: str, format_name: str, as_json: bool) -> None:
    """Draw the lineage of REF, both ways.

    \b
    Examples:
      adapterhub lineage me/both
      adapterhub lineage me/both --format mermaid
    """
    from adapterhub_registry.store import Registry

    node = Registry().lineage(reference)
    if as_json or format_name == "json":
        click.echo(json.dumps(node.as_json(), indent=2))
    elif format_name == "mermaid":
        click.echo(node.as_mermaid())
    else:
        for line in node.as_lines():
            click.echo(line)
