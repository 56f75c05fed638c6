"""What the server answers, as an OpenAPI document and as a page; both are made of the table of routes."""

import html
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapterhub_registry.server.routes import Route

PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
WHO = {
    "public": "anybody",
    "user": "who has a token",
    "signed": "who has an address that the server signed",
    "granted": "who has a grant to push by Xet",
    "reader": "who may read the adapter",
    "writer": "a writer of the namespace",
    "owner": "an owner of the namespace",
}
MEDIA = {"json": "application/json", "raw": "application/x-www-form-urlencoded"}
STATUSES = {
    "200": "Done.",
    "4XX": "Refused; `error` says why, and `code` which error it is, where there is one.",
    "429": "Too many requests; `Retry-After` says how many seconds to wait.",
}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;width:100%}td,th{text-align:left;"
    "vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid color-mix(in srgb,currentColor 20%,"
    "transparent)}code{overflow-wrap:anywhere}"
)


def document(routes: Iterable["Route"], *, origin: str, version: str) -> dict[str, Any]:
    """Return the OpenAPI document of routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AdapterHub registry",
            "version": version,
            "description": "`/v1` is the protocol of `adapterhub push` and `pull`; the rest is what Hugging "
            "Face clients speak.",
        },
        "servers": [{"url": origin}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
                }
            },
        },
    }


def page(routes: Iterable["Route"]) -> str:
    """Return the routes, our own protocol first, as a page that needs nothing from other hosts."""
    rows: list[str] = []
    for route in sorted(routes, key=lambda route: not route.path.startswith("/v1")):
        takes = [*route.query, *route.fields]
        rows.append(
            f"<tr><td>{route.method}</td><td><code>{html.escape(route.path)}</code></td>"
            f"<td>{html.escape(about(route)[0])}</td><td>{html.escape(', '.join(takes))}</td>"
            f"<td>{html.escape(WHO[route.rule.role])}</td></tr>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>AdapterHub registry: HTTP</title>'
        '<meta name="viewport" content="width=device-width"><style>' + STYLE + "</style></head><body>"
        "<h1>What this server answers</h1><p>Tokens go as <code>Authorization: Bearer ahub_...</code>. For "
        'programs there is the <a href="/openapi.json">OpenAPI document</a>.</p><table>'
        "<thead><tr><th>Method</th>"
        "<th>Path</th><th>What it does</th><th>Takes</th><th>Who may</th></tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></body></html>"
    )


def _operation(route: "Route") -> dict[str, Any]:
    summary, more = about(route)
    names = PARAMETER.findall(route.path)
    text = {"type": "string"}
    table: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', route.path.lower()).strip('_')}",
        "summary": summary,
        "description": f"{more}\n\nFor {WHO[route.rule.role]}.".strip(),
        "tags": ["AdapterHub" if route.path.startswith("/v1") else "Hugging Face"],
        "parameters": [{"name": name, "in": "path", "required": True, "schema": text} for name in names]
        + [{"name": name, "in": "query", "schema": text} for name in route.query],
        "responses": {status: _response(status, words) for status, words in STATUSES.items()},
    }
    if route.rule.role not in ("public", "signed", "granted"):
        table["security"] = [{"token": []}, {}] if route.rule.role == "reader" else [{"token": []}]
    if route.body != "none":
        media = MEDIA.get(route.body, "application/octet-stream")
        schema: dict[str, Any] = {"type": "object", "properties": _properties(route.fields)}
        table["requestBody"] = {"content": {media: {"schema": schema} if route.body == "json" else {}}}
    return table


def _properties(fields: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"type": kind.split("|")} for name, kind in fields.items()}


def _response(status: str, words: str) -> dict[str, Any]:
    if status == "200":
        return {"description": words}
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def about(route: "Route") -> tuple[str, str]:
    """Return what a route does: the first line of its documentation, and the rest."""
    first, _, rest = (inspect.getdoc(route.endpoint) or "").partition("\n\n")
    return " ".join(first.split()), rest.partition("Raises:")[0].strip()
