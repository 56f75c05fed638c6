"""A version as it travels between registries: whole, checked, and in one form as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adapterhub_registry.errors import DigestMismatchError, ManifestError
from adapterhub_registry.manifest import MAX_SIZE, Manifest, check_file
from adapterhub_registry.publication import Details, StoredFile, check_details, check_documents


@dataclass(frozen=True)
class RemoteVersion:
    """A version as it lies in a remote.

    Attributes:
        number: Its number there.
        manifest: The immutable part, checked against its digest.
        message: What the author said of it.
        author: Who made it.
        created: UTC time, ISO 8601.
        documents: Files beside it.
        previews: Pictures of it.
        details: What was said of the adapter when it was pushed.
        yank_reason: Why it is yanked there; empty if it is not.
    """

    number: int
    manifest: Manifest
    message: str
    author: str
    created: str
    documents: tuple[StoredFile, ...]
    previews: tuple[StoredFile, ...]
    details: Details
    yank_reason: str = ""

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over the manifest."""
        return self.manifest.digest

    def as_json(self) -> dict[str, Any]:
        """Return it as dicts and lists."""
        return {
            "number": self.number,
            "digest": self.digest,
            "manifest": self.manifest.to_json(),
            "message": self.message,
            "author": self.author,
            "created": self.created,
            "documents": [asdict(item) for item in self.documents],
            "previews": [asdict(item) for item in self.previews],
            "details": asdict(self.details),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any], *, source: str) -> "RemoteVersion":
        """Read and check what others wrote; fields that are not known are passed over.

        Raises:
            DigestMismatchError: The manifest is not that of the digest; `source` is quoted.
            ManifestError, FieldError: Something else is malformed.
        """
        try:
            manifest = Manifest.from_json(table["manifest"])
            version = cls(
                number=table["number"],
                manifest=manifest,
                message=table["message"],
                author=table["author"],
                created=table["created"],
                documents=tuple(StoredFile(**item) for item in table["documents"]),
                previews=tuple(StoredFile(**item) for item in table["previews"]),
                details=Details(**table["details"]),
                yank_reason=table.get("yank_reason", ""),
            )
            _check(version)
            recorded = table["digest"]
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as exc:
            raise ManifestError(f"what was said of it cannot be read ({exc})") from exc
        if manifest.digest != recorded:
            expected, found = (text.removeprefix("sha256:") for text in (str(recorded), manifest.digest))
            raise DigestMismatchError(expected, found, source)
        return version


def _check(version: RemoteVersion) -> None:
    """Check what others may have written; raises AdapterHubError, TypeError, AttributeError or ValueError."""
    details = version.details
    if type(version.number) is not int or not 0 < version.number < MAX_SIZE:
        raise ValueError("its number is none")
    texts = [version.message, version.author, version.created, version.yank_reason]
    texts += [text for text in (details.title, details.description, details.card) if text is not None]
    for item in (*version.documents, *version.previews):
        texts += [item.name, item.prompt, *item.settings, *item.settings.values()]
    "".join(texts).encode()  # all is text, and can be kept
    check_details(details)
    check_documents(version.documents)
    for item in (*version.documents, *version.previews):
        check_file(item.name, item.size, item.sha256)
        if item.seed is not None and not (type(item.seed) is int and -MAX_SIZE <= item.seed < MAX_SIZE):
            raise ValueError(f"the seed of {item.name} is no whole number")
