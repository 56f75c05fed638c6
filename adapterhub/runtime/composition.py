"""Compositions: which adapters are active, and how strongly; a value."""

import hashlib
import json
import math
import re
from dataclasses import dataclass

from adapterhub.errors import CompositionError
from adapterhub_registry.errors import ReferenceSyntaxError
from adapterhub_registry.references import REFERENCE, Reference, parse_reference

WEIGHT = re.compile(r":(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))")


@dataclass(frozen=True)
class Term:
    """One adapter of a composition.

    Attributes:
        reference: Which version.
        weight: Its strength; negative weights are legal.
    """

    reference: Reference
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.reference}:{self.weight:g}"


@dataclass(frozen=True)
class Composition:
    """The active adapters and their weights; empty means the base."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Composition":
        """Read a composition from text.

        Raises:
            CompositionError: The text does not follow the grammar.

        Example:
            >>> print(Composition.parse("me/ink@prod:0.8 + me/corgi"))
            me/ink@prod:0.8 + me/corgi:1
        """
        terms: list[Term] = []
        position = 0
        while position < len(text) or not terms:
            position += len(text[position:]) - len(text[position:].lstrip())
            found = REFERENCE.match(text, position)
            if found is None:
                raise CompositionError(text, f"at character {position + 1} stands no adapter")
            position = found.end()
            weight = WEIGHT.match(text, position)
            if weight is not None:
                position = weight.end()
            try:
                reference = parse_reference(found[0])
            except ReferenceSyntaxError as exc:
                raise CompositionError(text, exc.reason) from exc
            value = float(weight["weight"]) if weight else 1.0
            if not math.isfinite(value):
                raise CompositionError(text, f"the weight {value} is not finite")
            terms.append(Term(reference, value))
            rest = text[position:].lstrip()
            if not rest:
                break
            if not rest.startswith("+"):
                raise CompositionError(text, f'"{rest}" follows where "+" or the end should')
            position = len(text) - len(rest) + 1
        return cls(tuple(terms))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the terms; equal compositions have equal digests."""
        table = [[str(term.reference), repr(term.weight)] for term in self.terms]
        return hashlib.sha256(json.dumps(table).encode()).hexdigest()

    def __str__(self) -> str:
        return " + ".join(str(term) for term in self.terms)


BASE = Composition()
"""The composition without adapters."""
