"""Tokens: 256 random bits that are shown once, and of which the registry keeps the SHA-256 alone."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from adapterhub_registry.database import Database
from adapterhub_registry.errors import FieldError
from adapterhub_registry.rows import flushed_id, log_event, now, time_text
from adapterhub_registry.server.errors import PersonNotFoundError, TokenNotFoundError
from adapterhub_registry.tables import NamespaceRow, TokenRow

PREFIX = "ahub_"
SHOWN = len(PREFIX) + 4
SCOPES = ("read", "write")
"""Each may do what those before it may."""
MAX_DAYS = 36_500
USE_NOTED_EVERY = timedelta(minutes=10)
"""So that reading writes to the disk now and then only."""
COLUMNS = "id, user, label, beginning, scope, created, expires, last_used"


@dataclass(frozen=True)
class Token:
    """What is known of a token; its text is known to its user alone.

    Attributes:
        id: Its number.
        user: Whose it is.
        label: What it is for.
        beginning: Its first letters, to tell it by.
        scope: `read` or `write`.
        created: UTC time, ISO 8601.
        expires: Likewise; empty for never.
        last_used: Likewise, within ten minutes; empty if it never was.
    """

    id: int
    user: str
    label: str
    beginning: str
    scope: str
    created: str
    expires: str
    last_used: str


class Tokens:
    """The tokens in the registry's database.

    Args:
        database: Of the registry.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, user: str, *, label: str = "", scope: str = "write", days: int | None = None
    ) -> tuple[str, Token]:
        """Make a token, and return its text, which nobody can read again, with what is known of it.

        Args:
            user: Whose it is.
            label: What it is for.
            scope: `read`, or `write` for all that the user may do.
            days: How long it holds; None for ever.

        Raises:
            PersonNotFoundError: There is no such user.
            FieldError: There is no such scope, or the days are out of range.
        """
        if scope not in SCOPES:
            raise FieldError("scope", scope, f"one of {', '.join(SCOPES)}")
        if days is not None and not 1 <= days <= MAX_DAYS:
            raise FieldError("number of days", str(days), f"1 to {MAX_DAYS}")
        text = PREFIX + secrets.token_urlsafe(32)
        expires = "" if days is None else time_text(datetime.now(UTC) + timedelta(days=days))
        with self._database.writing() as session:
            owner = session.get(NamespaceRow, user.lower())
            if owner is None or owner.kind != "user":
                raise PersonNotFoundError(user, "user")
            row = TokenRow(
                user=owner.name,
                label=label,
                sha256=_digest(text),
                beginning=text[:SHOWN],
                scope=scope,
                created=now(),
                expires=expires,
            )
            session.add(row)
            session.flush()
            log_event(session, "token-add", owner.name, {"token": row.id, "scope": scope, "expires": expires})
            made = Token(
                flushed_id(row.id), row.user, label, row.beginning, scope, row.created, expires, last_used=""
            )
        return text, made

    def list(self, user: str | None = None) -> list[Token]:
        """Return all tokens, or those of one user, oldest first."""
        with self._database.snapshot() as read:
            rows = read(f"SELECT {COLUMNS} FROM token ORDER BY id")  # noqa: S608
        return [found for row in rows if (found := Token(*row)).user == (user or found.user).lower()]

    def any(self) -> bool:
        """Say whether there is a token that holds now."""
        with self._database.snapshot() as read:
            return bool(read("SELECT 1 FROM token WHERE expires = '' OR expires > ? LIMIT 1", [now()]))

    def remove(self, number: int) -> None:
        """Make a token worthless.

        Raises:
            TokenNotFoundError: There is none of that number.
        """
        with self._database.writing() as session:
            row = session.get(TokenRow, number)
            if row is None:
                raise TokenNotFoundError(number)
            session.delete(row)
            log_event(session, "token-remove", row.user, {"token": number})

    def find(self, text: str) -> Token | None:
        """Return the token of a text, if there is one and it has not expired; note that it was used."""
        return self.find_digest(_digest(text))

    def digest_of(self, number: int) -> str:
        """Return the SHA-256 of a token; empty if there is none of that number."""
        with self._database.snapshot() as read:
            rows = read("SELECT sha256 FROM token WHERE id = ?", [number]) if number < 1 << 63 else []
        return rows[0][0] if rows else ""

    def find_digest(self, sha256: str) -> Token | None:
        """Return the token of a SHA-256, as `find` does."""
        with self._database.snapshot() as read:
            rows = read(f"SELECT {COLUMNS} FROM token WHERE sha256 = ?", [sha256])  # noqa: S608
        if not rows:
            return None
        token, moment = Token(*rows[0]), datetime.now(UTC)
        if token.expires and token.expires <= time_text(moment):
            return None
        if token.last_used <= time_text(moment - USE_NOTED_EVERY):
            with self._database.writing() as session:
                if (row := session.get(TokenRow, token.id)) is not None:
                    row.last_used = time_text(moment)
                    session.add(row)
        return token


def _digest(text: str) -> str:
    """A token has 256 random bits, so that nothing slow is needed to keep it from being guessed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
