"""Every address that the server answers, with its rule: who may use it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from adapterhub_registry.server import (
    hub_accounts,
    hub_commits,
    hub_files,
    hub_models,
    hub_trees,
    hub_uploads,
    lfs,
    openapi,
    own_blobs,
    own_reading,
    own_writing,
    refs,
    xet,
)
from adapterhub_registry.server.access import (
    BODY_DRAFT_OWNER,
    BODY_OWNER,
    DRAFTER,
    GRANTED,
    NAMESPACE_WRITER,
    OWNER,
    PUBLIC,
    READER,
    SIGNED,
    USER,
    WRITER,
    Rule,
    granted_path,
    not_found,
)
from adapterhub_registry.server.calls import Call, answer
from adapterhub_registry.server.gallery import doors, pages, pictures, rendering, uploads

Endpoint = Callable[[Call], Response] | Callable[[Call], Awaitable[Response]]
JSON, RAW, STREAM, NONE = "json", "raw", "stream", "none"


@dataclass(frozen=True)
class Route:
    """An address and what answers it.

    Attributes:
        method: GET answers HEAD too.
        path: In Starlette's form.
        rule: Who may use it.
        endpoint: What answers it: a function, which runs in a thread, or a coroutine for long bodies.
        body: How the body is read before: `json` as an object, `raw` as bytes, `stream` by the endpoint.
        query: What may stand behind the address.
        fields: Of the JSON object that the body is: name to its types in JSON, with `|` between them.
        is_page: Whether it is for people with a browser, who are known by a session too.
    """

    method: str
    path: str
    rule: Rule
    endpoint: Endpoint
    body: str = NONE
    query: Sequence[str] = ()
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    is_page: bool = False


def healthz(call: Call) -> Response:
    """Say that the server is up and reads its database."""
    with call.registry.database.snapshot() as read:
        read("SELECT 1")
    return answer({"status": "ok"})


def metrics(call: Call) -> Response:
    """Say numbers for Prometheus."""
    return PlainTextResponse(call.site.metrics.text(), media_type="text/plain; version=0.0.4")


def openapi_document(call: Call) -> Response:
    """Say in OpenAPI what the server answers."""
    return answer(openapi.document(PROTOCOL, origin=call.origin, version=version("adapterhub")))


def openapi_page(call: Call) -> Response:
    """Show what the server answers."""
    del call
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    return HTMLResponse(openapi.page(PROTOCOL), headers={"Content-Security-Policy": policy})


def no_namespace(call: Call) -> Response:
    """Answer for repositories without a namespace, such as `gpt2`: there are none here."""
    raise not_found(call.part("name"))


M = "/api/models/{namespace}/{name}"
R = "/{namespace}/{name}"
V = "/v1/adapters/{namespace}/{name}"
LFS = "/{namespace}/{name}.git/info/lfs/objects"
XET = granted_path("{generation}")

ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", PUBLIC, healthz),
    Route("GET", "/metrics", PUBLIC, metrics),
    # Accounts and repositories as a whole.
    Route("GET", "/api/whoami-v2", USER, hub_accounts.whoami),
    Route("POST", "/api/validate-yaml", PUBLIC, hub_accounts.validate_card, JSON),
    Route("POST", "/api/repos/create", NAMESPACE_WRITER, hub_accounts.create, JSON),
    Route("POST", "/api/repos/move", BODY_OWNER, hub_accounts.move, JSON),
    Route("DELETE", "/api/repos/delete", BODY_DRAFT_OWNER, hub_accounts.delete, JSON),
    Route("PUT", f"{M}/settings", OWNER, hub_accounts.settings, JSON),
    Route("GET", f"{M}/auth-check", READER, hub_accounts.check_access),
    Route("GET", f"{M}/auth-check/write", WRITER, hub_accounts.check_access),
    # Reading.
    Route("GET", "/api/models", PUBLIC, hub_models.list_models),
    Route("GET", M, READER, hub_models.info),
    Route("GET", f"{M}/revision/{{revision}}", READER, hub_models.info),
    Route("GET", f"{M}/tree/{{revision}}", READER, hub_trees.tree),
    Route("GET", f"{M}/tree/{{revision}}/{{path:path}}", READER, hub_trees.tree),
    Route("POST", f"{M}/paths-info/{{revision}}", READER, hub_trees.paths_info, RAW),
    Route("GET", f"{M}/refs", READER, hub_trees.refs),
    Route("GET", f"{M}/commits/{{revision}}", READER, hub_trees.commits),
    Route("GET", f"{R}/resolve/{{revision}}/{{path:path}}", READER, hub_files.resolve),
    # Writing.
    Route("POST", f"{M}/preupload/{{revision}}", WRITER, hub_uploads.preupload, JSON),
    Route("POST", f"{LFS}/batch", WRITER, lfs.batch, JSON),
    Route("POST", f"{LFS}/verify", WRITER, lfs.verify, JSON),
    Route("PUT", f"{LFS}/{{oid}}", SIGNED, lfs.put_object, STREAM),
    Route("PUT", f"{LFS}/{{oid}}/part", SIGNED, lfs.put_part, STREAM),
    Route("POST", f"{LFS}/{{oid}}/finish", SIGNED, lfs.finish_parts, STREAM),
    Route("GET", f"{M}/xet-write-token/{{revision}}", WRITER, xet.write_token),
    Route("GET", f"{XET}/v1/chunks/{{prefix}}/{{hash}}", GRANTED, xet.not_known),
    Route("POST", f"{XET}/v1/xorb-grants/{{prefix}}/{{hash}}", GRANTED, xet.not_known),
    Route("POST", f"{XET}/v1/xorbs/{{prefix}}/{{hash}}", GRANTED, xet.put_xorb, STREAM),
    Route("POST", f"{XET}/v1/shards", GRANTED, xet.put_shard, STREAM),
    Route("POST", f"{XET}/v2/shards", GRANTED, xet.put_shard_in_lines, STREAM),
    Route("POST", f"{M}/commit/{{revision}}", WRITER, hub_commits.create_commit, STREAM),
    Route("POST", f"{M}/branch/{{branch:path}}", WRITER, refs.create_branch, JSON),
    Route("DELETE", f"{M}/branch/{{branch:path}}", WRITER, refs.delete_branch),
    Route("POST", f"{M}/tag/{{revision}}", WRITER, refs.create_tag, JSON),
    Route("DELETE", f"{M}/tag/{{tag}}", WRITER, refs.delete_tag),
    # Our own protocol.
    Route("GET", "/openapi.json", PUBLIC, openapi_document),
    Route("GET", "/v1", PUBLIC, openapi_page),
    Route(
        "GET",
        "/v1/search",
        PUBLIC,
        own_reading.search,
        query=("q", *own_reading.FILTERS, "sort", "limit", "after"),
    ),
    Route("GET", "/v1/by-hash/{hash}", PUBLIC, own_reading.find_hash),
    Route(
        "POST",
        "/v1/adapters",
        NAMESPACE_WRITER,
        own_writing.create_adapter,
        JSON,
        fields={"name": "string", "visibility": "string"},
    ),
    Route("GET", V, READER, own_reading.show_adapter),
    Route("GET", f"{V}/events", READER, own_reading.list_events, query=("limit", "before")),
    Route("GET", f"{V}/versions/{{selector}}", READER, own_reading.show_version, query=("documents",)),
    Route("GET", f"{V}/versions/{{selector}}/lineage", READER, own_reading.lineage),
    Route("GET", f"{V}/versions/{{selector}}/previews/{{position}}", READER, own_reading.show_preview),
    Route("GET", f"{V}/blobs/{{sha256}}", READER, own_blobs.get_blob),
    Route("POST", f"{V}/missing", DRAFTER, own_blobs.missing, JSON, fields={"blobs": "array"}),
    Route("PUT", f"{V}/blobs/{{sha256}}", DRAFTER, own_blobs.put_blob, STREAM),
    Route("POST", f"{V}/versions", DRAFTER, own_writing.publish, JSON, fields=own_writing.VERSION),
    Route(
        "PUT",
        f"{V}/aliases/{{alias}}",
        WRITER,
        own_writing.set_alias,
        JSON,
        fields={"number": "integer", "expected": "integer|null"},
    ),
    Route(
        "POST", f"{V}/versions/{{selector}}/yank", WRITER, own_writing.yank, JSON, fields={"reason": "string"}
    ),
    Route("DELETE", f"{V}/versions/{{selector}}/yank", WRITER, own_writing.unyank),
    # Names without a namespace, which other hubs have.
    Route("GET", "/api/models/{name}", PUBLIC, no_namespace),
    Route("GET", "/api/models/{name}/revision/{revision}", PUBLIC, no_namespace),
    Route("GET", "/api/models/{name}/tree/{revision}", PUBLIC, no_namespace),
    Route("GET", "/{name}/resolve/{revision}/{path:path}", PUBLIC, no_namespace),
    # The gallery; its addresses come last, because an adapter's may look like others.
    Route("GET", "/", PUBLIC, pages.show_front, query=pages.QUERY, is_page=True),
    Route("GET", "/compare", PUBLIC, pages.compare, query=("first", "second"), is_page=True),
    Route("GET", "/login", PUBLIC, doors.show_sign_in, query=("next",), is_page=True),
    Route("POST", "/login", PUBLIC, doors.sign_in, STREAM, is_page=True),
    Route("POST", "/logout", PUBLIC, doors.sign_out, STREAM, is_page=True),
    Route("GET", "/upload", USER, uploads.show_upload, query=("name",), is_page=True),
    Route("POST", "/upload", USER, uploads.upload, STREAM, is_page=True),
    Route("GET", "/static/{file}", PUBLIC, rendering.show_static, is_page=True),
    Route("GET", R, READER, pages.show_adapter, query=("version", "before"), is_page=True),
    Route("GET", f"{R}/pictures/{{sha256}}", READER, pictures.show_picture, query=("size",), is_page=True),
    Route("GET", f"{R}/files/{{selector}}/{{path:path}}", READER, pages.download, is_page=True),
)

PROTOCOL = tuple(route for route in ROUTES if not route.is_page)
"""What programs are told of."""
