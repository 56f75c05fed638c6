"""Templates into pages: everything in them escaped, nothing from elsewhere, no script but our file."""

import hashlib
import zlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader
from starlette.responses import HTMLResponse, RedirectResponse, Response

from adapterhub_registry.server.calls import Call
from adapterhub_registry.server.errors import RefusalError

STATIC = {"gallery.css": "text/css", "gallery.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without an origin, no form could be told from a foreign one
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
THEMES = ("light", "dark")
TINTS = 8
TITLES = {
    400: "That cannot be done",
    401: "Sign in first",
    403: "Not for you",
    404: "There is nothing here",
    413: "That is too large",
    429: "Too many requests",
    503: "Not just now",
    507: "The server has no room",
}


def _load(name: str) -> bytes:
    return files("adapterhub_registry.server.gallery").joinpath("static", name).read_bytes()


_static = {name: _load(name) for name in STATIC}
_edition = hashlib.sha256(b"".join(_static.values())).hexdigest()[:12]


def show_static(call: Call) -> Response:
    """Send a style, a script or the icon; pages name them with their digest, so browsers keep them."""
    name = call.part("file")
    if name not in _static:
        raise RefusalError(404, "there is no such file", code="EntryNotFound")
    is_named = call.request.query_params.get("v") == _edition
    kept = "public, max-age=31536000, immutable" if is_named else "no-cache"
    headers = {"Cache-Control": kept}
    return Response(_static[name], media_type=STATIC[name], headers=headers)


def render(
    call: Call, template: str, values: Mapping[str, Any] | None = None, *, status: int = 200
) -> Response:
    """Return a page.

    Args:
        call: The request; forms in the page are bound to who sent it.
        template: Its name without the suffix.
        values: What it shows.
        status: The HTTP status.
    """
    visitor, sessions = call.visitor, call.site.gallery.sessions
    theme = call.request.cookies.get("adapterhub_theme", "")
    query = f"?{call.request.url.query}" if call.request.url.query else ""
    shared = {
        "user": call.caller.name,
        "may_upload": bool(call.writable),
        "form_key": sessions.form_key(visitor),
        "theme": theme if theme in THEMES else "",
        "assets": _edition,
        "here": quote(call.request.url.path) + query,
        "query": "",
    }
    text = _environment.get_template(f"{template}.html").render({**shared, **(values or {})})
    return HTMLResponse(text, status, headers=HEADERS)


def go_to(path: str) -> Response:
    """Return the answer that sends a browser to a page of ours, with GET."""
    return RedirectResponse(path, 303, headers={"Cache-Control": "no-store"})


def show_refusal(call: Call, refusal: RefusalError) -> Response:
    """Return a refusal as a page; who could do more after signing in is asked to."""
    if "Location" in refusal.headers:
        return RedirectResponse(refusal.headers["Location"], refusal.status)
    if refusal.status == 401 and "authorization" not in call.request.headers:
        query = f"?{call.request.url.query}" if call.request.url.query else ""
        return go_to(address("/login", next=quote(call.request.url.path) + query))
    title = TITLES.get(refusal.status, "The server failed")
    values = {"title": title, "message": refusal.message, "status": refusal.status}
    response = render(call, "refusal", values, status=refusal.status)
    if refusal.code:
        response.headers["X-Error-Code"] = refusal.code
    for name in ("Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate"):
        if name in refusal.headers:
            response.headers[name] = refusal.headers[name]
    return response


def address(path: str, **values: object) -> str:
    """Return a path with values behind it; those that are empty or None are left out.

    Example:
        >>> address("/", q="ink & co", tag=["a", "b"], kind=None)
        '/?q=ink+%26+co&tag=a&tag=b'
    """
    kept = {name: value for name, value in values.items() if value not in (None, "", (), [])}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path


def size_text(size: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size_text(512), size_text(52_428_800)
        ('512 B', '52 MB')
    """
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f} {unit}" if number < 10 and unit != "B" else f"{number:.0f} {unit}"


def tint(name: str) -> int:
    """Return which of the soft colours stands for an adapter that has no picture."""
    return zlib.crc32(name.encode()) % TINTS


def _day(time: str) -> str:
    return time[:10]


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _initial(title: str) -> str:
    return next((letter for letter in title if letter.isalnum()), "·").upper()


def _environment_of_pages() -> Environment:
    made = Environment(
        loader=PackageLoader("adapterhub_registry.server.gallery"),
        autoescape=True,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "size": size_text,
        "tint": tint,
        "day": _day,
        "short": _short,
        "initial": _initial,
    }
    made.filters.update(filters)  # pyright: ignore[reportUnknownMemberType]
    made.globals["address"] = address  # pyright: ignore[reportUnknownMemberType]
    return made


_environment = _environment_of_pages()
