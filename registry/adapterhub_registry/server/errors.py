"""What the server refuses, and how a Hugging Face client is told.

    AdapterHubError
    ├── PersonNotFoundError      there is no user or organisation of that name
    ├── TokenNotFoundError       there is no token of that number
    ├── AddressError             the server cannot listen where it should
    ├── BranchNotFoundError      an adapter has no branch of that name
    ├── ParentMovedError         another commit came first
    ├── QuotaError               a namespace would hold more than it may
    ├── XetFormatError           what came by Xet cannot be read
    └── XorbMissingError         what came by Xet is made of something that is not here any more

`RefusalError` is what an endpoint raises; it ends as a response, and never leaves the server.
"""

from collections.abc import Mapping
from typing import Any

from adapterhub_registry.errors import AdapterHubError


class PersonNotFoundError(AdapterHubError):
    """There is no user or organisation of that name."""

    code = "person-not-found"

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        command = "org" if kind == "organisation" else "user"
        super().__init__(f'there is no {kind} "{name}". See them with: adapterhub admin {command} list')


class TokenNotFoundError(AdapterHubError):
    """There is no token of that number."""

    code = "token-not-found"

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"there is no token {number}. See them with: adapterhub admin token list")


class AddressError(AdapterHubError):
    """The server cannot, or must not, listen at an address."""

    code = "address-unusable"

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host = host
        self.port = port
        self.reason = reason
        super().__init__(f"cannot listen at {host}:{port}: {reason}")


class BranchNotFoundError(AdapterHubError):
    """An adapter has no branch of that name."""

    code = "branch-not-found"

    def __init__(self, name: str, branch: str) -> None:
        self.name = name
        self.branch = branch
        super().__init__(f'"{name}" has no branch "{branch}"; versions and aliases cannot be committed to')


class ParentMovedError(AdapterHubError):
    """Another commit came first; nothing was changed."""

    code = "parent-moved"

    def __init__(self, name: str, expected: str, found: str) -> None:
        self.name = name
        self.expected = expected
        self.found = found
        super().__init__(
            f'the newest commit of "{name}" is {found}, not {expected}. Nothing was changed; look at what '
            "came, and commit on top of it"
        )


class QuotaError(AdapterHubError):
    """A namespace would hold more than it may."""

    code = "quota-exceeded"

    def __init__(self, namespace: str, quota: int, used: int, size: int) -> None:
        self.namespace = namespace
        self.quota = quota
        self.used = used
        self.size = size
        super().__init__(
            f"{namespace} may hold {quota:,} bytes and holds {used:,}; there is no room for {size:,} more. "
            "Delete what is not needed, or ask who runs the server"
        )


class XetFormatError(AdapterHubError):
    """What came by Xet cannot be read, or is larger than it may be; nothing of it was kept."""

    code = "xet-format"

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(f"the {kind} cannot be read: {reason}")


class XorbMissingError(AdapterHubError):
    """A file that came by Xet is made of a xorb that is not here any more, or never was."""

    code = "xorb-missing"

    def __init__(self, xorb: str) -> None:
        self.xorb = xorb
        super().__init__(
            f"the server has not what the file is made of ({xorb}); push again, and it is all sent"
        )


class RefusalError(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        message: What people read.
        code: What the Hugging Face client tells errors apart by: `RepoNotFound`, `RevisionNotFound`,
            `EntryNotFound`; empty for others.
        headers: More headers.
        table: More fields of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        table: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.table = dict(table or {})
        super().__init__(message)
