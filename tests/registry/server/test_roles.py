"""Every route x everybody x private and public: who may, may, and who may not learns nothing."""

from typing import Any

import pytest

from adapterhub_registry.server.routes import ROUTES, Route
from tests.registry.server.conftest import Answer, Served

RANKS = {"": 0, "other": 0, "rita": 1, "alice, reading": 1, "bob": 2, "alice": 3}
IN_ADDRESS = ("address", "draft")
NEEDED = {"reader": 1, "writer": 2, "owner": 3}
OID = "0" * 64
HEADER = b'{"key": "header", "value": {"summary": "nothing"}}'
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/validate-yaml"): {"content": ""},
    ("POST", "/api/repos/create"): {"name": "{new}", "organization": "acme"},
    ("POST", "/api/repos/move"): {"fromRepo": "{adapter}", "toRepo": "{adapter}"},
    ("DELETE", "/api/repos/delete"): {"name": "{doomed}", "organization": "acme"},
    ("PUT", "/api/models/{namespace}/{name}/settings"): {},
    ("POST", "/api/models/{namespace}/{name}/paths-info/{revision}"): b"paths=README.md",
    ("POST", "/api/models/{namespace}/{name}/preupload/{revision}"): {"files": []},
    ("POST", "/{namespace}/{name}.git/info/lfs/objects/batch"): {"objects": [{"oid": OID, "size": 3}]},
    ("POST", "/{namespace}/{name}.git/info/lfs/objects/verify"): {"oid": OID, "size": 3},
    ("PUT", "/{namespace}/{name}.git/info/lfs/objects/{oid}"): b"abc",
    ("PUT", "/{namespace}/{name}.git/info/lfs/objects/{oid}/part"): b"abc",
    ("POST", "/{namespace}/{name}.git/info/lfs/objects/{oid}/finish"): {"oid": OID},
    ("POST", "/api/models/{namespace}/{name}/commit/{revision}"): HEADER,
    ("POST", "/xet/{generation}/v1/xorbs/{prefix}/{hash}"): b"xorb",
    ("POST", "/xet/{generation}/v1/shards"): b"shard",
    ("POST", "/xet/{generation}/v2/shards"): b"shard",
    ("POST", "/api/models/{namespace}/{name}/branch/{branch:path}"): {},
    ("POST", "/api/models/{namespace}/{name}/tag/{revision}"): {"tag": "prod"},
    ("POST", "/v1/adapters"): {"name": "acme/{new}"},
    ("POST", "/v1/adapters/{namespace}/{name}/missing"): {"blobs": []},
    ("PUT", "/v1/adapters/{namespace}/{name}/blobs/{sha256}"): b"abc",
    ("POST", "/v1/adapters/{namespace}/{name}/versions"): {"number": 1},
    ("PUT", "/v1/adapters/{namespace}/{name}/aliases/{alias}"): {"number": 1, "expected": None},
    ("POST", "/v1/adapters/{namespace}/{name}/versions/{selector}/yank"): {"reason": "bad"},
    ("POST", "/login"): b"token=none",
    ("POST", "/logout"): b"",
    ("POST", "/upload"): b"no form",
}


def test_every_route_has_a_rule_that_the_matrix_knows() -> None:
    roles = {"public", "signed", "granted", "user", *NEEDED}
    assert {route.rule.role for route in ROUTES} <= roles
    for route in ROUTES:
        assert (route.rule.where != "") == (route.rule.role in NEEDED), route
        assert (route.body == "none") == ((route.method, route.path) not in BODIES), route
        names_adapter = "{namespace}" in route.path
        assert not names_adapter or route.rule.role == "signed" or route.rule.where in IN_ADDRESS, route


def send(served: Served, route: Route, adapter: str, mark: str, by: str) -> Answer:
    values = {
        **dict(zip(("namespace", "name"), adapter.split("/"), strict=True)),
        "revision": "main",
        "path": "README.md",
        "branch": f"b-{mark}",
        "tag": "none",
        "oid": OID,
        "generation": "0" * 18,
        "prefix": "default",
        "sha256": OID,
        "hash": OID,
        "selector": "1",
        "alias": "prod",
        "position": "1",
        "file": "gallery.css",
    }
    path = route.path.replace(":path", "").format(**values)
    body = BODIES.get((route.method, route.path))
    if isinstance(body, dict):
        names = {
            "{new}": f"new-{mark}",
            "acme/{new}": f"acme/newer-{mark}",
            "{adapter}": adapter,
            "{doomed}": f"doomed-{mark}",
        }
        body = {key: names.get(str(value), value) for key, value in body.items()}
    return served.ask(route.method, path, body, by=by)


def expected(route: Route, by: str, *, is_public: bool) -> int:
    """The status of somebody who may not; 0 for who may. Written down from the rules, not from the code."""
    rule = route.rule
    if (route.method, route.path, by) == ("POST", "/login", ""):
        return 403  # the form was not asked for
    if (route.method, route.path, by) == ("POST", "/upload", "alice, reading"):
        return 403
    if rule.role in ("signed", "granted"):
        return 403 if rule.role == "signed" else 401
    if rule.role == "public" or (rule.role == "user" and by):
        return 0
    has = RANKS[by]
    if rule.where != "namespace" and is_public:
        has = max(has, 1)
    if rule.role in NEEDED and has >= NEEDED[rule.role] and (by or rule.where in IN_ADDRESS):
        return 0
    if not by and (has or rule.where not in IN_ADDRESS):
        return 401
    return 403 if has or rule.where == "namespace" else 404


@pytest.mark.parametrize("visibility", ["private", "public"])
@pytest.mark.parametrize("by", RANKS, ids=lambda name: name or "anybody")
def test_every_route_keeps_its_rule(served: Served, by: str, visibility: str) -> None:
    mark = f"{by.replace(', ', '-') or 'anybody'}-{visibility}"
    adapter = served.registry.create(f"acme/kept-{mark}", visibility=visibility)
    served.registry.create(f"acme/doomed-{mark}", visibility=visibility)
    for route in ROUTES:
        found = send(served, route, adapter, mark, by)
        is_hidden = found.status == 404 and found.headers.get("x-error-code") == "RepoNotFound"
        refusal = expected(route, by, is_public=visibility == "public")
        if ("/{name}" in route.path and "{namespace}" not in route.path) or refusal == 404:
            assert is_hidden, route
        elif refusal == 401 and route.is_page:
            assert (found.status, found.headers["location"]) == (303, f"/login?next=%2F{route.path[1:]}")
        elif refusal:
            assert found.status == refusal, (route, found)
            assert route.is_page or found.table["error"]
        else:
            assert not is_hidden, (route, found)
            assert found.status not in (401, 403), (route, found)
            assert found.status < 500, (route, found)


@pytest.mark.parametrize("by", ["", "other"])
def test_private_and_missing_look_the_same(served: Served, by: str) -> None:
    private = served.registry.create(f"acme/private-{by or 'x'}")
    missing = private.replace("private", "missing")
    for route in ROUTES:
        if route.rule.where not in IN_ADDRESS:
            continue
        there, nowhere = (send(served, route, name, "x", by) for name in (private, missing))
        assert there.status == nowhere.status == 404
        assert there.content.replace(b"private", b"missing") == nowhere.content
        changing = {"x-request-id", "date"}
        one, two = (
            {
                name: text.replace("private", "missing")
                for name, text in found.headers.items()
                if name not in changing
            }
            for found in (there, nowhere)
        )
        assert one == two


def test_a_token_that_is_none_is_refused_everywhere(served: Served) -> None:
    adapter = served.registry.create("acme/open", visibility="public")
    for route in ROUTES:
        found = send(served, route, adapter, "bad", "nobody")
        assert found.status == (403 if route.rule.role == "signed" else 401), route


def test_what_is_no_route_is_answered_in_a_sentence(served: Served) -> None:
    for method, path in (
        ("GET", "/api/datasets/acme/x"),
        ("GET", "/api/spaces"),
        ("PUT", "/api/models/acme/open"),
        ("POST", "/healthz"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd"),
    ):
        found = served.ask(method, path)
        assert found.status == 501
        assert "nothing that this registry of adapters answers" in found.table["error"]
