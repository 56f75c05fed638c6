"""The errors that AdapterHub raises, and the fields that they carry.

    AdapterHubError
    ├── MissingExtraError        an optional part is not installed
    ├── HomeError                the home directory cannot be used
    ├── OutputError              a file cannot be written
    ├── PickleRefusedError       a file holds pickled Python objects
    ├── RecordError              a picture carries no readable record
    └── ReferenceSyntaxError     a string names no version

The classes of the layers above are in `adapterhub.errors`.
"""

from pathlib import Path
from typing import ClassVar


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


class PickleRefusedError(AdapterHubError):
    """A file holds pickled Python objects, which can run any program when they are loaded."""

    code = "pickle-refused"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} holds pickled Python objects, which can run any program when loaded. Convert it to "
            "safetensors on a machine that you can afford to lose, and use that file"
        )


class RecordError(AdapterHubError):
    """A picture carries no AdapterHub record, or one that cannot be read."""

    code = "record-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} {reason}. Only a PNG that AdapterHub wrote can be made again")


class ReferenceSyntaxError(AdapterHubError):
    """A string does not follow the grammar of references."""

    code = "reference-syntax"

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f'"{text}" names no version: {reason}. Example: me/ink@3, acme/corgi@prod')
