"""Adapters as the grid shows them: a picture, a name, and what one chooses by."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapterhub_registry.database import Read
from adapterhub_registry.publication import Adapter
from adapterhub_registry.reading import list_adapters

HEADS = """
    SELECT a.id, a.updated, a.visibility <> 'public', v.number, v.architecture, v.licence, v.ranks,
        coalesce(p.sha256, ''), coalesce(p.prompt, '')
    FROM adapter a JOIN version v ON v.id = a.head_id
    LEFT JOIN preview p ON p.id = (SELECT min(id) FROM preview WHERE version_id = v.id)
    WHERE a.id IN ("""


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


def read_cards(read: Read, keys: Sequence[int]) -> list[Card]:
    """Return the cards of adapters, by their keys, in that order, without those that the snapshot lacks."""
    heads = {row[0]: row for row in read(f"{HEADS}{', '.join('?' * len(keys))})", keys)}
    known = [key for key in keys if key in heads]
    cards: list[Card] = []
    for key, adapter in zip(known, list_adapters(read, known), strict=True):
        _, updated, is_private, *rest = heads[key]
        cards.append(Card(adapter, updated, bool(is_private), *rest))
    return cards
