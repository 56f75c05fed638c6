"""Adapters as the grid shows them: a picture, a name, and what one chooses by."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapterhub_registry.database import Read
from adapterhub_registry.publication import Adapter

HEADS = """
    SELECT a.namespace || '/' || a.name, a.updated, a.visibility <> 'public', v.number, v.architecture,
        v.licence, v.ranks, p.sha256, p.prompt
    FROM adapter a JOIN version v ON v.id = a.head_id
    LEFT JOIN preview p ON p.id = (SELECT min(id) FROM preview WHERE version_id = v.id)
    WHERE (a.namespace, a.name) IN (VALUES """


@dataclass(frozen=True)
class Card:
    """One adapter in the grid.

    Attributes:
        adapter: What is said of it.
        updated: UTC time, ISO 8601.
        is_private: Whether only its namespace sees it.
        number: Of its newest version.
        architecture: Of that.
        licence: Likewise.
        ranks: Likewise.
        picture: SHA-256 of its first preview; empty for none.
        prompt: That the picture was made with.
    """

    adapter: Adapter
    updated: str
    is_private: bool
    number: int
    architecture: str
    licence: str
    ranks: str
    picture: str
    prompt: str


def read_cards(read: Read, adapters: Sequence[Adapter]) -> list[Card]:
    """Return the cards of adapters, in their order; one that lost its last version meanwhile is left out."""
    if not adapters:
        return []
    values = [part for adapter in adapters for part in adapter.name.split("/")]
    rows = read(HEADS + ", ".join(["(?, ?)"] * len(adapters)) + ")", values)
    found = {row[0]: row[1:] for row in rows}
    return [
        Card(
            adapter, updated, bool(hidden), number, architecture, licence, ranks, picture or "", prompt or ""
        )
        for adapter in adapters
        if adapter.name in found
        for updated, hidden, number, architecture, licence, ranks, picture, prompt in [found[adapter.name]]
    ]
