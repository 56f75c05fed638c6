"""What is published, and what the registry says of an adapter: plain values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapterhub_registry.errors import FieldError
from adapterhub_registry.manifest import Manifest, Version

KINDS = ("style", "subject", "concept", "slider", "other")
TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StoredFile:
    """A file that lies beside a version: a document by name, or a preview.

    Attributes:
        name: `config.toml`, `data.json`, ...; for a preview its place, `preview-1.png`.
        sha256: 64 hex digits.
        size: Bytes.
        prompt: What a preview was made with.
        seed: Likewise; None if not known.
    """

    name: str
    sha256: str
    size: int
    prompt: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Details:
    """What of an adapter may change; None leaves it as it is."""

    title: str | None = None
    description: str | None = None
    card: str | None = None
    kind: str | None = None
    tags: Sequence[str] | None = None


@dataclass(frozen=True)
class Publication:
    """A version that is to be published; its blobs are in the store already.

    Attributes:
        name: `namespace/name`.
        manifest: The immutable part.
        number: The number to take; None takes the next.
        message: What the author says of it.
        author: Who made it; empty means the user of this process.
        created: UTC time, ISO 8601; empty means now.
        documents: Files beside the version.
        previews: Pictures of it.
        details: What to set on the adapter.
    """

    name: str
    manifest: Manifest
    number: int | None = None
    message: str = ""
    author: str = ""
    created: str = ""
    documents: Sequence[StoredFile] = ()
    previews: Sequence[StoredFile] = ()
    details: Details = field(default_factory=Details)


@dataclass(frozen=True)
class Published:
    """What `Registry.publish` did: the version, and whether it is new."""

    version: Version
    is_new: bool


@dataclass(frozen=True)
class Adapter:
    """A named line of versions, and what people say of it.

    Attributes:
        name: `namespace/name`.
        title: The spelling for people.
        description: A sentence.
        card: Longer text, Markdown.
        kind: One of `KINDS`.
        tags: Labels, sorted.
        aliases: Alias to version number.
        latest: The highest published number; None if there is none.
        created: UTC time, ISO 8601.
    """

    name: str
    title: str
    description: str
    card: str
    kind: str
    tags: tuple[str, ...]
    aliases: Mapping[str, int]
    latest: int | None
    created: str


@dataclass(frozen=True)
class Event:
    """One change of the registry.

    Attributes:
        time: UTC, ISO 8601.
        actor: Who made it.
        action: `publish`, `alias`, `update`, `yank`, `unyank`, `delete`, `remote-add`, `remote-remove`.
        subject: What was changed: `me/ink@3`, `me/ink@prod`.
        detail: What else there is to say, such as where an alias stood before.
    """

    time: str
    actor: str
    action: str
    subject: str
    detail: Mapping[str, object]


def check_details(details: Details) -> None:
    """Check kind and tags.

    Raises:
        FieldError: One is malformed.
    """
    if details.kind is not None and details.kind not in KINDS:
        raise FieldError("kind", details.kind, f"it must be one of {', '.join(KINDS)}")
    for tag in details.tags or ():
        if not TAG.fullmatch(tag.strip().lower()):
            raise FieldError("tag", tag, "1 to 64 letters, digits, '.', '_' or '-', a letter or digit first")
