"""Compositions: which adapters are active, and how strongly; a value."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapterhub.errors import CompositionError
from adapterhub_registry.errors import ReferenceSyntaxError
from adapterhub_registry.references import REFERENCE, Reference, parse_reference

WEIGHT = re.compile(r":(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)
BLOCKS = re.compile(r"\[(?P<blocks>[^\[\]]*)\]")


@dataclass(frozen=True)
class Term:
    """One adapter of a composition.

    Attributes:
        reference: Which version.
        weight: Its strength; negative weights are legal.
        components: Strengths of single components (`unet`, `text_encoder`, ...) in place of `weight`.
        blocks: What the strength is multiplied by in single blocks and layers, as
            `adapterhub.lora.blocks.parse_block_weights` reads it: `mid_block=0,*.attn2.*=0.5`, or the numbers
            of an LBW string; empty for 1 everywhere.
    """

    reference: Reference
    weight: float = 1.0
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    blocks: str = ""

    def strength(self, component: str) -> float:
        """Return the strength on one component, where no block says otherwise."""
        return self.components.get(component, self.weight)

    def __str__(self) -> str:
        return f"{self.reference}:{self.weight!r}" + (f"[{self.blocks}]" if self.blocks else "")


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
            >>> print(Composition.parse("me/ink@prod:0.8 + me/corgi[mid_block=0]"))
            me/ink@prod:0.8 + me/corgi:1.0[mid_block=0]
        """
        terms: list[Term] = []
        rest = text.lstrip()
        while True:
            found = REFERENCE.match(rest)
            if found is None:
                raise CompositionError(text, f'where "{rest}" stands, an adapter should')
            rest = rest[found.end() :]
            weight = WEIGHT.match(rest)
            if weight is not None:
                rest = rest[weight.end() :]
            blocks = BLOCKS.match(rest)
            if blocks is not None:
                rest = rest[blocks.end() :]
            try:
                reference = parse_reference(found[0])
            except ReferenceSyntaxError as exc:
                raise CompositionError(text, exc.reason) from exc
            value = float(weight["weight"]) if weight else 1.0
            if not math.isfinite(value):
                raise CompositionError(text, f"the weight {value} is not finite")
            terms.append(Term(reference, value, blocks=blocks["blocks"].strip() if blocks else ""))
            rest = rest.lstrip()
            if not rest:
                break
            if not rest.startswith("+"):
                raise CompositionError(text, f'where "{rest}" stands, "+" or the end should')
            rest = rest[1:].lstrip()
        return cls(tuple(terms))

    def __str__(self) -> str:
        return " + ".join(str(term) for term in self.terms)


BASE = Composition()
"""The composition without adapters."""
