"""What is published, and what the registry says of an adapter: plain values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapterhub_registry.errors import FieldError
from adapterhub_registry.manifest import Manifest, Version

if TYPE_CHECKING:
    from adapterhub_registry.facts import Facts

KINDS = ("style", "subject", "concept", "slider", "other")
TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SETTINGS = {
    "steps": (r"[1-9]\d{0,3}", "a whole number from 1 to 9999"),
    "guidance_scale": (r"\d{1,3}(\.\d{1,3})?", "a number from 0 to 999"),
    "scheduler": (r"[\w+. /-]{1,64}", "the name of a scheduler, such as EulerDiscreteScheduler or DPM++ 2M"),
    "width": (r"[1-9]\d{0,4}", "pixels, a multiple of 8"),
    "height": (r"[1-9]\d{0,4}", "pixels, a multiple of 8"),
    "negative_prompt": (r"[^\x00-\x1f\x7f]{1,2000}", "one line of at most 2000 letters"),
    "clip_skip": (r"\d|1[0-2]", "a whole number from 0 to 12"),
}
"""Name to (pattern, the rule in words) of the settings that an adapter may recommend."""


@dataclass(frozen=True)
class StoredFile:
    """A file that lies beside a version: a document by name, or a preview.

    Attributes:
        name: `config.toml`, `data.json`, ...; for a preview its place, `preview-1.png`.
        sha256: 64 hex digits.
        size: Bytes.
        prompt: What a preview was made with.
        seed: Likewise; None if not known.
        settings: Likewise: `steps`, `guidance_scale`, `weight` and so on, all text.
    """

    name: str
    sha256: str
    size: int
    prompt: str = ""
    seed: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Details:
    """What of an adapter may change; None leaves it as it is.

    Attributes:
        title: The spelling for people.
        description: A sentence.
        card: Longer text, Markdown.
        kind: One of `KINDS`.
        tags: Labels; they replace those there are.
        settings: What to generate with, by the names in `SETTINGS`; they replace those there are.
    """

    title: str | None = None
    description: str | None = None
    card: str | None = None
    kind: str | None = None
    tags: Sequence[str] | None = None
    settings: Mapping[str, str] | None = None


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
        facts: What the files say, if they were read already; None has them read.
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
    facts: "Facts | None" = None


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
        settings: What to generate with, by the names in `SETTINGS`.
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
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias.

    Attributes:
        time: UTC, ISO 8601.
        actor: Who moved it.
        alias: The alias.
        before: The version's number that it stood at; None if there was no such alias.
        after: The number that it stands at since; None if it was removed.
    """

    time: str
    actor: str
    alias: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Event:
    """One change of the registry.

    Attributes:
        time: UTC, ISO 8601.
        actor: Who made it.
        action: `publish`, `alias`, `update`, `preview`, `yank`, `unyank`, `delete`, `remote-add`, ...
        subject: What was changed: `me/ink@3`, `me/ink@prod`.
        detail: What else there is to say, such as where an alias stood before.
    """

    time: str
    actor: str
    action: str
    subject: str
    detail: Mapping[str, object]


def check_documents(documents: Iterable[StoredFile]) -> None:
    """Check that the names of documents are file names, and lead nowhere else.

    Raises:
        FieldError: One is not.
    """
    for name in (item.name for item in documents):
        is_name = name not in ("", ".", "..") and not set(name) & set("/\\:") and name.isprintable()
        if not is_name or len(name.encode()) > 255:
            raise FieldError("document", name, "a file name of at most 255 bytes, without / \\ and :")


def check_details(details: Details) -> None:
    """Check kind, tags and settings.

    Raises:
        FieldError: One is malformed, or there is no such setting.
    """
    if details.kind is not None and details.kind not in KINDS:
        raise FieldError("kind", details.kind, f"it must be one of {', '.join(KINDS)}")
    for tag in details.tags or ():
        if not TAG.fullmatch(tag.strip().lower()):
            raise FieldError("tag", tag, "1 to 64 letters, digits, '.', '_' or '-', a letter or digit first")
    for name, value in (details.settings or {}).items():
        if name not in SETTINGS:
            raise FieldError("setting", name, f"there is none of that name; there are {', '.join(SETTINGS)}")
        pattern, rule = SETTINGS[name]
        is_size = name in ("width", "height")
        if not re.fullmatch(pattern, value) or (is_size and int(value) % 8):
            raise FieldError(f"setting {name}", value, rule)
