"""The one secret that clients share, and where it is asked for."""

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from adapterhub.serving.errors import SecretError, SecretNeededError
from adapterhub.settings import Settings


@dataclass(frozen=True)
class Secret:
    """What clients must send, as a Bearer token or as the password of basic authentication.

    Attributes:
        text: Printable ASCII without spaces, so that it fits a header.

    Raises:
        SecretError: It is empty, or has other letters.

    Example:
        >>> Secret("opensesame").opens("Bearer opensesame")
        True
        >>> Secret("opensesame").opens("Bearer opensesam")
        False
    """

    text: str = field(repr=False)
    source: str = "memory"

    def __post_init__(self) -> None:
        if not self.text:
            raise SecretError(self.source, "it is empty")
        if not (self.text.isascii() and self.text.isprintable()) or " " in self.text:
            raise SecretError(self.source, "it has other letters than printable ASCII without spaces")

    def opens(self, authorization: str) -> bool:
        """Say whether the value of an Authorization header has it; in a time that tells nothing of it."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            given = basic_parts(given)[1]
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self.text.encode())


def basic_parts(encoded: str) -> tuple[str, str]:
    """Return user name and password of basic authentication; empty ones if they cannot be read."""
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return name, password


def find_secret(file: Path | None = None, settings: Settings | None = None) -> Secret | None:
    """Return the secret of a file, else that of `ADAPTERHUB_SECRET`; None if neither is given.

    Raises:
        SecretError: It cannot be read, is empty, or has letters that do not fit a header.
    """
    if file is None:
        text = (settings or Settings.from_environment()).secret
        return Secret(text.strip(), "ADAPTERHUB_SECRET") if text else None
    try:
        return Secret(file.read_text().strip(), str(file))
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is no text"
        raise SecretError(str(file), reason) from exc


def is_loopback(host: str) -> bool:
    """Say whether an address or a name, without a port, is this machine's own alone.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_secret(host: str, secret: Secret | None) -> None:
    """Check that there is a secret if other machines can reach a host.

    Raises:
        SecretNeededError: There is none.
    """
    if secret is None and not is_loopback(host):
        raise SecretNeededError(host)
