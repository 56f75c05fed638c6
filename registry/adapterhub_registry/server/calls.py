"""What an endpoint is given, and what it answers with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from anyio import CapacityLimiter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adapterhub_registry import errors
from adapterhub_registry.errors import AdapterHubError
from adapterhub_registry.server.access import Caller, Hosted
from adapterhub_registry.server.errors import (
    BranchNotFoundError,
    ParentMovedError,
    QuotaError,
    RefusalError,
    XetFormatError,
    XorbMissingError,
)
from adapterhub_registry.server.gallery.sessions import ANYBODY, Visitor
from adapterhub_registry.server.gallery.site import Gallery
from adapterhub_registry.server.limits import Limits
from adapterhub_registry.server.metrics import Metrics
from adapterhub_registry.server.people import People
from adapterhub_registry.server.signing import Signer
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry

PART_BYTES = 64 << 20
LARGE_AT_ONCE = 2
STATUSES: Mapping[type[AdapterHubError], tuple[int, str]] = {
    errors.AdapterNotFoundError: (404, "RepoNotFound"),
    errors.VersionNotFoundError: (404, "RevisionNotFound"),
    errors.TombstoneError: (400, ""),
    BranchNotFoundError: (404, "RevisionNotFound"),
    ParentMovedError: (412, ""),
    QuotaError: (400, ""),
    errors.AdapterExistsError: (409, ""),
    errors.AliasMovedError: (409, ""),
    errors.VersionConflictError: (409, ""),
    errors.VersionInUseError: (409, ""),
    errors.BusyError: (409, ""),
    **dict.fromkeys(
        (errors.FieldError, errors.WeightsError, errors.PickleRefusedError, errors.PictureError), (400, "")
    ),
    **dict.fromkeys(
        (errors.CardError, errors.ManifestError, errors.ReferenceSyntaxError, errors.DigestMismatchError),
        (400, ""),
    ),
    errors.ArchitectureError: (400, ""),
    **dict.fromkeys((XetFormatError, XorbMissingError), (400, "")),
    errors.BlobMissingError: (503, ""),
    errors.DatabaseError: (503, ""),
    errors.OutputError: (507, ""),
}
"""How errors of the library are answered; those of 500 and more keep their message, which names files."""
FIELDS: Mapping[type[AdapterHubError], Sequence[str]] = {
    errors.VersionConflictError: ("number", "ours", "theirs"),
    errors.VersionNotFoundError: ("selector", "versions", "aliases"),
    errors.AliasMovedError: ("alias", "expected", "found"),
    errors.TombstoneError: ("number", "digest"),
    errors.DigestMismatchError: ("expected", "found", "source"),
}
"""What else our own client is told of an error, to raise it again."""


@dataclass(frozen=True)
class Site:
    """What all endpoints share.

    Attributes:
        registry: What is served.
        people: Who there is.
        tokens: By what they are known.
        signer: Signs addresses.
        metrics: What `/metrics` says.
        part_bytes: Larger uploads come in parts of this size.
        limits: How many requests a caller may send.
        gallery: What the pages share.
        large: Lets so few large bodies of JSON be worked on at once that they fit into memory.
    """

    registry: Registry
    people: People
    tokens: Tokens
    signer: Signer
    limits: Limits
    gallery: Gallery
    metrics: Metrics = field(default_factory=Metrics)
    part_bytes: int = PART_BYTES
    large: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(LARGE_AT_ONCE))


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        site: What all endpoints share.
        request: As it came.
        caller: Who asks.
        adapter: The adapter in the address, or in the body, that the rule speaks of.
        body: The body, read as the route says.
        visitor: Who looks at a page, and what forms in it are bound to.
    """

    site: Site
    request: Request
    caller: Caller
    adapter: Hosted | None = None
    body: Any = None
    visitor: Visitor = ANYBODY

    @property
    def writable(self) -> list[str]:
        """The namespaces in which the caller may publish."""
        return [name for name in self.caller.roles if self.caller.role_in(name) in ("writer", "owner")]

    @property
    def registry(self) -> Registry:
        """What is served."""
        return self.site.registry

    @property
    def hosted(self) -> Hosted:
        """The adapter that the rule speaks of."""
        if self.adapter is None:
            raise LookupError("the rule of this route names no adapter")
        return self.adapter

    @property
    def origin(self) -> str:
        """The server's address as the client wrote it, without a slash at the end."""
        return str(self.request.base_url).rstrip("/")

    def part(self, name: str) -> str:
        """Return a part of the address."""
        return self.request.path_params.get(name, "")

    def asks(self, name: str) -> bool:
        """Say whether a flag behind the address is set."""
        return self.request.query_params.get(name, "").lower() in ("1", "true", "yes")

    def number(self, name: str, default: int, *, most: int) -> int:
        """Return a number behind the address, within 1 and `most`."""
        text = self.request.query_params.get(name, "")
        return max(1, min(int(text), most)) if text.isdecimal() and len(text) < 10 else default

    def text(self, name: str, default: str = "") -> str:
        """Return a text in the body.

        Raises:
            RefusalError: It is something else.
        """
        value = self.body.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise RefusalError(400, f'"{name}" must be text')
        return value

    def next_link(self, **changes: str | int) -> dict[str, str]:
        """Return the header that names the next page: the whole address, with other values."""
        kept = [
            (name, value) for name, value in self.request.query_params.multi_items() if name not in changes
        ]
        query = urlencode([*kept, *changes.items()])
        return {"Link": f'<{self.origin}{self.request.url.path}?{query}>; rel="next"'}


class Answer(JSONResponse):
    """JSON in ASCII, because what clients send may hold halves of surrogate pairs, which are no UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        return json.dumps(content, separators=(",", ":")).encode()


def answer(content: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Answer(content, status, headers=dict(headers or {}))


def warn(topic: str, messages: Sequence[str]) -> dict[str, str]:
    """Return the header that a Hugging Face client shows as a warning, once per topic."""
    return {"X-HF-Warning": header_text(f"{topic}; {' '.join(messages)}")} if messages else {}


def header_text(text: str) -> str:
    """Return text that can stand in a header."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(shown.encode("ascii", "replace").decode().split())[:1000]


def refuse(refusal: RefusalError) -> Response:
    """Return the answer that a refusal is, in all the ways in which clients look for it."""
    headers = {**refusal.headers, "X-Error-Message": header_text(refusal.message)}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    return Answer({"error": refusal.message, **refusal.table}, refusal.status, headers=headers)


def to_refusal(error: AdapterHubError) -> RefusalError | None:
    """Return how an error of the library is answered; None for one that is the server's own fault."""
    for kind, (status, code) in STATUSES.items():
        if isinstance(error, kind):
            message = str(error) if status < 500 else "the server cannot do this now; try again later"
            table = {name: getattr(error, name) for name in FIELDS.get(kind, ())}
            return RefusalError(status, message, code=code, table={"code": error.code, **table})
    return None


def read_json(content: bytes) -> Any:
    """Read a JSON object.

    Raises:
        RefusalError: It is none.
    """
    try:
        table = json.loads(content or b"{}")
    except (ValueError, RecursionError) as exc:
        raise RefusalError(400, "the body is no JSON that can be read") from exc
    if not isinstance(table, dict):
        raise RefusalError(400, "the body must be a JSON object")
    return table  # pyright: ignore[reportUnknownVariableType]
