"""The errors that AdapterHub raises, and the fields that they carry.

    AdapterHubError
    ├── MissingExtraError        an optional part is not installed
    ├── HomeError                the home directory cannot be used
    ├── OutputError              a file cannot be written
    ├── DatabaseError            the database cannot be read or written
    ├── InputError               a file that was named cannot be read
    ├── PickleRefusedError       a file holds pickled Python objects
    ├── WeightsError             a file of weights is malformed
    │   └── UnknownKeysError     its keys are not understood
    ├── ArchitectureError        an adapter does not fit a base
    ├── PictureError             a preview is no picture, or too large
    ├── PictureFormatError       a picture cannot be written in a format
    ├── RecordError              a picture carries no readable record
    ├── ReferenceSyntaxError     a string names no version
    ├── AdapterNotFoundError     there is no adapter of that name
    ├── AdapterExistsError       a name of an adapter is taken
    ├── VersionNotFoundError     an adapter has no such version, alias or digest
    ├── FieldError               a tag, kind, alias or other field is malformed
    ├── AliasMovedError          compare-and-set met another value
    ├── VersionConflictError     a number is taken by another digest
    ├── VersionInUseError        an alias stands at a version that is to be deleted
    ├── TombstoneError           a version was deleted; its number and digest are never used again
    ├── ManifestError            a manifest is malformed
    ├── LockError                a lock file cannot be read
    ├── CardError                a model card cannot be read
    ├── BackupError              a directory is no whole backup, or none can be made
    ├── BlobMissingError         a blob is not in the store
    ├── DigestMismatchError      bytes do not have the digest that they should
    ├── BusyError                another program writes the same file now
    ├── AccessError              a remote wants a token, or one that may do more
    └── RemoteError              a remote is not there, or not understood

The classes of the layers above are in `adapterhub.errors`.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

EXTRAS = {
    "sdxl": ("torch", "diffusers", "peft", "accelerate", "transformers", "numpy", "psutil"),
    "server": ("starlette", "uvicorn"),
    "quantized": ("torchao", "bitsandbytes"),
    "trackers": ("tensorboard", "trackio", "wandb"),
}
"""What each optional part of the distribution brings."""


class AdapterHubError(Exception):
    """Base of every error that AdapterHub raises on purpose.

    Attributes:
        code: A stable name for programs; the message is for people and may change.
    """

    code: ClassVar[str] = "error"


class MissingExtraError(AdapterHubError):
    """An optional part of AdapterHub is needed and not installed."""

    code = "missing-extra"

    def __init__(self, extra: str, module: str) -> None:
        self.extra = extra
        self.module = module
        super().__init__(
            f'this needs the Python package "{module}", which is not installed. '
            f'Install it with: pip install "adapterhub[{extra}]"'
        )


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return the error to show when a module of an optional part is missing; None for other modules."""
    module = (error.name or "").split(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    return None if extra is None else MissingExtraError(extra, module)


class HomeError(AdapterHubError):
    """The directory that holds all of AdapterHub's state cannot be created or written."""

    code = "home-unusable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"cannot use {path} as AdapterHub's home: {reason}. "
            "Set ADAPTERHUB_HOME to a directory that you can write to"
        )


class OutputError(AdapterHubError):
    """A file could not be written; what was there before is unchanged."""

    code = "output-failed"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot write {path}: {reason}. Nothing was changed there")


class DatabaseError(AdapterHubError):
    """The database cannot be read or written; what was not committed did not happen."""

    code = "database-failed"

    def __init__(
        self, path: Path, reason: str, hint: str = "Is the disk full, or the file locked or damaged?"
    ) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"the database {path} cannot be used: {reason}. {hint}")


class PickleRefusedError(AdapterHubError):
    """A file holds pickled Python objects, which can run any program when they are loaded."""

    code = "pickle-refused"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} holds pickled Python objects, which can run any program when loaded. Convert it to "
            "safetensors on a machine that you can afford to lose, and use that file"
        )


class PictureFormatError(AdapterHubError):
    """A picture cannot be written in a format."""

    code = "picture-format"

    def __init__(self, format_name: str, reason: str) -> None:
        self.format_name = format_name
        self.reason = reason
        super().__init__(f"cannot write a picture as {format_name}: {reason}")


class RecordError(AdapterHubError):
    """A picture carries no AdapterHub record, or one that cannot be read."""

    code = "record-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} {reason}. Only a picture that AdapterHub wrote has a record")


class ReferenceSyntaxError(AdapterHubError):
    """A string does not follow the grammar of references."""

    code = "reference-syntax"

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f'"{text}" names no version: {reason}. Example: me/ink@3, acme/corgi@prod')


class InputError(AdapterHubError):
    """A file that was named cannot be read."""

    code = "input-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot read {path}: {reason}")


class WeightsError(AdapterHubError):
    """A file of weights is malformed, or its keys are not understood."""

    code = "weights-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} holds no weights that can be read: {reason}")


class PictureError(AdapterHubError):
    """A preview is no PNG, is damaged, or is too large."""

    code = "picture-unusable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} cannot be a preview: {reason}")


class AdapterNotFoundError(AdapterHubError):
    """There is no adapter of that name."""

    code = "adapter-not-found"

    def __init__(self, name: str, known: Sequence[str], *, where: str = "") -> None:
        self.name = name
        self.where = where
        self.near = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(self.near)}?" if self.near else "See them with: adapterhub list"
        if where:
            hint = f"Or you may not see it there: adapterhub whoami {where}"
        there = f" in {where}" if where else ""
        super().__init__(f'there is no adapter "{name}"{there}. {hint}')


class AdapterExistsError(AdapterHubError):
    """There is an adapter of that name, or one had it before it was moved."""

    code = "adapter-exists"

    def __init__(self, name: str, moved_to: str) -> None:
        self.name = name
        self.moved_to = moved_to
        why = (
            f"it is {moved_to} now, and the old name still means it"
            if moved_to
            else "use it, or take another name"
        )
        super().__init__(f'there is an adapter "{name}" already: {why}')


class VersionNotFoundError(AdapterHubError):
    """An adapter has no version with this number, alias or digest."""

    code = "version-not-found"

    def __init__(self, name: str, selector: str, versions: Sequence[int], aliases: Sequence[str]) -> None:
        self.name = name
        self.selector = selector
        self.versions = list(versions)
        self.aliases = list(aliases)
        numbers = ", ".join(map(str, self.versions)) or "none"
        named = f"; aliases: {', '.join(self.aliases)}" if self.aliases else ""
        super().__init__(f'"{name}" has no version "{selector}"; versions: {numbers}{named}')


class FieldError(AdapterHubError):
    """A tag, a kind, an alias or another field does not follow its rule."""

    code = "field-invalid"

    def __init__(self, field: str, value: str, rule: str) -> None:
        self.field = field
        self.value = value
        self.rule = rule
        super().__init__(f'the {field} "{value}" is not allowed: {rule}')


class AliasMovedError(AdapterHubError):
    """An alias does not stand where the caller expected it; it was not moved."""

    code = "alias-moved"

    def __init__(self, name: str, alias: str, expected: int | None, found: int | None) -> None:
        self.name = name
        self.alias = alias
        self.expected = expected
        self.found = found
        super().__init__(
            f'the alias "{alias}" of "{name}" is at {found or "nothing"}, not at {expected or "nothing"}. '
            "It was not moved; look again, and expect what is there"
        )


class VersionConflictError(AdapterHubError):
    """A version number is taken by another digest; nothing was changed."""

    code = "version-conflict"

    def __init__(self, name: str, number: int, ours: str, theirs: str, where: str) -> None:
        self.name = name
        self.number = number
        self.ours = ours
        self.theirs = theirs
        self.where = where
        super().__init__(
            f'"{name}" has another version {number} in {where} already: {theirs} there, {ours} here. '
            "Nothing was changed. Push with --renumber for the next number there, or pull with --as NS/NAME"
        )


class VersionInUseError(AdapterHubError):
    """A version cannot be deleted while aliases stand at it."""

    code = "version-in-use"

    def __init__(self, version: str, aliases: Sequence[str]) -> None:
        self.version = version
        self.aliases = list(aliases)
        super().__init__(
            f"{version} is not deleted: {', '.join(self.aliases)} stands at it; move the alias first"
        )


class TombstoneError(AdapterHubError):
    """A version was deleted; its number and digest are kept for ever and never used again."""

    code = "version-deleted"

    def __init__(self, adapter: str, number: int, digest: str) -> None:
        self.adapter = adapter
        self.number = number
        self.digest = digest
        super().__init__(
            f"{adapter}@{number} ({digest[:19]}) was deleted, and a deleted version does not come back; "
            "add these weights under another name, or with another message in their header"
        )


class ManifestError(AdapterHubError):
    """A manifest is malformed."""

    code = "manifest-malformed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the manifest of a version is not valid: {reason}")


class LockError(AdapterHubError):
    """A lock file cannot be read."""

    code = "lock-invalid"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} cannot be used: {reason}. Make it anew with: adapterhub lock COMPOSITION")


class CardError(AdapterHubError):
    """A model card cannot be read; `line` counts from 1, and is 0 where no line is to blame."""

    code = "card-unreadable"

    def __init__(self, field: str, line: int, reason: str) -> None:
        self.field = field
        self.line = line
        self.reason = reason
        where = f", line {line}" if line else ""
        named = f', field "{field}"' if field else ""
        super().__init__(f"the model card cannot be read{where}{named}: {reason}")


class BackupError(AdapterHubError):
    """A directory holds no whole backup, or none can be made there."""

    code = "backup-failed"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"the backup in {path}: {reason}")


class BlobMissingError(AdapterHubError):
    """A blob is not in the store."""

    code = "blob-missing"

    def __init__(self, sha256: str, where: str) -> None:
        self.sha256 = sha256
        self.where = where
        super().__init__(f"the file with the digest sha256:{sha256} is missing in {where}")


class DigestMismatchError(AdapterHubError):
    """Bytes do not have the digest that they should have; they were not kept."""

    code = "digest-mismatch"

    def __init__(self, expected: str, found: str, source: str) -> None:
        self.expected = expected
        self.found = found
        self.source = source
        super().__init__(
            f"{source or 'the data'} is damaged: expected sha256:{expected}, found sha256:{found}. "
            "It was not kept"
        )


class BusyError(AdapterHubError):
    """Another program writes the same file now."""

    code = "busy"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is being written by somebody else; try again when that has ended")


class RemoteError(AdapterHubError):
    """A remote is not known, not there, or not what it should be."""

    code = "remote-failed"

    def __init__(self, remote: str, reason: str) -> None:
        self.remote = remote
        self.reason = reason
        named = f'the remote "{remote}"' if remote else "a remote"
        super().__init__(f"{named} cannot be used: {reason}")


class AccessError(AdapterHubError):
    """A remote does not let us in, or not do this."""

    code = "access-refused"

    def __init__(self, remote: str, reason: str) -> None:
        self.remote = remote
        self.reason = reason
        super().__init__(f'the remote "{remote}" refuses: {reason}. Log in with: adapterhub login {remote}')


class ArchitectureError(AdapterHubError):
    """An adapter and a base are of different architectures, or nobody said which."""

    code = "architecture-mismatch"

    def __init__(self, adapter: str, base: str) -> None:
        self.adapter = adapter
        self.base = base
        if adapter == base == "unknown":
            message = "the weights do not tell their architecture; name the base that they were made on"
        else:
            message = f'an adapter of architecture "{adapter}" does not fit a base of architecture "{base}"'
        if adapter.startswith("transformers/") and base != adapter:
            message += "; load it with peft.PeftModel.from_pretrained(model, DIRECTORY) on its own model"
        super().__init__(message)


class UnknownKeysError(WeightsError):
    """Keys of a file belong to no layout or module that is known."""

    code = "keys-unknown"

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.keys = sorted(keys)
        shown = ", ".join(self.keys[:3]) or "none at all"
        more = f" and {len(self.keys) - 3} more" if len(self.keys) > 3 else ""
        super().__init__(path, f"nothing is known of the keys {shown}{more}")
