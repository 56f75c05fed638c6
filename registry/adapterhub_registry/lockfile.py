"""The lock file: the very versions that a composition is made of, so that it is the same anywhere."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapterhub_registry.errors import AdapterHubError, LockError
from adapterhub_registry.manifest import decimal_text
from adapterhub_registry.references import parse_reference

FORMAT = 1


@dataclass(frozen=True)
class LockedAdapter:
    """One adapter of a locked composition.

    Attributes:
        name: `namespace/name`.
        number: The version's, where it was locked.
        digest: `sha256:` and 64 hex digits; this decides.
        weight: A decimal as text.
        blocks: Weights of blocks as text; empty for none.
    """

    name: str
    number: int
    digest: str
    weight: str
    blocks: str = ""

    @property
    def reference(self) -> str:
        """The reference that names the very version."""
        return f"{self.name}@{self.digest}"


@dataclass(frozen=True)
class Lock:
    """A composition of very versions.

    Attributes:
        adapters: In the composition's order.
    """

    adapters: tuple[LockedAdapter, ...]

    @property
    def composition(self) -> str:
        """The composition as text, by digests; `Runtime.compose` takes it."""
        terms = (
            f"{adapter.reference}:{adapter.weight}" + (f"[{adapter.blocks}]" if adapter.blocks else "")
            for adapter in self.adapters
        )
        return " + ".join(terms)

    def to_json(self) -> str:
        """Return the text of the file; the same lock is the same text."""
        entries = [asdict(adapter) for adapter in self.adapters]
        for entry in entries:
            if not entry["blocks"]:
                del entry["blocks"]
        table = {"format": FORMAT, "adapters": entries}
        return json.dumps(table, indent=2, sort_keys=True) + "\n"


def make_lock(adapters: Sequence[tuple[str, int, str, float, str]]) -> Lock:
    """Return the lock of (name, number, digest, weight, weights of blocks) of each adapter.

    Example:
        >>> make_lock([("me/ink", 3, "sha256:" + "0" * 64, 0.8, "")]).composition[:30]
        'me/ink@sha256:0000000000000000'
    """
    return Lock(
        tuple(
            LockedAdapter(name, number, digest, decimal_text(weight), blocks)
            for name, number, digest, weight, blocks in adapters
        )
    )


def read_lock(path: Path | str) -> Lock:
    """Read a lock file.

    Raises:
        LockError: It is not there, or malformed.
    """
    path = Path(path)
    try:
        table: Any = json.loads(path.read_text())
        if table["format"] != FORMAT:
            raise ValueError(f"its format is {table['format']}, and this release reads {FORMAT}")
        lock = Lock(tuple(LockedAdapter(**entry) for entry in table["adapters"]))
        for adapter in lock.adapters:
            parsed = parse_reference(adapter.reference)
            is_exact = (parsed.adapter, parsed.selector) == (adapter.name, adapter.digest)
            is_digest = len(parsed.selector) == len("sha256:") + 64
            is_number = type(adapter.number) is int and adapter.number > 0
            is_text = set("[]").isdisjoint(adapter.blocks + "")
            is_weight = decimal_text(adapter.weight) == adapter.weight
            if not (is_exact and is_digest and is_number and is_text and is_weight):
                raise ValueError(f"the entry of {adapter.name} is malformed")
    except OSError as exc:
        raise LockError(path, exc.strerror or str(exc)) from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AdapterHubError) as exc:
        raise LockError(path, f"it is no lock file ({exc})") from exc
    return lock
