"""Who looks at a page: sessions that stand for a token and end with it, and proof that a form is ours."""

import hmac
import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from adapterhub_registry.server.access import Caller, read_caller
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.people import People
from adapterhub_registry.server.signing import Signer
from adapterhub_registry.server.tokens import Token, Tokens

SESSION, VISIT = "adapterhub_session", "adapterhub_visit"
HOLDS_S = 12 * 3600
"""A session's life; one of a token that expires before ends with it."""
RANDOM_BYTES = 32
FOREIGN = "the form did not come from a page of this server; open the page again, and send it from there"


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page.

    Attributes:
        caller: The user; nobody without a session.
        secret: What forms are bound to: the session, or a cookie that everybody gets; empty for who sends a
            token with the request, which no foreign page can.
        is_new: Whether the browser has not got that cookie yet.
    """

    caller: Caller
    secret: str = ""
    is_new: bool = False


ANYBODY = Visitor(Caller())
"""Who is not told apart."""


@dataclass
class Sessions:
    """Sessions that need no memory: a signed text names the token by its number, and is void without it.

    Args:
        tokens: What sessions stand for.
        people: Who there is.
        signer: Signs sessions and forms.
    """

    tokens: Tokens
    people: People
    signer: Signer
    _ended: dict[str, int] = field(default_factory=dict[str, int])
    _lock: Lock = field(default_factory=Lock)

    def begin(self, token: Token) -> tuple[str, int]:
        """Return the text of a new session, and for how many seconds it holds."""
        now = int(time.time())
        expires = now + HOLDS_S
        if token.expires:
            expires = min(expires, int(datetime.fromisoformat(token.expires).timestamp()))
        start = f"{token.id}.{expires}.{secrets.token_urlsafe(RANDOM_BYTES)}"
        return f"{start}.{self._signature(start, self.tokens.digest_of(token.id))}", expires - now

    def end(self, session: str) -> None:
        """Let a session hold no longer, wherever it was copied to; a restart forgets it, its hours do not."""
        now = int(time.time())
        with self._lock:
            self._ended = {text: expires for text, expires in self._ended.items() if expires > now}
            self._ended[session] = now + HOLDS_S

    def token_of(self, session: str) -> Token | None:
        """Return the token that a session stands for, if both still hold."""
        start, _, signature = session.rpartition(".")
        number, _, rest = start.partition(".")
        expires = rest.partition(".")[0]
        if not (number.isdecimal() and expires.isdecimal() and len(session) < 300) or session in self._ended:
            return None
        if int(expires) <= time.time():
            return None
        digest = self.tokens.digest_of(int(number))
        is_ours = hmac.compare_digest(signature.encode(), self._signature(start, digest).encode())
        return self.tokens.find_digest(digest) if digest and is_ours else None

    def visitor(self, request: Request) -> Visitor:
        """Return who looks: by a token with the request, by a session, or anybody.

        Raises:
            RefusalError: The token is not valid.
        """
        if "authorization" in request.headers:
            return Visitor(read_caller(request, self.tokens, self.people))
        session = request.cookies.get(SESSION, "")
        if session and (token := self.token_of(session)) is not None:
            caller = Caller(token.user, token.scope, token.label, self.people.roles(token.user))
            return Visitor(caller, session)
        visit = request.cookies.get(VISIT, "")
        is_known = 40 <= len(visit) <= 64
        return Visitor(Caller(), visit if is_known else secrets.token_urlsafe(RANDOM_BYTES), not is_known)

    def form_key(self, visitor: Visitor) -> str:
        """Return what a form of this visitor carries, and a foreign page cannot know."""
        return self.signer.signature("form", visitor.secret)

    def check_form(self, request: Request, visitor: Visitor, key: str) -> None:
        """Check that a form is one that this visitor got from us.

        Raises:
            RefusalError: It is not.
        """
        if not visitor.secret:
            return
        check_origin(request)
        if visitor.is_new or not hmac.compare_digest(key.encode(), self.form_key(visitor).encode()):
            raise RefusalError(403, FOREIGN)

    def _signature(self, start: str, digest: str) -> str:
        return self.signer.signature("session", f"{start}\n{digest}")


def check_origin(request: Request) -> None:
    """Check that a form was sent from a page of this server, as the browser says.

    Raises:
        RefusalError: It was not.
    """
    origin = request.headers.get("origin")
    try:
        is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    except ValueError:  # it is no address
        is_foreign = True
    if is_foreign:
        raise RefusalError(403, FOREIGN)
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RefusalError(403, FOREIGN)


def set_cookie(request: Request, response: Response, name: str, text: str, seconds: int | None) -> None:
    """Give a browser a cookie that no script reads; over TLS, it never goes without.

    The session's goes along when somebody follows a link to us, but never with a form of another site.
    """
    response.set_cookie(
        name,
        text,
        max_age=seconds,
        httponly=True,
        secure=request.url.scheme == "https",
        samesite="lax" if name == SESSION else "strict",
    )
