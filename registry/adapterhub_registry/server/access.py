"""Who asks, and what they may do: rules of routes, roles of callers, one answer for private and missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote

from starlette.requests import Request

from adapterhub_registry.adapters import DRAFT
from adapterhub_registry.database import Read
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.people import ROLES, People
from adapterhub_registry.server.signing import Signer
from adapterhub_registry.server.tokens import Tokens


@dataclass(frozen=True)
class Rule:
    """Who may use a route.

    Attributes:
        role: `public`: anybody; `signed`: who has an address that the server signed; `granted`: who has a
            grant that it signed, in place of a token; `user`: who has a token; `reader`, `writer`, `owner`:
            who has that role, or a higher one, where `where` says.
        where: `address`: of the adapter in the address; `draft`: likewise, and it may be one that waits for
            its first version; `body`: of the one in the body; `body draft`: likewise, or one that waits;
            `namespace`: in the namespace that the body names; empty for roles that need none.
    """

    role: str
    where: str = ""


PUBLIC = Rule("public")
SIGNED = Rule("signed")
GRANTED = Rule("granted")
READER = Rule("reader", "address")
WRITER = Rule("writer", "address")
DRAFTER = Rule("writer", "draft")
OWNER = Rule("owner", "address")
BODY_OWNER = Rule("owner", "body")
BODY_DRAFT_OWNER = Rule("owner", "body draft")
NAMESPACE_WRITER = Rule("writer", "namespace")
USER = Rule("user")


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: The user; empty for anybody.
        scope: Of the token: `read` or `write`.
        label: Of the token.
        roles: Namespace to role.
    """

    name: str = ""
    scope: str = ""
    label: str = ""
    roles: Mapping[str, str] = field(default_factory=dict[str, str])

    def role_in(self, namespace: str, *, is_public: bool = False) -> str:
        """Return the role in a namespace, as far as the token goes; empty for none."""
        role = self.roles.get(namespace, "reader" if is_public else "")
        return "reader" if role and self.scope != "write" else role


@dataclass(frozen=True)
class Hosted:
    """An adapter as the server knows it.

    Attributes:
        id: Its key.
        namespace: Whose it is.
        name: The name in it.
        is_public: Whether anybody may read it.
        created: UTC time, ISO 8601.
        updated: Likewise.
    """

    id: int
    namespace: str
    name: str
    is_public: bool
    created: str
    updated: str

    @property
    def adapter(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


HOSTED = """
    SELECT id, namespace, name, visibility = 'public' AND removed = '', created, updated FROM adapter
    WHERE removed IN ('', ?) AND """


def read_caller(request: Request, tokens: Tokens, people: People) -> Caller:
    """Return who sends a request, by its token.

    Raises:
        RefusalError: The token is not valid any more, or never was.
    """
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if not kind:
        return Caller()
    token = tokens.find(text.strip()) if kind.lower() == "bearer" else None
    if token is None:
        raise RefusalError(
            401,
            "Invalid credentials in Authorization header: the token is unknown or has expired. "
            "Ask who runs the server for another, and set HF_TOKEN",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return Caller(token.user, token.scope, token.label, people.roles(token.user))


def granted_path(generation: str) -> str:
    """Return what an address begins with for which there are grants."""
    return f"/xet/{generation}"


def read_grant(request: Request, signer: Signer) -> Mapping[str, str]:
    """Return what was granted to who sends a request.

    Raises:
        RefusalError: Nothing, or not here, or it is over.
    """
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    values = dict(parse_qsl(text))
    path = granted_path(request.path_params["generation"])
    if kind.lower() != "bearer" or not signer.is_signed(path, values):
        raise RefusalError(401, "this needs a grant of this server, which holds for an hour; ask for another")
    return values


def find_writable(read: Read, people: People, user: str, name: str) -> tuple[Caller, Hosted]:
    """Return a user who was a writer when something was signed, and the adapter.

    Raises:
        RefusalError: There is no such adapter, or the user may not write to it any more.
    """
    caller = Caller(user, "write", "", people.roles(user))
    adapter = find_hosted(read, caller, name)
    if caller.role_in(adapter.namespace) not in ("writer", "owner"):
        raise RefusalError(403, "it was signed for somebody who may not write here any more")
    return caller, adapter


def find_hosted(
    read: Read, caller: Caller, name: str, request: Request | None = None, *, drafts: bool = False
) -> Hosted:
    """Return an adapter that the caller may read.

    Args:
        read: A snapshot.
        caller: Who asks.
        name: `namespace/name`.
        request: What is sent on to the present name, if the adapter was moved.
        drafts: Whether a writer finds one that waits for its first version.

    Raises:
        RefusalError: There is none, or the caller must not know of it: the answers are the same.
    """
    namespace, _, short = name.lower().partition("/")
    state = DRAFT if drafts and caller.role_in(namespace) in ("writer", "owner") else ""
    rows = read(f"{HOSTED} namespace = ? AND name = ?", [state, namespace, short])
    if not rows:
        among = "id = (SELECT adapter_id FROM redirect WHERE namespace = ? AND name = ?)"
        rows = read(HOSTED + among, ["", namespace, short])
    found = Hosted(*rows[0]) if rows else None
    if found is None or not caller.role_in(found.namespace, is_public=found.is_public):
        raise not_found(name)
    if request is not None and found.adapter != f"{namespace}/{short}":
        path = request.url.path.replace(f"/{name}", f"/{found.adapter}", 1)
        query = f"?{request.url.query}" if request.url.query else ""
        raise RefusalError(307, f"it is {found.adapter} now", headers={"Location": quote(path) + query})
    return found


def not_found(name: str) -> RefusalError:
    """Return the one answer for an adapter that is missing and for one that the caller must not know of."""
    return RefusalError(404, f'there is no repository "{name}", or you may not see it', code="RepoNotFound")


def require(caller: Caller, role: str, namespace: str, *, is_public: bool = False) -> None:
    """Check that the caller has a role in a namespace, or a higher one.

    Raises:
        RefusalError: 401 for who has no token, 403 for who has one that is not good enough.
    """
    has = caller.role_in(namespace, is_public=is_public)
    if has and ROLES.index(has) >= ROLES.index(role):
        return
    if not caller.name:
        raise RefusalError(401, "this needs a token; set HF_TOKEN", headers={"WWW-Authenticate": "Bearer"})
    if caller.scope != "write":
        raise RefusalError(403, "the token is for reading only; this needs one of the scope write")
    raise RefusalError(403, f"this needs the role of {role} in {namespace}; {caller.name} has it not")
