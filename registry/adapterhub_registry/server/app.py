"""The ASGI application: finds the route, who asks and whether they may, and answers every error in words."""

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from adapterhub_registry.errors import AdapterHubError
from adapterhub_registry.rows import acting_as
from adapterhub_registry.server.access import (
    Caller,
    find_hosted,
    find_writable,
    read_caller,
    read_grant,
    require,
)
from adapterhub_registry.server.bodies import LARGE, MAX_BODY, MAX_BODY_OF_STRANGERS, in_thread, read_body
from adapterhub_registry.server.calls import PART_BYTES, Call, Site, read_json, refuse, to_refusal
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.gallery.rendering import show_refusal
from adapterhub_registry.server.gallery.sessions import ANYBODY, Sessions
from adapterhub_registry.server.gallery.site import Gallery
from adapterhub_registry.server.hub_accounts import body_name, find_in_body
from adapterhub_registry.server.limits import Limits
from adapterhub_registry.server.observing import Observer
from adapterhub_registry.server.people import RESERVED, People
from adapterhub_registry.server.routes import JSON, NONE, RAW, ROUTES, STREAM, Route
from adapterhub_registry.server.signing import Signer
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry

logger = logging.getLogger(__name__)


def create_app(
    registry: Registry, *, part_bytes: int = PART_BYTES, requests_per_minute: int | None = None
) -> Observer:
    """Return the application that serves a registry.

    Args:
        registry: What is served; it stays open.
        part_bytes: Larger uploads come in parts of this size, from clients that can.
        requests_per_minute: Of one caller; None for any number.

    Raises:
        OutputError: The key for signed addresses cannot be written.
    """
    people, tokens = People(registry.database), Tokens(registry.database)
    signer = Signer(registry.home)
    site = Site(
        registry=registry,
        people=people,
        tokens=tokens,
        signer=signer,
        part_bytes=part_bytes,
        limits=Limits(requests_per_minute),
        gallery=Gallery(Sessions(tokens, people, signer)),
    )
    routes = [
        StarletteRoute(route.path, _endpoint(site, route), methods=[route.method], name=route.path)
        for route in ROUTES
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: partial(_unknown, site), Exception: partial(_failed, site)},
    )
    app.router.redirect_slashes = False
    return Observer(app, site.metrics)


def _endpoint(site: Site, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        request.state.route = f"{route.method} {route.path}"

        async def refused(refusal: RefusalError) -> Response:
            if not route.is_page:
                return refuse(refusal)
            return await run_in_threadpool(lambda: show_refusal(_stranger(site, request), refusal))

        if route.is_page and request.path_params.get("namespace") in RESERVED:
            return await _unknown(site, request, HTTPException(404))
        try:
            return await _answer(site, route, request)
        except RefusalError as exc:
            return await refused(exc)
        except AdapterHubError as exc:
            refusal = to_refusal(exc)
            if refusal is None or refusal.status >= 500:
                logger.error("%s: %s", request.state.request, exc)
            if refusal is None:
                raise
            return await refused(refusal)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return endpoint


async def _answer(site: Site, route: Route, request: Request) -> Response:
    """Check the rule before the body is read, unless it is the body that the rule speaks of."""
    if route.body == NONE:
        return await in_thread(lambda: _run(route, _permit(site, route, request), b""))
    call = await run_in_threadpool(_permit, site, route, request)
    if route.body == STREAM and inspect.iscoroutinefunction(route.endpoint):
        return await route.endpoint(call)
    content = b""
    if route.body in (JSON, RAW):
        content = await read_body(request, most=MAX_BODY if call.caller.name else MAX_BODY_OF_STRANGERS)
    limiter = site.large if len(content) > LARGE else None
    return await in_thread(lambda: _run(route, call, content), limiter=limiter)


def _permit(site: Site, route: Route, request: Request) -> Call:
    """Return the call of somebody who may use a route.

    Raises:
        RefusalError: They may not.
    """
    rule, address = route.rule, request.client.host if request.client is not None else ""
    if rule.role == "signed":
        _count(site, request, address)
        if not site.signer.is_signed(request.scope["path"], dict(request.query_params)):
            raise RefusalError(403, "the address is not signed by this server, or its hour is over")
        request.state.caller = request.query_params["user"]
        return Call(site, request, Caller())
    if rule.role == "granted":
        granted = read_grant(request, site.signer)
        request.state.caller = granted["user"]
        with site.registry.database.snapshot() as read:
            caller, adapter = find_writable(read, site.people, granted["user"], granted["adapter"])
        return Call(site, request, caller, adapter)
    visitor = ANYBODY
    try:
        if route.is_page:
            visitor = site.gallery.sessions.visitor(request)
        caller = visitor.caller if route.is_page else read_caller(request, site.tokens, site.people)
    except RefusalError:
        _count(site, request, address)  # who tries tokens is told apart by the address alone
        raise
    _count(site, request, f"user {caller.name}" if caller.name else address)
    call = Call(site, request, caller, visitor=visitor)
    request.state.caller = call.caller.name
    if rule.role != "public" and rule.where not in ("address", "draft") and not call.caller.name:
        raise RefusalError(401, "this needs a token; set HF_TOKEN", headers={"WWW-Authenticate": "Bearer"})
    if rule.where in ("address", "draft"):
        name = f"{call.part('namespace')}/{call.part('name')}"
        with site.registry.database.snapshot() as read:
            call = replace(
                call, adapter=find_hosted(read, call.caller, name, request, drafts=rule.where == "draft")
            )
        require(call.caller, rule.role, call.hosted.namespace, is_public=call.hosted.is_public)
    return call


def _stranger(site: Site, request: Request) -> Call:
    """Return a call for a page that refuses; of a token that is not valid, the caller is nobody."""
    try:
        visitor = site.gallery.sessions.visitor(request)
    except RefusalError:
        visitor = ANYBODY
    return Call(site, request, visitor.caller, visitor=visitor)


def _count(site: Site, request: Request, caller: str) -> None:
    request.state.limits = site.limits.count(caller)


def _run(route: Route, call: Call, content: bytes) -> Response:
    rule = route.rule
    call = replace(call, body=read_json(content) if route.body == JSON else content)
    if rule.where in ("body", "body draft"):
        call = find_in_body(call, drafts=rule.where == "body draft")
        require(call.caller, rule.role, call.hosted.namespace, is_public=call.hosted.is_public)
    elif rule.where == "namespace":
        require(call.caller, rule.role, body_name(call).partition("/")[0])
    function = cast("Callable[[Call], Any]", route.endpoint)
    if not call.caller.name:
        return function(call)
    with acting_as(call.caller.name):
        return function(call)


async def _unknown(site: Site, request: Request, error: Exception) -> Response:
    """Answer for addresses that are none."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    if status not in (404, 405):
        return _told(site, request, RefusalError(status, str(error)))
    if _is_browser(request):
        return _told(
            site, request, RefusalError(404, "No page has this address; perhaps a letter is missing.")
        )
    message = (
        f"{request.method} {request.url.path} is nothing that this registry of adapters answers; "
        "if a client needs it, report which"
    )
    return refuse(RefusalError(501, message))


async def _failed(site: Site, request: Request, error: Exception) -> Response:
    """Answer for our own faults; what they are stands in the log, by the request's id."""
    del error
    message = f"the server failed; its log says why, at request {request.state.request}"
    return _told(site, request, RefusalError(500, message))


def _told(site: Site, request: Request, refusal: RefusalError) -> Response:
    """Return a refusal in the form that its reader understands."""
    if not _is_browser(request):
        return refuse(refusal)
    return show_refusal(Call(site, request, ANYBODY.caller), refusal)


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and request.method in ("GET", "POST")
