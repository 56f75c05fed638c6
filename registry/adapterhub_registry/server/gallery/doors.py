"""Signing in with a token, and out."""

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from adapterhub_registry.server.calls import Call
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.gallery.forms import Form, read_form
from adapterhub_registry.server.gallery.rendering import go_to, render
from adapterhub_registry.server.gallery.sessions import SESSION, VISIT, set_cookie

UNKNOWN = "That token is unknown here, or has expired. Ask who runs the server for another."


def show_sign_in(call: Call) -> Response:
    """Ask for a token."""
    if call.caller.name:
        return go_to(local_path(call.request.query_params.get("next", "")))
    return _sign_in_page(call, call.request.query_params.get("next", ""))


async def sign_in(call: Call) -> Response:
    """Begin a session for who has a token."""
    form = await read_form(call.request)
    return await run_in_threadpool(_sign_in, call, form)


async def sign_out(call: Call) -> Response:
    """End the session."""
    form = await read_form(call.request)
    return await run_in_threadpool(_sign_out, call, form)


def local_path(text: str) -> str:
    """Return an address of this server to go on to; the front page in place of any other.

    Example:
        >>> local_path("/acme/ink?version=2"), local_path("//evil.example"), local_path("https://evil.example")
        ('/acme/ink?version=2', '/', '/')
    """
    is_local = text.startswith("/") and not text.startswith("//") and text.isprintable() and "\\" not in text
    return text if is_local else "/"


def _sign_in_page(call: Call, following: str, error: str = "") -> Response:
    """Return the one page with a form for strangers, with the cookie that the form is bound to."""
    values = {"next": following, "error": error}
    response = render(call, "sign-in", values, status=400 if error else 200)
    if call.visitor.is_new:
        set_cookie(call.request, response, VISIT, call.visitor.secret, None)
    return response


def _sign_in(call: Call, form: Form) -> Response:
    sessions, address = call.site.gallery.sessions, call.request.client
    sessions.check_form(call.request, call.visitor, form.text("form_key"))
    call.site.gallery.sign_ins.count(address.host if address is not None else "")
    token = call.site.tokens.find(form.text("token"))
    following = form.text("next")
    if token is None:
        return _sign_in_page(call, following, UNKNOWN)
    session, seconds = sessions.begin(token)
    response = go_to(local_path(following))
    set_cookie(call.request, response, SESSION, session, seconds)
    return response


def _sign_out(call: Call, form: Form) -> Response:
    if not call.caller.name:
        return go_to("/")
    if not call.visitor.secret:
        raise RefusalError(400, "who sends a token with each request has no session that could end")
    call.site.gallery.sessions.check_form(call.request, call.visitor, form.text("form_key"))
    call.site.gallery.sessions.end(call.visitor.secret)
    response = go_to("/")
    response.delete_cookie(SESSION)
    return response
