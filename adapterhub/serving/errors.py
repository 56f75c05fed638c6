"""The errors of serving; those of pictures and adapters are in `adapterhub.errors`.

AdapterHubError
├── BodyError            the body of a request cannot be read
├── BodySizeError        it is too large
├── UnknownFieldsError   it has fields that nobody reads
├── UnauthorizedError    the secret is missing or wrong
├── HostRefusedError     a request was sent to another name than this machine's
├── SecretError          the secret cannot be used
├── SecretNeededError    without a secret only this machine is served
└── AddressError         nothing can listen at an address
"""

from collections.abc import Sequence
from difflib import get_close_matches

from adapterhub.errors import AdapterHubError


class BodyError(AdapterHubError):
    """The body of a request is no JSON object."""

    code = "body-unreadable"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the body cannot be read: {reason}. Send a JSON object, as application/json")


class BodySizeError(AdapterHubError):
    """The body of a request has more bytes than are taken."""

    code = "body-too-large"

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(
            f"the body is larger than {limit_bytes:,} bytes, which is the limit; send smaller pictures"
        )


class UnknownFieldsError(AdapterHubError):
    """The body has fields that nobody reads.

    Attributes:
        names: Of these fields.
        known: What there is.
    """

    code = "fields-unknown"

    def __init__(self, names: Sequence[str], known: Sequence[str]) -> None:
        self.names = list(names)
        self.known = list(known)
        near = [match for name in names for match in get_close_matches(name, known, n=1, cutoff=0.6)]
        hint = f"Did you mean {', '.join(near)}?" if near else f"There are {', '.join(self.known)}"
        shown = ", ".join(name[:60] for name in self.names[:5])
        super().__init__(f"the body has unknown fields: {shown}. {hint}")


class UnauthorizedError(AdapterHubError):
    """A request came without the secret, or with a wrong one."""

    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "the secret is missing or wrong; send it as Authorization: Bearer SECRET, "
            "or as the password of basic authentication"
        )


class HostRefusedError(AdapterHubError):
    """A request was sent to a name that is not this machine's own."""

    code = "host-refused"

    def __init__(self, host: str) -> None:
        self.host = host
        super().__init__(
            f'without a secret only requests to localhost are served, not to "{host[:80]}"; '
            "serve with a secret to be reached under another name"
        )


class SecretError(AdapterHubError):
    """The secret cannot be read, or could not be sent in a header."""

    code = "secret-unusable"

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason
        super().__init__(
            f"the secret in {source} cannot be used: {reason}. Make one with: openssl rand -hex 32"
        )


class SecretNeededError(AdapterHubError):
    """Somebody wants to serve other machines without a secret."""

    code = "secret-needed"

    def __init__(self, host: str) -> None:
        self.host = host
        super().__init__(
            f"{host} can be reached from other machines, so a secret is needed: put one into a file for "
            "--secret-file, or into ADAPTERHUB_SECRET; or serve at 127.0.0.1"
        )


class AddressError(AdapterHubError):
    """Nothing can listen at an address."""

    code = "address-unusable"

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host = host
        self.port = port
        self.reason = reason
        super().__init__(
            f"cannot listen at {host} port {port}: {reason}. Choose others with --host and --port"
        )
