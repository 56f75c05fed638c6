"""Who may come in: with the secret, or, where there is none, who asks this machine by its own name."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from adapterhub.errors import AdapterHubError
from adapterhub.serving.errors import HostRefusedError, UnauthorizedError
from adapterhub.serving.failures import failure
from adapterhub.serving.secret import Secret, basic_parts, is_loopback

OPEN_PATHS = ("/", "/healthz")
"""The page holds nothing, and asks for the secret itself."""
TENANT = "adapterhub-tenant"
LONGEST_TENANT = 100


class Gate:
    """Middleware that lets requests through, or answers them.

    Args:
        app: What comes after it.
        secret: Asked for everywhere but at `OPEN_PATHS`. Without one the `Host` header must name this
            machine, so that a page elsewhere cannot reach us by a name that it points here.
    """

    def __init__(self, app: ASGIApp, secret: Secret | None) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is not None:
            await failure(scope["path"], error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> AdapterHubError | None:
        headers = Headers(scope=scope)
        if self._secret is None:
            host = headers.get("host", "")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            return None if is_loopback(name) else HostRefusedError(host)
        is_open = scope["path"] in OPEN_PATHS
        return (
            None if is_open or self._secret.opens(headers.get("authorization", "")) else UnauthorizedError()
        )


def tenant_of(request: Request) -> str:
    """Return for whom a request is: its tenant header, or the user name of basic authentication."""
    named = request.headers.get(TENANT, "")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if not named and scheme.lower() == "basic":
        named = basic_parts(given)[0]
    return named[:LONGEST_TENANT]
