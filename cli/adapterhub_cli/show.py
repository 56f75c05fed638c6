"""`adapterhub show`: one version and its adapter."""

from collections.abc import Mapping
from typing import Any

import click

from adapterhub_cli.output import data_options, print_fields


@click.command()
@click.argument("reference", metavar="REF")
@data_options
def show(reference: str, as_json: bool, quiet: bool) -> None:
    """Show what REF is: files and what they say, triggers, lineage, pictures, what is said of its adapter.

    \b
    Examples:
      adapterhub show me/ink
      adapterhub show me/ink@prod --json
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    version = registry.resolve(reference)
    adapter, facts = registry.show(version.name), registry.facts(version)
    previews = [
        {
            "name": item.name,
            "prompt": item.prompt,
            "seed": item.seed,
            "settings": dict(item.settings),
            "sha256": item.sha256,
        }
        for item in registry.previews(version)
    ]
    fields: dict[str, Any] = {
        "version": version.reference,
        "digest": version.digest,
        "state": version.state,
        "yank_reason": version.yank_reason,
        "title": adapter.title,
        "description": adapter.description,
        "kind": adapter.kind,
        "tags": list(adapter.tags),
        "aliases": dict(adapter.aliases),
        "trigger_words": list(version.trigger_words),
        "recommended_weight": version.manifest.recommended_weight,
        "settings": dict(adapter.settings),
        "architecture": version.architecture,
        "base_identity": version.base_identity,
        "algorithm": version.manifest.algorithm,
        "rank": facts.ranks,
        "alpha": facts.alphas,
        "targets": facts.targets,
        "parameters": facts.parameters,
        "size": facts.size,
        "payload_digest": facts.payload_digest,
        "metrics": dict(facts.metrics),
        "licence": version.manifest.licence,
        "lineage": dict(version.lineage),
        "linked": facts.linked,
        "message": version.message,
        "author": version.author,
        "created": version.created,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in version.files],
        "documents": [item.name for item in registry.documents(version)],
        "previews": previews,
        "has_card": bool(adapter.card),
    }
    if not as_json:
        fields = {name: _text(name, value) for name, value in fields.items() if value}
    print_fields(fields, key="version", as_json=as_json, quiet=quiet)


def _text(name: str, value: Any) -> str:
    if name == "files":
        return ", ".join(f"{file['path']} ({file['size']:,} bytes)" for file in value)
    if name == "previews":
        return "; ".join(_picture(item) for item in value)
    if name == "has_card":
        return "yes"
    if name in ("aliases", "settings", "metrics", "lineage"):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if name in ("tags", "trigger_words", "documents"):
        return ", ".join(value)
    return f"{value:,}" if name in ("parameters", "size") else str(value)


def _picture(item: Mapping[str, Any]) -> str:
    seed = "" if item["seed"] is None else f", seed {item['seed']}"
    return f'{item["name"]} "{item["prompt"]}"{seed}' if item["prompt"] else item["name"]
