"""`adapterhub show`: one version and its adapter."""

from typing import Any

import click

from adapterhub_cli.output import data_options, print_fields


@click.command()
@click.argument("reference", metavar="REF")
@data_options
def show(reference: str, as_json: bool, quiet: bool) -> None:
    """Show what REF is: files, triggers, lineage, and what is said of its adapter.

    \b
    Examples:
      adapterhub show me/ink
      adapterhub show me/ink@prod --json
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    version = registry.resolve(reference)
    adapter = registry.show(version.name)
    files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in version.files]
    beside = [item.name for item in [*registry.documents(version), *registry.previews(version)]]
    fields: dict[str, Any] = {
        "version": version.reference,
        "digest": version.digest,
        "state": version.state,
        "title": adapter.title,
        "description": adapter.description,
        "kind": adapter.kind,
        "tags": list(adapter.tags),
        "aliases": dict(adapter.aliases),
        "trigger_words": list(version.trigger_words),
        "recommended_weight": version.manifest.recommended_weight,
        "architecture": version.architecture,
        "base_identity": version.base_identity,
        "algorithm": version.manifest.algorithm,
        "licence": version.manifest.licence,
        "lineage": dict(version.lineage),
        "message": version.message,
        "author": version.author,
        "created": version.created,
        "files": files,
        "beside": beside,
    }
    if not as_json:
        fields = {name: _text(name, value) for name, value in fields.items() if value}
    print_fields(fields, key="version", as_json=as_json, quiet=quiet)


def _text(name: str, value: Any) -> str:
    if name == "files":
        return ", ".join(f"{file['path']} ({file['size']} bytes)" for file in value)
    if name in ("aliases", "lineage"):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if name in ("tags", "trigger_words", "beside"):
        return ", ".join(value)
    return str(value)
