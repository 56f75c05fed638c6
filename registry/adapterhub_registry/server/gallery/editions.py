"""The versions of an adapter side by side: what is known of each, and what changed from one to the next."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapterhub_registry.database import Read
from adapterhub_registry.manifest import Manifest, Version
from adapterhub_registry.server.gallery.rendering import size_text

PAGE = 20
SHOWN_DIGEST = len("sha256:") + 12
EDITIONS = """
    SELECT id, number, manifest, state, message, author, created, yank_reason, ranks, alphas, targets,
        parameters, size, payload_digest, metrics
    FROM version WHERE adapter_id = ? AND state <> 'deleted' AND """


@dataclass(frozen=True)
class Edition:
    """A version, and what its files say.

    Attributes:
        id: Its key.
        version: The version.
        facts: Name to value, for people; what is not known is left out.
        weights: SHA-256 of the tensors alone.
    """

    id: int
    version: Version
    facts: Mapping[str, str]
    weights: str


@dataclass(frozen=True)
class Change:
    """What differs between two versions; an empty text stands for nothing."""

    name: str
    before: str
    after: str


def read_edition(read: Read, adapter_id: int, name: str, number: int) -> Edition | None:
    """Return a version by its number."""
    rows = read(f"{EDITIONS} number = ?", [adapter_id, number])
    return _edition(name, *rows[0]) if rows else None


def read_editions(read: Read, adapter_id: int, name: str, below: int) -> list[Edition]:
    """Return the newest versions below a number, newest first: one more than a page shows."""
    rows = read(f"{EDITIONS} number < ? ORDER BY number DESC LIMIT ?", [adapter_id, below, PAGE + 1])
    return [_edition(name, *row) for row in rows]


def changes(before: Edition, after: Edition) -> list[Change]:
    """Return what differs, in the order in which facts are told."""
    names = [*after.facts, *(name for name in before.facts if name not in after.facts)]
    pairs = [Change(name, before.facts.get(name, ""), after.facts.get(name, "")) for name in names]
    return [pair for pair in pairs if pair.before != pair.after]


def with_changes(editions: Sequence[Edition]) -> list[tuple[Edition, list[Change]]]:
    """Return a page of versions, newest first, each with what differs from the one before it."""
    older: list[Edition | None] = [*editions[1:], None]
    pairs = zip(editions, older, strict=True)
    return [(new, changes(old, new) if old is not None else []) for new, old in pairs][:PAGE]


def _edition(
    name: str,
    key: int,
    number: int,
    manifest_text: str,
    state: str,
    message: str,
    author: str,
    created: str,
    yank_reason: str,
    ranks: str,
    alphas: str,
    targets: str,
    parameters: int,
    size: int,
    weights: str,
    metrics: str,
) -> Edition:
    manifest = Manifest.from_json(manifest_text)
    version = Version(name, number, manifest, state, message, author, created, yank_reason)
    table = {
        "trigger words": ", ".join(manifest.trigger_words),
        "weight to start with": manifest.recommended_weight,
        "licence": manifest.licence,
        "architecture": manifest.architecture,
        "made on": manifest.base_identity[:SHOWN_DIGEST],
        "algorithm": manifest.algorithm,
        "rank": ranks,
        "alpha": alphas,
        "changes": targets,
        "parameters": f"{parameters:,}" if parameters else "",
        "size": size_text(size) if size else "",
        "weights": weights[:12],
        "origin": manifest.lineage.get("operation", ""),
        **{f"training: {key.replace('_', ' ')}": value for key, value in json.loads(metrics).items()},
    }
    return Edition(key, version, {name: text for name, text in table.items() if text}, weights)
